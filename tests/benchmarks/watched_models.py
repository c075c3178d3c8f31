"""Models whose training is timed under one callback or another, and the loop around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.models import Transformer


class Rows(Dataset[Any]):
    """Rows of tensors, a batch of which is one look-up: a loader that collates would be most of a short step."""

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self.columns)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        chosen = torch.tensor(indices)
        return tuple(column[chosen] for column in self.columns)


def _as_it_is(batch: Any) -> Any:
    return batch


class Recurrent(nn.Module):
    """Reads a sequence and names its class."""

    def __init__(self, width: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.cell = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.head(self.cell(sequence)[0][:, -1])


@dataclass(frozen=True)
class Task:
    """A network, its rows, and how long it is trained to be timed.

    Attributes:
        net: Makes the network.
        rows: Makes so many rows.
        batch_size: Rows a step.
        steps: The length of a run that goes on well after the doctor's first look.
    """

    net: Callable[[], nn.Module]
    rows: Callable[[int], tuple[Tensor, ...]]
    batch_size: int
    steps: int

    def loader(self, batches: int = 64) -> DataLoader[Any]:
        torch.manual_seed(0)
        rows = Rows(*self.rows(batches * self.batch_size))
        return DataLoader(rows, self.batch_size, shuffle=True, collate_fn=_as_it_is)


def _images(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 32, 32), torch.randint(0, 10, (count,))


def _vectors(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 64), torch.randint(0, 10, (count,))


def _words(count: int) -> tuple[Tensor, Tensor]:
    words = torch.randint(0, 1024, (count, 65))
    return words[:, :-1], words[:, 1:]


def _sequences(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 32, 32), torch.randint(0, 10, (count,))


def perceptron() -> nn.Module:
    """Its steps take about a millisecond, most of it Lightning's own loop."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def convolutional() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def transformer() -> nn.Module:
    return Transformer(width=240, layers=7)


TASKS = {
    "MLP": Task(perceptron, _vectors, 64, 36_000),
    "CNN": Task(convolutional, _images, 32, 2_400),
    "GPT": Task(transformer, _words, 4, 1_200),
    "LSTM": Task(Recurrent, _sequences, 32, 5_000),
}


def stack(layers: int, width: int) -> Task:
    """A perceptron of so many layers of the same width."""

    def net() -> nn.Module:
        inner = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(*inner, nn.Linear(width, 10))

    def rows(count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, width), torch.randint(0, 10, (count,))

    return Task(net, rows, 16, 200)


class Trained(LightningModule):
    """Trains a network.

    Args:
        net: The network.
        at_step: Called when a step begins; a copy of the model shares it.
    """

    def __init__(self, net: nn.Module, at_step: Callable[[], object]) -> None:
        super().__init__()
        self.net = net
        self._at_step = at_step

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Not in `training_step`, which a probe may run on a copy.
        self._at_step()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)
