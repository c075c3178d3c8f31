from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure import classify_critical_point, escape_direction
from lightning_doctor.measure.hessian import DifferencedHessian
from lightning_doctor.measure.landscape import Landscape, parts
from lightning_doctor.measure.verdict import judge
from tests.measure.dense import ONE, ROWS, TARGETS, Batch, Product, dense, perceptron, squared_error, waves

F64 = torch.float64


def test_the_origin_of_two_weights_is_a_saddle_and_the_way_out_is_along_their_diagonal() -> None:
    net = Product(0.0, 0.0)
    point = classify_critical_point(net, ONE, squared_error)
    assert point.kind == "saddle"
    assert point.ends is not None
    # Exact but for rounding: two numbers of about one.
    assert (point.ends.low, point.ends.high) == pytest.approx((-2, 2), abs=1e-14)
    assert not point.held_out
    way = escape_direction(net, ONE, squared_error)
    assert way is not None
    (direction,) = way.along(list(net.parameters()))
    assert [abs(float(x)) for x in direction] == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-14)
    assert direction.prod() > 0
    # (1 − t²/2)² is zero at √2, to both sides; a scan by factors of √2 meets it.
    assert (way.distance, way.fall, way.share) == pytest.approx((math.sqrt(2), 1, 1), abs=1e-14)
    assert way.real
    assert "down by 1 (100%) at distance 1.4" in point.because


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ((1e-3, -1e-3), "saddle"),  # a slope back to the saddle, which takes off a millionth of what the way out does
        ((0.1, 0.1), "saddle"),  # on the way out, and curvature does more than the slope
        ((0.3, 0.3), "slope"),
        ((-2.0, 0.1), "slope"),
        ((1.0, 1.0), "minimum"),
        ((2.0, 0.5), "minimum"),
    ],
)
def test_other_places_of_the_two_weights(weights: tuple[float, float], kind: str, dtype: torch.dtype) -> None:
    batch = (ONE[0].to(dtype), ONE[1].to(dtype))
    assert classify_critical_point(Product(*weights, dtype=dtype), batch, squared_error).kind == kind


def test_the_solution_of_the_three_weight_regression_is_a_minimum_and_its_start_a_slope() -> None:
    line = nn.Linear(3, 1, bias=False).double()
    line.weight.data = torch.linalg.lstsq(ROWS, TARGETS).solution.unsqueeze(0)
    point = classify_critical_point(line, (ROWS, TARGETS), squared_error)
    assert point.kind == "minimum"
    assert point.ends is not None
    assert point.ends.exact
    assert point.ends.high == pytest.approx(90.403, abs=5e-4)
    assert point.failure == 0
    line.weight.data.zero_()
    assert classify_critical_point(line, (ROWS, TARGETS), squared_error).kind == "slope"


class Weights(nn.Module):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(values, dtype=F64))


def surface(height: Callable[[Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    return lambda module, batch: height(module.weights)


def test_a_monkey_saddle_is_inconclusive_because_the_loss_changes_at_a_distance() -> None:
    point = classify_critical_point(Weights(0, 0), None, surface(lambda w: 1 + w[0] ** 3 - 3 * w[0] * w[1] ** 2))
    assert point.kind == "inconclusive"
    assert "gradient and curvature vanish, yet the loss changes" in point.because


def test_a_plain_is_flat() -> None:
    point = classify_critical_point(Weights(3, 4), None, surface(lambda w: 2 + (w**2).sum() * 1e-9))
    assert point.kind == "flat"


def test_dead_units_without_a_bias_behind_them_are_flat() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1, bias=False)).double()
    nn.init.constant_(net[0].bias, -20.0)
    point = classify_critical_point(net, waves(200), squared_error)
    assert point.kind == "flat"


@pytest.mark.parametrize(("share", "kind"), [(0.02, "minimum"), (0.001, "saddle")])
def test_how_negative_a_curvature_must_be_to_matter_is_a_share_of_the_range(share: float, kind: str) -> None:
    scale = torch.linspace(0, 1, 300, dtype=F64)
    scale[0] = -0.005

    def loss(module: Any, batch: Any) -> Tensor:
        return 1 + (scale * module.weights**2).sum() / 2

    assert classify_critical_point(Weights(*[0.0] * 300), None, loss, share=share).kind == kind


def linear_net(depth: int, spread: float, seed: int, *, samples: int = 512) -> tuple[nn.Module, Batch]:
    """A deep linear network close to the saddle at its origin, and a linear task."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(*[nn.Linear(5, 5, bias=False) for _ in range(depth)])
    for parameter in net.parameters():
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    mixing = torch.randn(5, 5, generator=generator) / math.sqrt(5)
    inputs = torch.randn(samples, 5, generator=generator)
    return net, (inputs, inputs @ mixing.T)


@pytest.mark.parametrize(("depth", "spread"), [(2, 0.01), (3, 0.02), (4, 0.05)])
def test_deep_linear_networks_at_small_initialisation_are_at_a_saddle(depth: int, spread: float) -> None:
    kinds = [classify_critical_point(*linear_net(depth, spread, seed), squared_error).kind for seed in range(20)]
    assert kinds == ["saddle"] * 20


def test_a_saddle_that_one_mode_has_left_and_the_other_has_not_is_one() -> None:
    # Saxe, McClelland & Ganguli 2014: modes of a linear network are learned one by one; between them lies a saddle.
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 2, generator=generator, dtype=F64)
    task = torch.diag(torch.tensor([2.0, 0.5], dtype=F64))
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    for layer in net:
        layer.weight.data = torch.diag(torch.tensor([math.sqrt(2), 0.0], dtype=F64))
    point = classify_critical_point(net, (inputs, inputs @ task), squared_error)
    assert point.kind == "saddle"
    way = point.escape
    assert way is not None
    # Both layers' second weight, equally: entries 3 and 7 of eight.
    assert way.direction[[3, 7]].norm() == pytest.approx(1, abs=1e-2)


def trained(seeds: int, *, noise: float, samples: int = 64, steps: int = 1000) -> list[tuple[nn.Module, Batch]]:
    """Networks of 1,185 weights, trained to convergence all at once."""
    nets = [perceptron(2, 32, 32, 1, seed=seed, dtype=torch.float32) for seed in range(seeds)]
    batches = [waves(samples, noise=noise, seed=seed, dtype=torch.float32) for seed in range(seeds)]
    inputs, targets = (torch.stack(part) for part in zip(*batches, strict=True))
    weights, _ = torch.func.stack_module_state(nets)
    weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        hidden = inputs
        for index in (0, 2, 4):
            hidden = hidden @ weights[f"{index}.weight"].mT + weights[f"{index}.bias"].unsqueeze(1)
            hidden = hidden if index == 4 else hidden.tanh()
        optimizer.zero_grad()
        (hidden.squeeze(-1) - targets).square().mean(dim=1).sum().backward()
        optimizer.step()
        schedule.step()
    for index, net in enumerate(nets):
        net.load_state_dict({name: value[index].detach() for name, value in weights.items()})
    return list(zip(nets, batches, strict=True))


@pytest.fixture(scope="module")
def converged() -> list[tuple[nn.Module, Batch]]:
    return trained(20, noise=0.1)


def test_converged_networks_with_hundreds_of_tiny_negative_eigenvalues_are_no_saddles(
    converged: list[tuple[nn.Module, Batch]],
) -> None:
    net, batch = converged[0]
    values = torch.linalg.eigvalsh(dense(net.double(), (batch[0].double(), batch[1].double())))
    assert int((values < 0).sum()) > 200
    # Seen, and of no weight.
    assert 0 < -values[0] / values[-1] < 0.02
    net.float()
    for module, whole in converged:
        point = classify_critical_point(module, whole, squared_error)
        assert point.kind in ("minimum", "inconclusive", "slope")
        assert classify_critical_point(module, whole, squared_error, other=whole).kind == "minimum"


def test_noise_of_batches_makes_no_saddle_of_a_converged_network(converged: list[tuple[nn.Module, Batch]]) -> None:
    net, _ = converged[0]
    kinds = [
        classify_critical_point(net, waves(128, seed=100 + seed, dtype=torch.float32), squared_error).kind
        for seed in range(20)
    ]
    assert "saddle" not in kinds
    assert "flat" not in kinds


def test_noise_of_batches_makes_nothing_else_of_a_saddle() -> None:
    net, _ = linear_net(2, 0.01, 0)
    kinds = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(256, 5, generator=generator)
        noise = 0.5 * torch.randn(256, 5, generator=generator)
        kinds.append(classify_critical_point(net, (inputs, inputs.roll(1, dims=1) + noise), squared_error).kind)
    assert kinds == ["saddle"] * 20


def test_noise_of_batches_makes_nothing_else_of_a_slope() -> None:
    net = nn.Linear(2, 1)
    nn.init.zeros_(net.weight)
    nn.init.ones_(net.bias)
    for seed in range(20):
        inputs, _ = waves(128, seed=seed, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        targets = inputs.sum(dim=1) + torch.randn(128, generator=generator)
        assert classify_critical_point(net, (inputs, targets), squared_error).kind == "slope"


def test_a_batchs_own_negative_curvature_is_no_saddle_on_samples_that_did_not_choose_it() -> None:
    # Each sample bends its own way along each weight: a batch finds directions that go down for it, and only for it.
    def loss(module: Any, batch: Tensor) -> Tensor:
        bent = (batch * module.weights.tanh() ** 2).sum(dim=1) + 0.05 * (module.weights**2).sum()
        return 5 + bent.mean()

    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        batch = torch.randn(256, 60, generator=generator, dtype=F64)
        point = classify_critical_point(Weights(*[0.0] * 60), batch, loss)
        assert point.ends is not None
        assert point.ends.low < -0.02 * point.ends.span
        assert point.kind == "inconclusive"


def test_the_module_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    point = classify_critical_point(net, waves(256, dtype=torch.float32), squared_error)
    assert point.products > 2
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_verdict_counts_its_samples() -> None:
    net = perceptron(2, 4, 1, dtype=F64)
    point = classify_critical_point(net, waves(100), squared_error)
    assert (point.samples, point.tested, point.held_out) == (50, 48, True)
    point = classify_critical_point(net, waves(100), squared_error, other=waves(33, seed=1))
    assert (point.samples, point.tested, point.held_out) == (100, 32, True)


class Bent:
    """The Hessian of a quadratic, which counts what is asked of it."""

    def __init__(self, values: Tensor, gradient: Tensor) -> None:
        self.values, self.gradient, self.products, self.released = values, gradient, 0, False

    def __call__(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.values * vector

    def release(self) -> None:
        self.released = True


def quadratic(values: Tensor, gradient: Tensor, hessian: Bent) -> Callable[[Tensor], Tensor]:
    def losses(offset: Tensor) -> Tensor:
        # What is computed elsewhere needs the graph to be gone.
        assert hessian.released
        return (1 + gradient @ offset + (values * offset**2).sum() / 2).reshape(1)

    return losses


def test_a_verdict_needs_no_more_than_products_and_losses_and_stops_when_it_is_told_to() -> None:
    values = torch.linspace(-0.01, 1, 200, dtype=F64)
    for leave in (3, 30, 1000):
        hessian = Bent(values, torch.zeros(200, dtype=F64))
        losses = quadratic(values, hessian.gradient, hessian)
        left = iter([True] * leave + [False] * 1000)
        point = judge(hessian, losses, losses, length=1.0, may_go_on=lambda left=left: next(left))
        assert point.products == hessian.products
        if leave == 3:
            assert (point.kind, point.because) == ("inconclusive", "the time ran out after 4 products")
        elif leave == 30:
            # All products, and then no loss elsewhere.
            assert point.because == f"the time ran out after {point.products} products"
            assert point.products > 20
        else:
            assert (point.kind, point.ends.stopped) == ("minimum", "certain")


def test_a_slope_that_is_lost_in_noise_makes_no_minimum() -> None:
    # Every sample pulls its own way, ten times as hard as all of them together: there may be much to gain, or nothing.
    def loss(module: Any, batch: Tensor) -> Tensor:
        return 1 + ((module.weights - batch).square().sum(dim=1) / 2 - batch.square().sum(dim=1) / 2).mean()

    generator = torch.Generator().manual_seed(0)
    batch = 0.3 + 3 * torch.randn(64, 4, generator=generator, dtype=F64)
    point = classify_critical_point(Weights(*[0.0] * 4), batch, loss)
    assert point.kind == "inconclusive"
    assert "lost in noise" in point.because
    # Many more samples tell.
    batch = 0.3 + 3 * torch.randn(20_000, 4, generator=generator, dtype=F64)
    assert classify_critical_point(Weights(*[0.0] * 4), batch, loss).kind == "slope"


@pytest.mark.parametrize("spread", [0.01, 0.5])
def test_differences_of_gradients_give_the_verdict_of_exact_products(spread: float) -> None:
    net, batch = linear_net(2, spread, 0)
    net, batch = net.double(), (batch[0].double(), batch[1].double())
    land = Landscape(net, squared_error)

    def losses(offset: Tensor) -> Tensor:
        return land.losses(parts(batch, 0, 512, 16), offset)

    kinds = []
    makers = (
        lambda: land.hessian(batch),
        lambda: DifferencedHessian(lambda offset: land.gradient(batch, offset), land.weights),
    )
    for made in makers:
        point = judge(made(), losses, losses, length=float(land.weights.norm()))
        assert point.ends is not None
        kinds.append((point.kind, round(point.ends.low, 6), round(point.ends.high, 6)))
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("tilt", [0.3, -0.3])
def test_a_slope_of_other_samples_along_the_way_out_is_no_way_out(tilt: float) -> None:
    hessian = Bent(torch.tensor([-1.0, 2.0], dtype=F64), torch.zeros(2, dtype=F64))

    def choosing(offset: Tensor) -> Tensor:
        return (3 - offset[0] ** 2 / 2 + offset[0] ** 4 / 8 + offset[1] ** 2).reshape(1)

    def testing(offset: Tensor) -> Tensor:
        # To one side it goes down for all of them, and up to the other.
        return 3 + tilt * offset[0] * torch.linspace(0.9, 1.1, 8, dtype=F64)

    assert judge(hessian, choosing, choosing, length=1.0).kind == "saddle"
    point = judge(hessian, choosing, testing, length=1.0)
    assert point.kind == "inconclusive"
    assert point.escape is not None
    # What goes up on one side comes down on the other, but for rounding.
    assert abs(point.escape.fall) < 1e-14


@pytest.mark.parametrize(("scatter", "kind"), [(0.1, "saddle"), (4.0, "inconclusive")])
def test_a_way_out_that_a_slope_lost_in_noise_may_exceed_makes_no_saddle(scatter: float, kind: str) -> None:
    hessian = Bent(torch.tensor([-0.1, 1.0], dtype=F64), torch.tensor([0.0, 0.2], dtype=F64))

    def losses(offset: Tensor, slopes: Tensor) -> Tensor:
        # Down by 0.0625 at √2.5 along the first weight.
        return 5 - offset[0] ** 2 / 20 + offset[0] ** 4 / 100 + slopes * offset[1] + offset[1] ** 2 / 2

    slopes = scatter * torch.tensor([-1.2, -0.8, -0.5, -0.1, 0.1, 0.5, 0.8, 1.2], dtype=F64)
    point = judge(
        hessian, lambda offset: losses(offset, hessian.gradient[1:]), lambda offset: losses(offset, slopes), length=1.0
    )
    assert point.slope is not None
    assert not point.slope.real
    assert point.kind == kind


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_inconclusive(value: float) -> None:
    hessian = Bent(torch.full((3,), value, dtype=F64), torch.ones(3, dtype=F64))
    point = judge(hessian, quadratic(hessian.values, hessian.gradient, hessian), lambda offset: offset, length=1.0)
    assert (point.kind, "not finite" in point.because) == ("inconclusive", True)
    point = classify_critical_point(Weights(1.0), None, surface(lambda w: w.sum() + value))
    assert (point.kind, point.because) == ("inconclusive", "the loss is not finite")
