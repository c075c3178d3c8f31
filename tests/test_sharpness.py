from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.history import History
from lightning_doctor.sharpness import gauge, largest_rate, stability
from tests.histories import ADAM, FULL_BATCH, SGD, reading

MOMENTUM = [{"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.9}]}]


def run(optimizers: object = SGD, *, rates: tuple[float, ...] = (0.1,), full: bool = True, **series: float) -> History:
    history = History()
    history.facts = {"optimizers": optimizers, **({"trainer": FULL_BATCH} if full else {})}
    reading(history, "learning_rate", rates)
    for name, value in series.items():
        reading(history, f"curvature/{name}", [value] * 3)
    return history


def test_the_limit_follows_the_learning_rate_of_the_step() -> None:
    history = run(rates=(0.1, 0.05))
    limits = [stability(history, step) for step in (0, 9, 10)]
    assert [limit.low for limit in limits if limit is not None] == [20.0, 20.0, 40.0]


@pytest.mark.parametrize(
    "optimizers",
    [
        None,
        [],
        [{"class": "SGD", "groups": []}],
        [{"class": "SGD", "groups": [{"lr": 0.1}, {"lr": 0.2}]}],
        [{"class": "SGD", "groups": ["lr"]}],
        [{"class": "Lion", "groups": [{"lr": 0.1}]}],
        # The decay adds to a curvature that is measured without it.
        [{"class": "Adam", "groups": [{"lr": 0.1, "betas": [0.9, 0.999], "weight_decay": 0.1}]}],
    ],
)
def test_no_limit_is_claimed_where_no_theory_covers_it(optimizers: Any) -> None:
    assert stability(run(optimizers), 0) is None


@pytest.mark.parametrize(("values", "known"), [([0.9, 0.9], True), ([0.9, 0.8], False)])
def test_a_momentum_that_is_scheduled_has_no_single_limit(values: list[float], known: bool) -> None:
    history = reading(run(MOMENTUM), "momentum", values)
    assert (stability(history, 0) is not None) is known


def test_the_largest_curvature_stands_in_for_nothing_but_itself() -> None:
    history = run(sharpness=5.0)
    reading(history, "curvature/high", [9.0] * 2)
    kinds = [("curvature", 2), ("curvature", 3), ("batch_sharpness", 2), ("preconditioned", 2)]
    names = ["high", "sharpness", "sharpness", "preconditioned"]
    assert [gauge(history, *kind) for kind in kinds] == [f"curvature/{name}" for name in names]


def test_the_largest_rate_is_the_one_whose_limit_the_curvature_would_meet() -> None:
    # Gradient descent: 2 over the curvature. A heavy ball of 0.9: 2·1.9 over it, on batches 2·0.1; Adam: 38 over it.
    # Exact up to the rounding of three operations.
    assert largest_rate(run(sharpness=4.0)) == pytest.approx(0.5, rel=1e-12)
    assert largest_rate(run(MOMENTUM, sharpness=4.0)) == pytest.approx(0.95, rel=1e-12)
    assert largest_rate(run(MOMENTUM, sharpness=4.0, full=False)) == pytest.approx(0.05, rel=1e-12)
    assert largest_rate(run(ADAM, sharpness=4.0, preconditioned=76.0)) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    "history", [run(), run(sharpness=-1.0), run(ADAM, sharpness=4.0, preconditioned=7.0, full=False), run(ADAM)]
)
def test_there_is_no_largest_rate_without_curvature_or_theory(history: History) -> None:
    assert largest_rate(history) is None
