from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_doctor.stability import Limits, limits

RATE = 0.1


def found(optimizer: str, batch: str = "full", **group: Any) -> Limits | None:
    return limits(optimizer, {"lr": RATE, **group}, batch)  # type: ignore[arg-type]


def grows(optimizer: str, curvature: float, **group: Any) -> bool:
    """Whether PyTorch's own optimizer diverges on a parabola, from where its preconditioner is one."""
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    made = getattr(torch.optim, optimizer)([weight], lr=RATE, **group)
    if optimizer != "SGD":
        # A preconditioner that stands still at one.
        made.state[weight].update(step=torch.tensor(1e9), exp_avg=torch.zeros_like(weight).detach())
        made.state[weight]["exp_avg_sq" if "Adam" in optimizer else "square_avg"] = torch.ones_like(weight).detach()
        if optimizer == "RMSprop" and group.get("momentum"):
            made.state[weight]["momentum_buffer"] = torch.zeros_like(weight).detach()
    for _ in range(3000):
        weight.grad = curvature * weight.detach()
        made.step()
        if not 1e-30 < abs(float(weight.detach())) < 1e30:
            break
    return abs(float(weight.detach())) > 1


@pytest.mark.parametrize(
    ("optimizer", "group"),
    [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("SGD", {"momentum": 0.5, "dampening": 0.5}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("SGD", {"weight_decay": 2.0}),
        ("SGD", {"momentum": 0.9, "weight_decay": 2.0}),
        ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 2.0}),
        ("RMSprop", {"weight_decay": 0.0}),
        ("RMSprop", {"momentum": 0.9, "weight_decay": 0.0}),
    ],
    ids=str,
)
def test_the_limit_is_where_pytorchs_optimizer_begins_to_diverge(optimizer: str, group: dict[str, Any]) -> None:
    limit = found(optimizer, **group)
    assert limit is not None
    assert limit.low == limit.high
    assert limit.low is not None
    # One percent to either side: within 3,000 steps that is enough.
    frozen = {"alpha": 1.0, "eps": 0.0} if optimizer == "RMSprop" else {}
    assert not grows(optimizer, 0.99 * limit.low, **group, **frozen)
    assert grows(optimizer, 1.01 * limit.low, **group, **frozen)


def radius(rate: float, beta: float, curvature: float, decay: float) -> float:
    """Of w ← (1 − lr·d)w − lr·m, m ← βm + (1 − β)λw: AdamW with a preconditioner of one."""
    inner = [[beta, (1 - beta) * curvature], [-rate * beta, 1 - rate * decay - rate * (1 - beta) * curvature]]
    return float(torch.linalg.eigvals(torch.tensor(inner, dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("decay", [0.0, 0.5, 5.0])
def test_adams_limit_is_where_its_recurrence_leaves_the_unit_circle(decay: float) -> None:
    limit = found("AdamW", betas=[0.9, 0.999], weight_decay=decay)
    assert limit is not None
    assert limit.high is not None
    assert limit.gauge == "preconditioned"
    assert radius(RATE, 0.9, 0.999 * limit.high, decay) < 1 < radius(RATE, 0.9, 1.001 * limit.high, decay)


def test_the_limits_are_those_of_the_literature() -> None:
    # Cohen et al. 2021 and 2022: 2/lr, and 38/lr for β₁ = 0.9.
    assert found("SGD") == Limits(20.0, 20.0, "curvature", 0.0, "Cohen et al. 2021, arXiv 2103.00065")
    adam = found("Adam", betas=[0.9, 0.999], weight_decay=0.01)
    assert adam is not None
    assert adam.high == pytest.approx(380)
    # Coupled decay goes through the preconditioner: it is not in the limit.
    assert adam.decay == 0.01


def test_batches_without_momentum_have_the_same_limit_for_their_own_sharpness() -> None:
    limit = found("SGD", "mini")
    assert limit is not None
    assert (limit.low, limit.high, limit.gauge) == (20, 20, "batch_sharpness")


def test_batches_with_momentum_have_a_gap_of_nineteen() -> None:
    limit = found("SGD", "mini", momentum=0.9)
    assert limit is not None
    assert limit.low is not None
    assert limit.high is not None
    assert (limit.low, limit.high) == pytest.approx((2, 38))


@pytest.mark.parametrize(
    ("optimizer", "group"),
    [("Adam", {"betas": [0.9, 0.999]}), ("RMSprop", {}), ("SGD", {"momentum": 0.9, "nesterov": True})],
)
def test_batches_that_no_theory_covers_have_no_limit(optimizer: str, group: dict[str, Any]) -> None:
    limit = found(optimizer, "mini", **group)
    assert limit is not None
    assert (limit.low, limit.high) == (None, None)


@pytest.mark.parametrize(
    ("optimizer", "group"),
    [
        ("LBFGS", {}),
        ("NAdam", {"betas": [0.9, 0.999]}),
        ("SGD", {"lr": 0.0}),
        ("SGD", {"lr": "fast"}),
        ("SGD", {"lr": math.nan}),
        ("SGD", {"lr": True}),
        ("SGD", {"momentum": 1.0}),
        ("SGD", {"momentum": 0.9, "dampening": 1.0}),
        ("SGD", {"maximize": True}),
        ("SGD", {"weight_decay": None}),
        ("Adam", {}),
        ("Adam", {"betas": [None]}),
        ("RMSprop", {"momentum": "0.9"}),
    ],
    ids=str,
)
def test_what_no_theory_covers_or_makes_no_sense_is_none(optimizer: str, group: dict[str, Any]) -> None:
    assert found(optimizer, **group) is None
