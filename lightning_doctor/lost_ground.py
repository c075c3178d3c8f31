"""What losses alone show of steps that are too long: a run that climbed, or lost again what it had learned."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, median, stdev

from lightning_doctor.error_bars import validation_error
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.loss_levels import lowest_part
from lightning_doctor.noise import shift, stretch
from lightning_doctor.prescriptions import lower_rate, peak_rate
from lightning_doctor.progress import LITTLE, standing
from lightning_doctor.step_sizes import rate_at

# Losses under which a run has no course yet, only single noisy values.
YOUNG = 32
# The share of the baseline that is something learned, and the share of that which may be left where it is lost;
# standard errors that the loss must have risen by.
_SOMETHING, _REST, _SURE = 0.05, 0.25, 5.0
# Validation passes of late that tell whether their loss came down.
_PASSES = 2
# How many times the best a loss must be to have lost ground, where nothing tells how much there was to learn.
_WELL_OVER = 1.25
# Validation passes that tell whether their loss swings: by which share of it the median pass must differ from the one
# before, and how many of these changes must turn round, of which two in three do by chance.
_SWINGS, _LEAP, _TURNS = 8, 0.5, 0.5
# How far beyond the error of a pass over other rows it must leap [standard errors].
_BEYOND = 3.0


def climbed(history: History, rise: float, *, scanned: bool = True) -> Finding | None:
    """A run that its own steps took up, and that learned nothing: at first, again and again, or to stay up there.

    Args:
        history: Of the run.
        rise: How many times its start a loss must have surged to.
        scanned: Whether steps were scanned, and do not lower the loss as they should. Else a loss of unknown kind that
            stays over its start may rise by right, as the task gets harder.
    """
    losses, finite = history["train_loss"].finite(), is_finite(history)
    # One that is lost at once is lost for many a reason.
    if not losses.values or min(losses.values) < 0 or (not finite and len(losses) < 4 * YOUNG):
        return None
    first = stretch(losses, 0.0, 0.3) or losses.values[:1]
    start, late = max(losses.values[:2]), stretch(losses, 0.5) or losses.values[-1:]
    baseline = history["baseline_loss"].values[-1] if "baseline_loss" in history else 0.0
    # A single loss may be that of a bad batch, and what a constant prediction costs is how far batches may lie apart.
    highest = _third_largest(first)
    surged = highest > rise * max(start, baseline)
    # Some batches may cost as much to the end, while most cost less than a constant prediction does.
    as_high = highest < rise * _third_largest(late)
    surged = surged and not (as_high and median(late) < (1 - _SOMETHING) * baseline)
    # Of a run that learned something all the same batches may be the reason, whose losses lie far apart.
    most = standing(history).most
    learned = as_high or _came_down(history, start, late) if most is None else most >= LITTLE
    surged = surged and finite and not learned
    # A constant prediction is within reach of any step that is small enough.
    reach = 1.03 * max(*losses.values[:2], baseline)
    # Medians tell little of losses that grow by orders of magnitude.
    far = min(late[-4 * YOUNG :]) > rise * reach
    stays = median(late) > reach and (far or shift(losses.values[:8], late).sigmas > 4)
    stays = stays and (scanned or most is not None)
    bounces = finite and baseline > 0 and not stays and _throws(late, max(_at_most(losses.values[:8]), 2 * baseline))
    if not surged and not stays and not bounces:
        return None
    rate = peak_rate(history)
    what = f"up to {max(first):.4g} at first" if surged else f"to {median(late):.4g}, where it stays"
    if bounces and not surged:
        what = f"up to {max(late):.4g} again and again, to {fmean(late):.4g} in the mean"
    return Finding(
        severity=Severity.WARNING if finite else Severity.ERROR,
        summary=f"the steps took the training loss from {start:.4g} {what}, and the run has learned nothing",
        evidence={"start": start, "peak": max(first), "now": median(late)} | ({"rate": rate} if rate else {}),
        remedy=lower_rate(history),
        confidence=Confidence.SUSPECTED,
        onset=losses.steps[0],
        signals=("train_loss", "learning_rate"),
    )


def _came_down(history: History, start: float, late: list[float]) -> bool:
    """Whether training or validation losses lie under where they began, where nothing tells what a constant costs."""
    passes = history.get("val_loss").finite()
    latest = stretch(passes, 0.8)
    validated = len(latest) >= _PASSES and passes.values[0] > 0 and median(latest) < (1 - _SOMETHING) * passes.values[0]
    return validated or median(late) < (1 - _REST) * start


def _third_largest(values: list[float]) -> float:
    return sorted(values)[-min(3, len(values))] if values else 0.0


def _at_most(values: list[float]) -> float:
    """Returns what their mean is surely under."""
    largest = max(values)
    if len(values) < 2 or not largest > 0:
        return largest
    # Divided first: sums and squares of huge losses would overflow.
    shares = [value / largest for value in values]
    return largest * (fmean(shares) + _SURE * stdev(shares) / math.sqrt(len(shares)))


def _throws(losses: list[float], over: float) -> bool:
    """Whether losses lie over a level in the mean, whatever their median: steps throw them up, now and then far."""
    if len(losses) < 2 * YOUNG:
        return False
    return fmean(losses) - _SURE * stdev(losses) / math.sqrt(len(losses)) > over


def unlearned(history: History) -> Finding | None:
    """A run that had learned something from this data, and has lost it again."""
    losses, baselines = history["train_loss"], history.get("baseline_loss").finite().values
    late = recent(losses)
    if not baselines or min(losses.values) < 0 or len(losses) < 4 * YOUNG:
        return None
    baseline = median(baselines[-3:])
    if not baseline > 0:
        return None
    lowest, ends = lowest_part(losses)
    best = median(lowest)
    learned, left = 1 - best / baseline, 1 - median(late) / baseline
    if learned < _SOMETHING or left > _REST * learned or shift(lowest, late).sigmas < _SURE:
        return None
    rate = peak_rate(history)
    return Finding(
        severity=Severity.WARNING,
        summary=f"the training loss had come down to {best:.4g}, and is back at {median(late):.4g}, where a constant "
        f"prediction costs {baseline:.4g}: steps undid what they had learned",
        evidence={"best": best, "now": median(late), "baseline_loss": baseline} | ({"rate": rate} if rate else {}),
        remedy=lower_rate(history),
        confidence=Confidence.SUSPECTED,
        onset=ends,
        signals=("train_loss", "baseline_loss", "learning_rate"),
    )


def swings(history: History) -> Finding | None:
    """A run whose validation loss, of the same rows each time, leaps up and down from pass to pass at a steady rate."""
    passes, rate = stretch(history.get("val_loss").finite(), 0.5), _rate_now(history)
    rates, peak = stretch(history.get("learning_rate"), 0.5), peak_rate(history)
    # Statistics of batches leap by themselves.
    by_batch = any("BatchNorm" in kind or "InstanceNorm" in kind for kind in history.fact("model.layers", {}))
    steady = peak is not None and min(rates, default=0.0) >= peak / 2
    if len(passes) < _SWINGS or min(passes) < 0 or by_batch or not steady:
        return None
    changes = [later - earlier for earlier, later in pairwise(passes)]
    turns = sum((a > 0) != (b > 0) for a, b in pairwise(changes))
    leap, level = median(map(abs, changes)), median(passes)
    samples = history.fact("data.val_samples")
    error = validation_error(history, samples) if isinstance(samples, int) and samples > 0 else None
    # Rows that are drawn anew for each pass make as much of it as they scatter.
    by_chance = error is not None and leap < _BEYOND * math.sqrt(2) * error
    if not level > 0 or leap < _LEAP * level or by_chance or turns < _TURNS * (len(changes) - 1):
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the validation loss leaps by {leap:.3g} from pass to pass, around {level:.3g}: steps keep throwing "
        "the weights about",
        evidence={"leap": leap, "level": level, "passes": len(passes), "turns": turns}
        | ({"rate": rate} if rate else {}),
        remedy=f"{lower_rate(history)}, or decay it to zero over the run",
        confidence=Confidence.SUSPECTED,
        onset=history["train_loss"].steps[0],
        signals=("val_loss", "learning_rate"),
    )


def _rate_now(history: History) -> float | None:
    return rate_at(history, history.last_step)


def climbed_back(history: History) -> bool:
    """Whether a loss without a known scale, over zero, surely lies well over the lowest part of its run again.

    At a rate like that of then: one that was lowered and raised again takes a loss down and up by itself.
    """
    losses = history["train_loss"]
    (lowest, ends), late = lowest_part(losses), recent(losses)
    then, now = rate_at(history, ends), _rate_now(history)
    if then is not None and now is not None and then < now / 2:
        return False
    risen = median(late) > _WELL_OVER * median(lowest) > 0
    return len(losses) >= 4 * YOUNG and risen and shift(lowest, late).sigmas > _SURE


def recent(losses: Series) -> list[float]:
    """Returns the losses of the last fifth of the run, or the last one."""
    return stretch(losses, 0.8) or losses.values[-1:]


def is_finite(history: History) -> bool:
    """Whether every loss so far is a number."""
    return history.get("train_loss").broken_at() is None
