from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure.hessian import DifferencedHessian, Hessian, flat, unflat, vector_dtype
from tests.measure.dense import ROWS, TARGETS, dense, perceptron, squared_error, waves

F64 = torch.float64


def whole(product: Hessian | DifferencedHessian, like: Tensor) -> Tensor:
    return torch.stack([product(column) for column in torch.eye(len(like), dtype=like.dtype)], dim=1)


def hessian_of(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Hessian:
    return Hessian(squared_error(module, batch), list(module.parameters()))


def test_a_quadratic_gives_its_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=F64)
    matrix, linear = root + root.T, torch.randn(6, generator=generator, dtype=F64)
    weights = torch.randn(6, generator=generator, dtype=F64, requires_grad=True)
    hessian = Hessian(weights @ matrix @ weights / 2 + linear @ weights, [weights])
    # Sums of six numbers of about one, in float64.
    assert torch.allclose(whole(hessian, hessian.gradient), matrix, atol=1e-13)
    assert torch.allclose(hessian.gradient, matrix @ weights.detach() + linear, atol=1e-13)
    assert (hessian.size, hessian.products) == (6, 6)


def test_the_three_weight_regression_has_its_known_eigenvalues() -> None:
    line = nn.Linear(3, 1, bias=False).double()
    values = torch.linalg.eigvalsh(whole(hessian_of(line, (ROWS, TARGETS)), torch.zeros(3, dtype=F64)))
    # XᵀX has the trace 91 and, over its two non-zero eigenvalues, the determinant 54 of XXᵀ.
    root = (91**2 - 4 * 54) ** 0.5
    assert values.tolist() == pytest.approx([0.0, (91 - root) / 2, (91 + root) / 2], abs=1e-11)
    assert values.tolist() == pytest.approx([0, 0.597, 90.403], abs=5e-4)
    assert 2 / float(values[-1]) == pytest.approx(0.0221, abs=5e-5)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU])
def test_products_are_those_of_the_dense_matrix(activation: type[nn.Module]) -> None:
    net, batch = perceptron(2, 7, 5, 1, activation=activation, dtype=F64), waves(20)
    hessian = hessian_of(net, batch)
    # Two ways to the same sums, of some hundred terms of about one.
    assert torch.allclose(whole(hessian, hessian.gradient), dense(net, batch), atol=1e-12)


def test_a_parameter_without_part_in_the_loss_has_zeros_and_one_that_enters_linearly_too() -> None:
    curved = torch.tensor([2.0, 3.0], dtype=F64, requires_grad=True)
    unused = torch.ones(2, 2, dtype=F64, requires_grad=True)
    straight = torch.ones(1, dtype=F64, requires_grad=True)
    hessian = Hessian(curved.pow(3).sum() + 5 * straight.sum(), [unused, curved, straight])
    assert hessian.gradient.tolist() == [0, 0, 0, 0, 12, 27, 5]
    assert hessian(torch.ones(7, dtype=F64)).tolist() == [0, 0, 0, 0, 12, 18, 0]


def test_a_loss_that_is_linear_altogether_has_no_curvature() -> None:
    weights = torch.ones(3, requires_grad=True)
    assert Hessian(weights.sum(), [weights])(torch.ones(3)).tolist() == [0, 0, 0]


def test_every_product_sees_the_same_dropout_and_draws_nothing() -> None:
    net = nn.Sequential(perceptron(2, 64, dtype=F64), nn.Tanh(), nn.Dropout(), nn.Linear(64, 1).double())
    hessian, vector = hessian_of(net, waves(30)), torch.ones(193 + 64, dtype=F64)
    state = torch.get_rng_state()
    assert torch.equal(hessian(vector), hessian(vector))
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_of_the_parameters_are_left_alone() -> None:
    net = perceptron(2, 5, 1, dtype=F64)
    hessian = hessian_of(net, waves(10))
    hessian(hessian.gradient)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_gradients_are_in_memory_once_while_products_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Tensor]] = []
    original = torch.autograd.grad

    def grad(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        made.extend(weakref.ref(gradient) for gradient in found)
        return found

    monkeypatch.setattr(torch.autograd, "grad", grad)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    hessian = Hessian(net(torch.randn(5, 4)).square().mean(), list(net.parameters()))
    assert len(made) == 4
    # The flat one is a copy.
    assert [gradient() for gradient in made] == [None] * 4
    assert hessian(hessian.gradient).any()


def test_the_graph_goes_when_it_is_released_without_the_garbage_collector() -> None:
    class Held(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            # The graph keeps both factors.
            factor = torch.full_like(inputs, 2.0)
            held.append(weakref.ref(factor))
            return inputs.square() * factor

    held: list[weakref.ref[Tensor]] = []
    net = nn.Sequential(nn.Linear(2, 4), Held(), nn.Linear(4, 1)).double()
    gc.collect()
    gc.disable()
    try:
        hessian = hessian_of(net, waves(10))
        hessian(torch.ones(17, dtype=F64))
        assert held[0]() is not None
        hessian.release()
        # A cycle between gradients and graph would keep it until the collector comes.
        assert held[0]() is None
    finally:
        gc.enable()
    assert not hessian(torch.ones(17, dtype=F64)).any()


def test_half_precision_parameters_take_and_give_vectors_in_float32() -> None:
    weights = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    hessian = Hessian(weights.float().pow(3).sum(), [weights])
    assert hessian.gradient.dtype == torch.float32
    assert hessian(torch.ones(2)).tolist() == [6, 12]
    assert vector_dtype([weights, torch.ones(1, dtype=F64)]) == F64


def test_vectors_are_cut_and_joined_in_the_order_of_the_parameters() -> None:
    parameters = [torch.zeros(2, 3), torch.zeros(()), torch.zeros(4)]
    vector = torch.arange(11.0)
    parts = unflat(vector, parameters)
    assert [tuple(part.shape) for part in parts] == [(2, 3), (), (4,)]
    assert torch.equal(flat(parts, parameters, torch.float32), vector)
    assert flat([parts[0], None, None], parameters, F64).tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0]


def gradient_at(net: nn.Module, batch: tuple[Tensor, Tensor], offset: Tensor) -> Tensor:
    parameters = list(net.parameters())
    held = [parameter.detach() + part for parameter, part in zip(parameters, unflat(offset, parameters), strict=True)]
    leaves = [weight.requires_grad_() for weight in held]
    names = [name for name, _ in net.named_parameters()]
    outputs = torch.func.functional_call(net, dict(zip(names, leaves, strict=True)), (batch[0],))
    loss = (outputs.reshape(batch[1].shape) - batch[1]).square().mean()
    return flat(torch.autograd.grad(loss, leaves), parameters, offset.dtype)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        # h² times a third derivative of about one, and rounding over h: the cube root of 2e-16, squared, is 4e-11.
        (F64, 1e-9),
        # The same of 1e-7 is 2e-5, with a factor for third derivatives and the length of the weights.
        (torch.float32, 1e-3),
    ],
)
def test_differences_of_gradients_come_near_the_exact_products(dtype: torch.dtype, error: float) -> None:
    net, batch = perceptron(2, 7, 5, 1, dtype=dtype), waves(20, dtype=dtype)
    weights = flat(list(net.parameters()), list(net.parameters()), dtype).detach()
    differenced = DifferencedHessian(lambda offset: gradient_at(net, batch, offset), weights)
    exact = hessian_of(net, batch)
    assert torch.equal(differenced.gradient, exact.gradient)
    for vector in (exact.gradient, 1e3 * torch.ones_like(weights), -exact.gradient):
        difference = (differenced(vector) - exact(vector)).norm()
        assert difference < error * exact(vector).norm()
    assert not differenced(torch.zeros_like(weights)).any()
    assert differenced.products == 4


def test_coarser_arithmetic_takes_longer_steps() -> None:
    taken = []

    def gradient(offset: Tensor) -> Tensor:
        taken.append(float(offset.norm()))
        return offset

    weights = torch.ones(4, dtype=F64)
    DifferencedHessian(gradient, weights)(weights)
    DifferencedHessian(gradient, weights, resolution=2**-8)(weights)
    # The cube roots of 2⁻⁸ and of 2⁻⁵², times the length of the weights, 2.
    assert taken[1] == pytest.approx(2 * 2 ** (-52 / 3))
    assert taken[-1] == pytest.approx(2 * 2 ** (-8 / 3))
