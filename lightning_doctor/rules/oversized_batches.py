"""LD114: batches are far larger than their gradients need, and the run has too few steps."""

from __future__ import annotations

from statistics import median

from lightning_doctor.curvature import late_values, noise_bounds, step_batch
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import shift, stretch
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

# Share of the loss at the start that a run must have taken off to be on its way.
_BEGUN = 0.02


@rule(
    "LD114",
    needs={"train_loss": 16, "curvature/noise_scale": 2},
    recent=("curvature/gradient_noise",),
    explains=("undertrained", "stale_validation"),
)
def oversized_batches(
    history: History, *, over: float = 8.0, least: int = 64, sigmas: float = 3.0, fallen: float = 0.1
) -> Finding | None:
    """Batches are far larger than their gradients need, and the run has too few steps.

    What it looks at:
        The batch of a step against ``curvature/noise_scale``, the number of samples whose gradient is as much signal
        as noise; ``train_loss``: whether it still falls.

    Why it matters:
        Over the noise scale a larger batch adds next to nothing to a step (McCandlish et al. 2018): the same samples
        would have made many more steps.

    Sick:
        40 steps of 1400 samples where 30 would do, and a loss that still falls at the end

    Healthy:
        the same batches in a run that does well, or that has come to rest

    Remedy:
        Smaller batches; or a larger learning rate, if it is stable, or more epochs.

    Thresholds:
        over: How many times the noise scale the batch must be [ratio].
        least: Batch under which a smaller one makes a step no shorter [samples].
        sigmas: How sure the fall from the third quarter of the run to the last must be [standard errors].
        fallen: Share of the run's whole fall that it must have been [share].

    Blind spots:
        How long a step of a smaller batch takes is not known. The noise scale grows while a run learns: a batch that is
        too large now may be right later.
    """
    losses, now, batch, bounds = history["train_loss"], standing(history), step_batch(history), noise_bounds(history)
    if now.good or batch is None or batch < least or bounds is None or batch < over * bounds[1]:
        return None
    # At first the gradients of all samples agree in any run.
    if not now.ended and (now.share is None or now.share < 0.5):
        return None
    third, fourth = stretch(losses, 0.5, 0.75), stretch(losses, 0.75)
    fall = shift(third, fourth)
    start = median(losses.values[: max(1, len(losses) // 8)])
    whole = start - median(fourth) if fourth else 0.0
    # A run that has hardly begun to fall is stuck, whatever its batches.
    if len(fourth) < 4 or fall.sigmas > -sigmas or not whole >= _BEGUN * abs(start):
        return None
    if -fall.change < fallen * whole:
        return None
    scale = median(late_values(history, "curvature/noise_scale"))
    smaller = max(least // 2, 1 << max(0, round(2 * scale) - 1).bit_length())
    return Finding(
        severity=now.if_harmed(Severity.WARNING),
        summary=f"batches of {batch}, where {scale:.2g} samples make a gradient that is as much signal as noise: "
        f"{losses.steps[-1] - losses.steps[0] + 1} steps so far, and the loss still falls",
        evidence={
            "batch": batch,
            "noise_scale": scale,
            "steps": losses.steps[-1] - losses.steps[0] + 1,
            "fall_last_quarter": -fall.change,
            "now": median(fourth),
            "recommended": smaller,
        },
        remedy=f"use batches of {smaller}: {batch / smaller:.2g} times as many steps an epoch, each nearly as good; or "
        "raise lr, or train longer",
        confidence=Confidence.SUSPECTED,
        onset=history["curvature/noise_scale"].steps[0],
        signals=("curvature/noise_scale", "train_loss", "batch_size"),
    )
