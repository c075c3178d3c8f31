"""Whether two samples of rows come from one distribution: a classifier test and two univariate ones, by permutation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PERMUTATIONS = 399
# Of the ridge, as a share of the mean variance of the columns: a direction among many columns follows noise.
_RIDGE = 0.1
# Standardised values further out than this are put there: one outlier in a column would hide a shift of all others.
_FARTHEST = 5.0
# The least spread of a column that a shift is measured in [largest value].
_FLOOR = 1e-3
# Units of the untrained layer that the classifier sees beside the columns themselves.
_UNITS = 64


@dataclass(frozen=True)
class Difference:
    """How one column differs.

    Attributes:
        column: Its index.
        means: Of the first sample and of the second.
        spreads: Their standard deviations.
        shift: The difference of the means, second less first [pooled standard deviations of a sample].
        ratio: The second standard deviation over the first, neither taken to be under a thousandth of the largest
            value; 1 for a column of two values.
    """

    column: int
    means: tuple[float, float]
    spreads: tuple[float, float]
    shift: float
    ratio: float


@dataclass(frozen=True)
class TwoSample:
    """What a test of two samples says.

    Attributes:
        p_value: Of the three tests together, in [1/400, 1]: under one distribution it is under α in a share α of
            draws, whatever the distribution.
        separation: How well the classifier tells rows that it was not fitted on, as the area under its curve:
            0.5 for not at all, 1 for always.
        rows: How many rows each sample has.
        differences: Every column, the most clearly different first.
    """

    p_value: float
    separation: float
    rows: tuple[int, int]
    differences: list[Difference]


def two_sample(first: Tensor, second: Tensor, *, seed: int = 0) -> TwoSample:
    """Tests whether the rows of two samples could have been drawn together.

    Three statistics are compared with what they are when the rows' labels are permuted, and the smallest of their
    p-values once more with its own permutations (Westfall & Young 1993): the cross-fitted score of a ridge classifier
    for differences over many columns (Lopez-Paz & Oquab 2017), the largest difference of a mean and the largest of a
    spread for differences in a few. The classifier is linear in the columns and in the outputs of an untrained layer
    (Rahimi & Recht 2008), which show how columns hang together.

    Args:
        first: ``[N, D]``.
        second: ``[M, D]``.
        seed: Of the permutations.

    Raises:
        ValueError: For samples of other shapes, under 8 rows, or with values that are not finite.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"samples must be [N, D] and [M, D], got {list(first.shape)} and {list(second.shape)}")
    if min(len(first), len(second)) < 8:
        raise ValueError(f"each sample must have 8 rows or more, got {len(first)} and {len(second)}")
    together = torch.cat([first, second]).double().cpu()
    if not together.isfinite().all():
        raise ValueError("every value must be finite")
    centred = together - together.mean(0)
    spread = centred.square().mean(0).sqrt()
    # Of a column that is constant but for rounding nothing is to be said.
    varies = spread > 1e-9 * together.abs().amax(0).clamp(min=1e-300)
    rows = torch.where(varies, centred / spread.where(varies, torch.ones_like(spread)), 0.0).clamp(
        -_FARTHEST, _FARTHEST
    )
    labels = _permuted(len(first), len(second), seed)
    scores = _cross_fitted(torch.cat([rows.float(), _untrained(rows.float(), seed)], dim=1), labels, seed)
    means = _by_column(rows.float(), labels)
    spreads = _by_column((rows - rows.median(0).values).abs().float(), labels)
    statistics = torch.stack([_gap(scores, labels), means.amax(0), spreads.amax(0)])
    return TwoSample(
        p_value=_combined(statistics),
        separation=_separation(scores[: len(first), 0], scores[len(first) :, 0]),
        rows=(len(first), len(second)),
        differences=_differences(first.double().cpu(), second.double().cpu(), torch.maximum(means, spreads)[:, 0]),
    )


def _permuted(first: int, second: int, seed: int) -> Tensor:
    """Returns which rows are of the second sample, ``[N + M, 1 + permutations]``, the truth first."""
    generator = torch.Generator().manual_seed(seed)
    rows = first + second
    drawn = torch.rand(_PERMUTATIONS, rows, generator=generator, dtype=torch.float64)
    truth = (torch.arange(rows) >= first)[None]
    return torch.cat([truth, drawn <= drawn.kthvalue(second, dim=1, keepdim=True).values]).T.float().contiguous()


def _untrained(rows: Tensor, seed: int) -> Tensor:
    """Returns what a layer of random weights and an activation makes of rows, standardised ``[N, units]``."""
    generator = torch.Generator().manual_seed(seed + 2)
    weights = torch.randn(rows.shape[1], _UNITS, generator=generator) / rows.shape[1] ** 0.5
    outputs = torch.relu(rows @ weights + torch.randn(_UNITS, generator=generator))
    return (outputs - outputs.mean(0)) / outputs.std(0).clamp(min=1e-6)


def _cross_fitted(rows: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Returns the score of every row ``[N + M, P]`` by a ridge classifier that was fitted on the other half."""
    generator = torch.Generator().manual_seed(seed + 1)
    order = torch.randperm(len(rows), generator=generator)
    scores = torch.empty_like(labels)
    for mine, others in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        middle = rows[others].mean(0)
        fitted = rows[others] - middle
        wanted = labels[others] - labels[others].mean(0)
        gram = fitted.T @ fitted
        gram.diagonal().add_(_RIDGE * len(others))
        weights = torch.cholesky_solve(fitted.T @ wanted, torch.linalg.cholesky(gram))
        here = (rows[mine] - middle) @ weights
        # Either half has a classifier of its own, whose scores have a scale of their own.
        scores[mine] = (here - here.mean(0)) / here.std(0).clamp(min=1e-12)
    return scores


def _gap(values: Tensor, labels: Tensor) -> Tensor:
    """Returns the difference of the means of the two groups, by column ``[P]``."""
    second = labels.sum(0)
    return (values * labels).sum(0) / second - (values * (1 - labels)).sum(0) / (len(labels) - second)


def _by_column(rows: Tensor, labels: Tensor) -> Tensor:
    """Returns how far the columns' means lie apart between the groups ``[D, P]`` [standard deviations]."""
    second = labels.sum(0)
    rows = rows - rows.mean(0)
    rows = rows / rows.std(0).clamp(min=1e-12)
    # Of centred rows the sums over the two groups are each other's negative.
    return ((rows.T @ labels) * (1 / second + 1 / (len(labels) - second))).abs()


def _combined(statistics: Tensor) -> float:
    """Returns the p-value of the smallest p-value of several statistics ``[S, P]``, larger ones being more extreme."""
    # Rounded, as sums in another order differ in the last digits where permutations are the same.
    statistics = statistics.double().mul(1e5).round()
    ordered = statistics.sort(1).values.contiguous()
    count = statistics.shape[1]
    p_values = (count - torch.searchsorted(ordered, statistics.contiguous())) / count
    smallest = p_values.amin(0)
    return float((smallest <= smallest[0]).double().mean())


def _separation(first: Tensor, second: Tensor) -> float:
    """Returns the share of pairs in which the row of the second sample scores higher, ties counted half."""
    ordered = first.sort().values.contiguous()
    below = torch.searchsorted(ordered, second.contiguous())
    not_above = torch.searchsorted(ordered, second.contiguous(), right=True)
    return float((below + not_above).double().mean() / (2 * len(first)))


def _differences(first: Tensor, second: Tensor, clarity: Tensor) -> list[Difference]:
    means, spreads = (first.mean(0), second.mean(0)), (first.std(0), second.std(0))
    level = torch.maximum(first.abs().amax(0), second.abs().amax(0)).clamp(min=1e-300)
    # A column may be constant on one side, or on both.
    floors = [torch.maximum(spread, _FLOOR * level) for spread in spreads]
    shift = (means[1] - means[0]) / ((floors[0].square() + floors[1].square()) / 2).sqrt()
    # Of two values the spread follows from the mean, and that none of a few rows has the rarer one is no wonder.
    rows = torch.cat([first, second])
    binary = ((rows == rows.amin(0)) | (rows == rows.amax(0))).all(0)
    ratio = torch.where(binary, 1.0, floors[1] / floors[0])
    return [
        Difference(
            column,
            (float(means[0][column]), float(means[1][column])),
            (float(spreads[0][column]), float(spreads[1][column])),
            float(shift[column]),
            float(ratio[column]),
        )
        for column in clarity.argsort(descending=True, stable=True).tolist()
    ]
