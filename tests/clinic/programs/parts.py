"""Networks, initializations, losses and data that several programs share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from torch import Tensor, nn

from tests.clinic.patient import Patient, Program, accuracy_gain
from tests.clinic.variation import Variation, loader

Data = tuple[Tensor, Tensor]


def _shuffled(rows: Any, targets: Any) -> Data:
    # Once and for all, as the last rows are of another kind than the first: other writers, another class.
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    return torch.tensor(rows, dtype=torch.float32)[order], torch.tensor(targets)[order]


def standard(rows: Tensor) -> Tensor:
    """Returns the rows with every column at mean 0 and standard deviation 1."""
    spread = rows.std(0)
    return (rows - rows.mean(0)) / spread.where(spread > 0, torch.ones_like(spread))


_pixels, LABELS = _shuffled(*load_digits(return_X_y=True))
DIGITS = _pixels / 16
TRAIN = 1400
RAW_CANCER, _benign = _shuffled(*load_breast_cancer(return_X_y=True))
CANCER, BENIGN = standard(RAW_CANCER), _benign[:, None].float()
RAW_WINE, CULTIVAR = _shuffled(*load_wine(return_X_y=True))
WINE = standard(RAW_WINE)
_patients, _progression = _shuffled(*load_diabetes(return_X_y=True))
# Ten measurements of 442 patients, and how their diabetes was a year later, from 25 to 346.
DIABETES, RAW_PROGRESSION = standard(_patients), _progression[:, None].float()
PROGRESSION = standard(RAW_PROGRESSION)


def task(
    vary: Variation,
    patient: Patient,
    data: Data,
    epochs: int,
    batch: int | None,
    *,
    gain: Callable[[Tensor, Tensor], Callable[[Patient], float]] = accuracy_gain,
    **options: Any,
) -> Program:
    """Three quarters of the rows to train on, the rest to validate and to score."""
    inputs, targets = vary.rows(*data)
    cut = 3 * len(inputs) // 4
    return Program(
        patient,
        vary.loader(inputs[:cut], targets[:cut], batch),
        gain(inputs[cut:], targets[cut:]),
        loader(inputs[cut:], targets[cut:], shuffle=False),
        {"max_epochs": vary.epochs(epochs), **options},
    )


def served(program: Program) -> Data:
    """Returns the training rows and their targets."""
    dataset: Any = program.train.dataset
    rows, targets = dataset.tensors
    return rows, targets


def stack(widths: list[int], between: type[nn.Module] | None = nn.ReLU, last: nn.Module | None = None) -> nn.Sequential:
    """Linear layers of these widths, with an activation between them and one at the end."""
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        if index and between is not None:
            layers.append(between())
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers, *([] if last is None else [last]))


def keras(net: nn.Module) -> nn.Module:
    """Glorot's uniform weights and biases of zero, as Keras has them."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def normal(net: nn.Module, *, biases: bool = True) -> nn.Module:
    """Weights from N(0, 1) whatever the width, and biases too."""
    for name, parameter in net.named_parameters():
        if biases or not name.endswith("bias"):
            nn.init.normal_(parameter)
    return net


def categorical(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Keras's cross-entropy of probabilities: divided by their sum and kept off 0 and 1."""
    shares = probabilities / probabilities.sum(1, keepdim=True)
    return nn.functional.nll_loss(shares.clamp(1e-7, 1 - 1e-7).log(), labels)


def binary(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Keras's binary cross-entropy, which takes any target."""
    p = probabilities.clamp(1e-7, 1 - 1e-7)
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


class Bag(nn.Module):
    """The mean of the embeddings of the tokens of a row."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, units)
        self.head = nn.Linear(units, 4)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embed(ids).mean(1))
        return scores


def tokens() -> Data:
    """Draws rows of twelve ids out of a thousand; half of a row's belong to its class, of which there are four."""
    labels = torch.randint(0, 4, (1200,))
    own = torch.randint(0, 250, (1200, 12)) + 250 * labels[:, None]
    return own.where(torch.rand(1200, 12) < 0.5, torch.randint(0, 1000, (1200, 12))), labels
