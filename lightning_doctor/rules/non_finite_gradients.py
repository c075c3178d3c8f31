"""LD203: a gradient is NaN or infinite where the loss is finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import rule


@rule("LD203", needs={"grad_non_finite": 1}, explains=("non_finite_loss",), non_finite=True)
def non_finite_gradients(
    history: History, *, explosion: float = 100.0, window: int = 100, recurring: float = 0.01
) -> Finding | None:
    """A gradient is NaN or infinite where the loss is finite.

    What it looks at:
        ``grad_non_finite``, the number of parameter tensors whose gradient has NaN or infinity, with the layers of
        the first such step, and ``train_loss`` and ``grad_norm`` around it. Steps that an fp16 scaler skipped do not
        count.

    Why it matters:
        The optimizer writes the NaN into the weights, and from the next step on the loss is NaN.

    Sick:
        Tensors 0, 0, 0, 4, 4, 4, while the loss goes 0.31, 0.28, 0.27, 0.25, NaN, NaN: a square root at zero

    Healthy:
        Tensors 0, 0, 0, 4, 4, while the loss goes 2.3, 410, 8e7, 3e19, inf: the overflow of a loss that exploded

    Remedy:
        Guard the square root, logarithm or division that the gradient comes from with an eps inside it.

    Thresholds:
        explosion: How many times its usual size the loss or the gradient norm was when it went over: then the
            growth is the illness [ratio].
        window: How many steps before count as usual [measured steps].
        recurring: Share of the steps since the first above which a run that goes on is ill all the same [share].

    Blind spots:
        The operation is not named, only the layers it lies between; ``Trainer(detect_anomaly=True)`` names it. Of
        several such steps only the first one's layers are known.
    """
    counts = history["grad_non_finite"]
    bad = [step for step, count in zip(counts.steps, counts.values, strict=True) if count > 0]
    if not bad:
        return None
    onset = bad[0]
    event = history.event("non_finite_gradient") or {}
    if event.get("step") != onset:
        event = {}
    loss = _loss(history, onset, event)
    if not math.isfinite(loss) or _exploded(history, onset, loss, explosion, window):
        return None
    evidence: dict[str, float | int | str] = {"first_step": onset, "loss": loss, "steps": len(bad)}
    tensors = counts.values[counts.steps.index(onset)]
    if math.isfinite(tensors):
        evidence["tensors"] = int(tensors)
    where, remedy = _place(history, event, evidence)
    severity, confidence, course = _course(history, onset, bad, recurring, evidence)
    return Finding(
        severity=severity,
        summary=f"a gradient is not finite at step {onset}, where the loss is {loss:.3g}{where}; {course}",
        evidence=evidence,
        remedy=remedy,
        confidence=confidence,
        onset=onset,
        signals=("grad_non_finite", "train_loss"),
    )


def _loss(history: History, step: int, event: Mapping[str, Any]) -> float:
    value = event.get("loss")
    if isinstance(value, (int, float)):
        return float(value)
    at_step = [
        value
        for name in history.family("train_loss")
        for at, value in zip(history[name].steps, history[name].values, strict=True)
        if at == step
    ]
    return next((value for value in at_step if not math.isfinite(value)), max(at_step, default=math.nan))


def _exploded(history: History, onset: int, loss: float, explosion: float, window: int) -> bool:
    """Whether loss or gradient had grown far over their usual size: then the overflow is only the last step of it."""
    for name, latest in (("train_loss", [abs(loss)]), ("grad_norm", [])):
        series = history.get(name)
        before = [abs(v) for at, v in zip(series.steps, series.values, strict=True) if at < onset and math.isfinite(v)]
        *usual, last = (before[-window:] + latest) or [0.0]
        # Of a few steps that all belong to the growth the median has grown along.
        if usual and last > explosion * (median(usual) if len(usual) > 10 else min(usual)) > 0:
            return True
    return False


def _place(history: History, event: Mapping[str, Any], evidence: dict[str, float | int | str]) -> tuple[str, str]:
    """Names where it begins: backward runs from the output to the input, and all that comes later is spoiled too."""
    find = "`Trainer(detect_anomaly=True)` names the operation"
    layers = event.get("layers")
    if not isinstance(layers, list) or not layers:
        return "", f"guard every sqrt, log and division with an eps inside it, sqrt(x + 1e-8); {find}"
    layer = str(layers[-1])
    evidence["layer"] = layer
    known = history.fact("model.layer_names")
    names = [str(name) for name in known] if isinstance(known, list) else []
    after = names[names.index(layer) + 1 :] if layer in names else []
    if layer in names and not after:
        return (
            f", from the last layer, {layer}, on back",
            f"guard the loss function: an eps inside sqrt, log or division, sqrt(x + 1e-8) for sqrt(x); {find}",
        )
    between = f"between {layer} and {after[0]}" if after else f"behind {layer}"
    if after:
        evidence["next_layer"] = after[0]
    return (
        f", from {layer} on back" + (f", while that of {after[0]} is finite" if after else ""),
        f"guard the sqrt, log or division {between} with an eps inside it, sqrt(x + 1e-8); {find}",
    )


def _course(
    history: History, onset: int, bad: list[int], recurring: float, evidence: dict[str, float | int | str]
) -> tuple[Severity, Confidence, str]:
    """Says what became of the run since."""
    later = [loss for name in history.family("train_loss") for loss in history[name].since(onset + 1)]
    finite = sum(map(math.isfinite, later))
    lost = any(not math.isfinite(history[name].values[-1]) for name in history.family("train_loss"))
    evidence["later_losses"], evidence["later_finite"] = len(later), finite
    if not later:
        # A step may have been skipped by the user's own code: the next loss will tell.
        ended = history.fact("run.ended") is not None
        return (
            Severity.ERROR if ended else Severity.WARNING,
            Confidence.CONFIRMED if ended else Confidence.SUSPECTED,
            "the run ended there" if ended else "no loss since",
        )
    if lost:
        return Severity.ERROR, Confidence.CONFIRMED, "the loss is not finite since"
    often = len(bad) > 2 and len(bad) > recurring * (len(later) + 1)
    course = "the run went on" if len(bad) == 1 else f"again in {len(bad) - 1} steps of {len(later)} since"
    return Severity.WARNING if often else Severity.NOTE, Confidence.CONFIRMED, course
