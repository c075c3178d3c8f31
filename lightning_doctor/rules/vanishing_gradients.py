"""LD201: gradients fade towards the input, early layers cannot change the loss, and nothing is learned."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.jsonable import number
from lightning_doctor.layers import entries, gradient_ratios, late_level, listed, measured, of_kind
from lightning_doctor.loss_levels import lowest_part
from lightning_doctor.noise import shift, stretch
from lightning_doctor.progress import is_like_now, standing
from lightning_doctor.rule import rule
from lightning_doctor.scores import constants, ever_learned, scores

# Fewer layers with weights have no depth to fade over.
_LAYERS = 4

# The share of a constant's loss, or of its errors, under which nothing is learned.
_CHANCE = 0.05
# The share of a layer's units that are dead where a gradient of exactly nothing is their doing.
_MOSTLY = 0.5
# How surely the loss must have been lower once [standard errors].
_SURE = 5.0


@rule(
    "LD201",
    needs={"train_loss": 12, "skill": 1, "grad_norm/*": 4, "update_ratio/*": 4, "weight_norm/*": 4},
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "learning_rate_too_low",
        "collapsed_output",
        # The weightier of two that explain each other is the root: biases alone leave units that never change.
        "dead_units",
        "underflowing_gradients",
        "frozen_parameters",
        "uneven_step_sizes",
        "flat_region",
        "poor_minimum",
        "stale_validation",
        "saddle_point",
    ),
)
def vanishing_gradients(
    history: History, *, decay: float = 100.0, reach: float = 1e-3, moved: float = 0.02, rewritten: float = 0.5
) -> Finding | None:
    """Gradients fade towards the input, early layers cannot change the loss, and nothing is learned.

    What it looks at:
        ``grad_norm/<layer>`` and ``update_ratio/<layer>``, the length of a step over that of the weights, of the
        layers with weights, in forward order; what is learned. Gradient times step times steps is the most by which
        a layer can change the loss in this run, if all steps lead straight down and the gradient stays what it is.
        Of a recurrent layer how far other values in the first and in the last time steps move the predictions (the
        fact ``recurrence``).

    Why it matters:
        The late layers work on features that stay random, and that many layers have washed out.

    Sick:
        Gradient norms 1e-5, 1e-4, 2e-3, 4e-2, 0.6 from input to output, with 1e-7 of the first layer's weights
        changed a step, and the loss at the score of a constant prediction

    Healthy:
        Gradient norms 5e-3, 2e-2, 0.1, 0.5 with 1e-4 of the first layer's weights changed a step: it takes its time

    Remedy:
        ReLU or a kin of it instead of sigmoid and tanh, normalisation between the layers, residual connections, an
        initialization that keeps the size of what passes.

    Thresholds:
        decay: By what factor the gradient must fade from the last layer to the early ones [ratio].
        reach: Share of the loss that early layers must be unable to change in the whole run; share of the effect of the
            last time steps that the first ones must not reach [share].
        moved: Share of their weights that early layers must be unable to move by; where they do move, as under Adam,
            half of the run is waited for [share].
        rewritten: The same of the last layer, over which it is free to learn [share].

    Blind spots:
        Fewer than four layers with weights are not judged, or three of which the middle one is recurrent, and is as
        deep as its inputs are long. What a recurrent layer forgets of the first time steps is seen where it reads whole
        tensors, not packed sequences. A plateau that is left after half of the run looks the same until then.
    """
    return _through_layers(history, decay, reach, moved, rewritten) or _through_time(history, reach)


def _through_layers(history: History, decay: float, reach: float, moved: float, rewritten: float) -> Finding | None:
    """Gradients that fade from the last layer to the early ones."""
    how = standing(history)
    layers = _layers(history)
    if not (len(layers) >= _LAYERS or _recurs(history, layers)) or not how.harmed:
        return None
    planned = history.fact("trainer.planned_steps")
    steps = max(planned if isinstance(planned, int) else 0, history.last_step + 1)
    norms, ratios, weights = (
        {layer: late_level(history, f"{signal}/{layer}") or 0.0 for layer in layers}
        for signal in ("grad_norm", "update_ratio", "weight_norm")
    )
    paths = {layer: ratios[layer] * steps for layer in layers}
    reaches = {layer: norms[layer] * paths[layer] * weights[layer] for layer in layers}
    early, last = layers[: len(layers) // 2], layers[-1]
    norm, path, within = (median(table[layer] for layer in early) for table in (norms, paths, reaches))
    losses = history["train_loss"]
    loss = abs(median(stretch(losses, 0.8) or losses.values[-1:]))
    if not norm and _is_cut_off(history):
        return None
    # Beside layers that do not move at all even one that moves little is free to.
    free = paths[last] >= (rewritten if path else moved)
    if norms[last] < decay * norm or not free or not within <= reach * loss:
        return None
    if path > moved and not (how.ended or (how.share or 0.0) >= 0.5):
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the gradient fades from {norms[last]:.2g} in {last} to {norms[early[0]]:.2g} in {early[0]}: all "
        f"steps of the run could change the loss, {loss:.3g}, by {within:.1g} through {listed(early)}, "
        f"and by {reaches[last]:.2g} through {last}",
        evidence={
            "last_layer": last,
            "last_norm": norms[last],
            "first_layer": early[0],
            "first_norm": norms[early[0]],
            "limit": norms[last] / decay,
            "early_layers": listed(early),
            "early_reach": within,
            "last_reach": reaches[last],
            "early_path": path,
            "last_path": paths[last],
            "loss": loss,
            "steps": steps,
            **({} if how.reached is None else {"learned": how.reached}),
        },
        remedy=_remedy(history, layers),
        onset=_since(losses, _faded_since(history, early[0], last, decay)),
        signals=(f"grad_norm/{early[0]}", f"grad_norm/{last}", f"update_ratio/{early[0]}", "train_loss"),
    )


def _through_time(history: History, reach: float) -> Finding | None:
    """A recurrent layer whose last time steps drown the first ones, in a run that learned nothing at all.

    Most do at first; one that needs what comes first learns to hear it, or learns nothing.
    """
    how, step = standing(history), history.fact("recurrence.step")
    early, late = (number(history.fact(f"recurrence.{part}"), math.nan) for part in ("early", "late"))
    if not early < reach * late or not how.harmed or not _is_at_chance(history):
        return None
    if not isinstance(step, int) or not is_like_now(history, step):
        return None
    layer, steps = history.fact("recurrence.layer"), history.fact("recurrence.time_steps")
    return Finding(
        severity=Severity.WARNING,
        summary=f"{layer} forgets: other values in the first quarter of its {steps} time steps move the predictions by "
        f"{early:.1g} of their spread, in the last quarter by {late:.1g}, and nothing is learned",
        evidence={"layer": str(layer), "early": early, "late": late, "limit": reach * late},
        remedy="shorten the sequences, read the mean or all of the outputs rather than the last (attention), take LSTM "
        "or GRU in place of a plain RNN, start the forget gate's bias at 1 or above; unless those steps do not matter",
        confidence=Confidence.SUSPECTED,
        onset=history["train_loss"].steps[0],
        signals=("train_loss",),
    )


def _is_at_chance(history: History) -> bool:
    """Whether no row was ever predicted better than by a constant, of those that were not trained on if there are."""
    baselines, validation = constants(history), scores(history, "validation")
    if validation is not None and baselines and baselines[-1] > 0:
        return not ever_learned(validation, baselines[-1], _CHANCE)
    most = standing(history).most
    return most is not None and most < _CHANCE


def _since(losses: Series, first: int) -> int:
    """Returns the step since which nothing is learned: of a loss that was far lower once, where it was lowest."""
    lowest, ends = lowest_part(losses)
    late = stretch(losses, 0.8) or losses.values[-1:]
    return ends if shift(lowest, late).sigmas > _SURE else first


def _faded_since(history: History, first: str, last: str, decay: float) -> int:
    """Returns the step since which the gradient of the first layer is that much smaller than that of the last one."""
    ratios = gradient_ratios(history, first, last)
    there = [index for index, (_, ratio) in enumerate(ratios) if decay * ratio > 1]
    faded = ratios[there[-1] + 1 :] if there else ratios
    return faded[0][0] if faded else history[f"grad_norm/{last}"].steps[0]


def _layers(history: History) -> list[str]:
    """Returns the layers with weights that mix: a normalisation's few move at a pace of their own."""
    stepped = set(measured(history, "update_ratio")) & set(measured(history, "weight_norm"))
    norm = {entry.get("layer") for entry in of_kind(history, "norm")}
    return [layer for layer in measured(history, "grad_norm") if layer in stepped and layer not in norm]


def _is_cut_off(history: History) -> bool:
    """Whether most units of a layer are dead: where no gradient at all passes it the others are dead since."""
    return any(history[name].values[-1] >= _MOSTLY for name in history.names("dead_share/"))


def _recurs(history: History, layers: list[str]) -> bool:
    """Whether there is a recurrent layer between the first layer and the last."""
    recurrent = {str(entry.get("layer")) for entry in of_kind(history, "recurrent")}
    return not recurrent.isdisjoint(layers[1:-1])


def _remedy(history: History, layers: list[str]) -> str:
    if len(layers) < _LAYERS:
        return (
            f"have {layers[-1]} read the recurrent layer where each sequence ends, not behind its padding, or the mean "
            "over its steps; shorten the sequences, or use attention"
        )
    kinds = {str(entry.get("class")) for entry in of_kind(history, "sigmoid", "tanh")}
    normalised = bool(of_kind(history, "norm"))
    sizes = [late_level(history, f"activation_std/{layer}") for layer in layers[:-1]]
    shrinks = bool(sizes) and sizes[-1] is not None and sizes[0] is not None and sizes[-1] < 0.01 * sizes[0]
    parts = []
    if shrinks:
        parts.append("initialise so that every layer keeps the size of its input (Xavier, for ReLU He)")
    elif kinds:
        parts.append(f"replace {' and '.join(sorted(kinds))} between the layers by ReLU")
    if not normalised and entries(history):
        parts.append("put a normalisation layer (LayerNorm, BatchNorm) after each")
    parts.append(f"or add residual connections over the {len(layers)} layers")
    return ", ".join(parts)
