from __future__ import annotations

from collections.abc import Sequence

import pytest

from lightning_doctor.findings import Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.edge_of_stability import edge_of_stability
from tests.histories import ADAM, FULL_BATCH, SGD, history_of, reading

MOMENTUM = [{"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.9}]}]


def run(
    values: Sequence[float],
    *,
    name: str = "high",
    optimizers: object = SGD,
    full: bool = True,
    rates: Sequence[float] = (0.1,),
) -> History:
    trainer = FULL_BATCH if full else {"batches_per_epoch": 40}
    history = history_of([1.0] * 100, rates=rates, optimizers=optimizers, trainer=trainer)
    for signal in {"high": ("high", "sharpness"), "sharpness": ("sharpness",)}.get(name, ("sharpness", name)):
        reading(history, f"curvature/{signal}", values)
    return history


def test_sick_gradient_descent_whose_curvature_has_come_to_two_over_the_rate() -> None:
    finding = edge_of_stability(run([3.0, 12.0, 20.4, 19.6, 20.3]))
    assert finding is not None
    assert finding.severity is Severity.NOTE
    assert finding.evidence["limit"] == 20.0
    assert finding.onset == 20
    assert "none is needed" in finding.remedy


def test_sick_the_sharpness_of_batches_under_sgd() -> None:
    assert edge_of_stability(run([20.4, 19.6, 20.3], name="sharpness", full=False)) is not None


def test_sick_full_batch_adam_at_38_over_the_rate() -> None:
    finding = edge_of_stability(run([370.0, 385.0, 381.0], name="preconditioned", optimizers=ADAM))
    assert finding is not None
    # (2 + 2·0.9) / ((1 − 0.9)·0.1)
    assert finding.evidence["limit"] == pytest.approx(380.0, rel=1e-12)


def test_sick_the_limit_follows_a_rate_that_changes() -> None:
    # 20, 40 and 80 for rates of 0.1, 0.05 and 0.025.
    rates = [*[0.1] * 10, *[0.05] * 10, *[0.025] * 10]
    assert edge_of_stability(run([20.0, 40.0, 80.0], rates=rates)) is not None
    assert edge_of_stability(run([20.0, 20.0, 20.0], rates=rates)) is None


def test_healthy_curvature_far_under_the_limit() -> None:
    assert edge_of_stability(run([0.5, 2.1, 6.3])) is None


@pytest.mark.parametrize(("value", "hovers"), [(24.9, True), (25.1, False), (16.1, True), (15.9, False)])
def test_every_one_of_the_last_probes_lies_within_a_quarter_of_it(value: float, hovers: bool) -> None:
    assert (edge_of_stability(run([20.0, value, 20.0])) is not None) is hovers


def test_three_probes_are_needed() -> None:
    assert edge_of_stability.lacks(run([20.0, 20.0])) is not None
    assert edge_of_stability.lacks(run([20.0, 20.0, 20.0])) is None


@pytest.mark.parametrize(("value", "told"), [(1.9, True), (2.0, False), (20.0, False), (37.9, False), (39.0, True)])
def test_between_the_limits_of_a_heavy_ball_on_small_and_on_large_batches_nothing_is_decided(
    value: float, told: bool
) -> None:
    history = run([value] * 3, name="sharpness", optimizers=MOMENTUM, full=False)
    if told:
        assert edge_of_stability(history) is None
    else:
        with pytest.raises(Undecided, match="theory does not tell"):
            edge_of_stability(history)


@pytest.mark.parametrize("optimizers", [ADAM, []])
def test_without_a_limit_nothing_is_decided(optimizers: object) -> None:
    with pytest.raises(Undecided, match="no limit of"):
        edge_of_stability(run([20.0] * 3, name="sharpness", optimizers=optimizers, full=False))
