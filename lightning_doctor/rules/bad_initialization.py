"""LD208: the first weights enlarge or drown what passes through them, or make all units of a layer alike."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.layers import measured, of_kind
from lightning_doctor.loss_head import loss_head
from lightning_doctor.prescriptions import is_adaptive, peak_rate
from lightning_doctor.progress import Standing, standing
from lightning_doctor.rule import rule
from lightning_doctor.validation import costs_held_out

# Layers over which what passes must drown.
_DEPTH = 3
# Looks at weights and gradients that must all have found nothing.
_LOOKS = 3
# Share of the planned run before which they may wait for their turn.
_LATE = 0.25
# Limits of the learning rate that tell of the first weights.
_FIRST_LIMITS = 3


@rule(
    "LD208",
    needs={"train_loss": 2, "activation_std/*": 1},
    explains=(
        "exploding_gradients",
        "vanishing_gradients",
        "non_finite_loss",
        "non_finite_gradients",
        "diverging_loss",
        "learning_rate_too_low",
        "missing_warmup",
        "dead_units",
        "saturated_units",
        "collapsed_output",
        "frozen_parameters",
        "always_clipped",
        "loss_spike",
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "overfitting",
        "stale_validation",
        "flat_region",
        "poor_minimum",
        "saddle_point",
    ),
    non_finite=True,
)
def bad_initialization(
    history: History, *, loud: float = 10.0, enlarged: float = 10.0, drowned: float = 1000.0, alike: float = 0.9
) -> Finding | None:
    """The first weights enlarge or drown what passes through them, or make all units of a layer alike.

    What it looks at:
        The first ``train_loss`` beside ``baseline_loss``, that of the best constant prediction; the scale of each
        layer's first output, without linear layers of the model's (``output_level``), and of inputs and targets;
        ``equal_share/<layer>`` and ``weight_norm/<layer>``; ``weight_norm`` and ``grad_norm``, where both are zero;
        what is learned.

    Why it matters:
        A network that is loudly wrong spends the run on unlearning its first weights. In one that drowns its input
        no gradient says where to go. Units that are alike get the same gradient, and stay one unit for ever.

    Sick:
        A first loss of 9500 where guessing costs 2.3; standard deviations 1, 4, 60, 950, 14000 from layer to layer;
        weights that are all 0.1; an adapter both of whose factors begin at zero

    Healthy:
        A first loss of 2.4 where guessing costs 2.3; a last layer of zeros; a first loss of 1e6 for targets that
        are in the thousands themselves

    Remedy:
        The usual initialization for this activation, per layer; zeros in the last layer.

    Thresholds:
        loud: How many times the loss of the best constant prediction the first loss must be [ratio].
        enlarged: How many times the largest input the first outputs of layers must be, and under a squared error
            how many times the targets: else inputs or targets are what is large [ratio].
        drowned: By what factor what passes must shrink from the first layer to the one before the last [ratio].
        alike: Share of a hidden layer's units that must put out what the unit beside them does, beyond the first
            steps [share].

    Blind spots:
        A baseline must be known for a loud start. Integer inputs are taken to enter by an embedding.
    """
    how = standing(history)
    return (
        _nothing(history, how)
        or _alike(history, how, alike)
        or _loud(history, how, loud, enlarged)
        or _drowned(history, how, drowned)
    )


def _nothing(history: History, how: Standing) -> Finding | None:
    """All that is trained is zero, and has a gradient of zero: as of a product both of whose factors are."""
    norms, gradients = history.get("weight_norm").values, history.get("grad_norm").values
    # One tensor alone may be there for the optimizer's sake.
    several = number(history.fact("parameters.trained"), 0.0) > 1
    if not several or len(norms) < _LOOKS or len(gradients) < _LOOKS or any(norms) or any(gradients):
        return None
    # What waits for its turn has a gradient of zero until then.
    late = how.ended or how.share is None or how.share >= _LATE
    return Finding(
        severity=how.unless_good(Severity.ERROR if how.harmed else Severity.WARNING) if late else Severity.NOTE,
        summary=f"all weights that are trained are zero, and stay so: in {len(gradients)} gradients there was nothing "
        "but zeros",
        evidence={"weight_norm": 0.0, "looks": len(norms), "gradients": len(gradients)},
        remedy=f"initialise one factor of each product of weights at random (`{_init(history)}`): the first one of a "
        "low-rank adapter, with zeros in the second",
        onset=0,
        signals=("weight_norm", "grad_norm", "train_loss"),
    )


def _alike(history: History, how: Standing, alike: float) -> Finding | None:
    """Hidden layers whose units have not told themselves apart after some steps."""
    for entry in _hidden(history):
        layer = str(entry["layer"])
        equal, norms = history.get(f"equal_share/{layer}").values, history.get(f"weight_norm/{layer}").values
        # Only those that leave with equal weights too stay equal: the first probe may have been before any step.
        is_alike = len(equal) >= 2 and min(equal) >= alike
        zero = len(norms) >= 2 and not any(norms)
        if not (is_alike or zero) or entry.get("units", 0) < 2:
            continue
        units = int(entry["units"])
        return Finding(
            severity=how.unless_good(Severity.ERROR),
            summary=f"all weights of {layer} are zero, and stay so: no gradient gets through"
            if zero
            else f"all {units} units of {layer} put out the same and learn the same: they are one unit",
            evidence={
                "layer": layer,
                "units": units,
                "looks": len(norms) if zero else len(equal),
                "limit": 0.0 if zero else alike,
            },
            remedy=f"initialise {layer} at random (`{_init(history)}(layer.weight)`): only biases, and the weights of "
            "the last layer, may begin alike",
            onset=0,
            signals=(f"weight_norm/{layer}" if zero else f"equal_share/{layer}", "train_loss"),
        )
    return None


def _loud(history: History, how: Standing, loud: float, enlarged: float) -> Finding | None:
    """A first loss far over that of guessing, or later harm, and weights that enlarge what passes."""
    layers = [entry for entry in of_kind(history, "linear", "recurrent", "other") if entry.get("layer")]
    while layers and layers[-1]["kind"] != "linear":
        layers.pop()
    names = [str(entry["layer"]) for entry in layers]
    sizes = {name: size for name in names if (size := _size(history, name)) is not None}
    inputs = _input_size(history, names)
    if not inputs or not sizes:
        return None if layers else _loud_outputs(history, how, loud, enlarged)
    out, hidden = sizes.get(names[-1], 0.0), max((sizes.get(name, 0.0) for name in names[:-1]), default=0.0)
    baselines, start = history.get("baseline_loss").finite().values, history["train_loss"].values[0]
    is_loud = bool(baselines) and start >= loud * baselines[0] > 0 and out >= enlarged * max(inputs, _targets(history))
    is_deep = hidden >= enlarged * inputs and not of_kind(history, "norm")
    if not is_loud and not (is_deep and how.harmed):
        return None
    # However often it is right: what the start left behind still costs more than a constant prediction.
    spoiled = _costs_more(how, history)
    # A last layer alone unlearns its weights soon.
    lasting = is_deep or how.ended or (how.share or 0.0) >= 0.5
    # Inputs far under one are themselves to blame for what biases make of them.
    if is_deep and spoiled and how.harmed and _rate_would_do(history, hidden / max(inputs, 1.0)):
        severity = Severity.ERROR
    elif how.harmed or (spoiled and lasting):
        severity = Severity.WARNING
    else:
        severity = how.unless_good(Severity.WARNING) if is_deep else Severity.NOTE
    evidence: dict[str, float | int | str] = {"first_loss": start, "input_size": inputs, "output_size": out}
    if baselines:
        evidence["baseline_loss"] = baselines[0]
    if how.learned is not None:
        evidence["learned"] = how.learned
    cost = f"the first loss is {start:.4g} where a constant prediction costs {baselines[0]:.3g}: " if is_loud else ""
    return Finding(
        severity=severity,
        summary=f"{cost}the first weights enlarge inputs of at most {inputs:.3g} to {_row(list(sizes.values()))} from "
        "layer to layer",
        evidence=evidence,
        remedy=f"initialise each layer to keep the size of its input (`{_init(history)}`), and begin with zeros in "
        f"{names[-1]}",
        confidence=Confidence.CONFIRMED if is_loud else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "baseline_loss", f"activation_std/{names[-1]}"),
    )


def _loud_outputs(history: History, how: Standing, loud: float, enlarged: float) -> Finding | None:
    """The same of a network without a linear layer, such as products of embeddings: its first outputs tell."""
    outputs, baselines = history.get("output_level").finite().values, history.get("baseline_loss").finite().values
    start, targets = history["train_loss"].values[0], _targets(history)
    if not outputs or not baselines or not start >= loud * baselines[0] > 0 or not targets > 0:
        return None
    spreads, deviation = history.get("output_spread").finite().values, loss_head(history).target_std
    # Scattered far more widely than the targets, or far larger.
    scattered = bool(spreads) and deviation > 0 and spreads[0] >= math.sqrt(enlarged) * deviation
    if not (scattered or outputs[0] >= math.sqrt(enlarged) * targets) or not (how.harmed or _costs_more(how, history)):
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the first loss is {start:.4g} where a constant prediction costs {baselines[0]:.3g}: the first "
        + (
            f"outputs scatter by {spreads[0]:.3g} where targets do by {deviation:.3g}"
            if scattered
            else f"weights put out {outputs[0]:.3g} where targets are of size {targets:.3g}"
        ),
        evidence={
            "first_loss": start,
            "baseline_loss": baselines[0],
            "first_output": outputs[0],
            "target_size": targets,
            **({"first_scatter": spreads[0], "target_std": deviation} if scattered else {}),
        },
        remedy="begin with smaller weights, such as embeddings of standard deviation 0.1 or less",
        onset=0,
        signals=("train_loss", "baseline_loss", "output_level"),
    )


def _rate_would_do(history: History, enlarged: float) -> bool:
    """Whether the learning rate is too high for these weights only: not for some that do not enlarge what passes.

    The curvature along the weights of a layer goes with the square of what it gets: 2 over it is what a rate of SGD may
    be. Adam's steps do not go with their gradient, and change what is put out in proportion to it.
    """
    rate, limits, adaptive = peak_rate(history), history.get("scan_limit").finite().values, is_adaptive(history)
    if rate is None or not limits or adaptive is None:
        return False
    # At first: the weights are others later.
    limit = median(limits[:_FIRST_LIMITS])
    return limit < rate <= limit * enlarged * (1.0 if adaptive else enlarged)


def _costs_more(how: Standing, history: History) -> bool:
    """Whether training or validation still cost more than a constant prediction."""
    return (how.learned is not None and how.learned < 0) or costs_held_out(history)


def _input_size(history: History, layers: list[str]) -> float | None:
    """Returns the largest input; of integers, which an embedding turns into something else, the first layer's size."""
    inputs = history.fact("inputs.abs_max")
    if isinstance(inputs, (int, float)) and history.fact("inputs.integers") is not True:
        return float(inputs)
    return _size(history, layers[0]) if layers else None


def _targets(history: History) -> float:
    """Returns the root mean square of real targets; 0 for classes."""
    head = loss_head(history)
    size = math.hypot(head.target_mean, head.target_std) if head.targets == "real" else 0.0
    return 0.0 if math.isnan(size) else size


def _drowned(history: History, how: Standing, drowned: float) -> Finding | None:
    layers = [str(entry["layer"]) for entry in _hidden(history)]
    sizes = [history[name].values[0] for layer in layers if (name := f"activation_std/{layer}") in history]
    if len(sizes) < _DEPTH or not how.harmed or not sizes[0] >= drowned * sizes[-1] > 0:
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the first weights drown the input: its standard deviation shrinks from {sizes[0]:.2g} in {layers[0]} "
        f"to {sizes[-1]:.2g} in {layers[-1]} ({_row(sizes)})",
        evidence={"first": sizes[0], "last": sizes[-1], "ratio": sizes[0] / sizes[-1], "layers": len(sizes)},
        remedy=f"initialise each layer to keep the size of its input (`{_init(history)}`), or put a normalisation "
        "layer between them",
        onset=0,
        signals=(f"activation_std/{layers[0]}", f"activation_std/{layers[-1]}", "train_loss"),
    )


def _hidden(history: History) -> list[dict[str, Any]]:
    """Returns the linear layers but the last, of which the loss is made."""
    stepped = set(measured(history, "activation_std"))
    return [entry for entry in of_kind(history, "linear")[:-1] if str(entry.get("layer")) in stepped]


def _size(history: History, layer: str) -> float | None:
    """Returns the root mean square of a layer's first output; None where it was not measured."""
    means, stds = history.get(f"activation_mean/{layer}").values, history.get(f"activation_std/{layer}").values
    return math.hypot(means[0], stds[0]) if means and stds else None


def _init(history: History) -> str:
    smooth = of_kind(history, "sigmoid", "tanh") and not of_kind(history, "relu")
    return "nn.init.xavier_normal_" if smooth else "nn.init.kaiming_normal_"


def _row(sizes: list[float]) -> str:
    texts = [f"{size:.2g}" for size in sizes]
    return " → ".join(texts if len(texts) <= 6 else [*texts[:3], "…", *texts[-3:]])
