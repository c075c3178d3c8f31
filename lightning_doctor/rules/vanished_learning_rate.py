"""LD109: the learning rate went to nearly zero while the loss was still improving."""

from __future__ import annotations

import math
from bisect import bisect_left
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.jsonable import number
from lightning_doctor.noise import noise, shift
from lightning_doctor.prescriptions import optimizer, parameter_groups, scheduler
from lightning_doctor.progress import MUCH, hardly_fell, standing
from lightning_doctor.rule import rule
from lightning_doctor.step_sizes import longer_lowers

# Three decays to a tenth may round to a little more than a thousandth.
_ROUNDED = 1.000001
# Share of its highest value from which on a rate is one to speak of.
_LIVE = 0.1
# Schedulers that have no length of their own.
_ENDLESS = ("ExponentialLR", "LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR")
# Share of the run by which a rate that goes went too early, whatever the loss did; or was none to speak of any more, in
# a run that does badly and that longer steps would have helped.
_EARLY = 0.25
# How many times longer steps must lower the loss, in what share of the scans since then, and how many tell.
_LONGER, _MOST, _SCANS = 16.0, 0.8, 4


@rule(
    "LD109",
    needs={"train_loss": 8, "learning_rate": 1},
    explains=("loss_plateau", "undertrained", "stale_validation", "stuck_at_baseline", "learning_rate_too_low"),
)
def vanished_learning_rate(
    history: History,
    *,
    vanished: float = 0.001,
    unused: float = 0.2,
    low: float = 0.25,
    sigmas: float = 3.0,
    adagrad: float = 0.01,
    faded: float = 0.1,
) -> Finding | None:
    """The learning rate went to nearly zero while the loss was still improving.

    What it looks at:
        ``learning_rate`` of every parameter group and ``train_loss``, one value per optimizer step; for Adagrad the
        length of its steps, which its accumulators shrink whatever the learning rate.

    Why it matters:
        From there on steps change nothing: the rest of the run is spent for nothing.

    Sick:
        lr 0.1, 0.05, 0, 0, 0, 0, 0, 0 with losses 2.3, 2.0, 1.8, 1.8, 1.8, 1.8, 1.8, 1.8

    Healthy:
        lr 0.1, 0.09, 0.07, 0.06, 0.04, 0.03, 0.01, 0: it vanishes on the last step

    Remedy:
        Count the schedule in what it is stepped by, over the whole run.

    Thresholds:
        vanished: Share of its highest value under which a learning rate is gone [share].
        unused: Share of the planned steps that must be left when it goes; of those so far where no number is
            planned [share].
        low: Share of its start under which the loss counts as low already [share].
        sigmas: How sure the fall before must be [standard errors].
        faded: The same, early in a run that has learned little, where scans of the steps since then say that
            far longer ones would lower the loss [share].
        adagrad: Share of its early steps under which an Adagrad step is gone [share].

    Blind spots:
        A schedule that goes up and down is judged only where it stays down. A loss that may be negative is taken
        as never low. ReduceLROnPlateau is blamed only where it left half of the run and most of what there was to
        learn, or, under a loss that nobody can read, a quarter of it that was surely falling.
    """
    # First what needs more to be said: a rate that fades for long is gone in the end, when the loss has long stopped.
    too_early = _faded(history, faded)
    gone, signal = too_early or _gone(history, vanished), "learning_rate"
    if gone is None:
        gone, signal = _gone_adagrad(history, adagrad), "adagrad_step"
    if gone is None:
        return None
    at, peak, now = gone
    losses = history["train_loss"]
    first, last = losses.steps[0], losses.steps[-1]
    planned = history.fact("trainer.planned_steps")
    if not isinstance(planned, int) or planned <= 0:
        planned = None
    span = max(1, max(planned if planned is not None else 0, last + 1) - first)
    share = (span - (at - first)) / span
    waited = bisect_left(losses.steps, at)
    since = losses.values[waited:]
    # A cycle's low point passes: it takes a small part of the cycle. Without a plan only steps that did pass can tell.
    due = min(0.02 * span, 0.25 * (at - first)) if planned is not None else unused * span
    if share < unused or waited < 4 or len(since) < 4 or last - at < due:
        return None
    plateau = signal == "learning_rate" and "Plateau" in _scheduler(history)
    fall = _was_falling(history, losses, at, peak, signal)
    still = fall <= -sigmas
    # The plan of a schedule that went wrong this early speaks for itself.
    early = at - first <= _EARLY * span or _was_small(history, at, peak, signal, first + _EARLY * span)
    if plateau and not (share >= 0.5 and _did_harm(history, still, at)):
        # It cuts only where the loss did not fall for its patience: the plateau came first, unless it cut at once.
        return None
    if "Restart" in _scheduler(history) and last - at < 0.25 * (last - first):
        return None
    before = losses.values[:waited]
    opening = median(before[: max(2, min(8, len(before) // 8))])
    level = median(since[-64:])
    if min(before) >= 0 and level < low * opening:
        return None
    if signal == "adagrad_step":
        # Its steps shrink with the gradient too: only a loss that has stopped falling blames the accumulators.
        still = still and shift(since[: len(since) // 2], since[len(since) // 2 :]).sigmas > -sigmas
        early = False
    if not still and not early:
        return None
    if signal == "adagrad_step":
        summary = f"Adagrad's steps shrank to {now / peak:.2g} of their early length by step {at}"
    elif too_early is not None:
        summary = (
            f"lr fell from {peak:.3g} under {faded:.0%} of that by step {at} and is {now:.3g}, where "
            f"{_LONGER:g} times the step would lower the loss far more"
        )
    else:
        summary = f"lr fell from {peak:.3g} to next to nothing by step {at}, and is {now:.3g}"
    evidence: dict[str, float | int | str] = {
        "vanished_at": at,
        "unused_share": share,
        "peak": peak,
        "now": now,
        "loss_start": opening,
        "loss_since": level,
        "fall_sigmas": fall,
    }
    if planned is not None:
        evidence["planned_steps"] = planned
    left = f", with {share:.0%} of the {'planned run' if planned is not None else 'run'} to go"
    return Finding(
        severity=Severity.WARNING,
        summary=f"{summary}{left}, at a loss of {level:.4g}",
        evidence=evidence,
        remedy=_remedy(history, at, planned, signal, evidence),
        confidence=Confidence.CONFIRMED if still and signal == "learning_rate" else Confidence.SUSPECTED,
        onset=_small_since(history, at, peak, signal),
        signals=(signal, "train_loss"),
    )


def _did_harm(history: History, still: bool, at: int) -> bool:
    """Whether the run did badly, or, where nothing tells, much of its loss was left and surely falling.

    That of validation too, most passes of which were the best so far: it is what such a scheduler watches.
    """
    passes = history.get("val_loss").finite().until(at)
    bests = sum(value < min(passes[:index], default=math.inf) for index, value in enumerate(passes))
    fell = still and hardly_fell(history, MUCH) and 2 * bests >= len(passes)
    return standing(history).harmed or fell


def _gone(history: History, vanished: float) -> tuple[int, float, float] | None:
    """Returns since which step every group that once had a rate has none, the peak and the present rate."""
    groups = [history[name] for name in history.family("learning_rate")]
    steps, top, rest = [], 0.0, 0.0
    for series in groups:
        values = [value if math.isfinite(value) else 0.0 for value in series.values]
        peak = max(values, default=0.0)
        if peak <= 0:
            continue
        low = _ROUNDED * vanished * peak
        if values[-1] > low:
            return None
        index = len(values) - 1
        while values[index - 1] <= low:
            index -= 1
        steps.append(series.steps[index])
        if peak > top:
            top, rest = peak, values[-1]
    return (max(steps), top, rest) if steps else None


def _faded(history: History, faded: float) -> tuple[int, float, float] | None:
    """Returns the same of a rate that is there still, too small for what there is to learn: longer steps would do."""
    gone = _gone(history, faded)
    if gone is None or not standing(history).harmed or len(history.get("scan/1").since(gone[0])) < _SCANS:
        return None
    return gone if longer_lowers(history, gone[0], _MOST, _LONGER) else None


def _gone_adagrad(history: History, share: float) -> tuple[int, float, float] | None:
    series = history.get("adagrad_step")
    values = [value for value in series.values if math.isfinite(value)]
    if len(values) < 20 or len(values) < len(series):
        return None
    # The very first step of Adagrad is always as long as lr allows.
    peak = median(values[1:11])
    if not peak > 0 or median(values[-5:]) > share * peak:
        return None
    index = next(i for i in range(len(values)) if median(values[i : i + 5]) <= share * peak)
    return series.steps[index], peak, median(values[-5:])


def _was_falling(history: History, losses: Series, at: int, peak: float, signal: str) -> float:
    """Returns how the loss changed while there still was a rate to speak of [standard errors].

    A decay slows the loss down before it ends, so the last steps before the end say little.
    """
    end = _small_since(history, at, peak, signal)
    values = losses.values[: max(4, bisect_left(losses.steps, end))]
    half = len(values) // 2
    # The second half of that stretch against the first quarter would still see a fall that ended long before.
    later = values[half:]
    middle = len(later) // 2
    recent = shift(later[:middle], later[middle:]).sigmas
    if len(values) >= 64:
        return recent
    # So few values show a fall only over all of them.
    whole = shift(values[: len(values) // 3], values[-(len(values) // 3) :])
    return min(recent, whole.sigmas) if noise(values) > 0 else recent


def _small_since(history: History, at: int, peak: float, signal: str) -> int:
    """Returns since when the rate that was gone by a step was no longer one to speak of."""
    if signal != "learning_rate":
        return at
    rates, least = history[signal], _LIVE * peak / _ROUNDED
    live = [step for step, rate in zip(rates.steps, rates.values, strict=True) if step < at and rate >= least]
    following = bisect_left(rates.steps, live[-1] + 1) if live else len(rates)
    return min(at, rates.steps[following]) if live and following < len(rates) else at


def _was_small(history: History, at: int, peak: float, signal: str, by: float) -> bool:
    """Whether a rate that went was none to speak of by a step already, and longer steps would have done more since."""
    begins = _small_since(history, at, peak, signal)
    return begins <= by and standing(history).harmed and longer_lowers(history, begins, _MOST, _LONGER)


def _scheduler(history: History) -> str:
    return str(scheduler(history).get("class", ""))


def _own_decay(history: History) -> float:
    """Returns the largest decay of the rate that an optimizer makes by itself; 0 without one."""
    return max((number(group.get("lr_decay"), 0.0) for group in parameter_groups(history)), default=0.0)


def _remedy(history: History, at: int, planned: int | None, signal: str, evidence: dict[str, float | int | str]) -> str:
    if signal == "adagrad_step" and (decay := _own_decay(history)):
        evidence["lr_decay"] = decay
        return f"set lr_decay of {optimizer(history) or 'Adagrad'} from {decay:g} to 0"
    if signal == "adagrad_step":
        return f"use RMSprop or Adam instead of {optimizer(history) or 'Adagrad'}: their accumulators forget"
    first = scheduler(history)
    epochs = history.fact("trainer.max_epochs")
    total = f"{planned} steps (`trainer.estimated_stepping_batches`)" if planned is not None else "all steps of the run"
    name = _scheduler(history) or "the scheduler"
    if "Plateau" in name:
        return f"raise the patience of {name}, and check that its mode is the one of what it watches (`min` for a loss)"
    if (
        first.get("interval") == "step"
        and isinstance(epochs, int)
        and epochs > 0
        and abs(at - epochs) <= 1 + epochs // 10
    ):
        evidence["max_epochs"] = epochs
        return (
            f"step {name} once per epoch (`interval: epoch`) or give it {total}: "
            f"it is counted in epochs ({epochs}) but stepped per batch"
        )
    if name in _ENDLESS:
        return f"let {name} fall so slowly that a tenth of the rate is left at the end, after {total}"
    if first.get("interval") == "step":
        return f"give {name} a total of {total}: it ended after {at}"
    return f"stretch {name} over {total}: it ended after {at}"
