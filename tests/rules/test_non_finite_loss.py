from __future__ import annotations

import math

import pytest

from lightning_doctor.history import History
from lightning_doctor.rules.non_finite_loss import non_finite_loss
from tests.histories import SGD, decay, history_of, noisy

NAN, INF = math.nan, math.inf
CALM = noisy([0.7] * 30, 0.05)


def test_sick_exploding_loss_that_ends_in_nan_blames_the_step_size() -> None:
    finding = non_finite_loss(history_of([2.3, 2.1, 4.8, 310.0, NAN, NAN, NAN], optimizers=SGD))
    assert finding is not None
    assert finding.code == "LD101"
    assert (finding.severity, finding.confidence, finding.onset) == ("error", "confirmed", 4)
    assert finding.evidence["last_finite"] == 310.0
    assert finding.evidence["best"] == 2.1
    assert "lower lr from 0.1 to 0.01" in finding.remedy


def test_sick_gradient_that_breaks_first_names_its_layer_and_a_guard() -> None:
    history = history_of([*CALM, NAN, NAN], model={"layer_names": ["a", "b", "c"]})
    history.happened("non_finite_gradient", 29, layers=["a", "b"], loss=0.7)
    finding = non_finite_loss(history)
    assert finding is not None
    assert finding.evidence["layer"] == "b"
    assert "guard" in finding.remedy
    assert "`b`" in finding.remedy


def test_sick_gradient_broken_up_to_the_output_blames_the_loss() -> None:
    history = history_of([*CALM, NAN, NAN], model={"layer_names": ["a", "b"]})
    history.happened("non_finite_gradient", 29, layers=["a", "b"], loss=0.7)
    finding = non_finite_loss(history)
    assert finding is not None
    assert "in the loss" in finding.remedy


def test_sick_half_precision_is_told_of_bf16() -> None:
    finding = non_finite_loss(history_of([*CALM, INF, INF], trainer={"precision": "16-true"}))
    assert finding is not None
    assert "bf16" in finding.remedy


def test_sick_out_of_the_blue_points_to_the_batch() -> None:
    finding = non_finite_loss(history_of([*CALM, NAN, NAN], trainer={"batches_per_epoch": 8}))
    assert finding is not None
    assert finding.evidence["batch"] == 30 % 8
    assert "batch 6" in finding.remedy


def test_sick_first_loss_says_that_no_step_was_to_blame() -> None:
    finding = non_finite_loss(history_of([NAN, NAN]))
    assert finding is not None
    assert finding.onset == 0
    assert "first batch" in finding.remedy


def test_sick_growing_gradient_under_a_finite_loss_blames_the_step_size() -> None:
    history = history_of([*CALM, NAN, NAN], optimizers=SGD)
    for step in range(30):
        history.record("grad_norm", step, 1.0 if step < 29 else 1e6)
    finding = non_finite_loss(history)
    assert finding is not None
    assert finding.evidence["gradient_growth"] == pytest.approx(1e6)
    assert "lower lr" in finding.remedy


def test_sick_loss_of_one_of_two_optimizers_is_seen() -> None:
    history = History()
    history.absent["train_loss"] = "2 optimizers: no single loss has to fall"
    for step in range(10):
        history.record("train_loss/0", step, 0.7)
        history.record("train_loss/1", step, NAN if step > 6 else 1.0)
    assert non_finite_loss.lacks(history) is None
    finding = non_finite_loss(history)
    assert finding is not None
    assert finding.signals == ("train_loss/1",)


def test_a_run_without_any_loss_is_unassessed_for_the_reason_given() -> None:
    history = History()
    assert non_finite_loss.lacks(history) is not None
    history.absent["train_loss"] = "manual optimization without a loss"
    assert non_finite_loss.lacks(history) == "manual optimization without a loss"


def test_a_single_last_nan_is_only_suspected_and_the_second_confirms_it() -> None:
    first, second = non_finite_loss(history_of([*CALM, NAN])), non_finite_loss(history_of([*CALM, NAN, NAN]))
    assert first is not None
    assert second is not None
    assert (first.confidence, second.confidence) == ("suspected", "confirmed")


def test_one_nan_that_the_run_survived_is_a_note() -> None:
    finding = non_finite_loss(history_of([*CALM, NAN, *CALM]))
    assert finding is not None
    assert finding.severity == "note"


@pytest.mark.parametrize(("every", "severity"), [(10, "warning"), (40, "note")])
def test_nan_that_comes_and_goes_is_ill_above_a_share_of_the_steps(every: int, severity: str) -> None:
    # The default share is 5 %: every tenth step lies above, every fortieth below.
    losses = [NAN if step % every == 5 else 0.7 for step in range(400)]
    finding = non_finite_loss(history_of(losses))
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("before", "grew"), [(9.0, False), (11.0, True)])
def test_growth_is_blamed_from_ten_times_the_start(before: float, grew: bool) -> None:
    finding = non_finite_loss(history_of([1.0, 0.9, before, NAN]))
    assert finding is not None
    assert ("loss_growth" in finding.evidence) is grew


def test_healthy_run_is_well() -> None:
    assert non_finite_loss(history_of(noisy(decay(2.3, 0.1, 50, 300), 0.02))) is None


@pytest.mark.parametrize(("skips", "ill"), [(1, False), (7, False), (8, True)])
def test_steps_that_the_fp16_scaler_skipped_are_its_search_unless_it_never_ends(skips: int, ill: bool) -> None:
    history = history_of([2.3, *[INF] * skips])
    for step in range(1, skips + 1):
        history.record("scaler_skips", step, 1.0)
    assert (non_finite_loss(history) is not None) is ill
