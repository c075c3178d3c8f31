"""Deep networks: what initialization and activation do to gradients and units."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.patient import Pair, Patient, Program
from tests.clinic.programs.parts import BENIGN, CANCER, DIGITS, LABELS, RAW_CANCER, binary, keras, stack, task
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy


def _spread(net: nn.Module, gain: float) -> nn.Module:
    """Weights with this standard deviation at one input, less by the root of how many there are; biases of zero."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, gain / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)
    return net


def _filled(net: nn.Module, value: float) -> nn.Module:
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def _nine_layers(vary: Variation, *, between: type[nn.Module]) -> Program:
    net = keras(stack(vary.widths(64, *[30] * 8, 10), between))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.1))), (DIGITS, LABELS), 40, 32)


def _scaled(vary: Variation, *, gain: float) -> Program:
    net = _spread(stack(vary.widths(64, *[40] * 5, 10), nn.Tanh), gain)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.1))), (DIGITS, LABELS), 15, 32)


class _Recurrent(nn.Module):
    """Reads a digit four pixels at a time."""

    def __init__(self, units: int, scale: float) -> None:
        super().__init__()
        self.recurrent = nn.RNN(4, units, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(units, 10)
        nn.init.normal_(self.recurrent.weight_hh_l0, 0.0, scale / units**0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.recurrent(inputs.reshape(-1, 16, 4))
        scores: Tensor = self.head(states[:, -1])
        return scores


def _recurrence(vary: Variation, *, scale: float, **options: float) -> Program:
    patient = Patient(
        _Recurrent(vary.width(64), scale), _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.02), momentum=0.9)
    )
    return task(vary, patient, (DIGITS, LABELS), 15, 32, **options)


def _twelve_layers(vary: Variation, *, gain: float) -> Program:
    net = _spread(stack(vary.widths(64, *[40] * 11, 10)), gain)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-3))), (DIGITS, LABELS), 10, 32)


def _alike(vary: Variation, *, value: float | None) -> Program:
    net: nn.Module = stack(vary.widths(64, 32, 10))
    if value is not None:
        _filled(net, value)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3))), (DIGITS, LABELS), 15, 32)


def _biases(vary: Variation, *, bias: float) -> Program:
    net = stack(vary.widths(64, 64, 64, 10))
    for layer in net[:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, bias)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-3))), (DIGITS, LABELS), 15, 32)


def _killed(vary: Variation, *, rate: float) -> Program:
    net = stack(vary.widths(64, 64, 64, 10))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(rate))), (DIGITS, LABELS), 12, 32)


def _raw_into_tanh(vary: Variation, *, rows: Tensor) -> Program:
    net = stack(vary.widths(30, 32, 16, 1), nn.Tanh, nn.Sigmoid())
    return task(vary, Patient(net, binary, lambda p: SGD(p, vary.rate(0.1))), (rows, BENIGN), 30, 32)


def _large_into_tanh(vary: Variation, *, gain: float) -> Program:
    net = _spread(stack(vary.widths(64, 64, 64, 64, 10), nn.Tanh), gain)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.02))), (DIGITS, LABELS), 20, 32)


class _Compressed(nn.Module):
    """Takes the logarithm of every pixel that is not black, after a gain that is learned."""

    def __init__(self, units: int, *, guarded: bool) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.ones(64))
        self.net = stack([64, units, 10])
        self.guarded = guarded

    def forward(self, inputs: Tensor) -> Tensor:
        light = self.gains * inputs
        # The branch that is not taken has a gradient too: zero times infinity.
        logs = light.log1p() if self.guarded else torch.where(inputs > 0, light.log(), 0.0)
        scores: Tensor = self.net(logs)
        return scores


def _branches(vary: Variation, *, guarded: bool) -> Program:
    net = _Compressed(vary.width(48), guarded=guarded)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3))), (DIGITS, LABELS), 12, 32)


PAIRS = (
    Pair(
        28,
        "nine sigmoid layers",
        ("vanishing_gradients",),
        lambda vary: _nine_layers(vary, between=nn.ReLU),
        lambda vary: _nine_layers(vary, between=nn.Sigmoid),
    ),
    Pair(
        29,
        "weights far too small, six tanh layers",
        ("vanishing_gradients", "bad_initialization"),
        lambda vary: _scaled(vary, gain=1.0),
        lambda vary: _scaled(vary, gain=0.1),
    ),
    Pair(
        30,
        "recurrent weights too large",
        ("exploding_gradients", "bad_initialization"),
        lambda vary: _recurrence(vary, scale=1.0, gradient_clip_val=1.0),
        lambda vary: _recurrence(vary, scale=2.5),
    ),
    Pair(
        31,
        "twelve layers at twice their scale",
        ("bad_initialization", "exploding_gradients"),
        lambda vary: _twelve_layers(vary, gain=2**0.5),
        lambda vary: _twelve_layers(vary, gain=2 * 2**0.5),
    ),
    Pair(
        32,
        "all weights 0.1",
        ("bad_initialization",),
        lambda vary: _alike(vary, value=None),
        lambda vary: _alike(vary, value=0.1),
    ),
    Pair(
        33,
        "all weights zero",
        ("bad_initialization", "dead_units"),
        lambda vary: _alike(vary, value=None),
        lambda vary: _alike(vary, value=0.0),
    ),
    Pair(
        34,
        "biases of −5 before ReLU",
        ("dead_units", "bad_initialization"),
        lambda vary: _biases(vary, bias=0.0),
        lambda vary: _biases(vary, bias=-5.0),
    ),
    Pair(
        35,
        "Adam at 0.3 kills the units",
        ("learning_rate_too_high", "dead_units"),
        lambda vary: _killed(vary, rate=1e-3),
        lambda vary: _killed(vary, rate=0.3),
    ),
    Pair(
        36,
        "raw measurements into tanh",
        ("unscaled_inputs", "saturated_units"),
        lambda vary: _raw_into_tanh(vary, rows=CANCER),
        lambda vary: _raw_into_tanh(vary, rows=RAW_CANCER),
    ),
    Pair(
        37,
        "large weights into tanh",
        ("saturated_units", "bad_initialization"),
        lambda vary: _large_into_tanh(vary, gain=1.0),
        lambda vary: _large_into_tanh(vary, gain=40.0),
    ),
    Pair(
        127,
        "the logarithm of zero in the branch not taken",
        ("non_finite_gradients", "non_finite_loss"),
        lambda vary: _branches(vary, guarded=True),
        lambda vary: _branches(vary, guarded=False),
    ),
)
