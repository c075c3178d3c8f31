"""LD102: the training loss leaves its start or its best for good."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.noise import levels, noise, stretch, trend
from lightning_doctor.prescriptions import clip, is_adaptive, is_clipped, lower_rate
from lightning_doctor.rule import rule

# The most steps of an explosion that are looked at: by then it has another name, "stays over its start".
_LONGEST = 16
# Growth per step of a loss without noise that counts as one [ratio].
_STEADY = 1.2


@rule(
    "LD102",
    needs={"train_loss": 2},
    explains=(
        "non_finite_loss",
        "non_finite_gradients",
        "exploding_gradients",
        "always_clipped",
        "loss_spike",
        "loss_plateau",
        "overfitting",
        "stale_validation",
    ),
    non_finite=True,
)
def diverging_loss(
    history: History, *, jump: float = 10.0, rise: float = 2.0, lost: float = 0.8, sigmas: float = 5.0
) -> Finding | None:
    """The training loss leaves its start or its best for good.

    What it looks at:
        ``train_loss``, one value per optimizer step, up to the first that is not finite [unit of your loss].

    Why it matters:
        The steps are too large for this loss: each makes it worse, and more steps will not help.

    Sick:
        130.5, 8434.1, 545230.0

    Healthy:
        2.3, 1.1, 0.6, 4.0, 0.5, 0.4, 0.3, where the fourth is a spike that recovers

    Remedy:
        Lower the learning rate, warm it up or clip the gradient.

    Thresholds:
        jump: How many times over everything before it the loss must lie to have exploded [ratio].
        rise: How many times its start the loss must keep to in the last quarter of the run [ratio].
        lost: Share of the best fall that must be lost again, and stay lost over the last quarter [share].
        sigmas: How far over the start or the best the last quarter must lie [noise of one value].

    Blind spots:
        With several optimizers no single loss has to fall. A slow rise under twice the start is not seen.
    """
    whole = history["train_loss"]
    series = whole.finite()
    values = series.values
    if len(values) < 2:
        return None
    exploded = _explosion(history, series, jump, broken=len(series) < len(whole))
    if exploded is not None:
        at, confidence = exploded
        return Finding(
            severity=Severity.ERROR,
            summary=f"the training loss exploded: {_listed(values[at:])} from step {series.steps[at]} on",
            evidence={
                "start": values[0],
                "best": min(values),
                "last": values[-1],
                "growth": _ratio(values[-1], max(values[: at + 1])),
            },
            remedy=_remedy(history, series.steps[at]),
            confidence=confidence,
            onset=series.steps[at],
            signals=("train_loss",),
        )
    return _for_good(history, series, jump, rise, lost, sigmas)


def _explosion(history: History, series: Series, jump: float, broken: bool) -> tuple[int, Confidence] | None:
    """Returns the index before the growth that goes on at the end of the series, if it grew beyond chance."""
    values = series.values
    if values[-1] < max(values) or min(values[-_LONGEST:]) <= 0:
        # What has fallen back since is no explosion; without a natural zero ratios say nothing.
        return None
    full = history.fact("trainer.batches_per_epoch") == 1
    batch = history.fact("data.batch_size", 1)
    adaptive = is_adaptive(history)
    # A plain optimizer on the whole data set has no noise: one such step is news, two in a row are proof. Losses of
    # single samples jump by chance, and adaptive optimizers often begin with a bump that they outgrow.
    surest = 2 if full else 4 if isinstance(batch, int) and batch >= 4 else 8
    surest += 4 if adaptive else 0
    least = 1 if full and adaptive is False else surest
    if broken:
        # A loss that is not finite next leaves no doubt that the growth was real.
        surest = least = 1
    for last in range(least, min(_LONGEST, len(values) - 1) + 1):
        earlier, late = values[:-last], values[-last:]
        if full:
            # Without noise every step must make it worse.
            if late[0] <= _STEADY * earlier[-1]:
                return None
            grown = late[-1]
        elif len(earlier) < 2 and not broken:
            return None
        else:
            grown = late[-1] if broken else min(late)
        top = max(earlier)
        if top > 0 and grown >= jump * top:
            start = values[0] if full else max(earlier[: max(2, len(earlier) // 8)])
            onset = next((i for i in range(len(earlier) - 1, -1, -1) if values[i] <= start), 0)
            steps = _growing(values) if full else last
            return onset, Confidence.CONFIRMED if steps >= surest else Confidence.SUSPECTED
    return None


def _growing(values: list[float]) -> int:
    """Returns how many of the last steps each made the loss worse."""
    pairs = zip(reversed(values[:-1]), reversed(values), strict=False)
    return next((n for n, (before, after) in enumerate(pairs) if after <= _STEADY * before), len(values) - 1)


def _for_good(history: History, series: Series, jump: float, rise: float, lost: float, sigmas: float) -> Finding | None:
    """Compares the last quarter of the run, all of it, with the start and with the best stretch."""
    values = series.values
    late = stretch(series, 0.75)
    full = history.fact("trainer.batches_per_epoch") == 1
    # A start is no level to measure by before it has a few values, where single ones are noisy.
    least, shortest = (2, 16) if full else (8, 48)
    if len(values) < shortest or len(late) < 4:
        return None
    opening = values[: max(least, min(len(values) // 16, 64))]
    # The higher of the very first values and the opening: a quick fall is over before the opening is.
    start = max(median(opening), median(values[:least]))
    recent, positive = levels(late, 4), min(values) >= 0
    logs = [math.log(value) for value in late if value > 0]
    at_once = positive and min(recent) > values[0] * _by_chance(history, noise(logs), jump, rise, sigmas) > 0
    at_once = at_once and not _comes_back(opening, rise)
    if positive and not at_once and min(recent) <= 0.5 * start:
        # Under half its start: whatever was lost since, it is no divergence.
        return None
    root = math.sqrt(len(late) / 4)
    # Single values of a noisy loss are no best to measure by.
    course = levels(values, 32 if full else min(32, len(values) // 8))
    best = min(course)
    gained = start - best
    if positive:
        bar = max(rise * start, sorted(opening)[(len(opening) * 9) // 10])
        # By ratios: a loss that grows over decades has no one noise.
        risen = min(recent) > bar > 0 and math.log(min(recent) / bar) > sigmas * noise(logs) / root
        if at_once and not risen:
            # Its opening is no measure: only the first value is the untrained network's.
            start, bar, risen = values[0], rise * values[0], True
    sigma = max(noise(values), noise(late))
    if not positive:
        bar = max(opening) + sigmas * max(sigma, max(opening) - min(opening))
        risen = min(recent) > bar
    worth = gained > 0.5 * abs(start) if positive else gained > 2 * sigmas * sigma
    floor = best + lost * gained
    fallen = worth and min(recent) > floor and min(recent) - best > sigmas * sigma / root
    if not (risen or fallen):
        return None
    if history.fact("run.ended") is None and _returns(late, recent, start if risen else best):
        return None
    if _swings(course, bar if risen else best + 0.5 * gained):
        return None
    limit = bar if risen else floor
    onset = next((i for i in range(len(values) - 1, -1, -1) if values[i] <= limit), 0)
    what = f"over its start, {start:.4g}" if risen else f"after a best of {best:.4g}"
    return Finding(
        severity=Severity.ERROR,
        summary=f"the training loss stays at {median(late):.4g}, {what}",
        evidence={
            "start": start,
            "best": best,
            "recent": median(late),
            "noise": sigma,
            "last_quarter_from_step": round(series.steps[-1] - 0.25 * (series.steps[-1] - series.steps[0])),
        },
        remedy=_remedy(history, series.steps[onset]),
        confidence=Confidence.CONFIRMED if len(late) >= 16 else Confidence.SUSPECTED,
        onset=series.steps[onset],
        signals=("train_loss",),
    )


def _comes_back(opening: list[float], rise: float) -> bool:
    """Whether a loss that rose over its first value was back at it soon: then the first batch was an easy one."""
    bar = rise * opening[0]
    risen = next((index for index, value in enumerate(opening) if value > bar), len(opening))
    return any(value <= bar for value in opening[risen:])


def _by_chance(history: History, spread: float, jump: float, rise: float, sigmas: float) -> float:
    """Returns how many times too low a single value may be by chance, given the noise of the loss's logarithm."""
    batch = history.fact("data.batch_size", 1)
    # Single squared errors spread by 1.4 of their mean: 16 of them do not come out tenfold too low.
    most = (
        jump if history.fact("trainer.batches_per_epoch") == 1 or (isinstance(batch, int) and batch >= 16) else math.inf
    )
    return min(most, max(rise, math.exp(min(sigmas * spread, 700.0))))


def _returns(late: list[float], recent: list[float], base: float) -> bool:
    """Whether the last stretch is on its way back, at a pace that would take it there before long."""
    fall = trend(late)
    return recent[-1] < recent[0] and fall.sigmas < -2 and -fall.change > 0.25 * (recent[0] - base)


def _swings(course: list[float], middle: float) -> bool:
    """Whether the loss went over the middle for a good while before, after its first fall, and came back."""
    below = next((i for i, level in enumerate(course) if level < middle), len(course))
    lengths, length = [0], 0
    for level in course[below:]:
        if level >= middle:
            length += 1
        elif length:
            lengths.append(length)
            length = 0
    return length < 2 * max(lengths)


def _remedy(history: History, onset: int) -> str:
    parts = [lower_rate(history)]
    if is_adaptive(history) and onset <= 0.1 * max(1, history.last_step):
        parts.append("warm it up over the first few hundred steps")
    if not is_clipped(history):
        parts.append(clip(history, onset + 1))
    return ", or ".join(parts)


def _ratio(value: float, to: float) -> float:
    return value / to if to else 0.0


def _listed(values: list[float]) -> str:
    shown = values if len(values) <= 4 else [values[0], *values[-3:]]
    return " → ".join(f"{value:.4g}" for value in shown)
