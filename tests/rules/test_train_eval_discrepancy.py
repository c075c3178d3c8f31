from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.train_eval_discrepancy import train_eval_discrepancy
from tests.histories import COMPLETED, LOGITS, decay, headed, reading
from tests.scored import scored

NORMALISED: dict[str, Any] = {"layers": {"Linear": 2, "BatchNorm1d": 1}}


def judge(
    gaps: Sequence[float],
    *,
    losses: Sequence[float] = tuple(decay(2.3, 0.1, 10, 200)),
    model: dict[str, Any] | None = None,
    batch: int = 4,
    skill: float | None = None,
    **thresholds: Any,
) -> Finding | None:
    history = headed(
        LOGITS, losses=losses, baseline=2.3, model=NORMALISED if model is None else model, data={"batch_size": batch}
    )
    reading(history, "mode_gap", gaps, every=40)
    if skill is not None:
        scored(history, "validation", [0.3], skills=[skill])
    assert train_eval_discrepancy.lacks(history) is None
    return train_eval_discrepancy(history, **thresholds)


def test_sick_batch_statistics_that_the_running_ones_never_reach() -> None:
    finding = judge([-0.9, -0.92, -0.9, -0.95, -0.9])
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD509", Severity.WARNING, Confidence.CONFIRMED)
    # Of 1, 0.1 in train mode are ten times less.
    assert finding.evidence["ratio"] == pytest.approx(10)
    assert "larger batches (now of 4)" in finding.remedy


def test_sick_each_scan_is_set_against_the_loss_of_its_time() -> None:
    # Long before the loss is down to 0.1 a third of it is hundreds of times less than at the end.
    gaps = [-0.1, -0.3, -0.6, -0.8, -0.97]
    finding = judge(gaps, losses=decay(2.3, 0.02, 80, 200))
    assert finding is not None
    assert finding.evidence["ratio"] == pytest.approx(5)
    assert finding.evidence["eval_mode"] > 1


def test_sick_without_batch_normalisation_it_is_suspected_and_another_place_is_named() -> None:
    finding = judge([-0.9] * 5, model={"layers": {"Linear": 2, "Dropout": 1}})
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED
    assert "self.training" in finding.remedy


@pytest.mark.parametrize(
    ("batch", "skill", "layers", "ill"),
    [
        (2, 0.2, {"Linear": 3, "BatchNorm1d": 2}, True),
        (3, 0.2, {"Linear": 3, "BatchNorm1d": 2}, True),
        (4, 0.2, {"Linear": 3, "BatchNorm1d": 2}, False),
        (2, 0.7, {"Linear": 3, "BatchNorm1d": 2}, False),
        (2, 0.2, {"Conv1d": 3, "BatchNorm1d": 2}, False),
        (2, 0.2, {"Conv2d": 3, "BatchNorm2d": 2}, False),
    ],
)
def test_sick_statistics_of_two_or_three_rows_in_a_run_that_does_badly(
    batch: int, skill: float, layers: dict[str, int], ill: bool
) -> None:
    history = headed(LOGITS, skill=skill, run=COMPLETED, model={"layers": layers}, data={"batch_size": batch})
    reading(history, "mode_gap", [0.1, -0.2, 0.3, -0.1], every=130)
    finding = train_eval_discrepancy(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert f"(now of {batch})" in finding.remedy


def test_healthy_dropout_makes_the_loss_in_train_mode_the_higher_one() -> None:
    assert judge([0.5, 0.8, 1.2, 0.9, 3.0]) is None


def test_healthy_statistics_lag_in_the_first_steps_only() -> None:
    assert judge([-0.9, -0.9, -0.6, -0.1, 0.0]) is None


def test_healthy_a_tiny_loss_may_double() -> None:
    assert judge([-0.7] * 5, losses=decay(2.3, 0.01, 10, 200)) is None


def test_where_validation_does_well_all_the_same_it_is_a_note() -> None:
    finding = judge([-0.9] * 5, skill=0.9)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_a_gap_that_cannot_be_is_none() -> None:
    assert judge([-1.0] * 5) is None
    assert judge([-2.0] * 5) is None


@pytest.mark.parametrize(("gap", "ill"), [(-0.85, False), (-0.87, True)])
def test_factor_is_how_many_times_as_high_it_must_be(gap: float, ill: bool) -> None:
    # 1 / 0.15 are 6.7, 1 / 0.13 are 7.7.
    assert (judge([gap] * 5, factor=7.0) is not None) is ill


@pytest.mark.parametrize(("gap", "ill"), [(-0.80, False), (-0.84, True)])
def test_share_is_what_of_a_constants_loss_lies_between(gap: float, ill: bool) -> None:
    # 20 % of 2.3 are 0.46: from 0.1 to 0.56, or 5.6 times as high.
    assert (judge([gap] * 5) is not None) is ill


@pytest.mark.parametrize(("scans", "ill"), [(3, True), (4, False)])
def test_scans_is_how_many_must_agree(scans: int, ill: bool) -> None:
    assert (judge([-0.1, -0.1, -0.9, -0.9, -0.9], scans=scans) is not None) is ill


@pytest.mark.parametrize(("evaluated", "ill"), [(9.0, True), (0.25, False)])
def test_sick_where_small_batches_scatter_many_training_rows_tell(evaluated: float, ill: bool) -> None:
    losses = decay(2.3, 0.2, 10, 200)
    history = headed(LOGITS, losses=losses, baseline=2.3, model=NORMALISED, data={"batch_size": 2})
    reading(history, "mode_gap", [-0.9, 0.3, -0.5, -0.1], every=40)
    scored(history, "train", [2.3, evaluated, evaluated], every=90)
    finding = train_eval_discrepancy(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.summary.startswith("a sample of the training rows scores 45 times as high in eval mode")
        assert "(about 9 ± 0.039 (95%) against 0.2)" in finding.summary
        assert (finding.onset, finding.severity, finding.confidence) == (90, Severity.WARNING, Confidence.CONFIRMED)


def test_rows_that_the_validation_step_scored_tell_nothing_of_the_training_loss() -> None:
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model=NORMALISED, data={"batch_size": 2})
    reading(history, "mode_gap", [-0.9, 0.3, -0.5, -0.1], every=40)
    scored(history, "train", [2.3, 9.0, 9.0], every=90)
    assert train_eval_discrepancy(history) is not None
    history.facts["scored"]["step"] = "validation_step"
    assert train_eval_discrepancy(history) is None


def test_rows_alone_where_batches_were_scanned_long_ago_leave_a_suspicion() -> None:
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model=NORMALISED)
    reading(history, "mode_gap", [-0.9, 0.3, -0.5, -0.1], every=5)
    finding = train_eval_discrepancy(scored(history, "train", [2.3, 9.0, 9.0], every=90))
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED


def test_healthy_without_batch_normalisation_a_loss_that_jumps_is_no_matter_of_the_mode() -> None:
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model={"layers": {"Dropout": 1}})
    reading(history, "mode_gap", [-0.9, 0.3, -0.5, -0.1], every=40)
    assert train_eval_discrepancy(scored(history, "train", [2.3, 9.0, 9.0], every=90)) is None


@pytest.mark.parametrize(("gaps", "evaluated", "ill"), [(-0.9, 9.0, True), (-0.9, 0.25, False), (-0.1, 9.0, False)])
def test_sick_layers_of_ones_own_that_were_scanned_long_ago_and_whose_training_rows_still_say_so(
    gaps: float, evaluated: float, ill: bool
) -> None:
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model={"layers": {"Own": 1, "Linear": 2}})
    reading(history, "mode_gap", [gaps] * 4, every=5)
    scored(history, "train", [2.3, evaluated, evaluated], every=90)
    if not ill:
        with pytest.raises(Undecided, match="too old"):
            train_eval_discrepancy(history)
        return
    finding = train_eval_discrepancy(history)
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED
    assert "self.training" in finding.remedy


def test_healthy_batches_that_score_alike_in_both_modes_say_that_it_is_not_the_mode() -> None:
    # Of data in order other rows are forgotten meanwhile.
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model=NORMALISED)
    reading(history, "mode_gap", [0.02, -0.05, 0.01, 0.03], every=40)
    assert train_eval_discrepancy(scored(history, "train", [2.3, 9.0, 9.0], every=90)) is None


@pytest.mark.parametrize(
    ("sampler", "scatter", "ill"),
    [("RandomSampler", 1.0, True), ("SequentialSampler", 1.0, False), ("RandomSampler", 0.1, False)],
)
def test_sick_a_few_rows_that_are_far_off_where_none_can_have_been_forgotten(
    sampler: str, scatter: float, ill: bool
) -> None:
    facts = {"data": {"sampler": sampler}, "trainer": {"batches_per_epoch": 40}}
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model=NORMALISED, **facts)
    reading(history, "mode_gap", [scatter * gap for gap in (0.2, -0.45, 0.1, 0.3)], every=40)
    assert (train_eval_discrepancy(scored(history, "train", [2.3, 9.0, 9.0], every=90)) is not None) is ill


@pytest.mark.parametrize(("before", "ill"), [(-0.6, True), (-0.2, False)])
def test_one_look_at_many_rows_is_enough_where_the_newest_batches_agree(before: float, ill: bool) -> None:
    # Of a run so short that the rows were far apart at its end only.
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model=NORMALISED)
    reading(history, "mode_gap", [-0.1, -0.3, before, -0.9], every=50)
    finding = train_eval_discrepancy(scored(history, "train", [2.3, 0.5, 9.0], every=90))
    assert (finding is not None) is ill


@pytest.mark.parametrize(("far", "ill"), [(2, True), (1, False)])
def test_of_small_batches_a_quarter_must_show_it(far: int, ill: bool) -> None:
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model=NORMALISED, data={"batch_size": 2})
    reading(history, "mode_gap", [-0.98] * far + [0.4, 0.1, -0.2, 0.3, -0.1, 0.2, 0.5, -0.1][far:], every=25)
    finding = train_eval_discrepancy(scored(history, "train", [2.3, 9.0, 9.0], every=90))
    assert (finding is not None) is ill


@pytest.mark.parametrize(
    ("batches", "sampler", "sure"), [(40, "RandomSampler", True), (150, "RandomSampler", False), (40, "Ordered", False)]
)
def test_rows_that_come_again_at_random_cannot_be_forgotten(batches: int, sampler: str, sure: bool) -> None:
    facts = {"data": {"sampler": sampler}, "trainer": {"batches_per_epoch": batches}}
    history = headed(LOGITS, losses=decay(2.3, 0.2, 10, 200), baseline=2.3, model=NORMALISED, **facts)
    reading(history, "mode_gap", [-0.9, 0.3, -0.5, -0.1], every=5)
    finding = train_eval_discrepancy(scored(history, "train", [2.3, 9.0, 9.0], every=90))
    assert finding is not None
    assert (finding.confidence is Confidence.CONFIRMED) is sure
