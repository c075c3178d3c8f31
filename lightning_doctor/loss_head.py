"""The fact ``loss_head`` as rules read it: which loss, of what activation, against which targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.layers import of_kind

SQUARED = ("mse", "l1", "smooth_l1", "huber")
# What an activation can put out.
REACH = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, math.inf)}


class _Output:
    """What the last activation of a prediction, times a number, can put out."""

    activation: str
    scale: float

    @property
    def reach(self) -> tuple[float, float] | None:
        """The smallest and the largest number that the activation can put out; None where it has no known end."""
        ends = REACH.get(self.activation)
        return None if ends is None else (self.scale * ends[0], self.scale * ends[1])


@dataclass(frozen=True)
class LossHead(_Output):
    """What stands between the network and its loss.

    Attributes:
        loss: ``"cross_entropy"``, ``"mse"`` …; empty where unknown.
        by_hand: Whether the loss is composed of elementary operations.
        activation: The last one before the loss; empty for none.
        scale: What it is multiplied by.
        reduction: ``"mean"``, ``"sum"`` or ``"unknown"``.
        targets: ``"class_index"``, ``"one_hot"``, ``"binary"``, ``"probabilities"`` or ``"real"``.
        shape: Of the output.
        target_shape: Of the targets; empty where there are none.
        classes: How many the head tells apart; None where it tells none.
        terms: How many terms the loss has.
        regularisers: How many of them ask something of what layers put out, whatever the data.
        weighted: Whether classes are weighted.
        class_weights: What they weigh, of two classes under a likelihood by hand; empty where unknown.
        broadcast: Whether outputs less targets are more than the outputs.
        outputs: The smallest and the largest output seen; NaN where unknown.
        target_range: The smallest and the largest target seen; NaN where unknown.
        target_mean: NaN where unknown.
        target_std: NaN where unknown.
    """

    loss: str
    by_hand: bool
    activation: str
    scale: float
    reduction: str
    targets: str
    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    classes: int | None
    terms: int
    regularisers: int
    weighted: bool
    class_weights: tuple[float, ...]
    broadcast: bool
    outputs: tuple[float, float]
    target_range: tuple[float, float]
    target_mean: float
    target_std: float

    @property
    def columns(self) -> int:
        """How many numbers the network puts out for a sample or position."""
        if len(self.shape) < 2:
            return 1
        # Classes of pictures and sequences lie along the second axis.
        return self.shape[1] if self.loss in ("cross_entropy", "nll") or len(self.shape) > 3 else self.shape[-1]


def loss_head(history: History) -> LossHead:
    """Reads the fact; what is missing in it is empty, or NaN for a number."""
    table = history.fact("loss_head", {})
    classes = table.get("classes")
    return LossHead(
        loss=str(table.get("loss") or ""),
        by_hand=bool(table.get("written_by_hand")),
        activation=str(table.get("activation") or ""),
        scale=number(table.get("scale"), 1.0),
        reduction=str(table.get("reduction") or "unknown"),
        targets=str(table.get("targets") or ""),
        shape=sizes(table.get("output_shape")),
        target_shape=sizes(table.get("target_shape")),
        classes=classes if isinstance(classes, int) and classes > 0 else None,
        terms=int(number(table.get("terms"), 1.0)),
        regularisers=int(number(table.get("regularisers"), 0.0)),
        weighted=bool(table.get("weighted")),
        class_weights=tuple(number(weight) for weight in table.get("class_weights") or ()),
        broadcast=bool(table.get("broadcast")),
        outputs=(number(table.get("output_min")), number(table.get("output_max"))),
        target_range=(number(table.get("target_min")), number(table.get("target_max"))),
        target_mean=number(table.get("target_mean")),
        target_std=number(table.get("target_std")),
    )


@dataclass(frozen=True)
class LossTerm(_Output):
    """One of the terms of a loss, each of which compares predictions with targets.

    Attributes:
        loss: ``"cross_entropy"``, ``"mse"`` …
        activation: The last one before the loss; empty for none.
        scale: What it is multiplied by.
        output_min: The smallest prediction seen.
        output_max: The largest.
        first_share: What share of the loss it was at first.
        share: What share it has been of late.
        first_output: The root mean square of its first predictions.
        target_mean: Of its targets, which may be indices of classes.
        target_std: Likewise.
        target_min: Likewise.
        target_max: Likewise.
        learned: What share of the best constant prediction's score it has been under of late.
        learned_error: The standard error of that.
        looks: How many looks tell that.
        to_zero: Whether the best prediction of all costs nothing, which that of labels that are smoothed does.
    """

    loss: str
    activation: str
    scale: float
    output_min: float
    output_max: float
    first_share: float
    share: float
    first_output: float
    target_mean: float
    target_std: float
    target_min: float
    target_max: float
    learned: float
    learned_error: float
    looks: int
    to_zero: bool

    @property
    def outputs(self) -> tuple[float, float]:
        """The smallest and the largest prediction seen."""
        return self.output_min, self.output_max

    @property
    def target_range(self) -> tuple[float, float]:
        """The smallest and the largest target seen."""
        return self.target_min, self.target_max


def loss_terms(history: History) -> list[LossTerm]:
    """Reads the fact; what is missing in it is NaN."""
    listed = history.fact("loss_terms.terms", [])
    others = ("loss", "activation", "scale", "looks", "to_zero")
    numbers = [field.name for field in fields(LossTerm) if field.name not in others]
    return [
        LossTerm(
            loss=str(table.get("loss") or ""),
            activation=str(table.get("activation") or ""),
            scale=number(table.get("scale"), 1.0),
            **{name: number(table.get(name)) for name in numbers},
            looks=int(number(table.get("looks"), 0.0)),
            to_zero=table.get("to_zero") is True,
        )
        for table in (listed if isinstance(listed, list) else [])
        if isinstance(table, dict)
    ]


def last_layer(history: History, kind: str) -> str:
    """Returns the name of the last activation of this kind, the kind itself where its layer is not known."""
    found = of_kind(history, kind)
    return f"{found[-1].get('class', kind)} `{found[-1].get('layer', '')}`" if found else kind


def sizes(value: Any) -> tuple[int, ...]:
    """Reads a shape off a fact; empty for what is none."""
    return tuple(int(size) for size in value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
