"""LD504: the validation loss has not reached a new best for a while."""

from __future__ import annotations

from statistics import median

from lightning_doctor.error_bars import known_to
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import lucky, noise
from lightning_doctor.rule import rule


@rule("LD504", needs={"val_loss": 8})
def stale_validation(history: History, *, patience: int = 5, sigmas: float = 2.0) -> Finding | None:
    """The validation loss has not reached a new best for a while.

    What it looks at:
        ``val_loss``, one sample per validation pass [unit of your loss].

    Why it matters:
        Passes after the best one cost time and may be fitting noise.

    Sick:
        1.0, 0.7, 0.6, 0.61, 0.62, 0.63, 0.63, 0.64

    Healthy:
        1.0, 0.9, 0.8, 0.7, 0.65, 0.61, 0.58, 0.56

    Remedy:
        Restore the best checkpoint; lower the learning rate or stop.

    Thresholds:
        patience: Passes since the best one that count as ill [validation passes].
        sigmas: How far over the best the latest passes must lie, beyond what the luckiest of so many passes would
            be under them anyway [noise of a pass].

    Blind spots:
        A converged run that rests at its best is well, however long; a slow drift inside the noise is not seen.
    """
    series = history["val_loss"]
    losses = series.values
    best = losses.index(min(losses))
    waited = len(losses) - 1 - best
    rise = median(losses[-patience:]) - losses[best]
    blur = noise(losses)
    if waited < patience or rise < (sigmas + lucky(len(losses))) * blur:
        return None
    bars, known = known_to(history, len(losses))
    return Finding(
        severity=Severity.NOTE,
        summary=f"no new best validation loss for {waited} passes, since step {series.steps[best]}{bars}",
        evidence={
            "best": losses[best],
            "best_step": series.steps[best],
            "rise": rise,
            "noise": blur,
            "waited": waited,
            **known,
        },
        remedy=f"restore the checkpoint of step {series.steps[best]}, then lower the learning rate or stop there",
        onset=series.steps[best],
        signals=("val_loss",),
    )
