from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure.twin import twin


def forgetful() -> tuple[nn.Linear, Callable[[], int]]:
    """A layer two of whose hooks share a counter."""
    layer, count = nn.Linear(2, 2), 0

    def add(*_: Any) -> None:
        nonlocal count
        count += 1

    layer.register_forward_pre_hook(add)
    layer.register_forward_hook(add)
    layer.counted = lambda: count  # type: ignore[assignment]
    return layer, lambda: count


def test_functions_that_share_a_variable_share_one_in_the_copy_and_leave_the_first_alone() -> None:
    layer, count = forgetful()
    made: Any = twin(layer)
    made(torch.ones(1, 2))
    assert count() == 0
    assert made.counted() == 2


class Net(nn.Module):
    """Reaches itself by a function that it holds."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[Tensor] = []
        teacher = nn.BatchNorm1d(1)

        def run(inputs: Tensor, scale: float = 1.0) -> Tensor:
            outputs: Tensor = scale * self.layer(teacher(inputs))
            self.seen.append(outputs)
            return outputs

        self.teacher = (teacher,)
        self.run: Any
        if how == "closure":
            self.run = run
        elif how == "closure in a closure":
            self.run = lambda inputs: run(inputs)
        elif how == "decorated":
            self.run = wraps(run)(lambda inputs: run(inputs))
        elif how == "bound":
            self.run = Net.step.__get__(self)
        elif how == "a closure's method":
            self.run = (lambda whose: lambda inputs: whose.step(inputs))(self)
        elif how == "default":
            self.run = lambda inputs, net=self: net.step(inputs)
        elif how == "keyword":
            self.run = self.keyword()
        elif how == "in a tuple in a list":
            self.steps = [("run", lambda inputs: self.step(inputs))]
            self.run = lambda inputs: self.steps[0][1](inputs)
        elif how == "partial":
            self.run = partial(lambda inputs, scale: scale * self.step(inputs), scale=1.0)
        elif how == "dictionary in a closure":
            ways = {"run": lambda inputs: self.step(inputs)}
            self.run = lambda inputs: ways["run"](inputs)
        elif how == "parts in a closure":
            parts = (self.layer, self.seen.append)
            self.run = lambda inputs: (outputs := parts[0](inputs), parts[1](outputs))[0]
        elif how == "hook":
            self.layer.register_forward_hook(lambda _, inputs, outputs: self.seen.append(outputs))
            self.run = lambda inputs: self.layer(inputs)

    def keyword(self) -> Callable[[Tensor], Tensor]:
        def run(inputs: Tensor, *, net: Net = self) -> Tensor:
            return net.step(inputs)

        return run

    def step(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        self.seen.append(outputs)
        return outputs


@pytest.mark.parametrize(
    "how",
    [
        "closure",
        "closure in a closure",
        "decorated",
        "bound",
        "a closure's method",
        "default",
        "keyword",
        "in a tuple in a list",
        "partial",
        "dictionary in a closure",
        "parts in a closure",
        "hook",
    ],
)
def test_whatever_way_a_function_reaches_the_model_in_the_copy_it_reaches_the_copy(how: str) -> None:
    net = Net(how)
    buffers = net.teacher[0].running_mean
    assert buffers is not None
    before = buffers.clone()
    made = twin(net)
    outputs = made.run(torch.tensor([[1.0], [3.0]]))
    outputs.sum().backward()
    assert made.layer.weight.grad is not None
    assert len(made.seen) == 1
    assert net.layer.weight.grad is None
    assert net.seen == []
    assert torch.equal(buffers, before)


def test_what_reaches_nothing_of_the_model_is_shared() -> None:
    def double(x: Tensor, by: float = 2.0) -> Tensor:
        return by * x

    net = nn.Sequential(nn.Linear(1, 1))
    net.activation = double  # type: ignore[assignment]
    assert twin(net).activation is double


def test_a_function_that_reaches_itself_is_copied_once() -> None:
    net = nn.Linear(1, 1)

    def halve(n: int) -> float:
        return net.weight.sum().item() if n == 0 else halve(n - 1) / 2

    net.halve = halve  # type: ignore[assignment]
    made: Any = twin(net)
    with torch.no_grad():
        made.weight.fill_(8.0)
    assert made.halve(3) == 1.0
    assert net.halve is halve


def test_what_a_function_draws_from_keeps_and_adds_up_is_its_own_in_the_copy() -> None:
    source, numbers, mean = torch.Generator().manual_seed(3), np.random.default_rng(3), torch.zeros(2)
    latest: deque[Tensor] = deque(maxlen=3)
    kept: dict[str, Tensor] = {}
    layer, lock = nn.Linear(2, 2), threading.Lock()

    def note(_: nn.Module, inputs: Any, outputs: Tensor) -> None:
        with lock:
            torch.randn(1, generator=source)
            numbers.normal()
            mean.add_(outputs.detach().mean(0))
            latest.append(outputs)
            kept["outputs"] = outputs

    layer.register_forward_hook(note)
    layer(torch.ones(1, 2))
    states = source.get_state(), numbers.bit_generator.state, mean.clone()
    twin(layer)(torch.ones(1, 2))
    assert torch.equal(source.get_state(), states[0])
    assert numbers.bit_generator.state == states[1]
    assert torch.equal(mean, states[2])
    assert len(latest) == 1
    assert kept["outputs"] is latest[0]


def test_a_teacher_at_rest_and_data_are_shared() -> None:
    teacher, rows = nn.Linear(2, 2).eval(), torch.zeros(1 << 23)
    layer = nn.Linear(2, 2)
    layer.reach = lambda: (teacher, rows)  # type: ignore[assignment]
    made: Any = twin(layer)
    assert made.reach()[0] is teacher
    assert made.reach()[1] is rows
