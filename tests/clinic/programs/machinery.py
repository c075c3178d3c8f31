"""Parameters that no optimizer moves, and numbers too small for their type."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.patient import ByHand, Pair, Patient, Program, error_gain
from tests.clinic.programs.parts import DIABETES, DIGITS, LABELS, PROGRESSION, stack, task
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy


class _Listed(nn.Module):
    """Keeps its hidden layers in a list that PyTorch does, or does not, look into."""

    def __init__(self, widths: list[int], *, registered: bool) -> None:
        super().__init__()
        hidden = [layer for layer in stack(widths[:-1]) if isinstance(layer, nn.Linear)]
        self.hidden: Any = nn.ModuleList(hidden) if registered else hidden
        self.head = nn.Linear(widths[-2], widths[-1])

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.hidden:
            inputs = layer(inputs).relu()
        scores: Tensor = self.head(inputs)
        return scores


def _list(vary: Variation, *, registered: bool) -> Program:
    net = _Listed(vary.widths(64, 8, 8, 8, 10), registered=registered)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3))), (DIGITS, LABELS), 25, 32)


class _Detached(nn.Module):
    """Hands features on, with or without their gradients."""

    def __init__(self, widths: list[int], *, detached: bool) -> None:
        super().__init__()
        self.trunk = stack(widths[:-1])
        self.head = nn.Linear(widths[-2], widths[-1])
        self.detached = detached

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.trunk(inputs)
        scores: Tensor = self.head(features.detach() if self.detached else features)
        return scores


def _cut(vary: Variation, *, detached: bool) -> Program:
    net = _Detached(vary.widths(64, 24, 24, 3, 10), detached=detached)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3))), (DIGITS, LABELS), 25, 32)


def _forgotten(vary: Variation, *, all_of_it: bool) -> Program:
    """The optimizer is given the encoder's parameters, the head was added later."""
    net = stack(vary.widths(64, 24, 6, 10))

    def trained(whole: nn.Module) -> Any:
        return whole.parameters() if all_of_it else whole[0].parameters()  # type: ignore[index]

    patient = Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.05)), trained=trained)
    return task(vary, patient, (DIGITS, LABELS), 30, 32)


class _Metres(nn.Module):
    """Turns what the network says into metres, of which the targets are some ten-thousandths."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 1e-4 * inputs


def _half(vary: Variation, *, scaled: bool) -> Program:
    net = stack(vary.widths(10, 32, 1), last=_Metres())
    # Without scaling the gradients are under the smallest number of half precision.
    scaler = torch.amp.GradScaler("cpu") if scaled else torch.amp.GradScaler("cpu", 1.0, growth_interval=10**6)
    patient = Patient(net, nn.functional.mse_loss, lambda p: Adam(p, vary.rate(3e-3), eps=1e-15))
    program = task(vary, patient, (DIABETES, 1e-4 * PROGRESSION), 60, 64, gain=error_gain)
    program.options["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    program.by_trainer = True
    return program


def _kept_gradients(vary: Variation, *, zeroes: bool) -> Program:
    net = stack(vary.widths(64, 32, 10))
    patient = ByHand(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.1)), zeroes=zeroes)
    return task(vary, patient, (DIGITS, LABELS), 15, 32)


PAIRS = (
    Pair(
        78,
        "layers in a plain list",
        ("frozen_parameters",),
        lambda vary: _list(vary, registered=True),
        lambda vary: _list(vary, registered=False),
    ),
    Pair(
        79,
        "features detached before the head",
        ("frozen_parameters",),
        lambda vary: _cut(vary, detached=False),
        lambda vary: _cut(vary, detached=True),
    ),
    Pair(
        80,
        "an optimizer of the first layer only",
        ("frozen_parameters",),
        lambda vary: _forgotten(vary, all_of_it=True),
        lambda vary: _forgotten(vary, all_of_it=False),
    ),
    Pair(
        81,
        "half precision without loss scaling",
        ("underflowing_gradients", "unscaled_targets"),
        lambda vary: _half(vary, scaled=True),
        lambda vary: _half(vary, scaled=False),
    ),
    Pair(
        82,
        "gradient descent without zero_grad",
        ("accumulating_gradients",),
        lambda vary: _kept_gradients(vary, zeroes=True),
        lambda vary: _kept_gradients(vary, zeroes=False),
    ),
)
