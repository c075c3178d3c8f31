"""How far predictions are from targets that are numbers, and how far the best constant prediction is from them."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from lightning_doctor.measure.baseline import Variance, exact
from lightning_doctor.measure.head import BINARY, Head
from lightning_doctor.measure.table import Table, linked, thin

# In how many columns medians are taken, and of how many batches.
_MEDIANS, _BATCHES = 64, 32
# The share of samples that may carry most of a squared error.
_WORST = 0.05

Found = dict[str, "Tensor | float"]


class Deviations:
    """Takes the predictions and targets of one batch after another.

    Attributes:
        variance: Of the targets that count.
    """

    def __init__(self) -> None:
        self.variance = Variance()
        self._medians: list[Tensor] = []

    def measure(self, table: Table, counted: Tensor | None, head: Head) -> Found:
        """Returns what targets are like and how far predictions are from them; what does not count is left out.

        Args:
            table: Of a batch, whose targets are numbers.
            counted: What of it counts, as :meth:`Table.counted <lightning_doctor.measure.table.Table.counted>` tells.
            head: The loss head that it was made of.
        """
        assert table.targets is not None
        there, rows = None, None
        if counted is not None:
            by_row = counted.reshape(len(table.targets), -1)
            there, rows = thin(by_row.expand_as(table.targets)), by_row.any(1)
        scores, targets = linked(thin(table.scores), head.link), thin(table.targets)
        found: Found = {"columns": float(table.targets.shape[1])}
        if table.targets.shape[1] > 1:
            found["target_sum_error"] = _where(rows, (table.targets.sum(1) - 1).abs(), 0.0).max()
        describe_targets(targets, there, found)
        found["target_fraction"] = _where(there, (targets - targets.round()).abs(), 0.0).max()
        self.variance.add(targets, there)
        if head.loss in BINARY and table.targets.shape[1] > 1:
            tags = _where(there, targets > 0.5, False)
            found["tags"], found["tags_found"] = tags.sum(), (tags & (scores > 0.5)).sum()
            if there is not None:
                # How likely a thing is to happen next is rarely more than a half, and is no tag that was missed.
                found["tags"] = torch.where(_are_times(tags, there), float("nan"), found["tags"])
        squares = (scores - targets).square()
        # Medians down columns are slow.
        some = slice(None, None, ceil(table.targets.shape[1] / _MEDIANS))
        known = _where(there, targets, float("nan"))[:, some]
        median = known.nanmedian(0).values
        if head.reweighted:
            # Which is to be sure of less than its squared error asks for.
            return found
        if self.variance.rows > 1:
            found["constant_error"] = self._constant_error(targets, median, there)
        errors = _where(there, squares, 0.0).mean(1)
        found["error"] = errors.mean()
        found["worst_share"] = errors.topk(max(1, ceil(_WORST * len(errors)))).values.sum() / errors.sum()
        some_errors = _where(None if there is None else there.any(1), errors, float("nan"))
        found["worst_ratio"] = (errors.max() / some_errors.nanmedian()).sqrt()
        # Medians throughout: of what outliers do to a mean nothing enters.
        distances = (known - median).square().nanmean(1)
        typical = _where(there, squares, float("nan"))[:, some].nanmean(1)
        found["typical_error"] = (typical.nanmedian() / distances.nanmedian()).sqrt()
        return found

    def _constant_error(self, targets: Tensor, median: Tensor, there: Tensor | None) -> Tensor:
        """Returns the mean squared error of the better of two constants on these targets.

        The mean of all targets is best for all of them, but where a few are far out the median is for most batches:
        to be better than the mean is no skill there.
        """
        rows, targets = self.variance.rows, exact(targets)
        # Targets are nearer the mean of so few than that of all.
        error = _where(there, (targets - self.variance.mean()).square(), 0.0).mean() * (rows / (rows - 1))
        if len(median) != targets.shape[1]:
            return error
        if self._medians and self._medians[0].shape != median.shape:
            self._medians.clear()
        self._medians = [*self._medians[1 - _BATCHES :], median]
        middle = torch.stack(self._medians).nanmedian(0).values
        return torch.fmin(error, _where(there, (targets - middle).square(), 0.0).mean())


def describe_targets(targets: Tensor, there: Tensor | None, found: Found) -> None:
    """Says how many count, from where to where they go, and what they and their squares come to."""
    if there is None:
        found["target_min"], found["target_max"] = torch.aminmax(targets)
    else:
        found["target_min"] = torch.where(there, targets, float("inf")).min()
        found["target_max"] = torch.where(there, targets, float("-inf")).max()
    kept = _where(there, exact(targets), 0.0)
    found["target_count"] = float(targets.numel()) if there is None else there.sum()
    found["target_sum"], found["target_squares"] = kept.sum(), kept.square().sum()


def _where(there: Tensor | None, values: Tensor, otherwise: float) -> Tensor:
    return values if there is None else torch.where(there, values, otherwise)


def _are_times(tags: Tensor, there: Tensor) -> Tensor:
    """Whether columns are times at which a thing may happen once, and none counts after it or where nobody looked."""
    ends = (there[:, 1:] <= there[:, :-1]).all() & ~(tags[:, :-1] & there[:, 1:]).any()
    return ends & (there.any(1) & ~there.all(1)).any()
