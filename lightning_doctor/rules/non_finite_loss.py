"""LD101: the training loss is NaN or infinite."""

from __future__ import annotations

import math
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.prescriptions import batch_of, clip, is_clipped, lower_rate
from lightning_doctor.rule import rule

# Skipped steps in a row after which a GradScaler is no longer searching: each halves its scale.
_SEARCH = 8


@rule(
    "LD101",
    needs={"train_loss/*": 1},
    explains=("stale_validation", "loss_plateau", "overfitting"),
    non_finite=True,
)
def non_finite_loss(history: History, *, growth: float = 10.0, recurring: float = 0.05) -> Finding | None:
    """The training loss is NaN or infinite.

    What it looks at:
        ``train_loss``, one value per optimizer step, of every optimizer [unit of your loss]; the gradient norm and the
        first layer whose gradient was not finite; the skipped steps of an fp16 scaler.

    Why it matters:
        One step with a NaN gradient makes every weight NaN: the run is lost from there on.

    Sick:
        2.3, 2.1, 4.8, 310.0, NaN, NaN, NaN

    Healthy:
        2.3, inf, 2.2, 2.1, 2.0, where the fp16 scaler skipped the second step

    Remedy:
        By what came before: lower the learning rate or clip if the loss or the gradient grew; guard a log, square
        root or division if a gradient broke first; bf16 instead of fp16; else look at that batch.

    Thresholds:
        growth: How many times over its start the loss was before it broke, to say that it grew [ratio].
        recurring: Share of the steps since the first one that are not finite, above which a run that goes on is
            ill all the same [share].

    Blind spots:
        A step whose ``training_step`` returned None has no loss. Of a NaN that comes and goes, the cause of the
        first one is reported.
    """
    broken = [(name, index) for name in history.family("train_loss") for index in _broken(history, name)[:1]]
    if not broken:
        return None
    name, index = min(broken, key=lambda item: history[item[0]].steps[item[1]])
    series = history[name]
    onset, value = series.steps[index], series.values[index]
    since = series.values[index:]
    bad = sum(not math.isfinite(v) for v in since)
    lost = any(not math.isfinite(history[n].values[-1]) for n, _ in broken)
    evidence: dict[str, float | int | str] = {
        "first_step": onset,
        "value": value,
        "non_finite": bad,
        "since": len(since),
    }
    if name != "train_loss":
        evidence["signal"] = name
    remedy = _remedy(history, series, index, growth, evidence)
    kind = "NaN" if math.isnan(value) else "infinite"
    if lost:
        return Finding(
            severity=Severity.ERROR,
            summary=f"the training loss is {kind} since step {onset}"
            if bad == len(since)
            else f"the training loss is {kind} at step {onset}, and not finite now",
            evidence=evidence,
            remedy=remedy,
            # A single one may yet turn out to be a batch that the run survives.
            confidence=Confidence.CONFIRMED if bad > 1 or history.fact("run.ended") else Confidence.SUSPECTED,
            onset=onset,
            signals=(name,),
        )
    often = bad > 2 and bad > recurring * len(since)
    return Finding(
        severity=Severity.WARNING if often else Severity.NOTE,
        summary=f"the training loss was {kind} at step {onset}"
        + (f" and not finite in {bad} of {len(since)} steps since" if bad > 1 else "; the run went on"),
        evidence=evidence,
        remedy=remedy,
        onset=onset,
        signals=(name,),
    )


def _broken(history: History, name: str) -> list[int]:
    """Returns where the loss is not finite, less what a GradScaler's search for its scale passed over."""
    series = history[name]
    bad = [i for i, value in enumerate(series.values) if not math.isfinite(value)]
    skips = history.get("scaler_skips")
    skipped = {step for step, value in zip(skips.steps, skips.values, strict=True) if value > 0}
    if not bad or not skipped:
        return bad
    run = next((n for n, value in enumerate(reversed(series.values)) if math.isfinite(value)), len(series))
    return bad if run >= _SEARCH else [i for i in bad if series.steps[i] not in skipped]


def _remedy(history: History, series: Series, index: int, growth: float, evidence: dict[str, float | int | str]) -> str:
    """Chooses by what came before the break, and adds what it rests on to the evidence."""
    onset, before = series.steps[index], series.values[:index]
    finite = [value for value in before if math.isfinite(value)]
    precision = str(history.fact("trainer.precision", ""))
    event = history.event("non_finite_gradient")
    layer = _culprit(event) if event is not None and event["step"] <= onset else None
    if layer is not None:
        evidence["layer"] = layer
    batch = batch_of(history, onset)
    if batch is not None:
        evidence["batch"] = batch
    if finite:
        evidence |= {"last_finite": finite[-1], "best": min(finite)}
        start = abs(finite[0]) or abs(min(finite))
        if len(finite) > 1 and start > 0 and max(finite[-3:]) > growth * start:
            evidence["loss_growth"] = max(finite[-3:]) / start
            return _smaller_steps(history, onset)
        if _gradient_growth(history, onset, evidence) > growth * growth:
            return _smaller_steps(history, onset)
    cause = _loss_at(event)
    if event is not None and event["step"] <= onset and cause is not None and math.isfinite(cause):
        names = history.fact("model.layer_names")
        output = isinstance(names, list) and bool(names) and layer == names[-1]
        where = "in the loss" if layer is None or output else f"in or right after `{layer}`"
        return f"guard a log, square root, power or division {where}: its gradient broke first (add 1e-6 inside it)"
    if precision.startswith("16"):
        return "train with `Trainer(precision='bf16-mixed')`: fp16 overflows above 65504"
    if not finite:
        return "check the first batch for NaN and the loss for log or division of zero: no step was taken before it"
    where = f"batch {batch} of the epoch" if batch is not None else f"the batch of step {onset}"
    return f"look at {where} for NaN, infinite or extreme values, and guard log, square root and division in the loss"


def _smaller_steps(history: History, onset: int) -> str:
    if is_clipped(history):
        return lower_rate(history)
    return f"{lower_rate(history)}, or {clip(history, onset)}"


def _gradient_growth(history: History, onset: int, evidence: dict[str, float | int | str]) -> float:
    """Returns how many times its usual size the gradient had just before; 1 where that is unknown."""
    series = history.get("grad_norm")
    norms = [norm for at, norm in zip(series.steps, series.values, strict=True) if at < onset and math.isfinite(norm)]
    if len(norms) < 5:
        return 1.0
    usual = sorted(norms[:-1])[(len(norms) - 1) // 2]
    if not usual > 0:
        return 1.0
    if norms[-1] > usual:
        evidence["gradient_growth"] = norms[-1] / usual
    return norms[-1] / usual


def _loss_at(event: dict[str, Any] | None) -> float | None:
    value = event.get("loss") if event is not None else None
    return float(value) if isinstance(value, (int, float)) else None


def _culprit(event: dict[str, Any]) -> str | None:
    """Returns the layer nearest the output of those hit: the backward pass carries a break to all layers before it."""
    layers = event.get("layers")
    return str(layers[-1]) if isinstance(layers, list) and layers else None
