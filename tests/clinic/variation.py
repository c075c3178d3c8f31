"""The neighbours of a program: the same fault in another size, at another rate, on other rows."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Variation:
    """How a program differs from the one that is written down: by default in its seed only.

    Attributes:
        seed: Of data, initialization and order.
        width_factor: Times every hidden width.
        rate_factor: Times every learning rate.
        batch_factor: Times every batch size but that of a full batch.
        length_factor: Times the number of epochs.
        share: Of the training rows that are kept.
        noise: On the inputs of data sets that are not drawn anew by the seed [standard deviations of a column].
    """

    seed: int
    width_factor: float = 1.0
    rate_factor: float = 1.0
    batch_factor: float = 1.0
    length_factor: float = 1.0
    share: float = 1.0
    noise: float = 0.0

    @classmethod
    def neighbour(cls, number: int, index: int) -> Variation:
        """Draws the neighbour of this index of a pair, always the same."""
        draw = random.Random(f"{number}: {index}")
        return cls(
            seed=1000 + index,
            width_factor=draw.uniform(0.7, 1.5),
            rate_factor=draw.uniform(0.6, 1.6),
            batch_factor=draw.choice((0.5, 1.0, 2.0)),
            length_factor=draw.uniform(0.7, 1.3),
            share=draw.uniform(0.7, 1.0),
            noise=draw.uniform(0.0, 0.1),
        )

    def width(self, units: int) -> int:
        """Returns a hidden width."""
        return max(1, round(units * self.width_factor))

    def widths(self, *units: int) -> list[int]:
        """Returns the widths of a stack whose first and last are those of the data."""
        return [units[0], *map(self.width, units[1:-1]), units[-1]]

    def rate(self, rate: float) -> float:
        """Returns a learning rate."""
        return rate * self.rate_factor

    def epochs(self, epochs: int) -> int:
        """Returns a number of epochs."""
        return max(1, round(epochs * self.length_factor))

    def batch(self, size: int) -> int:
        """Returns a batch size."""
        return max(1, round(size * self.batch_factor))

    def rows(self, inputs: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
        """Returns a fixed data set in another order, so that another part is held out, with some noise on it."""
        if self == Variation(self.seed):
            return inputs, *targets
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(inputs), generator=generator)
        if inputs.is_floating_point():
            spread = inputs.nan_to_num(0.0, 0.0, 0.0).std(0, keepdim=True)
            inputs = inputs + self.noise * spread * torch.randn(inputs.shape, generator=generator)
        return inputs[order], *(tensor[order] for tensor in targets)

    def loader(
        self, inputs: Tensor, targets: Tensor, batch: int | None = None, *, shuffle: bool = True
    ) -> DataLoader[Any]:
        """Serves training rows in batches; without a size all of them in one."""
        kept = len(inputs)
        # A handful of rows is the problem itself.
        if kept >= 50:
            kept = round(self.share * kept)
        size = batch and self.batch(batch)
        # Batch normalisation refuses a last batch of one.
        if size and kept < len(inputs) and kept % size == 1:
            kept -= 1
        return loader(inputs[:kept], targets[:kept], size, shuffle=shuffle)


def loader(inputs: Tensor, targets: Tensor, batch: int | None = None, *, shuffle: bool = True) -> DataLoader[Any]:
    """Serves the rows in batches; without a size all of them in one."""
    return DataLoader(TensorDataset(inputs, targets), batch or len(inputs), shuffle=shuffle and batch is not None)
