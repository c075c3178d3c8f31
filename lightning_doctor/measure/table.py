"""Predictions and targets of a loss head as tables: one row a sample, one column a class or a number."""

from __future__ import annotations

from math import ceil, prod

import torch
from torch import Tensor
from torch.nn import functional

from lightning_doctor.measure.head import Head

# How much of a large batch is looked at.
_ROWS, _COLUMNS, _ELEMENTS = 1 << 16, 1 << 10, 1 << 18
# Losses whose elements are rows, not single numbers.
BY_ROW = ("cross_entropy", "nll")


class Table:
    """The predictions and targets of a head.

    Args:
        head: One whose predictions and targets are known.

    Attributes:
        scores: The predictions as the loss takes them ``[N, D]``.
        targets: ``[N, D]``; None where they are class indices.
        indices: Class indices ``[N]``; None where targets are numbers.
        valid: Which of them count ``[N]``; None for all.
        weights: What rows ``[N]`` or elements ``[N, D]`` count; None for all alike, and where that is lost.
        lost: Whether there are weights that cannot be told apart from others.
    """

    def __init__(self, head: Head) -> None:
        assert head.prediction is not None
        assert head.target is not None
        size = tuple(head.prediction.shape)
        self._by_row = head.loss in BY_ROW
        self.scores = _columns(head.prediction, head.class_dim)
        self.targets: Tensor | None = None
        self.indices: Tensor | None = None
        self.valid: Tensor | None = None
        if head.indexed:
            self.indices = head.target.reshape(-1)
            self.valid = None if head.ignored is None else self.indices != head.ignored
        else:
            self.targets = _columns(head.target.to(self.scores.dtype).expand(size), head.class_dim)
        if self._by_row and head.class_dim is not None:
            size = tuple(length for d, length in enumerate(size) if d != head.class_dim)
        self.lost = False
        self.weights: Tensor | None = None
        parts = list(head.path.weights)
        if not self._by_row and head.class_weight is not None:
            parts.append((head.class_weight, tuple(head.class_weight.shape)))
        for weight, at in parts:
            self._weigh(weight, at, size)
        if self.lost:
            self.weights = None
        if head.broadcast and self.targets is not None:
            # All are compared with all: one constant stands for every element.
            self.scores, self.targets = self.scores.reshape(-1, 1), self.targets.reshape(-1, 1)
            self.weights = None if self.weights is None else self.weights.reshape(-1, 1)

    def _weigh(self, weight: Tensor, at: tuple[int, ...], size: tuple[int, ...]) -> None:
        aligned = _aligned(weight, at, size)
        if aligned is None:
            self.lost = True
            return
        aligned = aligned.to(self.scores.dtype)
        aligned = aligned.reshape(-1) if self._by_row else aligned.reshape(self.scores.shape)
        self.weights = aligned if self.weights is None else self.weights * aligned

    def errors(self, head: Head) -> tuple[Tensor, Tensor | float]:
        """Returns the weighted errors as the loss counts them ``[N]`` or ``[N, D]``, and the sum of the weights."""
        if self.indices is not None:
            return self._likelihood(self.indices, head)
        errors = self._plain_errors(head)
        if self.weights is None:
            return errors, float(errors.numel())
        return errors * self.weights, self.weights.sum()

    def _likelihood(self, indices: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        classes = self.scores.shape[1]
        chosen, losses = indices.clamp(0, classes - 1), self._plain_errors(head)
        counts = torch.ones_like(losses) if self.weights is None else self.weights
        if self.valid is not None:
            counts = counts * self.valid
        each = counts
        if head.class_weight is not None:
            each = counts * head.class_weight.to(counts)[chosen]
        losses = losses * each
        if head.smoothing:
            even = -self.scores if head.class_weight is None else -self.scores * head.class_weight.to(counts)
            losses = (1 - head.smoothing) * losses + head.smoothing * even.mean(1) * counts
        return losses, each.sum()

    def counted(self, head: Head) -> Tensor | None:
        """Returns which rows ``[N]`` or elements ``[N, D]`` count at all; None for all.

        Those without a weight do not, unless it is for being predicted best that they have none, as where only the
        hardest are trained on (Shrivastava et al. 2016): these say the most of how well a network does.
        """
        if self.weights is None:
            return self.valid
        weighs, errors = self.weights != 0, self._plain_errors(head)
        least = torch.where(weighs, errors, float("inf")).min()
        counted = weighs | ((least >= torch.where(weighs, float("-inf"), errors).max()) & weighs.any())
        return counted if self.valid is None else counted & self.valid

    def _plain_errors(self, head: Head) -> Tensor:
        if self.indices is not None:
            return -self.scores.gather(1, self.indices.clamp(0, self.scores.shape[1] - 1)[:, None])[:, 0]
        assert self.targets is not None
        return _errors(head, self.scores, self.targets)

    def counts(self) -> Tensor:
        """Returns how often each class is the target, weighted ``[D]``."""
        assert self.indices is not None
        weights = torch.ones_like(self.scores[:, 0]) if self.weights is None else self.weights
        return tallied(self.indices, weights if self.valid is None else weights * self.valid, self.scores.shape[1])


@torch.no_grad()
def row_losses(head: Head, loss: Tensor, rows: int) -> Tensor | None:
    """Returns the losses of a batch's rows ``[rows]``, whose mean is the loss; None where they cannot be told.

    Args:
        head: One whose predictions and targets are known.
        loss: The loss of the batch.
        rows: How many it has, along the first dimension.
    """
    table = Table(head)
    if table.lost or head.path.unclear is not None:
        return None
    errors, units = table.errors(head)
    if errors.numel() % rows:
        return None
    losses = errors.reshape(rows, -1).sum(1) * (rows / units)
    # Whatever else the loss is made of, a root or another term, its rows do not show. Half precision rounds.
    return losses if torch.allclose(losses.mean(), loss.detach().to(losses), rtol=1e-2) else None


def thin(table: Tensor) -> Tensor:
    """Returns rows and columns at even distances, where there are very many."""
    columns = ceil(table.shape[1] / _COLUMNS)
    table = table[:, ::columns] if columns > 1 else table
    rows = max(ceil(table.shape[0] / _ROWS), ceil(table.numel() / _ELEMENTS))
    return table[::rows] if rows > 1 else table


def tallied(classes: Tensor, weights: Tensor, size: int) -> Tensor:
    """Adds up the weights of each class ``[size]``."""
    # Not `bincount`, which waits for the device.
    dtype = torch.float32 if weights.device.type == "mps" else torch.float64
    counts = torch.zeros(size, dtype=dtype, device=weights.device)
    return counts.scatter_add_(0, classes.clamp(0, size - 1), weights.to(dtype))


def linked(scores: Tensor, link: str) -> Tensor:
    """Returns predictions in the units of the targets."""
    return scores.sigmoid() if link == "sigmoid" else scores.exp() if link == "exp" else scores


def _columns(values: Tensor, class_dim: int | None) -> Tensor:
    values = values if values.dtype == torch.float64 else values.float()
    if class_dim is None:
        return values.reshape(values.shape[0], -1) if values.ndim else values.reshape(1, 1)
    return values.movedim(class_dim, -1).reshape(-1, values.shape[class_dim])


def _aligned(weight: Tensor, at: tuple[int, ...], size: tuple[int, ...]) -> Tensor | None:
    """Expands a weight, multiplied by where values have shape ``at``, to the shape of the loss's elements."""
    if weight.numel() == 1:
        return weight.reshape((1,) * len(size)).expand(size)
    try:
        weight = weight.expand(at)
        if len(at) != len(size) and prod(at) == prod(size):
            # Positions that were put behind each other, and back in their place.
            return weight.reshape(size)
        if size[: len(at)] == at:
            return weight.reshape(at + (1,) * (len(size) - len(at))).expand(size)
        return weight.expand(size)
    except RuntimeError:
        return None


def _errors(head: Head, scores: Tensor, targets: Tensor) -> Tensor:
    if head.loss in BY_ROW:
        shares = targets if head.class_weight is None else targets * head.class_weight.to(scores)
        # Where a target is zero its logarithm, however small, does not count.
        return -torch.where(targets == 0, torch.zeros_like(scores), shares * scores).sum(1)
    if head.loss in ("mse", "rmse"):
        return (scores - targets).square()
    if head.loss == "l1":
        return (scores - targets).abs()
    if head.loss == "huber":
        return functional.huber_loss(scores, targets, reduction="none", delta=head.bend)
    if head.loss == "smooth_l1":
        return functional.smooth_l1_loss(scores, targets, reduction="none", beta=head.bend)
    weight = None if head.pos_weight is None else _columns(head.pos_weight.expand(head.output_shape), None)
    if head.loss == "bce":
        logs, others = scores.log().clamp(min=-100), (1 - scores).log().clamp(min=-100)
        return -((targets if weight is None else weight * targets) * logs + (1 - targets) * others)
    if head.loss == "bce_with_logits":
        return functional.binary_cross_entropy_with_logits(scores, targets, reduction="none", pos_weight=weight)
    if head.loss == "poisson":
        return scores.exp() - targets * scores
    return torch.xlogy(targets, targets) - targets * scores
