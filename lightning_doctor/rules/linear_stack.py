"""LD306: linear layers follow one another with nothing non-linear between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import listed, of_kind
from lightning_doctor.loss_head import loss_head
from lightning_doctor.progress import standing
from lightning_doctor.reference import is_outdated, outdone_by, read_reference
from lightning_doctor.rule import rule


@rule(
    "LD306",
    needs={"train_loss/*": 1},
    reads=("activations",),
    non_finite=True,
    explains=(
        "model_bias",
        "stuck_at_baseline",
        "loss_plateau",
        "undertrained",
        "learning_rate_too_low",
        "noise_floor",
        "collapsed_output",
        "stale_validation",
        "worse_than_reference",
        "poor_minimum",
        "saddle_point",
        "flat_region",
        "uninformative_labels",
    ),
)
def linear_stack(history: History) -> Finding | None:
    """Linear layers follow one another with nothing non-linear between.

    What it looks at:
        The fact ``activations``: which linear or convolutional layer is given another's output, at most through
        dropout, batch normalisation, averages or a change of shape; and how well the run does.

    Why it matters:
        Linear layers in a row are one linear layer: they cost time, and express nothing that one does not.

    Sick:
        2-8-1 without an activation on XOR: no linear model tells the classes apart

    Healthy:
        64-8-64, where the narrow middle keeps the rank low on purpose; a linear autoencoder, 64-16-4-16-64; a network
        that learns well

    Remedy:
        An activation between them.

    Thresholds:
        None.

    Blind spots:
        Only a network that is linear as a whole is warned of: with other activations the rest can make up for it.
        Whether a linear model is enough for the data is known only where the network was compared with one, which is
        at its end; before, only that this one does badly.
    """
    layers = of_kind(history, "linear")
    named = {layer.get("layer"): layer for layer in layers}
    pairs = [(named[layer["fed_by"]], layer) for layer in layers if layer.get("fed_by") in named]
    # A linear autoencoder may be meant, of as many layers as you like, but none of them wider than what it takes.
    ends = int(layers[0].get("features") or 0) if _is_autoencoder(history, layers) else 0
    idle = [
        (before, after) for before, after in pairs if not (_narrows(before, after) or int(before["units"] or 0) <= ends)
    ]
    if not idle:
        return None
    whole = len(pairs) == len(layers) - 1 and layers[0].get("fed_by") == ""
    names = list(dict.fromkeys(str(layer["layer"]) for pair in idle for layer in pair))
    state = standing(history)
    evidence: dict[str, float | int | str] = {
        "layers": ", ".join(names[:8]),
        "linear_layers": len(layers),
        "one_linear_model": str(whole),
    }
    if state.reached is not None:
        evidence["reached"] = state.reached
    # One that was thrown far out, or still falls, has another illness as well.
    settled = not state.improving and state.most is not None and state.most > -0.1
    # Where one does better it is not for want of anything else that this one does badly.
    lacks_more = whole and not _linear_does_better(history)
    what = "the whole network is one linear model" if whole else "they are one linear layer"
    return Finding(
        severity=state.if_harmed(Severity.WARNING) if lacks_more else Severity.NOTE,
        summary=f"nothing non-linear between {listed(names)}: {what}",
        evidence=evidence,
        remedy=f"put an activation (`nn.ReLU()`) after {listed([str(before['layer']) for before, _ in idle])}",
        confidence=Confidence.CONFIRMED if settled or not whole else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )


def _linear_does_better(history: History) -> bool:
    compared = read_reference(history)
    best = outdone_by(history, compared)
    return compared is not None and best is not None and best.name == "linear" and not is_outdated(history, compared)


def _is_autoencoder(history: History, layers: Sequence[Mapping[str, Any]]) -> bool:
    classifies = loss_head(history).targets in ("class_index", "one_hot")
    return bool(layers) and not classifies and layers[0].get("features") == layers[-1].get("units")


def _narrows(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the first layer is narrower than what surrounds it: two of them are a matrix of low rank."""
    middle, inputs, outputs = (int(size or 0) for size in (before["units"], before["features"], after["units"]))
    return middle < min(inputs, outputs)
