"""LD115: long after convergence the loss rises again by orders of magnitude."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.noise import stretch
from lightning_doctor.prescriptions import is_adaptive, optimizer, peak_rate
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule
from lightning_doctor.scores import scores, scoring_step

# Blocks, and the values that one has at least.
_BLOCKS, _FEWEST = 64, 9
_WAVES = 2.5
# Under the start by this many orders of magnitude a squared error is what float32 leaves of it, and may wander.
_ROUNDING = 8
# How many times over the loss others must lie for which it is no matter.
_FAR = 10.0
# The smallest normal number of float32, where there was never any loss.
_LEAST = 1.2e-38


@rule(
    "LD115",
    needs={"train_loss": 256},
    explains=(
        "diverging_loss",
        "loss_spike",
        "loss_plateau",
        "exploding_gradients",
        "learning_rate_too_high",
        "stale_validation",
        "undertrained",
    ),
)
def late_instability(history: History, *, gained: float = 6.0, lost: float = 0.3, late: float = 0.1) -> Finding | None:
    """Long after convergence the loss rises again by orders of magnitude.

    What it looks at:
        The logarithm of ``train_loss``, one value per optimizer step, in blocks.

    Why it matters:
        Adam divides by the size of past gradients. When they have all but vanished it divides rounding errors by next
        to nothing, so that its steps are as long as lr again; what was reached is lost.

    Sick:
        100, 1e-6, 1e-12, 1e-12, 1e-11, 1e-8, 1e-3, 1e-4

    Healthy:
        100, 1e-6, 1e-12, 1e-12, 1e-3, 1e-9, 1e-12, 1e-12: a spike that recovers

    Remedy:
        Stop at the best, let the learning rate decay, or raise Adam's eps to the gradients' size.

    Thresholds:
        gained: By how much the loss must have fallen under its start [orders of magnitude].
        lost: Share of that which must be lost again [share].
        late: The last share of the run for half of which it must be lost, or of two and a half times as much, where
            it comes in waves; where it has been lost and found again more than once, for a quarter of the time since
            the first [share].

    Blind spots:
        A loss that may be negative has no orders of magnitude. Where classes are predicted nothing hangs on so small
        a loss, and it is a note; so it is where validation rows never came near the loss it is back at.
    """
    series = history["train_loss"]
    if min(series.values) < 0:
        return None
    # A loss of nothing, as of a margin that is kept, is no smaller than the smallest there is.
    least = min((value for value in series.values if value > 0), default=_LEAST)
    course = _course(series, least)
    start, (best, best_step) = _order(series.values[0], least), min(course)
    # Over a longer stretch too: it may come back in waves, and now may be a trough.
    level, highest = max(_level(series, share, least) for share in (late, _WAVES * late))
    fall, now = start - best, level
    bouts = _bouts(history, course, best + lost * fall / 2, best + lost * fall)
    if len(bouts) > 1:
        # As much as a quarter of the time since the first of them.
        since = sorted(level for level, step in course if step >= bouts[0])
        often = since[3 * len(since) // 4]
        now, highest = max(now, often), max(highest, often)
    rise = now - best
    if fall < gained or rise < lost * fall or highest < start - _ROUNDING:
        return None
    onset = next(step for level, step in reversed(course) if level <= best + lost * fall / 2)
    if len(bouts) > 1:
        onset = min(onset, bouts[0])
    lowest, back = 10**best, 10 ** min(now, 308.0)
    adaptive = is_adaptive(history)
    classes = history.fact("loss_head.targets") in ("class_index", "one_hot", "binary")
    severity = standing(history).unless_good(Severity.WARNING) if classes else Severity.WARNING
    if _is_far_from(history, best_step, back):
        severity = Severity.NOTE
    return Finding(
        severity=severity,
        summary=f"the loss fell from {series.values[0]:.2g} to {lowest:.2g} by step {best_step}, and "
        + (f"is back at {back:.2g}" if level == now else f"has been back at {back:.2g} again and again"),
        evidence={
            "start": series.values[0],
            "best": lowest,
            "best_step": best_step,
            "now": back,
            "orders_gained": fall,
            "orders_lost": rise,
        },
        remedy=_remedy(history, best_step),
        confidence=Confidence.CONFIRMED if adaptive else Confidence.SUSPECTED,
        onset=onset,
        signals=("train_loss", "learning_rate"),
    )


def _is_far_from(history: History, best_step: int, back: float) -> bool:
    """Whether validation rows, scored in the unit of the loss since it was at its best, lie far over that loss."""
    validation = scores(history, "validation")
    if validation is None or scoring_step(history) != "training_step":
        return False
    since = [loss for step, loss in zip(validation.steps, validation.losses, strict=True) if step >= best_step]
    return bool(since) and min(since) > _FAR * back


def _level(series: Series, share: float, least: float) -> tuple[float, float]:
    """Returns the median of the logarithm over the last share of the run, and what a quarter of it is over."""
    orders = sorted(_order(value, least) for value in stretch(series, 1 - share) or series.values)
    return median(orders), orders[3 * len(orders) // 4]


def _bouts(history: History, course: list[tuple[float, int]], under: float, over: float) -> list[int]:
    """Returns the steps from which the course, once under one limit, came over the other; not by a larger rate."""
    begun: list[int] = []
    rested: int | None = None
    for level, step in course:
        if level <= under:
            rested = step
        elif rested is not None and level >= over:
            if not _rate_rose(history, rested, step):
                begun.append(step)
            rested = None
    return begun


def _rate_rose(history: History, since: int, until: int) -> bool:
    """Whether the learning rate was raised between two steps, as by a restart."""
    rates = history.get("learning_rate").finite()
    before, after = rates.until(since)[-1:], rates.until(until)[-1:]
    return bool(before and after) and after[0] > before[0]


def _order(value: float, least: float) -> float:
    return math.log10(max(value, least))


def _course(series: Series, least: float) -> list[tuple[float, int]]:
    """Returns the median logarithm of each of some blocks of equally many values, with its first step.

    Of values, not of steps: of a long run few early ones are kept, extreme ones among them, and one batch is luck.
    """
    orders = [_order(value, least) for value in series.values]
    length = max(_FEWEST, math.ceil(len(orders) / _BLOCKS))
    starts = range(0, max(1, len(orders) - length + 1), length)
    return [(median(orders[start : start + length]), series.steps[start]) for start in starts]


def _remedy(history: History, best_step: int) -> str:
    advice = f"stop at step {best_step} or keep its checkpoint, let lr decay to zero"
    rate = peak_rate(history)
    if rate is not None:
        advice = advice.replace("let lr decay", f"let lr decay from {rate:.3g}")
    if not is_adaptive(history):
        return advice
    norms = history.get("grad_norm").finite()
    size = history.fact("model.trainable", 0)
    quiet = [norm for step, norm in zip(norms.steps, norms.values, strict=True) if abs(step - best_step) <= 50]
    advice += f", or raise eps of {optimizer(history)}"
    if not quiet or not size or not min(quiet) > 0:
        return advice
    # Of one weight.
    return f"{advice} to the size of the gradients at its best, about {median(quiet) / size**0.5:.1g}"
