"""Activations: the scale of each layer's output, and units that are dead, saturated, constant or all the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.measure import activations
from lightning_doctor.measure.activations import ACTIVATIONS, COLUMNS, Reading, pack, spread
from lightning_doctor.measure.forward_pass import ForwardPass, Layer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lightning_doctor.callbacks.case import Case
    from lightning_doctor.history import History

# How many layers are measured.
_LAYERS = 64
# How many samples must agree that a unit is dead or constant.
_PROBE = 64
_CAPACITY = 128
# How many layers are listed in the facts.
_LISTED = 512


class ActivationMonitor(Monitor):
    """Records what each layer puts out, on the steps that are examined.

    ``activation_mean/<layer>`` and ``activation_std/<layer>`` are taken over samples, positions and units.
    ``dead_share/<layer>`` is the share of ReLU units that are zero for every sample and position of at least 64
    samples, ``dead_share`` the same over all such layers; ``constant_share/<layer>`` the share of units that always
    put out the same, ``equal_share/<layer>`` the share of a linear layer's units that, though not constant, always put
    out what the unit beside them does. ``saturated_share/<layer>`` is the share of a sigmoid's or tanh's outputs where
    its derivative is under 1 % of the largest, ``preactivation_std/<layer>`` the standard deviation of what goes in.
    ``activation_non_finite`` is the number of layers whose output has a NaN or an infinity.

    Activations called as functions are found in the autograd graph of the loss: ``relu after fc1``.
    """

    signals = (
        "activation_mean",
        "activation_std",
        "activation_non_finite",
        "dead_share",
        "constant_share",
        "equal_share",
        "saturated_share",
        "preactivation_std",
    )

    def begin(self, case: Case) -> None:
        """Chooses the layers to measure."""
        self._untold = _untold(case.run.module)
        self._pass: ForwardPass | None = None
        self._probes: dict[str, Reading] = {}
        self._dead: dict[str, tuple[float, int]] = {}
        self._recorded: set[str] = set()
        self._seen_backward = False
        self._flagged = case.history.event("non_finite_activation") is not None
        case.history.lack(self.signals, "no layer has run on an examined step")

    def end(self, case: Case) -> None:
        """Lets go of tensors."""
        self._pass = None
        self._probes.clear()

    def layer_ran(self, case: Case, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Measures a layer's output at once, as the next layer may overwrite it."""
        if self._pass is None:
            self._pass = ForwardPass(case.run.step, self._untold, _LAYERS)
        self._pass.ran(layer, module, inputs, output)

    def examine_loss(self, case: Case, loss: Tensor) -> None:
        """Finds and measures activations that are functions."""
        if self._pass is not None:
            self._pass.lost(loss, read=self._seen_backward)

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Hands over what was measured."""
        forward, self._pass = self._pass, None
        if forward is None:
            return
        layers = forward.layers()
        case.history.facts["activations"] = [_entry(layer) for layer in layers[:_LISTED]]
        _explain(case.history, layers, self._recorded)
        self._seen_backward = True
        measured = [(layer, layer.reading) for layer in layers if layer.reading is not None]
        if not measured:
            return
        joined = [reading.joined(self._probes.get(layer.name)) for layer, reading in measured]
        self._probes.update({layer.name: whole for (layer, _), whole in zip(measured, joined, strict=True)})
        numbers = pack([reading for _, reading in measured], joined)
        # Without the readings, which hold tensors.
        case.window.put(
            forward.step, numbers, partial(self._receive, case, [replace(layer, reading=None) for layer, _ in measured])
        )

    def _receive(self, case: Case, layers: list[Layer], step: int, numbers: list[float]) -> None:
        broken: list[str] = []
        full = False
        for index, layer in enumerate(layers):
            row = numbers[index * COLUMNS : (index + 1) * COLUMNS]
            samples, unfinite, nan, mean, std, dead, constant, equal, saturated, preactivation_std = row
            if unfinite > 0:
                self._probes.pop(layer.name, None)
                # A layer of the user's own may mask with infinity, and the logarithm of a softmax reach it.
                if nan > 0 or layer.kind not in ("softmax", "recurrent", "other"):
                    broken.append(layer.name)
                continue
            values = {"activation_mean": mean, "activation_std": std}
            if layer.kind in ("sigmoid", "tanh"):
                values |= {"saturated_share": saturated, "preactivation_std": preactivation_std}
            if samples >= _PROBE:
                self._probes.pop(layer.name, None)
                if layer.units > 1 and layer.kind != "softmax":
                    values["constant_share"] = constant
                if layer.units > 1 and layer.kind == "linear":
                    values["equal_share"] = equal
                if layer.kind == "relu":
                    values["dead_share"] = dead
                    self._dead[layer.name] = (dead, layer.units)
                    full = True
            for name, value in values.items():
                if math.isfinite(value):
                    case.history.record(f"{name}/{layer.name}", step, value, capacity=_CAPACITY)
                    self._recorded.add(name)
        if full and all(layer.name in self._dead for layer in layers if layer.kind == "relu"):
            units = sum(units for _, units in self._dead.values())
            case.history.record("dead_share", step, sum(share * units for share, units in self._dead.values()) / units)
        case.history.record("activation_non_finite", step, len(broken))
        for name in self._recorded:
            case.history.absent.pop(name, None)
        if broken and not self._flagged:
            self._flagged = True
            case.history.happened("non_finite_activation", step, layers=broken)


def _untold(module: nn.Module) -> set[str]:
    """Returns the names of layers that are not measured, where there are more than are."""
    every = ((name.replace("_orig_mod.", ""), part) for name, part in module.named_modules())
    leaves = {name: part for name, part in every if next(part.children(), None) is None}
    told = [name for name, part in leaves.items() if activations.tells(part)]
    active = [name for name in told if activations.kind(leaves[name]) in ACTIVATIONS]
    others = [name for name in told if activations.kind(leaves[name]) not in ACTIVATIONS]
    kept = spread(active, max(_LAYERS // 2, _LAYERS - len(others)))
    return set(leaves) - set(kept) - set(spread(others, _LAYERS - len(kept)))


def _explain(history: History, layers: Sequence[Layer], recorded: Collection[str]) -> None:
    """Says why there are no such series, where there are none yet."""
    for kinds, name, signals in (
        (("relu",), "ReLU", ("dead_share",)),
        (("sigmoid", "tanh"), "sigmoid or tanh", ("saturated_share", "preactivation_std")),
        (("linear",), "linear layer", ("equal_share",)),
        ((), "layer", ("activation_mean", "activation_std", "activation_non_finite", "constant_share")),
    ):
        concerned = [layer for layer in layers if not kinds or layer.kind in kinds]
        if not concerned:
            reason = f"the model has no {name} that could be seen"
        elif all(layer.reading is None for layer in concerned):
            reason = f"no output of a {name} could be read"
        else:
            reason = f"fewer than {_PROBE} samples have been seen"
        history.lack([signal for signal in signals if signal not in recorded], reason)


def _entry(layer: Layer) -> dict[str, Any]:
    entry = {
        "layer": layer.name,
        "class": layer.type,
        "kind": layer.kind,
        "units": layer.units,
        "last": layer.last,
    }
    if layer.kind == "linear":
        entry |= {"features": layer.features, "fed_by": layer.fed_by}
    return entry
