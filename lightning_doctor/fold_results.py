"""What a cross-validation came to: figures of every fold, means with error bars, and whether a winner is resolved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from lightning_doctor.error_bars import (
    CONFIDENCE,
    Interval,
    hoeffding,
    metric_span,
    paired,
    samples_needed,
    standard_error,
)
from lightning_doctor.jsonable import to_jsonable
from lightning_doctor.report import Report


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One training run.

    Attributes:
        number: From 1 on.
        train_samples: How many it was trained on.
        val_samples: How many it was validated on.
        metrics: What the validation of the trained module logged, by name.
        report: The doctor's report of the run; None where the doctor did not watch.
        folder: Where its log and ``doctor.json`` are.
        seconds: How long it took.
    """

    number: int
    train_samples: int
    val_samples: int
    metrics: dict[str, float]
    report: Report | None = None
    folder: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to train, on every fold.

    Attributes:
        name: What it was called.
        folds: In order.
    """

    name: str
    folds: list[Fold] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        """Returns the figure of each fold; NaN where a fold did not log it."""
        return [fold.metrics.get(metric, math.nan) for fold in self.folds]

    def mean(self, metric: str) -> float:
        """Returns the mean over the folds."""
        return fmean(self.values(metric))

    def error(self, metric: str) -> float:
        """Returns the standard error of that mean: the folds' standard deviation over √folds."""
        return standard_error(self.values(metric))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The winner against another candidate, on the same folds.

    Attributes:
        other: The other one's name.
        values: By how much the winner is better on each fold [unit of the metric].
        interval: Where the true difference lies, by Nadeau and Bengio's corrected t; None where a figure is not finite.
        resolved: Whether it leaves out zero.
        samples_needed: From how many samples on the bars of figures so far apart do not overlap, by Hoeffding; None
            where the metric has no known range or the figures are equal.
    """

    other: str
    values: list[float]
    interval: Interval | None
    resolved: bool
    samples_needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """The result of :func:`~lightning_doctor.cross_validate`.

    Attributes:
        metric: What candidates are compared by.
        mode: Whether a lower (``"min"``) or a higher figure is better.
        samples: How many there are in all.
        candidates: In the order given.
        winner: The name of the one with the best mean.
        differences: The winner against each of the others.
        bar: How far the mean of any candidate may be from the truth for so many samples, by Hoeffding with the number
            of candidates; None for a metric without a known range.
    """

    metric: str
    mode: Literal["min", "max"]
    samples: int
    candidates: list[Candidate]
    winner: str
    differences: list[Difference]
    bar: float | None

    @property
    def best(self) -> Candidate:
        """The winner."""
        return next(each for each in self.candidates if each.name == self.winner)

    @property
    def scores(self) -> list[float]:
        """The winner's figure of each fold."""
        return self.best.values(self.metric)

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.best.mean(self.metric)

    @property
    def error(self) -> float:
        """Its standard error."""
        return self.best.error(self.metric)

    @property
    def resolved(self) -> bool | None:
        """Whether the winner is better than every other candidate beyond chance; None for one candidate alone."""
        return all(each.resolved for each in self.differences) if self.differences else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins, fit for strict JSON; of the reports the findings, as the rest is in ``folder``."""
        names = sorted({name for each in self.candidates for fold in each.folds for name in fold.metrics})
        table: dict[str, Any] = to_jsonable(
            {
                "metric": self.metric,
                "mode": self.mode,
                "samples": self.samples,
                "winner": self.winner,
                "resolved": self.resolved,
                "bar": self.bar,
                "candidates": [
                    {
                        "name": each.name,
                        "metrics": {name: {"mean": each.mean(name), "error": each.error(name)} for name in names},
                        "folds": [_fold(fold) for fold in each.folds],
                    }
                    for each in self.candidates
                ],
                "differences": [
                    {
                        "other": each.other,
                        "values": each.values,
                        "low": None if each.interval is None else each.interval.low,
                        "high": None if each.interval is None else each.interval.high,
                        "resolved": each.resolved,
                        "samples_needed": each.samples_needed,
                    }
                    for each in self.differences
                ],
            }
        )
        return table

    def __str__(self) -> str:
        folds = len(self.candidates[0].folds)
        lines = [
            f"{folds}-fold cross-validation on {self.samples:,} samples, "
            f"{self.metric} ({'higher' if self.mode == 'max' else 'lower'} is better), mean ± standard error"
        ]
        width = max(len(each.name) for each in self.candidates)
        for each in self.candidates:
            figures = ", ".join(f"{value:.4g}" for value in each.values(self.metric))
            lines.append(
                f"  {each.name:{width}}  {each.mean(self.metric):.4g} ± {each.error(self.metric):.2g}  ({figures})"
            )
            lines.extend(f"  {'':{width}}  {line}" for line in _ills(each))
        if self.bar is not None:
            lines.append(
                f"  from {self.samples:,} samples each mean is known to ± {self.bar:.2g} "
                f"(Hoeffding, {CONFIDENCE:.0%}, {len(self.candidates)} tried)"
            )
        lines.extend(self._verdicts())
        return "\n".join(lines)

    def _verdicts(self) -> list[str]:
        if not self.differences:
            return []
        lines = [f"best: {self.winner}, {'resolved' if self.resolved else 'not resolved'}"]
        for each in self.differences:
            if each.interval is None:
                lines.append(f"  against {each.other}: not every fold has a finite figure")
                continue
            told = "" if each.resolved else ", which may be chance"
            line = (
                f"  against {each.other}: better by {fmean(each.values):.3g}, {CONFIDENCE:.0%} from "
                f"{each.interval.low:.3g} to {each.interval.high:.3g}{told}"
            )
            if not each.resolved and each.samples_needed is not None:
                line += f"; {each.samples_needed:,} samples would tell them apart by Hoeffding"
            lines.append(line)
        return lines


def weighed(candidates: Sequence[Candidate], metric: str, mode: Literal["min", "max"], samples: int) -> CrossValidation:
    """Finds the winner and how sure that is.

    Args:
        candidates: At least one, all on the same folds.
        metric: What they are compared by.
        mode: Which figures of it are better.
        samples: How many there are in all.
    """
    sign = 1.0 if mode == "max" else -1.0

    def score(each: Candidate) -> float:
        mean = each.mean(metric)
        return sign * mean if math.isfinite(mean) else -math.inf

    winner = max(candidates, key=score)
    seen = [value for each in candidates for value in each.values(metric)]
    span = metric_span(metric, [value for value in seen if math.isfinite(value)])
    differences = [
        _difference(winner, other, metric, sign, span, len(candidates)) for other in candidates if other is not winner
    ]
    return CrossValidation(
        metric=metric,
        mode=mode,
        samples=samples,
        candidates=list(candidates),
        winner=winner.name,
        differences=differences,
        bar=hoeffding(samples, candidates=len(candidates), span=span) if span else None,
    )


def _difference(
    winner: Candidate, other: Candidate, metric: str, sign: float, span: float, candidates: int
) -> Difference:
    pairs = zip(winner.values(metric), other.values(metric), strict=True)
    values = [sign * (mine - its) for mine, its in pairs]
    if not all(map(math.isfinite, values)):
        return Difference(other=other.name, values=values, interval=None, resolved=False)
    interval = paired(values, candidates=candidates)
    gap = fmean(values)
    needed = samples_needed(gap, candidates=candidates, span=span) if span and gap else None
    return Difference(
        other=other.name, values=values, interval=interval, resolved=interval.low > 0, samples_needed=needed
    )


def _ills(candidate: Candidate) -> list[str]:
    """What the doctor said of the folds, root causes that are more than a note."""
    said: dict[str, list[int]] = {}
    for fold in candidate.folds:
        for finding in fold.report.roots if fold.report is not None else []:
            if finding.severity.rank:
                said.setdefault(f"{finding.severity} {finding.code} {finding.name}", []).append(fold.number)
    return [f"{what} in fold {', '.join(map(str, numbers))}" for what, numbers in said.items()]


def _fold(fold: Fold) -> dict[str, Any]:
    findings = [] if fold.report is None else [f.to_dict() for f in fold.report.findings]
    return {
        "number": fold.number,
        "train_samples": fold.train_samples,
        "val_samples": fold.val_samples,
        "metrics": fold.metrics,
        "findings": findings,
        "folder": fold.folder,
        "seconds": fold.seconds,
    }
