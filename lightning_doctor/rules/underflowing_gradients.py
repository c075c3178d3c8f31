"""LD211: in half precision gradients are too small to be told from zero, or the scale that lifts them has collapsed."""

from __future__ import annotations

import math

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import late_level, listed, of_kind
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

# The smallest number of fp16 that is not zero, and how many times over it numbers are still blurred.
_TINIEST, _BLURRED = 2.0**-24, 10.0


@rule(
    "LD211",
    needs={"zero_gradient_share": 3},
    explains=("loss_plateau", "stuck_at_baseline", "undertrained", "learning_rate_too_low", "vanishing_gradients"),
)
def underflowing_gradients(history: History, *, zeros: float = 0.5, scale: float = 1.0) -> Finding | None:
    """In half precision gradients are too small to be told from zero, or the scale that lifts them has collapsed.

    What it looks at:
        ``loss_scale`` of an fp16 scaler; of linear layers ``zero_gradient_share/<layer>``, the share of gradient
        elements that are exactly zero, where ``grad_norm/<layer>`` says that the others are tiny too.

    Why it matters:
        What is under 6e-8 is zero in fp16, so the loss is multiplied before the backward pass. Where activations
        overflow however small the scale, it shrinks step after step, every step is skipped, and gradients vanish.

    Sick:
        Scale 65536, 2048, 16, 0.5, 0.004; or shares of zeros 0.1, 0.4, 0.8 among elements of 1e-7

    Healthy:
        Scale 65536, 32768, 32768, 65536; shares of 0.9 among elements of 1e-3, as sparse inputs give them

    Remedy:
        ``precision="bf16-mixed"``, whose numbers have the range of fp32; where a layer overflows, compute it in fp32.

    Thresholds:
        zeros: Share of a layer's gradient elements that must be zero, in half of the layers [share].
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
        evidence={"first_scale": first, "scale": now, "limit": min(scale, first), "skipped": skipped},
        remedy='set `precision="bf16-mixed"`, or compute the layer that overflows in fp32',
        onset=onset,
        signals=("loss_scale", "scaler_skips"),
    )


def _zeros(history: History, zeros: float) -> Finding | None:
    dead = history.get("dead_share").finite().values
    if dead and dead[-1] > 0.99:
        return None
    scales = history.get("loss_scale").finite().values
    scale = scales[-1] if scales else 1.0
    shares: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for entry in of_kind(history, "linear"):
        layer, weights = str(entry.get("layer")), entry.get("units", 0) * entry.get("features", 0)
        norm, share = late_level(history, f"grad_norm/{layer}"), late_level(history, f"zero_gradient_share/{layer}")
        if norm is not None and share is not None and weights > 0:
            shares[layer], sizes[layer] = share, norm * scale / math.sqrt(weights)
    lost = [layer for layer in shares if shares[layer] >= zeros and sizes[layer] <= _BLURRED * _TINIEST]
    if not lost or len(lost) < 0.5 * len(shares):
        return None
    series = history[f"zero_gradient_share/{lost[0]}"]
    share, size = shares[lost[0]], sizes[lost[0]]
    return Finding(
        severity=standing(history).if_harmed(Severity.WARNING),
        summary=f"{share:.0%} of the gradient of {lost[0]} is exactly zero: its elements, {size:.1g} with the loss "
        f"scale, are as small as numbers get in fp16 ({len(lost)} of {len(shares)} layers)",
        evidence={
            "layers": listed(lost),
            "zeros": share,
            "limit": zeros,
            "size": size,
            "loss_scale": scale,
            "smallest": _TINIEST,
        },
        remedy='set `precision="bf16-mixed"`, or scale the loss up before the backward pass',
        onset=next((step for step, v in zip(series.steps, series.values, strict=True) if v >= zeros), series.steps[-1]),
        signals=(f"zero_gradient_share/{lost[0]}", f"grad_norm/{lost[0]}", "loss_scale"),
    )
