from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lightning_doctor.measure.saved import saved_tensor


def sample() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(5, 3, requires_grad=True)


def node(tensor: Tensor) -> Any:
    return tensor.grad_fn


def test_a_result_is_returned_detached_and_as_often_as_asked() -> None:
    positive = torch.relu(sample())
    for _ in range(2):
        saved = saved_tensor(node(positive), "result")
        assert saved is not None
        assert not saved.requires_grad
        assert torch.equal(saved, positive)


def test_it_is_remembered_what_was_read_when_nobody_holds_the_node() -> None:
    loss = torch.relu(sample()).sum()
    # Each look makes a new Python object for the same node.
    first, second = (saved_tensor(node(loss).next_functions[0][0], "result") for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


def test_reading_leaves_the_gradients_as_they_are() -> None:
    def gradient(read: bool) -> Tensor:
        values = sample()
        weight = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2))
        hidden = torch.tanh(values @ weight)
        loss = (hidden * hidden).sum()
        product = node(loss).next_functions[0][0]
        if read:
            assert saved_tensor(node(hidden), "result") is not None
            assert saved_tensor(product, "self") is not None
        (first,) = torch.autograd.grad(loss, values, create_graph=True)
        first.square().sum().backward()
        assert weight.grad is not None
        return weight.grad

    assert torch.equal(gradient(True), gradient(False))


def test_a_checkpointed_block_is_left_alone() -> None:
    runs = 0

    def block(values: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        return torch.tanh(values)

    values = sample()
    output = checkpoint(block, values, use_reentrant=False)
    assert saved_tensor(node(output), "result") is None
    assert runs == 1
    output.sum().backward()
    assert runs == 2
    assert values.grad is not None


def test_what_others_keep_elsewhere_is_left_alone() -> None:
    with save_on_cpu():
        output = torch.tanh(sample())
    assert saved_tensor(node(output), "result") is None
    output.sum().backward()


def test_there_is_nothing_where_nothing_is_kept() -> None:
    values = sample()
    product = values * torch.ones(3)
    assert saved_tensor(node(product), "self") is None
    assert saved_tensor(node(product), "result") is None
    assert saved_tensor(None, "result") is None
    output = torch.tanh(values)
    output.sum().backward()
    assert saved_tensor(node(output), "result") is None


def test_a_later_change_in_place_is_still_refused() -> None:
    output = torch.tanh(sample())
    assert saved_tensor(node(output), "result") is not None
    with torch.no_grad():
        output.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_under_a_dispatch_mode_which_may_fail_on_the_way() -> None:
    weight = torch.ones(3, requires_grad=True)
    with Passing():
        # Divided by a plain number, which a dispatch mode cannot detach as a tensor.
        loss = weight.exp().sum() / 2
        assert saved_tensor(loss.grad_fn, "other") is None
        loss.backward()
    assert torch.allclose(weight.grad, torch.ones(3).exp() / 2)
