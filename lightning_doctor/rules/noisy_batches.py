"""LD113: batches are so small that their gradients are mostly noise, and the run does not get on."""

from __future__ import annotations

import math
from statistics import fmean, median, stdev

from lightning_doctor.curvature import is_full_batch, known, late_values, noise_bounds, step_batch
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import stretch
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

# The most by which a remedy enlarges a batch at once.
_MOST = 32
# Probes that tell what steps do; they are rare.
_PROBES = 3


@rule(
    "LD113",
    needs={"train_loss": 64, "curvature/gradient_noise": 2},
    recent=("curvature/gradient_noise",),
    explains=("noise_floor", "loss_plateau", "loss_spike", "undertrained", "stale_validation"),
)
def noisy_batches(history: History, *, under: float = 10.0, least: int = 6) -> Finding | None:
    """Batches are so small that their gradients are mostly noise, and the run does not get on.

    What it looks at:
        ``curvature/noise_scale``, the number of samples whose gradient is as much signal as noise, or where noise
        hides the signal the least that it may be, against the batch of a step; ``scan/1`` and
        ``curvature/step_ratio``: whether steps lower the loss of other samples.

    Why it matters:
        Under the noise scale a batch twice as large makes about twice the progress a step (McCandlish et al. 2018), and
        a step takes hardly longer as long as the batch is small.

    Sick:
        batches of 2 where the noise scale is 400, and steps that raise the loss of other samples as often as not

    Healthy:
        batches of 2 in a run that improves, or does well

    Remedy:
        Larger batches, or gradients accumulated over several.

    Thresholds:
        under: How many batches the noise scale must exceed [ratio].
        least: How many late steps must have been scanned to say what steps do [steps].

    Blind spots:
        How long a step of a larger batch takes is not known. A smaller learning rate averages over more batches too.
    """
    now, batch, bounds = standing(history), step_batch(history), noise_bounds(history)
    if now.good or now.improving or is_full_batch(history) or batch is None or bounds is None:
        return None
    late = now.ended or now.share is None or now.share >= 0.25
    if not late or bounds[0] < under * batch:
        return None
    change, ratio = _change(history, least), _ratio(history)
    # Worse than of no use, on average, to other samples: by scans beyond their noise, or by the second order.
    lost = (change is not None and change > 0) or (ratio is not None and not 0 <= ratio <= 1)
    larger = _larger(history, batch, bounds[0])
    if not larger > batch:
        return None
    return Finding(
        severity=now.if_harmed(Severity.WARNING) if lost else Severity.NOTE,
        summary=f"batches of {batch} are mostly noise: it takes {bounds[0]:.2g} samples or more for a gradient "
        f"that is as much signal{_of_no_use(change, ratio) if lost else ''}",
        evidence={
            "batch": batch,
            "least_noise_scale": bounds[0],
            "recommended": larger,
            **known(
                scanned_change=math.nan if change is None else change, step_ratio=math.nan if ratio is None else ratio
            ),
        },
        remedy=f"use batches of {larger} (`batch_size`, or `Trainer(accumulate_grad_batches={-(-larger // batch)})`), "
        "or lower lr",
        confidence=Confidence.SUSPECTED,
        onset=history["curvature/gradient_noise"].steps[0],
        signals=("curvature/gradient_noise", "curvature/noise_scale", "train_loss"),
    )


def _of_no_use(change: float | None, ratio: float | None) -> str:
    if change is not None and change > 0:
        return f", and steps change the loss of other samples by {change:+.2%} on average"
    return f", and the second order of a step is {ratio:.2g} times what its first order gains"


def _change(history: History, least: int) -> float | None:
    """Returns what the later steps did to the loss of other samples, a share of it, zero within its noise."""
    values = [max(-1e6, min(1e6, value)) for value in stretch(history.get("scan/1").finite(), 0.5)]
    if len(values) < max(2, least):
        return None
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    return 0.0 if abs(mean) < 2 * error else mean


def _ratio(history: History) -> float | None:
    """Returns the median of what the second order of the later updates takes back of the first."""
    values = late_values(history, "curvature/step_ratio")
    return median(values) if len(values) >= _PROBES else None


def _larger(history: History, batch: int, scale: float) -> int:
    samples = history.fact("data.train_samples")
    most = samples if isinstance(samples, int) and samples > 0 else batch * _MOST
    return round(min(scale, most, batch * _MOST))
