from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure.landscape import Landscape, as_double, parts, samples
from tests.measure.dense import perceptron, squared_error, waves

F64 = torch.float64


class Attention(nn.Module):
    """Attention by the fused operator, whose own kernels have no double backward."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(2, 24), nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = self.inside(inputs).view(1, 1, len(inputs), 24).chunk(3, dim=-1)
        return self.outside(nn.functional.scaled_dot_product_attention(query, key, value))


def noisy_net() -> nn.Module:
    hidden = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh())
    torch.manual_seed(0)
    return nn.Sequential(hidden, nn.Linear(8, 1))


def test_looking_changes_neither_weights_nor_buffers_nor_gradients_nor_random_numbers() -> None:
    net, batch = noisy_net(), waves(32, dtype=torch.float32)
    net[1].weight.grad = torch.ones_like(net[1].weight)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    land = Landscape(net, squared_error)
    hessian = land.hessian(batch)
    # Batch statistics move in the forward pass, and are put back before its graph is used.
    assert hessian(hessian.gradient).any()
    hessian.release()
    offset = torch.ones_like(land.weights)
    assert land.losses([batch, batch], offset).unique().numel() == 2
    land.gradient(batch, offset)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net[1].weight.grad.eq(1).all()
    assert net[0][0].weight.grad is None


def test_dropout_drops_the_same_units_in_each_evaluation() -> None:
    land, batch = Landscape(noisy_net(), squared_error), waves(32, dtype=torch.float32)
    first = land.losses([batch])
    # Whatever is drawn in between.
    torch.rand(1)
    assert torch.equal(land.losses([batch]), first)
    assert torch.equal(land.hessian(batch).gradient, land.gradient(batch))


def test_weights_are_back_where_they_were_when_the_loss_raises() -> None:
    net = perceptron(2, 3, 1, dtype=F64)

    def raising(module: nn.Module, batch: Any) -> Tensor:
        raise RuntimeError("no")

    land, before = Landscape(net, raising), copy.deepcopy(net.state_dict())
    with pytest.raises(RuntimeError, match="no"):
        land.losses([None], torch.ones_like(land.weights))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_losses_along_a_line_are_those_of_moved_weights() -> None:
    net, batch = perceptron(2, 3, 1, dtype=F64), waves(20)
    land = Landscape(net, squared_error)
    offset = torch.linspace(-1, 1, len(land.weights), dtype=F64)
    moved = copy.deepcopy(net)
    torch.nn.utils.vector_to_parameters(land.weights + offset, moved.parameters())
    found = land.losses([batch, (batch[0][:5], batch[1][:5])], offset)
    assert found.tolist() == [float(squared_error(moved, b).detach()) for b in (batch, (batch[0][:5], batch[1][:5]))]


def test_parameters_that_are_frozen_stand_still_and_do_not_count() -> None:
    net = perceptron(2, 3, 1, dtype=F64)
    net[0].requires_grad_(False)
    assert len(Landscape(net, squared_error).weights) == 4
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the module requires gradients"):
        Landscape(net, squared_error)


def test_fused_attention_is_differentiated_twice_all_the_same() -> None:
    torch.manual_seed(0)
    net = Attention().double()
    land, batch = Landscape(net, squared_error), waves(12)
    hessian = land.hessian(batch)
    vector = hessian.gradient / hessian.gradient.norm()
    exact = hessian(vector)
    step = 1e-5
    difference = (land.gradient(batch, step * vector) - land.gradient(batch, -step * vector)) / (2 * step)
    # h² times a third derivative, and rounding of 1e-16 over h.
    assert torch.allclose(exact, difference, atol=1e-8)
    assert exact.norm() > 0.01


class Pair(NamedTuple):
    inputs: Tensor
    targets: Tensor


@pytest.mark.parametrize("form", ["tuple", "list", "dict", "named"])
def test_batches_of_any_form_are_cut_along_their_samples(form: str) -> None:
    inputs, targets = torch.arange(20.0).view(10, 2), torch.arange(10)
    forms: dict[str, Any] = {
        "tuple": (inputs, targets),
        "list": [inputs, {"targets": targets}, "words"],
        "dict": {"x": inputs, "y": [targets]},
        "named": Pair(inputs, targets),
    }
    batch = forms[form]
    assert samples(batch) == 10
    cut = parts(batch, 1, 10, 4)
    assert len(cut) == 4
    assert [type(part) for part in cut] == [type(batch)] * 4
    assert [samples(part) for part in cut] == [2] * 4
    first = cut[1]["x"] if form == "dict" else cut[1][0]
    assert torch.equal(first, inputs[3:5])


@pytest.mark.parametrize("batch", [None, "words", torch.tensor(1.0), (torch.ones(3), torch.ones(4))])
def test_a_batch_whose_samples_cannot_be_counted_has_none(batch: Any) -> None:
    assert samples(batch) is None


def test_only_floating_point_becomes_double() -> None:
    wide = as_double({"x": torch.ones(2), "y": torch.ones(2, dtype=torch.long)})
    assert (wide["x"].dtype, wide["y"].dtype) == (F64, torch.long)
