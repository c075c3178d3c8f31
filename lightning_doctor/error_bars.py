"""How far a validation figure may be from the truth for its number of samples, and how many samples a difference takes.

Hoeffding's inequality (1963, theorem 2) holds for a mean of independent samples that are each between two limits, as
those of an accuracy are, at any number of samples and for any distribution. With several candidates one of which is
picked by the same samples, the chance of an error is shared out among them (Bonferroni). A loss has no upper limit:
the losses of its rows are drawn again (:mod:`lightning_doctor.measure.bootstrap`), or the figures of several folds are
compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from lightning_doctor.history import History
from lightning_doctor.rule import is_recent

CONFIDENCE = 0.95
_SHARES = frozenset({"acc", "accuracy", "top1", "top5", "err"})


@dataclass(frozen=True)
class Interval:
    """Where the truth lies, with the confidence that was asked for.

    Attributes:
        low: Its lower end [unit of the figure].
        high: Its upper end, not under ``low``.
    """

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the distance between its ends."""
        return (self.high - self.low) / 2


def hoeffding(samples: int, *, candidates: int = 1, span: float = 1.0, confidence: float = CONFIDENCE) -> float:
    """Returns how far a mean over samples may be from the truth, to either side [unit of ``span``].

    ``span · √(ln(2·candidates / (1 − confidence)) / (2·samples))``: with the given confidence none of the candidates'
    figures is further off.

    Args:
        samples: How many the mean is over, at least 1.
        candidates: How many figures were looked at, at least 1: the best of many was also lucky.
        span: How far apart the smallest and the largest value of one sample can be: 1 for an accuracy, 100 in per cent.
        confidence: In (0, 1).

    Raises:
        ValueError: Where an argument cannot be.
    """
    _check(confidence, candidates)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    return span * math.sqrt(math.log(2 * candidates / (1 - confidence)) / (2 * samples))


def samples_needed(difference: float, *, candidates: int = 2, span: float = 1.0, confidence: float = CONFIDENCE) -> int:
    """Returns from how many samples on the bars of two figures so far apart do not overlap, by :func:`hoeffding`.

    Args:
        difference: Of two figures, not zero [unit of ``span``].
        candidates: How many figures are compared, at least 1.
        span: As for :func:`hoeffding`.
        confidence: In (0, 1).

    Raises:
        ValueError: Where an argument cannot be; nothing tells equal figures apart.
    """
    _check(confidence, candidates)
    if difference == 0 or not math.isfinite(difference):
        raise ValueError(f"difference must be a number other than 0, got {difference}")
    return math.ceil(2 * math.log(2 * candidates / (1 - confidence)) * (span / difference) ** 2)


def metric_span(name: str, values: Sequence[float]) -> float:
    """Returns how far apart one sample's smallest and largest value of a metric are; 0 where that is not known.

    Known for means of zeros and ones, by what they are called: 1 for an accuracy or an error rate, 100 in per cent.

    Args:
        name: The metric's name in the log.
        values: What was logged, to tell shares from per cent.
    """
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if not words & _SHARES or not values or not 0 <= min(values) <= max(values) <= 100:
        return 0.0
    return 1.0 if max(values) <= 1 else 100.0


def standard_error(values: Sequence[float]) -> float:
    """Returns the standard error of a mean of independent values; NaN for fewer than 2 and where one is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return stdev(values) / math.sqrt(len(values))


def normal(error: float, *, candidates: int = 1, confidence: float = CONFIDENCE) -> float:
    """Returns how far a mean over many samples may be from the truth, to either side, by its standard error.

    Args:
        error: Standard error of the mean over samples [unit of the figure]; NaN where it is not known.
        candidates: How many figures were looked at, at least 1.
        confidence: In (0, 1).
    """
    _check(confidence, candidates)
    return NormalDist().inv_cdf(1 - (1 - confidence) / candidates / 2) * error


def widened(bar: float, candidates: int) -> float:
    """Returns how far one of several means may be from the truth, by how far each for itself may be.

    Args:
        bar: Of one mean over many samples, with 95 % confidence [unit of the figure].
        candidates: How many figures were looked at, at least 1.
    """
    return normal(bar / normal(1.0), candidates=candidates)


def told(value: float, bar: float) -> str:
    """Returns a figure with its error bar, as a summary says it; alone where the bar is NaN."""
    return f"{value:.3g} ± {bar:.2g}" if math.isfinite(bar) else f"{value:.3g}"


def validation_error(history: History, samples: int) -> float | None:
    """Returns the standard error of a mean validation loss over so many samples, by how they scatter.

    Taken from the scores of a part of them; None where there are none, where they are of a model that was another
    one, and where the loss is no mean over samples.

    Args:
        history: The run, with the series ``eval_error/validation`` and the fact ``scored.validation``, its rows.
        samples: Of the whole validation set.
    """
    errors, rows = history.get("eval_error/validation").finite(), history.fact("scored.validation")
    if not errors or not isinstance(rows, int) or rows < 1 or history.fact("loss_head.reduction", "mean") != "mean":
        return None
    if not is_recent(history, errors.steps[-1]):
        return None
    return errors.values[-1] * math.sqrt(rows / samples)


def validation_bar(history: History, samples: int, looked_at: int = 1) -> float | None:
    """Returns how far a mean validation loss over so many samples may be from the truth, with 95 % confidence.

    By the bootstrap over the rows that were scored, where their losses are known, else by :func:`validation_error`,
    and None where that is.

    Args:
        history: The run, with what :func:`validation_error` reads and the series ``eval_bar/validation``.
        samples: Of the whole validation set.
        looked_at: From how many figures one was picked, at least 1.
    """
    error = validation_error(history, samples)
    if error is None:
        return None
    bars = history.get("eval_bar/validation").finite()
    if not bars or bars.steps[-1] != history["eval_error/validation"].finite().steps[-1]:
        return normal(error, candidates=looked_at)
    return widened(bars.values[-1] * math.sqrt(history.fact("scored.validation") / samples), looked_at)


def known_to(history: History, looked_at: int) -> tuple[str, dict[str, float | int]]:
    """Returns how far a run's validation figures may be from the truth, as the end of a summary and as evidence.

    Both are empty where the number of samples is not known, or neither the scatter of the loss nor the metric's range.

    Args:
        history: The run.
        looked_at: From how many figures one was picked, at least 1.
    """
    samples = history.fact("data.val_samples")
    if not isinstance(samples, int) or samples < 1:
        return "", {}
    evidence: dict[str, float | int] = {}
    parts = []
    bar = validation_bar(history, samples, looked_at)
    if bar is not None:
        evidence["bar"] = bar
        parts.append(f"the loss to ± {bar:.2g}")
    name = str(history.fact("validation.metric", ""))
    span = metric_span(name, history.get("val_metric").finite().values)
    if span:
        evidence["metric_bar"] = hoeffding(samples, candidates=looked_at, span=span)
        parts.append(f"{name} to ± {evidence['metric_bar']:.2g}")
    if not parts:
        return "", {}
    sentence = f"; {samples:,} samples tell {' and '.join(parts)} ({CONFIDENCE:.0%}, the best of {looked_at})"
    return sentence, {"val_samples": samples, **evidence}


def paired(differences: Sequence[float], *, candidates: int = 2, confidence: float = CONFIDENCE) -> Interval:
    """Returns where the true difference of two candidates lies, by their differences on the same folds.

    Folds share most of what they are trained on, so that their scatter is too small: by Nadeau and Bengio (2003) the
    variance of the mean is (1/k + n₂/n₁)·s², with n₂/n₁ = 1/(k − 1) validation samples for each training sample; the
    interval is Student's with k − 1 degrees of freedom.

    Args:
        differences: One of each of the k folds, at least 2, finite.
        candidates: How many were compared, at least 2: the winner is compared with each other one.
        confidence: In (0, 1), for all of those comparisons together.

    Raises:
        ValueError: Where an argument cannot be.
    """
    _check(confidence, candidates)
    count = len(differences)
    if count < 2 or not all(map(math.isfinite, differences)):
        raise ValueError(f"differences must be of at least 2 folds and finite, got {list(differences)}")
    error = stdev(differences) * math.sqrt(1 / count + 1 / (count - 1))
    tail = (1 - confidence) / max(1, candidates - 1) / 2
    half = error * student_quantile(1 - tail, count - 1)
    return Interval(fmean(differences) - half, fmean(differences) + half)


def student_quantile(probability: float, freedom: int) -> float:
    """Returns the quantile of Student's t-distribution.

    Args:
        probability: In [0.5, 1).
        freedom: Degrees of freedom, at least 1.
    """
    high = 1.0
    while _student(high, freedom) < probability:
        high *= 2
    low = 0.0
    # A double has 52 bits.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < probability else (low, middle)
    return high


def _student(t: float, freedom: int) -> float:
    """The distribution function for t ≥ 0, a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    squared = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = 1.0, 1.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= squared * (power - 1) / power
        total += term
    if not odd:
        return 0.5 + 0.5 * math.sin(angle) * total
    rest = math.sin(angle) * math.cos(angle) * total if freedom > 1 else 0.0
    return 0.5 + (angle + rest) / math.pi


def _check(confidence: float, candidates: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
