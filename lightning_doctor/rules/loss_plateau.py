"""LD105: the training loss has not improved beyond noise for a long time."""

from __future__ import annotations

import math
from statistics import fmean, median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.loss_levels import lowest_part
from lightning_doctor.noise import Trend, noise, shift, stretch
from lightning_doctor.prescriptions import peak_rate
from lightning_doctor.progress import stopped_at
from lightning_doctor.rule import rule

# The share of a run within which it stops at once.
_AT_ONCE = 0.1


@rule("LD105", needs={"train_loss": 64}, explains=("stale_validation",))
def loss_plateau(
    history: History,
    *,
    improved: float = 0.05,
    sigmas: float = 3.0,
    patience: float = 0.5,
    least: int = 150,
    converged: float = 0.25,
) -> Finding | None:
    """The training loss has not improved beyond noise for a long time.

    What it looks at:
        ``train_loss``, one value per optimizer step [unit of your loss], over the second half of the run so far, and
        whether ``grad_norm`` is anything but zero there, and since when it is not.

    Why it matters:
        A loss that hardly ever left its start means that nothing is learned; after real progress it may mean that
        the learning rate has become too large for what is left.

    Sick:
        2.30, 2.31, 2.30, 2.30, 2.30, 2.31, 2.30, 2.30

    Healthy:
        2.30, 1.10, 0.40, 0.11, 0.05, 0.03, 0.03, 0.03

    Remedy:
        Overfit one batch first; then by cause: learning rate, input scale, dead units, labels. After real progress,
        decay the learning rate. Where the gradient is zero, find what cuts it off.

    Thresholds:
        improved: Share of its start that the loss must have lost, to count as having left it; noise must rule out
            twice as much for a warning [share].
        sigmas: How sure a fall within the second half must be to count [standard errors].
        patience: Share of the planned run before which a loss near its start may just be slow to start [share].
        least: Steps before which no plateau is called one [steps].
        converged: Share of its start under which the loss counts as converged [share].

    Blind spots:
        A network fine-tuned from a good start rests at it too: then this is only a suspicion. What a plateau is made
        of (saddle, minimum, dead units) the loss alone does not tell. A loss that may be negative is not judged.
    """
    series = history["train_loss"]
    values, steps = series.values, series.steps
    spent = steps[-1] - steps[0] + 1
    if spent < least or min(values) <= 0:
        return None
    late = stretch(series, 0.5)
    half = len(late) // 2
    sigma = noise(late)
    untrained = _untrained(values, sigma)
    start, now = median(untrained), median(late)
    stopped = stopped_at(history)
    # One that stops at once has not converged, however bad its very first loss was.
    if stopped is not None and (now >= converged * start or stopped - steps[0] < _AT_ONCE * spent):
        return _cut_off(history, start, now, stopped)
    if _rate_is_low(history):
        return None
    fall = shift(late[:half], late[half:])
    if now < converged * start:
        return None
    evidence: dict[str, float | int | str] = {
        "start": start,
        "now": now,
        "noise": sigma,
        "fall": -fall.change,
        "fall_sigmas": -fall.sigmas,
        "steps": round(spent / 2),
    }
    onset = steps[len(steps) - len(late)]
    gain = Trend(now - start, sigma * math.hypot(_blur(len(untrained)), _blur(len(late))))
    progressed = -gain.change - 2 * gain.error > improved * start
    # A fall that would take ten runs like this one to leave the start is none; in a run that goes on it may yet grow.
    late_start = history.fact("run.ended") is not None and not progressed
    falls = fall.sigmas < -sigmas and -fall.change > (0.2 * improved * start if late_start else 0.005 * now)
    # Nor is one that only comes down from a jump, and that as many steps again would not take under the start.
    if falls and (progressed or now + 4 * fall.change < start):
        return None
    if progressed:
        # At its noise floor a run is done; only a flat loss that noise does not explain is worth a note.
        if sigma > 0.1 * now or median(late[half:]) > median(late[:half]) + 3 * fall.error:
            return None
        return Finding(
            severity=Severity.NOTE,
            summary=f"the training loss rests at {now:.4g} since step {onset}, down from {start:.4g}",
            evidence=evidence,
            remedy=f"decay lr (now {peak_rate(history) or 0:.3g}), or end the run here"
            if peak_rate(history)
            else "decay lr, or end the run here",
            confidence=Confidence.SUSPECTED,
            onset=onset,
            signals=("train_loss",),
        )
    if not _is_flat(series, gain, fall, start, improved, sigmas) or not _waited(history, spent, patience, least):
        return None
    good = _good(history, late)
    lowest, ends = lowest_part(series)
    best = median(lowest)
    fell_back = start - best > 2 * improved * start and shift(lowest, late).sigmas > sigmas
    where = "over" if now > (1 + 2 * improved) * start else "back at"
    how = f"is {where} its start after {best:.4g}" if fell_back else "hardly left its start"
    return Finding(
        severity=Severity.NOTE if good else Severity.WARNING,
        summary=f"the training loss {how}: {now:.4g} after {spent} steps, {start:.4g} at first",
        evidence=evidence | ({"best": best} if fell_back else {}) | ({"may_be_good": good} if good else {}),
        remedy="overfit one batch first; if that fails, change lr tenfold either way, then check input scale, "
        "dead units and the loss; if it works, check that inputs and labels belong together",
        confidence=Confidence.SUSPECTED,
        onset=ends if fell_back else steps[0],
        signals=("train_loss",),
    )


def _cut_off(history: History, start: float, now: float, stopped: int) -> Finding:
    """Without a gradient no step changes anything: no noise of the loss can hide a fall, and none is to come."""
    zeros = len(history["grad_norm"].since(stopped))
    return Finding(
        severity=Severity.WARNING,
        summary=f"the gradient is exactly zero since step {stopped}, at a loss of {now:.4g}, {start:.4g} at first",
        evidence={"start": start, "now": now, "zero_since": stopped, "zero_gradients": zeros},
        remedy="find what cuts the gradient off: an output that is constant (softmax over one unit) or clipped, ReLU "
        "units that are all dead, a `.detach()`, frozen parameters",
        onset=stopped,
        signals=("grad_norm", "train_loss"),
    )


def _untrained(values: list[float], sigma: float) -> list[float]:
    """Returns what the untrained network scored: the first 16 values, or the very first where they move beyond noise.

    A loss that jumps in its first steps and settles where it began has not improved; one that falls at once has.
    """
    first = values[:16]
    return first if max(first) - min(first) <= 5 * sigma else values[:1]


def _blur(count: int) -> float:
    """Returns the standard error of a median of so many values [their standard deviation]."""
    return (1.25 if count > 2 else 1.0) / math.sqrt(count)


def _is_flat(series: Series, gain: Trend, fall: Trend, start: float, improved: float, sigmas: float) -> bool:
    """Whether noise is small enough to rule out that the loss fell: no proof of a fall is no proof of none."""
    course = shift(stretch(series, 0.1, 0.4), stretch(series, 0.7))
    # A fall that as many steps again would not take under the start only comes down from a jump.
    below = gain.change + max(1.7 * course.change, 4 * fall.change) < 0
    falling = course.sigmas < 1 - sigmas and -course.change > 0.01 * start and below
    most = max(-gain.change + 2 * gain.error, 2 * (-fall.change + 2 * fall.error))
    return not falling and most < 2 * improved * start


def _waited(history: History, spent: int, patience: float, least: int) -> bool:
    """Whether a run that goes on had the time to start: deep sigmoid networks rest before they fall."""
    if history.fact("run.ended") is not None:
        return True
    planned = history.fact("trainer.planned_steps")
    return bool(spent >= patience * planned) if isinstance(planned, int) and planned > 0 else spent >= 4 * least


def _rate_is_low(history: History) -> bool:
    """Whether the learning rate is far under its peak, or still on its way up: then the loss rests for that reason."""
    rates = [rate for rate in history.get("learning_rate").values if math.isfinite(rate)]
    if not rates:
        return False
    warming = rates[-1] >= max(rates) > 1.5 * median(rates) and len(rates) > 8
    return median(rates[-max(1, len(rates) // 4) :]) < 0.1 * max(rates) or (
        warming and history.fact("run.ended") is None
    )


def _good(history: History, late: list[float]) -> str:
    """Says why this loss may be a good one, as far as it can be told from here; else the empty text."""
    metric = history.get("val_metric").values
    if history.fact("validation.mode") == "max" and metric and 0.8 <= metric[-1] <= 1.0:
        return f"validation {history.fact('validation.metric', 'metric')} is {metric[-1]:.3g}"
    batch = history.fact("data.batch_size", 1)
    batch = batch if isinstance(batch, int) and batch > 0 else 1
    # Each divided first: the sum of huge losses would overflow.
    middle = fmean([value / len(late) for value in late]) * len(late)
    spread = math.sqrt(fmean([(value / middle - 1) ** 2 for value in late]) * batch) if middle > 0 else 0.0
    # Samples that a network has not learned score alike: squared errors spread by 1.4 of their mean, cross-entropies
    # by less. Where most are right a few carry the loss.
    return f"losses of single samples spread by {spread:.2g} of their mean, as after learning" if spread > 2.5 else ""
