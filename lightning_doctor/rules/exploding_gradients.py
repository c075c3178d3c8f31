"""LD202: the gradient has grown by orders of magnitude, over the run or from layer to layer, and the loss suffers."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.noise import levels, noise
from lightning_doctor.prescriptions import is_clipped, lower_rate
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

# The course of a run is read off so many levels, each the median of its part of the steps.
_LEVELS = 20
# Measured steps that a calm part needs for its norm to be one to clip at.
_CALM = 5
# Steps within which a gradient that explodes from the start is infinite.
_BRIEF = 12
# Steps before which no loss is expected to have fallen beyond its noise.
_TIME_TO_LEARN = 50
# The first measured steps, of which one may throw weights so far that later ones are small beside them.
_FIRST = 3


@rule(
    "LD202",
    needs={"grad_norm": 12, "train_loss": 12},
    explains=(
        "loss_spike",
        "always_clipped",
        "loss_plateau",
        "stale_validation",
        "stuck_at_baseline",
        "worse_than_reference",
    ),
    non_finite=True,
)
def exploding_gradients(
    history: History, *, growth: float = 100.0, depth: float = 1000.0, lost: float = 0.25, lasting: int = 10
) -> Finding | None:
    """The gradient has grown by orders of magnitude, over the run or from layer to layer, and the loss suffers.

    What it looks at:
        ``grad_norm`` before clipping, one per measured step, ``grad_norm/<layer>``, and ``train_loss`` [unit of
        your loss]; the part before the first value that is not finite.

    Why it matters:
        A step in proportion to such a gradient throws the weights far from where the loss was low.

    Sick:
        Norm 1.2, 1.1, 1.4, 9.0, 160, 2100, 3600, while the loss goes 2.3, 2.1, 2.0, 2.4, 7.8, 40, 65

    Healthy:
        Norm 0.002, 0.004, 0.05, 0.9, 2.1, while the loss leaves its plateau: 2.30, 2.30, 2.2, 1.4, 0.8

    Remedy:
        Clip at the norm of the calm part; lower the learning rate; by depth, initialise or normalise.

    Thresholds:
        growth: How many times its calmest level the norm must have reached, to stay there [ratio].
        depth: How many times the last layer's gradient an early layer's must be, the first layer's apart, while the
            loss has not improved at all; or at first, where its steps were as large as its weights [ratio].
        lost: How much of what the loss had gained must be lost again [share].
        lasting: Steps for which it must have lasted: a single bad batch is none [measured steps].

    Blind spots:
        A gradient that was too large from the first step on has no calm part, and is seen by depth only, where the
        layers are known.
    """
    norms, losses = history["grad_norm"].finite(), history["train_loss"].finite()
    broken = len(norms) < len(history["grad_norm"]) or len(losses) < len(history["train_loss"])
    if broken and (burst := _burst(history, losses, growth)) is not None:
        return burst
    if len(norms) < 4 or len(losses) < 4:
        return None
    # A norm that ends in infinity has not come back: two steps of it are enough.
    explosion = _over_time(history, norms, losses, growth, lost, 2 if broken else lasting)
    return explosion or _by_depth(history, norms, losses, depth) or _thrown(history, losses, depth)


def _burst(history: History, losses: Series, growth: float) -> Finding | None:
    """A run whose gradient grew out of all numbers within its first few steps: there is no calm part."""
    norms = history["grad_norm"]
    broken = norms.broken_at()
    if broken is None or broken < 1 or not norms.values[0] > 0:
        return None
    first, last, steps = norms.values[0], norms.values[broken - 1], norms.steps[broken] - norms.steps[0]
    if steps >= _BRIEF or len(losses) < 2 or losses.values[-1] <= 2 * abs(losses.values[0]):
        return None
    grown = last / first
    if broken == 1:
        # One number of a gradient tells no growth: the loss must, and no root of zero or the like have made it NaN.
        rose = losses.values[-1] / abs(losses.values[0]) if losses.values[0] else 0.0
        grown = 0.0 if math.isnan(norms.values[broken]) else rose
    if grown < growth:
        return None
    return Finding(
        severity=Severity.ERROR,
        summary=f"the gradient norm grew from {first:.3g} to {last:.3g} in the first {steps} steps, and then out of "
        "all numbers"
        if broken > 1
        else f"the gradient norm was {first:.3g} at first, and out of all numbers one look later",
        evidence={"first": first, "last": last, "growth": grown},
        remedy=_slower(history, None),
        onset=norms.steps[0],
        signals=("grad_norm", "train_loss"),
    )


def _over_time(
    history: History, norms: Series, losses: Series, growth: float, lost: float, lasting: int
) -> Finding | None:
    latest, before = norms.values[-lasting:], norms.values[:-lasting]
    if not before:
        return None
    # Both of the last few steps and of a twentieth of the run: a burst in a long run is over before it matters.
    now = min(median(latest), median(norms.values[-max(lasting, len(norms) // _LEVELS) :]))
    calmest = min(levels(before, _LEVELS))
    if not calmest > 0 or now < growth * calmest:
        return None
    # The best before: a loss that falls fast as it leaves a saddle has its best now.
    best, loss_now = min(losses.values[:-lasting] or losses.values[:1]), median(losses.values[-lasting:])
    blur = noise(losses.values[: max(3, len(losses) // 2)])
    if loss_now - best <= max(lost * (losses.values[0] - best), 3 * blur):
        return None
    # Back to where the norm left its calm for good: half the growth, in orders of magnitude, is no longer calm.
    onset_index = len(norms) - lasting
    while onset_index > 1 and norms.values[onset_index - 1] > calmest * math.sqrt(growth):
        onset_index -= 1
    calm = median(norms.values[:onset_index])
    onset = norms.steps[onset_index]
    return Finding(
        severity=Severity.WARNING,
        summary=f"the gradient norm grew from {calmest:.3g} to {now:.3g} and stays there, and the loss rose from "
        f"{best:.3g} to {loss_now:.3g}",
        evidence={
            "calmest": calmest,
            "calm": calm,
            "now": now,
            "growth": now / calmest,
            "best_loss": best,
            "loss_now": loss_now,
        },
        remedy=_slower(history, calm if onset_index >= _CALM else None),
        onset=onset,
        signals=("grad_norm", "train_loss"),
    )


def _by_depth(history: History, norms: Series, losses: Series, depth: float) -> Finding | None:
    layers = _layers(history)
    # Not the first layer: its gradient is in proportion to the inputs, and says nothing of the depth.
    if len(layers) < 4 or len(losses) < _TIME_TO_LEARN:
        return None
    sizes = {layer: _level(history, layer) for layer in layers[1:]}
    last = layers[-1]
    early = max(layers[1 : len(layers) // 2 + 1], key=lambda layer: sizes[layer])
    if not sizes[last] > 0 or sizes[early] < depth * sizes[last]:
        return None
    start, loss_now = (median(part) for part in (losses.values[:10], losses.values[-len(losses) // 4 :]))
    blur = noise(losses.values)
    if start - loss_now > 2 * blur:
        return None
    calm = median(norms.values)
    return Finding(
        severity=Severity.WARNING,
        summary=f"the gradient of {early} is {sizes[early] / sizes[last]:.0f} times that of {last}, "
        f"and the loss has not improved: {start:.3g} at first, {loss_now:.3g} now",
        evidence={
            "early_layer": early,
            "early_norm": sizes[early],
            "last_layer": last,
            "last_norm": sizes[last],
            "ratio": sizes[early] / sizes[last],
            "start_loss": start,
            "loss_now": loss_now,
            "noise": blur,
            "calm": calm,
        },
        remedy="initialise so that every layer keeps the size of its input (Xavier or He), or put a normalisation "
        f"layer between {early} and {last}; " + _slower(history, calm),
        confidence=Confidence.SUSPECTED,
        onset=losses.steps[0],
        signals=(f"grad_norm/{early}", f"grad_norm/{last}", "train_loss"),
    )


def _thrown(history: History, losses: Series, depth: float) -> Finding | None:
    """Layers whose gradient was so much larger than the last one's that the first steps replaced their weights."""
    layers = _layers(history)
    if len(layers) < 4 or len(losses) < _TIME_TO_LEARN or not standing(history).harmed:
        return None
    first, moved = (
        {layer: max(history.get(f"{name}/{layer}").finite().values[:_FIRST], default=0.0) for layer in layers[1:]}
        for name in ("grad_norm", "update_ratio")
    )
    last = layers[-1]
    thrown = [layer for layer in layers[1 : len(layers) // 2 + 1] if moved[layer] >= 1 and first[layer] > 0]
    early = max(thrown, key=lambda layer: first[layer], default=last)
    if not first[last] > 0 or first[early] < depth * first[last]:
        return None
    loss_now = median(losses.values[-len(losses) // 4 :])
    return Finding(
        severity=Severity.WARNING,
        summary=f"at first the gradient of {early} was {first[early] / first[last]:.0f} times that of {last}, and a "
        f"step was {moved[early]:.2g} times as large as its weights: the loss has come to {loss_now:.3g} only",
        evidence={
            "early_layer": early,
            "early_norm": first[early],
            "last_layer": last,
            "last_norm": first[last],
            "ratio": first[early] / first[last],
            "update_ratio": moved[early],
            "loss_now": loss_now,
        },
        remedy="lead shortcuts around every few layers (x + f(x)), or take fewer; initialise so that every layer "
        "keeps the size of its input; or raise lr from near zero over the first steps",
        confidence=Confidence.SUSPECTED,
        onset=losses.steps[0],
        signals=(f"grad_norm/{early}", f"grad_norm/{last}", f"update_ratio/{early}"),
    )


def _layers(history: History) -> list[str]:
    """Returns the layers with a measured gradient, input first."""
    measured = {name.removeprefix("grad_norm/"): None for name in history.names("grad_norm/")}
    known = history.fact("model.layer_names")
    ordered = [str(name) for name in known if str(name) in measured] if isinstance(known, list) else []
    return ordered or list(measured)


def _level(history: History, layer: str) -> float:
    values = history[f"grad_norm/{layer}"].finite().values
    return median(values[len(values) // 2 :]) if values else 0.0


def _slower(history: History, calm: float | None) -> str:
    if is_clipped(history):
        return lower_rate(history) + ": the clipping that is on did not hold it"
    if calm is None:
        return f"{lower_rate(history)}, or clip gradients (`Trainer(gradient_clip_val=1.0)`)"
    return (
        f"clip gradients at the norm of the calm part (`Trainer(gradient_clip_val={calm:.2g})`), "
        f"or {lower_rate(history)}"
    )
