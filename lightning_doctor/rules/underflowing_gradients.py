"""LD211: in half precision gradients are too small to be told from zero, or the scale that lifts them has collapsed."""

from __future__ import annotations

from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import entries, listed, measured
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule


@rule(
    "LD211",
    needs={"zero_gradient_share": 3},
    explains=("loss_plateau", "stuck_at_baseline", "undertrained", "learning_rate_too_low", "vanishing_gradients"),
)
def underflowing_gradients(history: History, *, zeros: float = 0.5, scale: float = 1.0) -> Finding | None:
    """In half precision gradients are too small to be told from zero, or the scale that lifts them has collapsed.

    What it looks at:
        ``loss_scale`` of an fp16 scaler; ``zero_gradient_share/<layer>``, the share of a layer's gradient elements
        that are exactly zero, beside ``dead_share/<layer>``, which explains such zeros.

    Why it matters:
        What is under 6e-8 is zero in fp16, so the loss is multiplied before the backward pass. Where activations
        overflow however small the scale, it shrinks step after step, every step is skipped, and gradients vanish.

    Sick:
        Scale 65536, 2048, 16, 0.5, 0.004; or shares of zeros 0.1, 0.4, 0.8 in every layer

    Healthy:
        Scale 65536, 32768, 32768, 65536; shares of 0.9 in an embedding, whose rows are used now and then

    Remedy:
        ``precision="bf16-mixed"``, whose numbers have the range of fp32; where a layer overflows, compute it in fp32.

    Thresholds:
        zeros: Share of a layer's gradient elements that must be zero, in most layers, beyond its dead units [share].
        scale: Loss scale under which it has collapsed [factor].

    Blind spots:
        Scaling by hand in manual optimization is not seen. With fp32 or bf16 nothing underflows so easily, and
        nothing is looked for.
    """
    precision = str(history.fact("trainer.precision", ""))
    if not ("16" in precision and "bf" not in precision):
        return None
    return _collapsed(history, scale) or _zeros(history, zeros)


def _collapsed(history: History, scale: float) -> Finding | None:
    scales = history.get("loss_scale").finite()
    if len(scales) < 3 or scales.values[-1] >= min(scale, scales.values[0]):
        return None
    now, first = scales.values[-1], scales.values[0]
    skipped = len(history.get("scaler_skips"))
    onset = next(step for step, value in zip(scales.steps, scales.values, strict=True) if value < min(scale, first))
    return Finding(
        severity=standing(history).unless_good(Severity.WARNING),
        summary=f"the loss scale fell from {first:.3g} to {now:.3g}, and {skipped} steps were skipped: gradients are "
        "not finite in fp16 whatever the scale",
        evidence={"first_scale": first, "scale": now, "skipped": skipped},
        remedy='set `precision="bf16-mixed"`, or compute the layer that overflows in fp32',
        onset=onset,
        signals=("loss_scale", "scaler_skips"),
    )


def _zeros(history: History, zeros: float) -> Finding | None:
    sparse = {str(entry.get("layer")) for entry in entries(history) if "Embedding" in str(entry.get("class"))}
    shares = {
        layer: median(history[f"zero_gradient_share/{layer}"].values[-3:])
        for layer in measured(history, "zero_gradient_share")
        if layer not in sparse
    }
    dead = history.get("dead_share").finite().values
    # A dead unit takes with it the weights into it and those out of it.
    excused = 2 * dead[-1] if dead else 0.0
    if not shares or median(shares.values()) < min(1.0, zeros + excused):
        return None
    worst = [layer for layer, value in shares.items() if value >= zeros]
    typical = median(shares.values())
    series = history[f"zero_gradient_share/{worst[0]}"]
    how = standing(history)
    return Finding(
        severity=how.if_harmed(Severity.WARNING),
        summary=f"{typical:.0%} of the gradient of a typical layer is exactly zero in half precision",
        evidence={"typical_share": typical, "layers": listed(worst), **({"dead": dead[-1]} if dead else {})},
        remedy='set `precision="bf16-mixed"`, or scale the loss up before the backward pass',
        confidence=Confidence.SUSPECTED,
        onset=next(step for step, value in zip(series.steps, series.values, strict=True) if value >= zeros),
        signals=(f"zero_gradient_share/{worst[0]}", "zero_gradient_share", "loss_scale"),
    )
