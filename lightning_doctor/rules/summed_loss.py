"""LD311: the loss is a sum over the batch, so that its gradient grows with the batch."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import loss_head
from lightning_doctor.prescriptions import is_adaptive, peak_rate
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule


@rule(
    "LD311",
    needs={"train_loss/*": 1},
    reads=("loss_head",),
    non_finite=True,
    explains=(
        "learning_rate_too_high",
        "diverging_loss",
        "non_finite_loss",
        "non_finite_gradients",
        "exploding_gradients",
        "loss_spike",
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "dead_units",
        "saturated_units",
        "collapsed_output",
        "bad_initialization",
        "always_clipped",
        "unscaled_targets",
        "missing_warmup",
        "stale_validation",
    ),
)
def summed_loss(history: History, *, room: float = 2.0) -> Finding | None:
    """The loss is a sum over the batch, so that its gradient grows with the batch.

    What it looks at:
        The fact ``loss_head``: how the loss puts samples together; the batch size, the learning rate, the optimizer,
        and the rates that the step scan saw raise the loss.

    Why it matters:
        Under plain SGD every sample more makes the step longer: the learning rate is in truth as many times larger
        as there are samples in a batch.

    Sick:
        ``mse_loss(..., reduction="sum")`` over 128 samples with SGD at 0.01, and the loss explodes

    Healthy:
        The same at 0.0001, or with Adam, which divides by the gradient's size; a sum over tokens that is divided by
        their number

    Remedy:
        Mean reduction, or a learning rate divided by the batch size.

    Thresholds:
        room: How many times smaller than the rate that first raised the loss the rate divided by the batch size must
            be for the sum to be to blame [ratio].

    Blind spots:
        Weight decay and clipping are out of proportion with a sum too: of that only the note tells.
    """
    head = loss_head(history)
    sizes = [size for size in history.get("batch_size").finite().values if size > 0]
    samples = median(sizes) if sizes else float(head.shape[0] if head.shape else 1)
    # Before targets are read a sum that is divided by their number looks like one that is not.
    if head.reduction != "sum" or samples < 2 or math.isnan(head.target_range[0]):
        return None
    rate = peak_rate(history)
    evidence: dict[str, float | int | str] = {"samples": samples, "loss": head.loss}
    if rate is not None:
        evidence["lr"] = rate
    state = standing(history)
    limits = [limit for limit in history.get("scan_limit").finite().values if limit > 0]
    lost = history.get("train_loss").broken_at() is not None or (state.learned is not None and state.learned < -1)
    too_long = False
    if limits and rate is not None:
        evidence["scan_limit"] = limits[0]
        # The first one: later ones may be those of weights that long steps have thrown far out.
        fine = rate / samples * room <= limits[0]
        too_long = fine and rate > min(limits)
        lost = fine and lost
    harms = is_adaptive(history) is False and not state.good and (lost or (too_long and state.harmed))
    severity = Severity.NOTE if not harms else Severity.ERROR if lost else Severity.WARNING
    return Finding(
        severity=severity,
        summary=f"the loss is a sum over {samples:g} samples, and so is its gradient"
        + (f": lr {rate:.3g} is {rate * samples:.3g} of a mean" if harms and rate is not None else ""),
        evidence=evidence,
        remedy='take the mean over the batch (`reduction="mean"`)'
        + (f", or divide lr by {samples:g}: {rate / samples:.2g}" if harms and rate is not None else "")
        + ("" if harms else f", with lr, weight decay and clipping for a gradient {samples:g} times smaller"),
        onset=0,
        signals=("train_loss", "grad_norm", "learning_rate"),
    )
