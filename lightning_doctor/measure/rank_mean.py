"""Means over ranks, synced by torchmetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric


class RankMean(Metric):
    """The mean over ranks of a vector of numbers; with one process, the vector itself.

    One state, so one reduction a window whatever is in it. NaN and infinity on any rank stay so in the mean.
    """

    full_state_update = False
    if TYPE_CHECKING:
        numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("numbers", default=torch.zeros(0), dist_reduce_fx="mean")

    def update(self, numbers: Tensor) -> None:
        """Takes the vector ``[N]`` of this rank; N must be the same on every rank."""
        self.numbers = numbers

    def compute(self) -> Tensor:
        """Returns the mean ``[N]``."""
        return self.numbers
