from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lightning_doctor.diagnose import rank
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.worse_than_reference import worse_than_reference
from tests.histories import COMPLETED, LOGITS, decay, headed, noisy

DEEP: dict[str, Any] = {"layers": {"Linear": 9, "ReLU": 8}, "parameters": 9000}
LINEAR: dict[str, Any] = {"layers": {"Linear": 1}, "parameters": 90}


def compared(network: float, *, linear: float = 0.3, shallow: float = 0.28, error: float = 0.02) -> dict[str, Any]:
    return {
        "step": 199,
        "rows": 250,
        "hidden": 32,
        "network": network,
        "constant": 2.3,
        "constant_error": error,
        "linear": linear,
        "linear_error": error,
        "shallow": shallow,
        "shallow_error": error,
    }


def judge(
    reference: dict[str, Any],
    *,
    skill: float = 0.2,
    losses: list[float] | None = None,
    model: dict[str, Any] = DEEP,
    ended: bool = True,
    **thresholds: float,
) -> Finding | None:
    history = headed(
        LOGITS,
        skill=skill,
        losses=losses or decay(2.3, 1.8, 5, 200),
        baseline=2.3,
        model=model,
        reference=reference,
        run=COMPLETED if ended else {},
    )
    assert worse_than_reference.lacks(history) is None
    return worse_than_reference(history, **thresholds)


def test_a_network_whose_step_adds_noise_in_eval_mode_too_is_not_compared_with_what_saw_none() -> None:
    with pytest.raises(Undecided, match="draws random numbers in eval mode too"):
        judge({**compared(1.8), "draws": True})
    # That of a step like its own is.
    given = {**compared(1.8), "draws": True, "model": 0.4, "model_error": 0.02}
    finding = judge(given)
    assert finding is not None
    assert finding.evidence["reference"] == 0.4


def test_sick_a_linear_model_on_rows_it_never_saw_beats_the_network_that_did() -> None:
    finding = judge(compared(1.8, shallow=1.9))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD507", Severity.WARNING, Confidence.SUSPECTED)
    assert finding.summary.startswith("a linear model scores 0.3 on 250 training rows")
    # 0.02 times the normal quantile of 0.975.
    assert finding.summary.endswith("; the difference is known to ± 0.039 (95%)")
    assert "skips" in finding.remedy


def test_sick_the_best_of_several_is_named() -> None:
    finding = judge(compared(1.8, shallow=0.1))
    assert finding is not None
    assert finding.evidence["reference"] == 0.1


def test_sick_a_target_that_was_given_is_not_reached() -> None:
    finding = judge({"target": 0.5, "target_of": "the target"})
    assert finding is not None
    assert finding.summary == "the training loss is 1.8, and the target has 0.5"
    assert finding.confidence is Confidence.SUSPECTED


def test_sick_five_layers_that_lose_to_a_trained_model_of_four() -> None:
    reference = {**compared(0.34, linear=0.5, shallow=0.5), "constant": 1.0, "model": 0.10, "model_error": 0.01}
    finding = judge(reference, losses=decay(1.0, 0.34, 5, 200))
    assert finding is not None
    assert finding.evidence["reference"] == 0.10


def test_healthy_a_network_that_does_better_than_both() -> None:
    assert judge(compared(0.02)) is None


def test_healthy_a_difference_inside_the_noise_of_the_rows() -> None:
    assert judge(compared(0.35, linear=0.3, shallow=0.3, error=0.03)) is None


def test_healthy_a_target_that_is_reached() -> None:
    assert judge({"target": 1.8, "target_of": "the target"}) is None


def test_healthy_a_linear_model_need_not_do_what_a_hidden_layer_does() -> None:
    assert judge(compared(1.8, linear=1.79, shallow=0.1), model=LINEAR) is None


def test_healthy_a_loss_that_still_falls_may_get_there() -> None:
    assert judge(compared(1.8), losses=decay(2.3, 0.2, 150, 200), ended=False) is None
    finding = judge(compared(1.8), losses=decay(2.3, 0.2, 150, 200))
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_a_run_that_does_well_all_the_same_is_told_in_a_note() -> None:
    finding = judge(compared(0.6), skill=0.9)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(("skill", "severity"), [(0.2, "warning"), (0.6, "note")])
def test_of_a_run_that_goes_on_only_one_that_does_badly_is_warned(skill: float, severity: str) -> None:
    losses = decay(2.3, 1.8, 5, 200) if skill < 0.5 else decay(2.3, 0.9, 5, 200)
    finding = judge(compared(losses[-1]), skill=skill, losses=losses, ended=False)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("sigmas", "ill"), [(74.0, True), (76.0, False)])
def test_sigmas_is_how_surely_it_must_do_better(sigmas: float, ill: bool) -> None:
    # 1.5 over 0.02 are 75.
    assert (judge(compared(1.8, shallow=3.0), sigmas=sigmas) is not None) is ill


@pytest.mark.parametrize(("network", "ill"), [(0.49, False), (0.51, True)])
def test_share_is_what_the_network_must_lack_of_its_gain(network: float, ill: bool) -> None:
    # A tenth of 2.3 − 0.3.
    assert (judge(compared(network, shallow=0.6, error=0.001)) is not None) is ill


def cause(confidence: Confidence, code: str = "LD201") -> Finding:
    return Finding(
        severity=Severity.WARNING, summary="s", remedy="r", code=code, name="another", confidence=confidence, onset=50
    )


@pytest.mark.parametrize("code", ["LD103", "LD201", "LD303", "LD604"])
def test_a_confirmed_cause_of_another_kind_explains_it(code: str) -> None:
    finding = judge(compared(1.8))
    assert finding is not None
    ranked = rank([finding, cause(Confidence.CONFIRMED, code)])
    assert [(each.code, each.explained_by) for each in ranked] == [(code, None), ("LD507", code)]


def test_a_suspected_cause_that_began_before_it_was_seen_goes_first() -> None:
    finding = judge(compared(1.8))
    assert finding is not None
    ranked = rank([replace(finding, onset=199), cause(Confidence.SUSPECTED)])
    assert [(each.code, each.explained_by) for each in ranked] == [("LD201", None), ("LD507", None)]


@pytest.mark.parametrize("fact", [{}, {"network": "low"}, {"network": 1.0, "constant": 2.0}])
def test_a_fact_that_tells_nothing_is_no_finding(fact: dict[str, Any]) -> None:
    assert judge(fact or {"step": 3}) is None


# Compared at step 100 of 200 where the loss was at 1.8.
@pytest.mark.parametrize(("end", "undecided"), [(1.8, False), (0.9, True), (0.2, True)])
def test_a_comparison_that_the_loss_has_left_behind_decides_nothing(end: float, undecided: bool) -> None:
    reference = compared(1.8) | {"step": 100}
    losses = noisy([1.8] * 120 + [end] * 80, 0.05)
    if undecided:
        with pytest.raises(Undecided, match="compared at step 100, and its loss has fallen since"):
            judge(reference, losses=losses)
    else:
        assert judge(reference, losses=losses) is not None


def test_a_comparison_left_behind_leaves_a_target_to_judge_by() -> None:
    finding = judge(compared(1.8) | {"step": 100, "target": 0.3}, losses=noisy([1.8] * 120 + [0.9] * 80, 0.05))
    assert finding is not None
    assert finding.evidence["reference"] == 0.3


def test_a_network_of_which_a_part_is_frozen_cannot_copy_a_simpler_one() -> None:
    finding = judge(compared(1.8, shallow=1.9), model={**DEEP, "trainable": 90})
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(("end", "severity"), [(1.9, "warning"), (1.2, "note")])
def test_sick_a_crawl_will_not_bring_it_there(end: float, severity: str) -> None:
    losses = [2.3 - (2.3 - end) * step / 200 for step in range(200)]
    finding = judge(compared(losses[-1]), losses=losses)
    assert finding is not None
    assert finding.severity == severity
