"""What the landscape is to blame for, and the noise of the gradients: saddles, poor minima, ravines, batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from tests.clinic.patient import Pair, Patient, Program, error_gain
from tests.clinic.programs.parts import CANCER, DIGITS, LABELS, stack, task
from tests.clinic.variation import Variation

_CROSS_ENTROPY, _MSE = nn.functional.cross_entropy, nn.functional.mse_loss
_DIGITS = DIGITS, LABELS

Make = Callable[[Any], Optimizer]


def _whole(vary: Variation, net: nn.Module, make: Make, data: tuple[Tensor, Tensor], epochs: int) -> Program:
    """Full-batch training that is scored on what it was trained on: the question is how low the loss comes."""
    patient = Patient(net, _MSE, make)
    return Program(patient, vary.loader(*data), error_gain(*data), None, {"max_epochs": vary.epochs(epochs)})


def _shrunk(net: nn.Module, factor: float) -> nn.Module:
    for parameter in net.parameters():
        parameter.data.mul_(factor)
    return net


def _product(vary: Variation, *, adam: bool) -> Program:
    """Four linear layers near the origin, a saddle of degree four, and a map of rank three."""
    inputs = torch.randn(200, 8)
    targets = inputs @ torch.randn(8, 3) @ torch.randn(3, 8) / 8**0.5
    net = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(4)])
    rate = vary.rate(0.01)
    return _whole(
        vary,
        _shrunk(net, 0.2),
        lambda p: Adam(p, rate) if adam else SGD(p, rate),
        (inputs, targets),
        400,
    )


def _timid(vary: Variation, *, factor: float) -> Program:
    """A tanh network, started so near the origin that its layers cancel each other's gradients."""
    inputs = torch.randn(300, 6)
    targets = torch.tanh(inputs @ torch.randn(6, 4)) @ torch.randn(4, 1)
    net = _shrunk(stack(vary.widths(6, 24, 24, 24, 1), nn.Tanh), factor)
    return _whole(vary, net, lambda p: SGD(p, vary.rate(0.05)), (inputs, targets), 350)


class _Wave(nn.Module):
    """A sine of one weight, whose loss has a minimum for every beat between it and the data."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor([start]))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(self.frequency * inputs)


def _wave(vary: Variation, *, start: float) -> Program:
    inputs = 10 * torch.rand(200, 1) - 5
    targets = torch.sin(2 * inputs)
    return _whole(vary, _Wave(start), lambda p: SGD(p, vary.rate(0.02)), (inputs, targets), 300)


def _bowl(vary: Variation, *, hidden: bool) -> Program:
    """A parabola, of which a straight line can follow nothing."""
    inputs = torch.linspace(-1, 1, 101)[:, None]
    net = stack(vary.widths(1, 16, 1), nn.Tanh) if hidden else nn.Sequential(nn.Linear(1, 1))
    return _whole(vary, net, lambda p: SGD(p, vary.rate(0.3)), (inputs, inputs.square()), 600)


class _Radial(nn.Module):
    """Gaussian units about centres, and what is seen of them."""

    def __init__(self, units: int, offset: float) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(units, 2) + offset)
        self.head = nn.Linear(units, 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        bumps = torch.exp(-(inputs[:, None] - self.centres).square().sum(2) / 2)
        outputs: Tensor = self.head(bumps)
        return outputs


def _radial(vary: Variation, *, offset: float) -> Program:
    inputs = torch.randn(200, 2)
    targets = torch.sin(2 * inputs[:, :1]) * torch.cos(inputs[:, 1:])
    net = _Radial(vary.width(30), offset)
    return _whole(vary, net, lambda p: Adam(p, vary.rate(0.03)), (inputs, targets), 400)


def _ravine(vary: Variation, *, momentum: float) -> Program:
    """Columns of the same scale that say nearly the same, and targets that depend on how they differ."""
    common, own = torch.randn(400, 1), torch.randn(400, 10)
    inputs = (common + 0.05 * own) / 1.00125
    targets = own @ torch.randn(10, 1) / 10**0.5
    return _whole(
        vary,
        nn.Linear(10, 1),
        lambda p: SGD(p, vary.rate(0.04), momentum=momentum),
        (inputs, targets),
        600,
    )


def _line(rows: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(rows, 40)
    return inputs, inputs @ torch.randn(40, 1) / 40**0.5 + 1.2 * torch.randn(rows, 1)


def _noisy(vary: Variation, rate: float, batch: int, *, decays: bool = False) -> Program:
    """Noisy targets, which batches follow as far as the rate lets them."""

    def schedule(optimizer: Optimizer) -> LRScheduler:
        return CosineAnnealingLR(optimizer, program.options["max_epochs"])

    patient = Patient(
        nn.Linear(40, 1),
        _MSE,
        lambda p: SGD(p, vary.rate(rate)),
        schedule=schedule if decays else None,
        interval="epoch",
    )
    program = task(vary, patient, _line(1200), 15, batch, gain=error_gain)
    return program


def _giant(vary: Variation, *, batch: int | None) -> Program:
    net = stack(vary.widths(64, 48, 10))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.13))), _DIGITS, 20, batch)


def _long_tanh(vary: Variation) -> Program:
    """Trained until next to nothing is left: hundreds of its curvatures are negative, and none of them matters."""
    inputs, labels = vary.rows(*_DIGITS)
    patient = Patient(stack(vary.widths(64, 24, 10), nn.Tanh), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-2)))
    return task(vary, patient, (inputs, labels), 40, 256)


def _left_behind(vary: Variation) -> Program:
    """A saddle that gradient descent leaves in time."""
    inputs = torch.randn(200, 6)
    targets = torch.tanh(inputs @ torch.randn(6, 3)) @ torch.randn(3, 1)
    net = _shrunk(stack(vary.widths(6, 24, 1), nn.Tanh), 0.1)
    return _whole(vary, net, lambda p: SGD(p, vary.rate(0.1)), (inputs, targets), 1200)


def _heavy_edge(vary: Variation) -> Program:
    """Full-batch descent with momentum, whose curvature grows until it limits the step."""
    inputs = CANCER[:300]
    targets = torch.tanh(inputs @ torch.randn(inputs.shape[1], 5)) @ torch.randn(5, 1)
    net = stack(vary.widths(inputs.shape[1], 48, 48, 1), nn.Tanh)
    return _whole(vary, net, lambda p: SGD(p, vary.rate(0.05), momentum=0.9), (inputs, targets), 400)


PAIRS = (
    Pair(
        133,
        "four linear layers near the origin, gradient descent",
        ("saddle_point",),
        lambda vary: _product(vary, adam=True),
        lambda vary: _product(vary, adam=False),
    ),
    Pair(
        134,
        "a tanh network from weights a twentieth of the usual",
        ("saddle_point", "bad_initialization", "stuck_at_baseline", "vanishing_gradients"),
        lambda vary: _timid(vary, factor=1.0),
        lambda vary: _timid(vary, factor=0.05),
    ),
    Pair(
        135,
        "a sine started at the wrong frequency",
        ("poor_minimum",),
        lambda vary: _wave(vary, start=1.9),
        lambda vary: _wave(vary, start=4.5),
    ),
    Pair(
        136,
        "a straight line through a parabola",
        ("poor_minimum", "model_bias"),
        lambda vary: _bowl(vary, hidden=True),
        lambda vary: _bowl(vary, hidden=False),
    ),
    Pair(
        137,
        "radial units far from the data",
        ("flat_region", "frozen_parameters"),
        lambda vary: _radial(vary, offset=0.0),
        lambda vary: _radial(vary, offset=30.0),
    ),
    Pair(
        138,
        "columns that say nearly the same, plain descent",
        ("ill_conditioned",),
        lambda vary: _ravine(vary, momentum=0.95),
        lambda vary: _ravine(vary, momentum=0.0),
    ),
    Pair(
        139,
        "noisy targets and a rate that never decays",
        ("noise_floor", "noisy_batches", "learning_rate_too_high"),
        lambda vary: _noisy(vary, 0.085, 16, decays=True),
        lambda vary: _noisy(vary, 0.085, 16),
    ),
    Pair(
        140,
        "noisy targets in batches of two",
        ("noisy_batches", "noise_floor", "learning_rate_too_high"),
        lambda vary: _noisy(vary, 0.015, 32),
        lambda vary: _noisy(vary, 0.015, 2),
    ),
    Pair(
        141,
        "twenty epochs of one batch each",
        ("oversized_batches", "undertrained", "learning_rate_too_low"),
        lambda vary: _giant(vary, batch=32),
        lambda vary: _giant(vary, batch=None),
    ),
    Pair(142, "tiny negative curvatures after convergence", ("saddle_point",), _long_tanh, reachable=0.86),
    Pair(143, "a saddle that is left behind", ("saddle_point",), _left_behind, reachable=0.93),
    Pair(144, "a heavy ball at the edge of stability", ("learning_rate_too_high",), _heavy_edge, reachable=1.0),
    Pair(
        145,
        "noisy targets in batches of two at a small rate",
        ("noisy_batches",),
        lambda vary: _noisy(vary, 1e-3, 2),
        reachable=0.4,
    ),
)
