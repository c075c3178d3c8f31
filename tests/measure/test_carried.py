from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from lightning_doctor.measure.carried import CarriedGradients


def verdicts(acts: Sequence[str], *, set_to_none: bool = True) -> list[bool | None]:
    """Plays ``b`` (a backward pass begins and fills the gradients), ``z`` (zero_grad) and ``s`` (step)."""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    optimizer, carried = torch.optim.SGD(weights, lr=0.1), CarriedGradients()
    found = []
    for act in acts:
        if act == "b":
            carried.backward_begins(weights)
            weights[0].sum().backward()
        elif act == "z":
            optimizer.zero_grad(set_to_none=set_to_none)
        else:
            verdict = carried.step(again=True)
            found.append(None if verdict is None else bool(verdict))
    return found


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(
    ("acts", "expected"),
    [
        # The usual order, and zero_grad behind the step.
        ("zbszbszbs", [None, False, False]),
        ("bszbszbsz", [None, False, False]),
        # Nobody ever calls it.
        ("bsbsbs", [None, True, True]),
        # Accumulation over three backward passes, healthy and sick.
        ("zbbbszbbbs", [None, False]),
        ("bbbsbbbs", [None, True]),
        # An adversary's backward pass comes before this optimizer's own zero_grad.
        ("zbsbzbsbzbs", [None, False, False]),
        # zero_grad behind the step, then an adversary's backward pass fills the gradients.
        ("bszbbszbbsz", [None, False, False]),
        # Two steps with no backward pass between them say nothing.
        ("zbsszbs", [None, None, False]),
        # It was forgotten once.
        ("zbsbszbs", [None, True, False]),
    ],
)
def test_gradients_are_carried_where_no_backward_pass_begins_with_zeros(
    acts: str, expected: list[bool | None], set_to_none: bool
) -> None:
    assert verdicts(acts, set_to_none=set_to_none) == expected


def test_clipping_after_the_step_does_not_hide_them() -> None:
    weight, carried = nn.Parameter(torch.ones(2)), CarriedGradients()
    carried.step(again=True)
    weight.grad = torch.full((2,), 1e-12)
    carried.backward_begins([weight])
    assert bool(carried.step())


def test_nothing_is_looked_at_until_it_is_wanted() -> None:
    weight, carried = nn.Parameter(torch.ones(2)), CarriedGradients()
    weight.grad = torch.ones(2)
    for wanted, expected in [(False, None), (True, None), (False, True), (False, None)]:
        carried.wanted |= wanted
        carried.backward_begins([weight])
        verdict = carried.step()
        assert (None if verdict is None else bool(verdict)) is expected
