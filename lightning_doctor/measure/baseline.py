"""The loss of the best constant prediction, from the targets alone.

Each kind of loss has a class here that takes targets batch by batch, on their device, and says what the best constant
scores on all of them: the mean over elements, each counted by its weight.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

# Rows and elements of targets that are kept where the best constant has no closed form.
_ROWS, _ELEMENTS = 1 << 11, 1 << 15
# Halvings of the interval that it is searched in.
_HALVINGS = 24


class Baseline(Protocol):
    """What the best constant scores."""

    def add(self, targets: Tensor, weights: Tensor | None) -> None:
        """Takes the targets ``[N, D]`` of a batch, with weights ``[N]`` or ``[N, D]`` if they count differently."""

    def loss(self) -> Tensor:
        """Returns, of what was taken, the best constant's mean loss per unit of weight; NaN where none is smallest."""


def baseline_of(loss: str, *, pos_weight: Tensor | None = None, bend: float = 1.0) -> Baseline | None:
    """Returns the baseline of a loss whose targets are numbers; None where it is not known."""
    if loss in ("mse", "rmse"):
        return Variance()
    if loss in ("bce", "bce_with_logits"):
        return BinaryEntropy(pos_weight)
    if loss == "poisson":
        return PoissonRate()
    if loss == "kl_div":
        return Divergence()
    if loss in ("l1", "huber", "smooth_l1"):
        return Center(loss, bend)
    return None


class ClassEntropy:
    """Cross-entropy: the best constant predicts every class by its share.

    Args:
        class_weight: What a sample of each class counts ``[classes]``.
        smoothing: The share of a target that is spread evenly over the classes.
        shared: Whether targets are shares of classes, whose weights then do not count as weights of samples.
    """

    def __init__(self, class_weight: Tensor | None = None, smoothing: float = 0.0, *, shared: bool = False) -> None:
        self._class_weight = class_weight
        self._smoothing = smoothing
        self._shared = shared
        self._counts: Tensor | None = None
        self._rows: Tensor | float = 0.0

    def add_counts(self, counts: Tensor) -> None:
        """Takes how often each class was seen ``[classes]``."""
        self._counts = counts if self._counts is None else self._counts + counts

    def add(self, targets: Tensor, weights: Tensor | None) -> None:
        """Takes shares of classes ``[N, classes]``."""
        targets = exact(targets)
        if weights is not None:
            targets = targets * exact(weights).reshape(-1, 1)
        self._rows = self._rows + (len(targets) if weights is None else exact(weights).sum())
        self.add_counts(targets.sum(0))

    def loss(self) -> Tensor:
        """Returns the entropy of the weighted shares."""
        counts = self._counts
        assert counts is not None
        even = self._smoothing / len(counts) * counts.sum()
        mass = (1 - self._smoothing) * counts + even
        units: Tensor | float = counts.sum()
        if self._class_weight is not None:
            weight = self._class_weight.to(mass)
            mass, units = mass * weight, (counts * weight).sum()
        units = self._rows if self._shared else units
        return 0 - torch.xlogy(mass, mass / mass.sum()).sum() / units


class _Sums:
    """Weights and weighted numbers, added up by column."""

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._totals: list[Tensor] = []

    def add(self, weights: Tensor | None, *numbers: Tensor) -> None:
        """Takes numbers ``[N, D]`` of one kind or several."""
        first = numbers[0]
        if weights is None:
            weight, totals = first.new_full(first.shape[1:], len(first)), [values.sum(0) for values in numbers]
        else:
            spread = spread_over(weights, first)
            weight, totals = spread.sum(0), [(spread * values).sum(0) for values in numbers]
        if self._weight is None or self._weight.shape != weight.shape:
            # Sequences of another length are other columns: what was seen of the old ones is of no use.
            self._weight, self._totals = weight, totals
        else:
            self._weight = self._weight + weight
            self._totals = [old + new for old, new in zip(self._totals, totals, strict=True)]

    @property
    def columns(self) -> int:
        """How many there are; 0 before the first batch."""
        return 0 if self._weight is None else len(self._weight)

    def means(self) -> tuple[Tensor, ...]:
        """Returns each column's share of the weight, then the columns' means of each kind of number."""
        assert self._weight is not None
        return self._weight / self._weight.sum(), *(total / self._weight for total in self._totals)


class BinaryEntropy:
    """Binary cross-entropy: the best constant predicts each column's mean.

    Args:
        pos_weight: What the positive part of each column counts.
    """

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        self._pos_weight = pos_weight
        self._sums = _Sums()

    def add(self, targets: Tensor, weights: Tensor | None) -> None:
        """Takes a batch."""
        self._sums.add(weights, exact(targets))

    def loss(self) -> Tensor:
        """Returns the mean entropy; NaN for a mean outside [0, 1], where no prediction is bad enough."""
        share, mean = self._sums.means()
        yes, no = mean, 1 - mean
        if self._pos_weight is not None:
            yes = yes * self._pos_weight.to(yes).reshape(-1)
        rate = yes / (yes + no)
        return 0 - ((torch.xlogy(yes, rate) + torch.xlogy(no, 1 - rate)) * share).sum()


class PoissonRate:
    """Poisson likelihood without its constant: the best constant predicts each column's mean count."""

    def __init__(self) -> None:
        self._sums = _Sums()

    def add(self, targets: Tensor, weights: Tensor | None) -> None:
        """Takes a batch."""
        self._sums.add(weights, exact(targets))

    def loss(self) -> Tensor:
        """Returns the mean of rate − count · log(rate)."""
        share, mean = self._sums.means()
        return ((mean - torch.xlogy(mean, mean)) * share).sum()


class Variance:
    """Squared error: the best constant predicts each column's mean.

    Attributes:
        rows: How many rows were seen.
    """

    def __init__(self) -> None:
        self._sums = _Sums()
        self.rows = 0

    def add(self, targets: Tensor, weights: Tensor | None) -> None:
        """Takes a batch."""
        targets = exact(targets)
        self.rows = len(targets) + (self.rows if self._sums.columns == targets.shape[1] else 0)
        self._sums.add(weights, targets, targets.square())

    def mean(self) -> Tensor:
        """Returns each column's mean."""
        return self._sums.means()[1]

    def loss(self) -> Tensor:
        """Returns the mean variance of the columns."""
        share, mean, square = self._sums.means()
        return ((square - mean.square()).clamp(min=0) * share).sum()


class Divergence:
    """Kullback–Leibler divergence: the best constant predicts the mean distribution."""

    def __init__(self) -> None:
        self._sums = _Sums()

    def add(self, targets: Tensor, weights: Tensor | None) -> None:
        """Takes distributions ``[N, D]``."""
        targets = exact(targets)
        self._sums.add(weights, targets, torch.xlogy(targets, targets))

    def loss(self) -> Tensor:
        """Returns the mean over elements, not over rows."""
        share, mean, entropy = self._sums.means()
        return ((entropy - torch.xlogy(mean, mean / mean.sum())) * share).sum()


class Center:
    """Absolute error, Huber's and smooth L1: the best constant is found by halving an interval.

    Args:
        loss: ``"l1"``, ``"huber"`` or ``"smooth_l1"``.
        bend: Where the loss turns from square to straight.
    """

    def __init__(self, loss: str, bend: float = 1.0) -> None:
        self._loss = loss
        self._bend = bend if loss != "l1" and bend > 0 else 0.0
        self._targets: list[Tensor] = []
        self._weights: list[Tensor] = []

    def add(self, targets: Tensor, weights: Tensor | None) -> None:
        """Takes a batch; of very many targets every second row is forgotten now and then."""
        targets = exact(targets)
        if self._targets and targets.shape[1] != self._targets[0].shape[1]:
            self._targets, self._weights = [], []
        self._targets.append(targets.clone())
        self._weights.append(torch.ones_like(targets) if weights is None else spread_over(weights, targets).clone())
        most = max(1, min(_ROWS, _ELEMENTS // targets.shape[1]))
        while sum(map(len, self._targets)) > most:
            self._targets = [torch.cat(self._targets)[::2]]
            self._weights = [torch.cat(self._weights)[::2]]

    def loss(self) -> Tensor:
        """Returns the mean over elements."""
        targets, weights = torch.cat(self._targets), torch.cat(self._weights)
        low, high = targets.amin(0), targets.amax(0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            # The slope of the loss, up to a positive factor: it rises with the constant.
            gaps = middle - targets
            pull = gaps.sign() if self._bend == 0 else gaps.clamp(-self._bend, self._bend)
            above = (weights * pull).sum(0) > 0
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        constant = ((low + high) / 2).expand_as(targets)
        return (weights * self._errors(constant, targets)).sum() / weights.sum()

    def _errors(self, constant: Tensor, targets: Tensor) -> Tensor:
        if self._bend == 0:
            return (constant - targets).abs()
        if self._loss == "huber":
            return functional.huber_loss(constant, targets, reduction="none", delta=self._bend)
        return functional.smooth_l1_loss(constant, targets, reduction="none", beta=self._bend)


def exact(tensor: Tensor) -> Tensor:
    """Returns the tensor in float64, where its device has that: sums of squares lose their small differences."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def spread_over(weights: Tensor, targets: Tensor) -> Tensor:
    """Returns weights of rows or elements, one for each element."""
    weights = exact(weights)
    return (weights.reshape(-1, 1) if weights.ndim == 1 else weights).expand_as(targets)
