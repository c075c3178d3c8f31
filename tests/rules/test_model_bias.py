from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.diagnose import rank
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rules.model_bias import model_bias
from lightning_doctor.rules.worse_than_reference import worse_than_reference
from tests.histories import COMPLETED, HEAD, decay, headed
from tests.rules.test_worse_than_reference import DEEP, LINEAR, compared
from tests.scored import scored


def judge(
    network: float = 1.7,
    linear: float = 1.72,
    shallow: float = 0.04,
    *,
    error: float = 0.05,
    skill: float = 0.2,
    model: dict[str, Any] = LINEAR,
    ended: bool = True,
    losses: list[float] | None = None,
    **thresholds: float,
) -> Finding | None:
    history = headed(
        HEAD,
        skill=skill,
        losses=losses or decay(2.3, 1.7, 5, 200),
        baseline=2.3,
        model=model,
        reference=compared(network, linear=linear, shallow=shallow, error=error),
        run=COMPLETED if ended else {},
    )
    assert model_bias.lacks(history) is None
    return model_bias(history, **thresholds)


def test_sick_a_straight_line_through_what_bends() -> None:
    finding = judge()
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD503", Severity.WARNING, Confidence.CONFIRMED)
    assert "add a hidden layer" in finding.remedy
    # 0.05 times the normal quantile of 0.975.
    assert "a difference known to ± 0.098 (95%)" in finding.summary


def test_healthy_a_deep_network_is_left_to_optimization() -> None:
    assert judge(model=DEEP) is None


NARROW: dict[str, Any] = {"layers": {"Linear": 2, "ReLU": 1}, "parameters": 60}


@pytest.mark.parametrize(("weights", "ill"), [(240, True), (239, False)])
def test_sick_two_hidden_units_where_a_wider_network_does_better(weights: int, ill: bool) -> None:
    reference = compared(1.5, linear=1.6, shallow=0.2, error=0.05) | {"shallow_parameters": weights}
    history = headed(
        HEAD,
        skill=0.3,
        losses=decay(2.3, 1.5, 5, 200),
        baseline=2.3,
        model=NARROW,
        reference=reference,
        run=COMPLETED,
    )
    finding = model_bias(history)
    assert (finding is not None) is ill
    # What is no matter of size is one of training, and the other way round.
    assert (worse_than_reference(history) is not None) is not ill
    if finding is not None:
        assert finding.confidence is Confidence.SUSPECTED
        assert "it has 60 weights, where that has 240" in finding.summary
        assert "widen its hidden layers to 32 units" in finding.remedy


def test_healthy_a_linear_model_of_what_is_straight() -> None:
    assert judge(0.3, 0.31, 0.29) is None


def test_healthy_a_linear_model_that_is_worse_than_a_fitted_one_was_trained_badly() -> None:
    assert judge(2.2, 1.0, 0.04) is None


def test_healthy_a_loss_that_still_falls_is_not_the_best_that_a_model_has() -> None:
    assert judge(losses=decay(2.3, 0.5, 200, 200)) is None


@pytest.mark.parametrize(("level", "ill"), [(2.4, True), (2.7, False)])
def test_healthy_what_rests_over_a_constant_is_no_matter_of_the_model(level: float, ill: bool) -> None:
    # The constant costs 2.3, of which a tenth is what two models may differ by.
    assert (judge(losses=decay(3.0, level, 5, 200)) is not None) is ill


def test_healthy_a_run_that_does_well() -> None:
    assert judge(skill=0.85) is None


def test_healthy_rows_that_score_well_in_eval_mode() -> None:
    history = headed(
        HEAD, skill=0.2, losses=[1.7] * 100, baseline=2.3, model=LINEAR, reference=compared(1.7, linear=1.72)
    )
    scored(history, "train", [0.1], skills=[0.9])
    assert model_bias(history) is None


def test_healthy_a_loss_that_still_falls() -> None:
    assert judge(losses=decay(2.3, 0.2, 150, 200), ended=False) is None


@pytest.mark.parametrize(("error", "ill"), [(0.4, True), (0.42, False)])
def test_sigmas_is_how_surely_one_hidden_layer_must_do_better(error: float, ill: bool) -> None:
    # 1.7 − 0.04 are 1.66: four times 0.415.
    assert (judge(error=error) is not None) is ill


@pytest.mark.parametrize(("network", "ill"), [(1.77, True), (1.79, False)])
def test_alike_is_how_near_to_the_linear_model_it_may_be(network: float, ill: bool) -> None:
    # A tenth of 2.3 − 1.72 are 0.058.
    assert (judge(network, error=0.001) is not None) is ill


@pytest.mark.parametrize(("shallow", "ill"), [(1.37, False), (1.33, True)])
def test_share_is_what_one_hidden_layer_must_take_off(shallow: float, ill: bool) -> None:
    # 15 % of 2.3 are 0.345.
    assert (judge(shallow=shallow, error=0.01) is not None) is ill


@pytest.mark.parametrize(("shallow", "sure"), [(0.60, False), (0.50, True)])
def test_sure_is_what_it_must_take_off_to_be_confirmed(shallow: float, sure: bool) -> None:
    # Half of 2.3.
    finding = judge(shallow=shallow)
    assert finding is not None
    assert (finding.confidence is Confidence.CONFIRMED) is sure


def cause(code: str, name: str) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        summary="s",
        remedy="r",
        code=code,
        name=name,
        confidence=Confidence.CONFIRMED,
        onset=0,
    )


def test_a_confirmed_cause_goes_first_but_not_what_the_model_itself_explains() -> None:
    finding = judge()
    assert finding is not None
    ranked = rank([finding, cause("LD103", "learning_rate_too_high")])
    assert [(each.code, each.explained_by) for each in ranked] == [("LD103", None), ("LD503", "LD103")]
    ranked = rank([finding, cause("LD106", "stuck_at_baseline")])
    assert [(each.code, each.explained_by) for each in ranked] == [("LD503", None), ("LD106", "LD503")]
