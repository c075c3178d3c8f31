"""What a copy of the model scored in eval mode on rows that were kept, and whether rows of two kinds are alike."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, stdev
from typing import Any

from lightning_doctor.error_bars import CONFIDENCE, normal, student_quantile, told, widened
from lightning_doctor.history import History, Series
from lightning_doctor.loss_levels import typical

# How surely samples that were all new must have been predicted better than by a constant [standard errors].
_UNSEEN = 4.0
# The same of skills, for the best of a dozen looks at the same rows and for any of them.
_BEST_LOOK, _ANY_LOOK = 3.5, 2.5
# Under which two samples are taken to be of two distributions: a test that is asked once or twice a run.
_SURE = 0.005
# The share of training rows with a twin over which those rows are few: drawn with replacement two thirds have one.
_COPIES = 0.97
# How far a column's mean must have moved [standard deviations], its spread have changed [ratio], or a linear
# classifier tell the samples apart [area under its curve] for the difference to be able to matter.
_SHIFT, _RATIO, _SEPARATION = 0.25, 1.3, 0.62
# From which it is no accident of how rows were drawn: another scale, another preparation.
_FAR_SHIFT, _FAR_RATIO, _FAR_SEPARATION = 2.0, 3.0, 0.9


@dataclass(frozen=True)
class Scores:
    """What was scored on one sample.

    Attributes:
        steps: When.
        losses: In eval mode [unit of the loss].
        errors: Their standard errors; as many.
        bars: How far they may be from the truth with 95 % confidence, each for itself; as many, NaN where unknown.
        skills: The share of the errors of a constant prediction that were avoided; empty where unknown.
        skill_steps: When those were taken.
        skill_error: The standard error of the last of them, for classes; NaN where unknown.
        rows: How many rows were scored last; NaN where unknown.
    """

    steps: list[int]
    losses: list[float]
    errors: list[float]
    bars: list[float]
    skills: list[float]
    skill_steps: list[int]
    skill_error: float
    rows: float = math.nan

    @property
    def bar(self) -> float:
        """The error bar of the last loss; NaN where unknown."""
        return self.bars[-1]

    @property
    def bar_of_best(self) -> float:
        """The error bar of the lowest loss, which was picked from all of them."""
        return widened(self.bars[self.losses.index(min(self.losses))], len(self.losses))

    def __str__(self) -> str:
        return told(self.losses[-1], self.bar)

    def skill_at(self, step: int) -> float:
        """Returns the first skill at a step or later, the last one where there is none."""
        return self.skills[min(bisect_left(self.skill_steps, step), len(self.skills) - 1)]


def scores(history: History, sample: str) -> Scores | None:
    """Returns the scores of ``"train"``, ``"validation"`` or ``"holdout"``; None where there are none.

    Args:
        history: The run.
        sample: Which rows.
    """
    losses = history.get(f"eval_loss/{sample}").finite()
    if not losses:
        return None
    errors, bars = (_by_step(history.get(f"eval_{name}/{sample}").finite()) for name in ("error", "bar"))
    skills = history.get(f"eval_skill/{sample}").finite()
    return Scores(
        losses.steps,
        losses.values,
        [errors.get(step, math.nan) for step in losses.steps],
        # Where the losses of single rows are not known, those of batches scatter too.
        [bars.get(step, normal(errors.get(step, math.nan))) for step in losses.steps],
        skills.values,
        skills.steps,
        _skill_error(history, sample, skills.values[-1] if skills else math.nan),
        _number(history.fact(f"scored.{sample}")),
    )


def _by_step(series: Series) -> dict[int, float]:
    return dict(zip(series.steps, series.values, strict=True))


def sureness(*bars: float, looked_at: int = 1) -> str:
    """Returns how sure the error bars in a summary are, as the end of a clause; empty where there are none."""
    picked = f", the best of {looked_at}" if looked_at > 1 else ""
    return f" ({CONFIDENCE:.0%}{picked})" if any(map(math.isfinite, bars)) else ""


def known_bars(**bars: float) -> dict[str, float]:
    """Returns the error bars that are known, as evidence."""
    return {f"{name}_bar": bar for name, bar in bars.items() if math.isfinite(bar)}


def gap(here: Scores, there: Scores) -> tuple[float, float]:
    """Returns how far the last loss ``there`` lies over the one ``here``, and the standard error of that."""
    error = math.hypot(here.errors[-1], there.errors[-1])
    return there.losses[-1] - here.losses[-1], error


def scoring_step(history: History) -> str:
    """Returns which of the module's steps scored the rows."""
    return str(history.fact("scored.step", "training_step"))


def constants(history: History) -> list[float]:
    """Returns what the best constant scored, in the unit of the scores.

    Empty where that is not known, as it is where the validation step scored: its loss may be another one.
    """
    return history.get("baseline_loss").finite().values if scoring_step(history) == "training_step" else []


def kept_apart(history: History) -> Scores | None:
    """Returns the scores of held-out training rows; None where there are none, or too few to split the gap by.

    What they score must be known to a third of what lies between training and validation rows.
    """
    train, kept, validation = (scores(history, sample) for sample in ("train", "holdout", "validation"))
    if train is None or kept is None or validation is None:
        return kept
    _, error = gap(train, kept)
    whole, _ = gap(train, validation)
    return None if whole > 0 and not 3 * error <= whole else kept


def ever_learned(other: Scores, baseline: float, learned: float) -> bool:
    """Whether rows that were not trained on were ever predicted better than by a constant."""
    if other.skills and not math.isfinite(other.skill_error) and other.rows > 0:
        # Of numbers, beside the best constant of the same rows, which may be another than that of the training rows.
        return _surely_skilled(other)
    for loss, error in zip(other.losses, other.errors, strict=True):
        if baseline - loss > max(learned * baseline, _ANY_LOOK * error if math.isfinite(error) else 0.0):
            return True
    return _surely_skilled(other)


def _surely_skilled(other: Scores) -> bool:
    """Whether more is avoided of a constant's errors than predictions which know nothing avoid by luck."""
    # Of a dozen looks at the same rows the best is lucky.
    best, usual = lucky_skill(other, _BEST_LOOK), lucky_skill(other, _ANY_LOOK)
    return bool(other.skills) and (max(other.skills) > best or median(other.skills) > usual)


def lucky_skill(other: Scores, sigmas: float) -> float:
    """Returns the skill that luck may bring at so many standard errors; NaN where unknown.

    Of numbers, predictions of spread r, in that of the targets, avoid 2·r·z/√rows - r²: z²/rows at the most.
    """
    if math.isfinite(other.skill_error):
        return sigmas * other.skill_error
    return sigmas**2 / other.rows if other.rows > 0 else math.nan


def when_new(history: History) -> list[float]:
    """Returns the losses of the last quarter of the first epoch, on samples that were all new; empty for too few."""
    steps = history.fact("trainer.steps_per_epoch")
    losses = history.get("train_loss").finite()
    if not isinstance(steps, int) or steps < 8:
        return []
    late = [loss for step, loss in zip(losses.steps, losses.values, strict=True) if 3 * steps <= 4 * step < 4 * steps]
    return late if len(late) >= 4 else []


def learned_at_first(history: History, baseline: float, learned: float) -> bool:
    """Whether the loss came under the constant's within the first epoch, on samples that were all new."""
    late = when_new(history)
    if not late:
        return False
    error, level = stdev(late) / math.sqrt(len(late)), typical(late)
    # Of a few values only much is no accident.
    surely = len(late) >= 8 and level < min((1 - learned) * baseline, baseline - _UNSEEN * error)
    # Of a skewed loss the median is far under what a constant costs in the mean.
    much = level < (1 - max(3 * learned, 0.1)) * baseline
    return surely or (much and level < baseline - student_quantile(CONFIDENCE, len(late) - 1) * error)


@dataclass(frozen=True)
class Unlike:
    """How training and validation rows differ.

    Attributes:
        part: ``"inputs"`` or ``"targets"``.
        p_value: Of the two-sample test.
        separation: How well a linear classifier tells them apart, 0.5 for not at all.
        far: Whether they differ by more than how rows were drawn can do.
        names: The most different columns, with their means and deviations.
        evidence: The numbers of the first of them.
    """

    part: str
    p_value: float
    separation: float
    far: bool
    names: str
    evidence: dict[str, float | str]


def unlike(history: History) -> list[Unlike]:
    """Returns the parts of a batch in which training and validation rows surely and noticeably differ.

    None where most training rows are copies of each other: those few are no sample, and any two differ surely.
    """
    if _number(history.fact("overlap.repeated")) > _COPIES:
        return []
    found = (_unlike(part, history.fact(f"comparison.{part}")) for part in ("inputs", "targets"))
    return [each for each in found if each is not None]


def _unlike(part: str, fact: Any) -> Unlike | None:
    if not isinstance(fact, Mapping):
        return None
    p_value, separation = _number(fact.get("p_value")), _number(fact.get("separation"))
    listed = fact.get("largest")
    columns = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, Sequence) else []
    shifts = [abs(_number(each.get("shift"))) for each in columns]
    ratios = [abs(math.log(ratio)) for each in columns if (ratio := _number(each.get("ratio"))) > 0]
    shift, ratio = max(shifts, default=0.0), math.exp(min(700.0, max(ratios, default=0.0)))
    if not p_value <= _SURE or not (shift >= _SHIFT or ratio >= _RATIO or separation >= _SEPARATION):
        return None
    first = columns[0] if columns else {}
    evidence: dict[str, float | str] = {f"{part}_p_value": p_value, f"{part}_separation": separation}
    (before, after), (spread, spread_after) = _two(first.get("means")), _two(first.get("spreads"))
    if columns:
        evidence |= {"most_different": str(first.get("name", "")), "train_mean": before, "validation_mean": after}
        evidence |= {"train_std": spread, "validation_std": spread_after}
    return Unlike(
        part,
        p_value,
        separation,
        shift >= _FAR_SHIFT or ratio >= _FAR_RATIO or separation >= _FAR_SEPARATION,
        # The first is the most different; another is named where it differs for itself.
        ", ".join(_named(each) for each in columns[:2] if each is columns[0] or _noticeable(each)),
        {name: value for name, value in evidence.items() if isinstance(value, str) or math.isfinite(value)},
    )


def _noticeable(column: Mapping[str, Any]) -> bool:
    shift, ratio = abs(_number(column.get("shift"))), _number(column.get("ratio"))
    return shift >= _SHIFT or (ratio > 0 and not 1 / _RATIO < ratio < _RATIO)


def _named(column: Mapping[str, Any]) -> str:
    (before, after), (spread, spread_after) = _two(column.get("means")), _two(column.get("spreads"))
    name = column.get("name", "")
    return (
        f"{name}: mean {before:.3g} and std {spread:.3g} in training, {after:.3g} and {spread_after:.3g} in validation"
    )


def _skill_error(history: History, sample: str, skill: float) -> float:
    """Returns the binomial standard error of an accuracy, as a share of what a constant leaves to be gained."""
    accuracies = history.get(f"eval_accuracy/{sample}").finite().values
    rows = _number(history.fact(f"scored.{sample}"))
    if not accuracies or not rows > 0 or not 0 <= accuracies[-1] <= 1:
        return math.nan
    right = accuracies[-1]
    # The skill is 1 − (1 − accuracy) / (1 − that of the constant).
    left = (1 - right) / (1 - skill) if skill < 1 else math.nan
    # Near 0 and 1 a sample of so many cannot tell.
    spread = math.sqrt(max(right * (1 - right), 1 / (4 * rows)) / rows)
    return spread / left if left > 0 else math.nan


def _two(values: Any) -> tuple[float, float]:
    if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == 2:
        return _number(values[0]), _number(values[1])
    return math.nan, math.nan


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
