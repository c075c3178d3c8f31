"""LD108: the training loss was still clearly falling when the budget ended."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_levels import loss_left
from lightning_doctor.noise import noise, shift, stretch, trend
from lightning_doctor.prescriptions import peak_rate
from lightning_doctor.progress import POOR, standing
from lightning_doctor.rule import rule

# Validation passes that tell whether it has turned, and how far over its best it must be [noise of a pass].
_PASSES, _SURE = 6, 5.0


@rule("LD108", needs={"train_loss": 32})
def undertrained(
    history: History, *, share: float = 0.12, sigmas: float = 4.0, left: float = 0.3, gain: float = 0.2
) -> Finding | None:
    """The training loss was still clearly falling when the budget ended.

    What it looks at:
        ``train_loss``, one value per optimizer step [unit of your loss], after a run that reached its
        ``max_epochs`` or ``max_steps``; ``skill``, how much there was left to learn.

    Why it matters:
        The run ended before the network did what it can: what it scores says nothing about the model.

    Sick:
        2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.7, 1.6

    Healthy:
        2.3, 1.2, 0.7, 0.4, 0.3, 0.25, 0.22, 0.2

    Remedy:
        Train longer, or with a larger learning rate.

    Thresholds:
        share: Share of the whole fall that came in the last quarter of the steps [share].
        sigmas: How sure the fall from the third quarter to the last must be; half as sure that it goes on within the
            last [standard errors].
        left: Share of the loss at the start that is left at the end [share].
        gain: Share of the loss at the end that as many steps again would take off, at a pace that slows down as it
            did before [share].

    Blind spots:
        A loss that may be negative has no zero to be far from: its falls are not judged. A run that an early
        stopping ended is not judged.
    """
    series = history["train_loss"]
    values = series.values
    if history.fact("run.ended") != "completed" or min(values) < 0:
        return None
    opening = median(values[: max(3, len(values) // 64)])
    third, fourth = stretch(series, 0.5, 0.75), stretch(series, 0.75)
    if len(fourth) < 8 or len(third) < 8:
        return None
    # The line through each quarter gives its fall without the quarter before it.
    fall, before = -trend(fourth).change, -trend(third).change
    if _decayed(history):
        # What a decay of the learning rate brings down at the end it does not bring again.
        fall = min(fall, before)
    end = median(fourth[-max(4, len(fourth) // 4) :])
    whole = opening - end
    surely, still = -shift(third, fourth).sigmas, -shift(fourth[: len(fourth) // 2], fourth[len(fourth) // 2 :]).sigmas
    # The halves of a quarter lie half as far apart as two quarters and hold half as many values: of a steady fall
    # they are less than half as sure, and all they have to tell is that it has not ended.
    if whole <= 0 or end < left * opening or fall < share * whole or surely < sigmas or still < sigmas / 2:
        return None
    # Falls of successive quarters taken to shrink by the same ratio: four more quarters.
    slowing = min(1.0, fall / before) if before > 0 else 1.0
    expected = min(end, fall * (slowing + slowing**2 + slowing**3 + slowing**4))
    if expected < gain * end:
        return None
    return Finding(
        severity=Severity.WARNING if _left_much(history, end) and not _has_turned(history) else Severity.NOTE,
        summary=f"the training loss was still falling at the end: from {end + fall:.4g} to {end:.4g} "
        "in the last quarter of the run",
        evidence={
            "start": opening,
            "end": end,
            "fall_last_quarter": fall,
            "share_of_fall": fall / whole,
            "sigmas": surely,
            "expected_fall": expected,
        },
        remedy=_remedy(history),
        onset=round(series.steps[0] + 0.75 * (series.steps[-1] - series.steps[0])),
        signals=("train_loss", "learning_rate"),
    )


def _has_turned(history: History) -> bool:
    """Whether validation gets worse while training still gets better: training on learns the samples by heart."""
    losses = history.get("val_loss").finite().values
    best = min(losses, default=0.0)
    return len(losses) >= _PASSES and best not in losses[-3:] and median(losses[-3:]) > best + _SURE * noise(losses)


def _left_much(history: History, end: float) -> bool:
    """Whether most of what there was to learn is not learned, at the very end, to which the loss has only just come."""
    now, baselines = standing(history), history.get("baseline_loss").finite().values
    if now.reached is None:
        left = loss_left(history)
        return left is None or left >= POOR
    return now.poor and not (bool(baselines) and baselines[-1] > 0 and 1 - end / baselines[-1] >= POOR)


def _decayed(history: History) -> bool:
    """Whether the learning rate fell by half or more in the second half of the run."""
    rates = history.get("learning_rate")
    live = [rate for rate in stretch(rates, 0.4) if math.isfinite(rate)]
    return bool(live) and live[-1] <= 0.5 * max(live)


def _remedy(history: History) -> str:
    epochs = history.fact("trainer.max_epochs")
    rate = peak_rate(history)
    longer = (
        f"raise max_epochs from {epochs} to {2 * epochs}"
        if isinstance(epochs, int) and epochs > 0
        else ("train for twice as many steps")
    )
    larger = f"try a larger lr than {rate:.3g}" if rate else "try a larger lr"
    return f"{longer}, or {larger}"
