"""LD210: gradients are never set to zero, so that every step applies the sum of all before it."""

from __future__ import annotations

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule


@rule(
    "LD210",
    needs={"gradients_kept": 2},
    explains=(
        "exploding_gradients",
        "diverging_loss",
        "non_finite_loss",
        "non_finite_gradients",
        "learning_rate_too_high",
        "loss_plateau",
        "loss_spike",
        "stuck_at_baseline",
        "late_instability",
        "missing_warmup",
        "noise_floor",
        "always_clipped",
        "dead_units",
        "saturated_units",
        "collapsed_output",
        "undertrained",
        "stale_validation",
    ),
)
def accumulating_gradients(history: History, *, share: float = 0.9) -> Finding | None:
    """Gradients are never set to zero, so that every step applies the sum of all before it.

    What it looks at:
        ``gradients_kept``: 1 at an examined step where no backward pass since the optimizer's last step found its
        gradients at zero. Accumulation over several batches begins at zero once, and does not count.

    Why it matters:
        The step follows the sum of all gradients since the start, most of them of weights that are long gone: it
        grows with the length of the run and turns only when that sum does.

    Sick:
        1, 1, 1, 1, 1

    Healthy:
        0, 0, 0, 0, 0

    Remedy:
        Call ``zero_grad`` once for every step, before the backward pass.

    Thresholds:
        share: Share of the examined steps that must have started from old gradients [share].

    Blind spots:
        Gradients set to zero now and then, but not for every step, are taken as meant. A backward pass that
        Lightning is not told of is not seen.
    """
    series = history["gradients_kept"]
    kept = sum(value > 0 for value in series.values)
    if kept < 2 or kept < share * len(series):
        return None
    automatic = history.fact("trainer.automatic_optimization", False) is True
    return Finding(
        # A sum of all gradients is momentum that never fades: some problems put up with it.
        severity=standing(history).unless_good(Severity.ERROR),
        summary=f"gradients still held those of the steps before at {kept} of {len(series)} examined steps",
        evidence={"kept": kept, "examined": len(series)},
        remedy="let `optimizer_zero_grad` call `optimizer.zero_grad()`, or do not override it"
        if automatic
        else "call `optimizer.zero_grad()` in `training_step` before each `self.manual_backward(loss)` that is not "
        "meant to accumulate",
        onset=series.steps[0],
        signals=("gradients_kept", "grad_norm"),
    )
