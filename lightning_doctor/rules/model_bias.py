"""LD503: the model cannot express the task."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.error_bars import CONFIDENCE
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import noise, stretch
from lightning_doctor.progress import GOOD, LITTLE, standing
from lightning_doctor.reference import Reference, Rival, has_hidden_layer, read_reference
from lightning_doctor.rule import rule
from lightning_doctor.scores import scores


@rule(
    "LD503",
    needs={"train_loss": 64},
    reads=("reference",),
    explains=("stuck_at_baseline", "collapsed_output", "loss_plateau", "poor_minimum"),
    after=("LD1", "LD2", "LD3"),
)
def model_bias(
    history: History, *, sigmas: float = 4.0, alike: float = 0.1, share: float = 0.15, sure: float = 0.5
) -> Finding | None:
    """The model cannot express the task.

    What it looks at:
        The training loss once it rests, and what a linear model and a network of one hidden layer score on half of
        some training rows after they were fitted to the other half.

    Why it matters:
        Such a loss is the best that this model has: no rate and no longer training changes that.

    Sick:
        1.72 for the network, 1.71 for a linear model, 2.02 for a constant and 0.04 for one hidden layer

    Healthy:
        0.11 for the network and 1.72 for a linear model; or a loss that still falls

    Remedy:
        A hidden layer, a wider or deeper network, better features.

    Thresholds:
        sigmas: How surely the network of one hidden layer must do better than the model [standard errors].
        alike: How near to the linear model the network may be to count as no better [share of its gain].
        share: How much of the constant's loss one hidden layer must take off what the model scores [share].
        sure: How much of that it must take off for the cause to be confirmed [share].

    Blind spots:
        It is seen where a small network shows that more can be expressed; what no small network can do either looks
        like noise in the targets. A model with a hidden layer is left to optimization, unless it has no quarter of
        that network's weights.
    """
    compared, now = read_reference(history), standing(history)
    if compared is None or not now.rests or now.improving or _does_well(history, now.most):
        return None
    if _is_worse_than_nothing(history, compared.constant, sigmas, alike):
        return None
    shallow, linear = compared.rivals.get("shallow"), compared.rivals.get("linear")
    # Of words it may be their order that the model lacks.
    if shallow is None or linear is None or compared.kinds:
        return None
    few = compared.outweighs(history.fact("model.parameters"))
    if has_hidden_layer(history) is not False and not few:
        return None
    # It is as good as what it is: were it worse than any linear model, its training would be to blame.
    if linear.gap > max(sigmas * linear.error, alike * (compared.constant - linear.loss)):
        return None
    taken = shallow.gap / compared.constant if compared.constant > 0 else 0.0
    if not shallow.wins(sigmas) or taken < share:
        return None
    return _finding(history, compared, shallow, linear, confirmed=taken > sure)


def _finding(history: History, compared: Reference, shallow: Rival, linear: Rival, *, confirmed: bool) -> Finding:
    parameters = history.fact("model.parameters")
    bends = has_hidden_layer(history) is not False
    lacks = (
        f"it has {parameters} weights, where that has {compared.shallow_parameters}" if bends else "it lacks what bends"
    )
    return Finding(
        severity=Severity.WARNING,
        summary=f"the model scores {compared.network:.3g} on rows it was trained on, a linear one {linear.loss:.3g}, "
        f"and one hidden layer of {compared.hidden} units {shallow.loss:.3g}, fitted to other rows, a difference known "
        f"to ± {shallow.bar:.2g} ({CONFIDENCE:.0%}): {lacks}",
        evidence={
            "network": compared.network,
            "linear": linear.loss,
            "shallow": shallow.loss,
            "constant": compared.constant,
            "error": shallow.error,
            "bar": shallow.bar,
            "rows": compared.rows,
            "hidden": compared.hidden,
            **({"shallow_parameters": compared.shallow_parameters} if bends else {}),
            **({"parameters": parameters} if isinstance(parameters, int) else {}),
        },
        remedy=f"widen its hidden layers to {max(compared.hidden, 16)} units or more"
        if bends
        else f"add a hidden layer with an activation, of {max(compared.hidden, 16)} units to begin with, or features "
        "that bend (squares, products)",
        # What bends may be badly trained as well.
        confidence=Confidence.CONFIRMED if confirmed and not bends else Confidence.SUSPECTED,
        onset=history["train_loss"].steps[0],
        signals=("train_loss", "baseline_loss"),
    )


def _is_worse_than_nothing(history: History, constant: float, sigmas: float, alike: float) -> bool:
    """Whether the loss rests over what a constant prediction costs, which hardly a model cannot express."""
    losses = history["train_loss"].finite()
    late = stretch(losses, 0.8) or losses.values
    over = median(late) - constant
    return over > max(sigmas * 1.25 * noise(late) / math.sqrt(len(late)), alike * constant)


def _does_well(history: History, most: float | None) -> bool:
    train = scores(history, "train")
    known = [*(train.skills[-1:] if train is not None else []), *([] if most is None else [most])]
    return max(known, default=LITTLE) >= GOOD
