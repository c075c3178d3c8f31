"""LD205: most sigmoid or tanh units of a layer are far out where they are flat, and the run suffers."""

from __future__ import annotations

from statistics import median
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import late_level, of_kind, places
from lightning_doctor.loss_head import SQUARED, loss_head
from lightning_doctor.prescriptions import lower_rate
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule


@rule(
    "LD205",
    needs={"saturated_share/*": 3, "skill": 1},
    explains=(
        "vanishing_gradients",
        "loss_plateau",
        "stuck_at_baseline",
        "collapsed_output",
        "undertrained",
        "learning_rate_too_low",
        "imbalanced_classes",
        "flat_region",
        "poor_minimum",
        "saddle_point",
        "stale_validation",
    ),
)
def saturated_units(history: History, *, share: float = 0.5) -> Finding | None:
    """Most sigmoid or tanh units of a layer are far out where they are flat, and the run suffers.

    What it looks at:
        ``saturated_share/<layer>``, the share of a layer's outputs, over samples and units, at which the derivative
        is under 1 % of its largest; ``preactivation_std/<layer>``; what is learned.

    Why it matters:
        Less than a hundredth of the gradient passes such a unit, and its output hardly depends on its input: for the
        network it is a switch that is stuck.

    Sick:
        Shares 0.95, 0.96, 0.97 in the first hidden layer, while nothing is learned

    Healthy:
        Shares 0, 0.01, 0.2, 0.3; or an output layer that is sure in the end, and right

    Remedy:
        Scaled inputs and Xavier's initialization where it was so from the start; a lower learning rate where it came
        later; ReLU.

    Thresholds:
        share: Share of the outputs of a layer that must be saturated [share].

    Blind spots:
        The gates of recurrent layers are not looked into. An output layer counts only under a squared or absolute
        error: a cross-entropy undoes its saturation.
    """
    how = standing(history)
    layers = [entry for entry in of_kind(history, "sigmoid", "tanh") if _counts(history, entry)]
    shares = [(now, entry) for entry in layers if (now := _newest(history, entry)) is not None]
    now, worst = max(shares, key=lambda pair: pair[0], default=(0.0, {}))
    if not shares or now < share or how.good:
        return None
    layer = str(worst.get("layer"))
    series = history[f"saturated_share/{layer}"]
    onset = next(step for step, value in zip(series.steps, series.values, strict=True) if value >= share)
    began = onset == series.steps[0]
    width = late_level(history, f"preactivation_std/{layer}") or 0.0
    return Finding(
        severity=how.if_harmed(Severity.WARNING),
        summary=f"{now:.0%} of the outputs of {worst.get('class')} {layer} are saturated "
        f"{'from the start' if began else f'since step {onset}'}: what goes in has a standard deviation of {width:.3g}",
        evidence={
            "layer": layer,
            "saturated": now,
            "saturated_at_first": series.values[0],
            "limit": share,
            "preactivation_std": width,
            **({} if how.reached is None else {"learned": how.reached}),
        },
        remedy=_remedy(history, worst, began=began),
        confidence=Confidence.CONFIRMED if began else Confidence.SUSPECTED,
        onset=onset,
        signals=(f"saturated_share/{layer}", f"preactivation_std/{layer}", "train_loss"),
    )


def _counts(history: History, entry: dict[str, Any]) -> bool:
    return entry.get("last") is not True or loss_head(history).loss in SQUARED


def _newest(history: History, entry: dict[str, Any]) -> float | None:
    values = history.get(f"saturated_share/{entry.get('layer')}").finite().values
    return median(values[-3:]) if values else None


def _remedy(history: History, entry: dict[str, Any], *, began: bool) -> str:
    layer, name = str(entry.get("layer")), f"{entry.get('class')} {entry.get('layer')}"
    if entry.get("last") is True:
        return f"take {name} off the output, or scale the targets to where it is steep"
    if not began:
        return f"{lower_rate(history)}, or replace {name} by ReLU"
    place = places(history)
    feeding = [e for e in of_kind(history, "linear") if place.get(str(e.get("layer")), 0) < place.get(layer, 0)]
    if not feeding:
        return f"normalise what goes into {name}, or replace it by ReLU"
    first = len(feeding) == 1
    gain = _gain(history, feeding[-1])
    if gain is not None and gain > 3:
        return f"initialise {feeding[-1]['layer']} with Xavier's weights: its own enlarge what goes in {gain:.0f}-fold"
    return f"{'standardise the inputs' if first else f'normalise what goes into {name}'}, or replace it by ReLU"


def _gain(history: History, entry: dict[str, Any]) -> float | None:
    """Returns by how much a layer's first weights enlarge an input whose elements are of one size and independent."""
    norms, units = history.get(f"weight_norm/{entry.get('layer')}").finite().values, entry.get("units")
    return norms[0] / units**0.5 if norms and isinstance(units, int) and units > 0 else None
