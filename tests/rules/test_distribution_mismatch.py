from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rules.distribution_mismatch import distribution_mismatch
from tests.histories import COMPLETED, LOGITS, decay, headed, noisy, reading
from tests.scored import ALIKE, FAR, NEAR, SLIGHT, scored


def judge(
    validation: float = 1.7,
    skill: float | None = 0.4,
    *,
    held_out: float | None = None,
    kept_error: float = 0.03,
    inputs: dict[str, Any] = ALIKE,
    targets: dict[str, Any] = ALIKE,
    error: float = 0.03,
    augmentation: str | None = None,
    train: float = 0.97,
    ended: bool = True,
    since: float | None = None,
    repeated: float = 0.0,
    **thresholds: float,
) -> Finding | None:
    """Training rows at 0.1 and a skill of 0.97, of a constant's 2.3."""
    comparison: dict[str, Any] = {"inputs": inputs, "targets": targets}
    if augmentation:
        comparison["augmentation"] = augmentation
    run = COMPLETED if ended else {}
    history = headed(LOGITS, skill=0.97, losses=decay(2.3, 0.1, 20, 200), baseline=2.3, comparison=comparison, run=run)
    scored(history, "train", [1.0, 0.1], skills=[0.6, train], error=0.01)
    scored(history, "validation", [1.9, validation], skills=[] if skill is None else [0.2, skill], error=error)
    history.facts["overlap"] = {"repeated": repeated}
    if held_out is not None:
        scored(history, "holdout", [1.0, held_out], skills=[0.6, max(0.0, 1 - held_out / 2.3)], error=kept_error)
    if since is not None:
        # By the run itself, after the last score.
        for step, loss in ((20, 1.7), (80, since), (140, since), (199, since)):
            history.record("val_loss", step, loss)
    return distribution_mismatch(history, **thresholds)


def found(*args: Any, **kwargs: Any) -> Finding:
    finding = judge(*args, **kwargs)
    assert finding is not None
    return finding


def test_sick_inputs_scaled_on_one_side_are_named_with_both_means_and_sure() -> None:
    finding = found(inputs=FAR)
    assert (finding.code, finding.severity, finding.confidence) == ("LD502", Severity.WARNING, Confidence.CONFIRMED)
    assert "[0][3]: mean 0.3 and std 1 in training, 82.1 and 30 in validation" in finding.summary
    assert (finding.evidence["train_mean"], finding.evidence["validation_mean"]) == (0.3, 82.1)
    assert "scaling" in finding.remedy


@pytest.mark.parametrize(("since", "ill"), [(1.6, True), (0.25, True), (0.22, False), (0.1, False)])
def test_healthy_a_gap_of_which_half_has_closed_since_the_rows_were_scored(since: float, ill: bool) -> None:
    # Of the run's own losses it was 0.27 wide, from 1.43 to 1.7; half of that over 0.1 is 0.23.
    assert (judge(inputs=FAR, since=since) is not None) is ill


def test_a_second_column_is_named_where_it_differs_too() -> None:
    like = {"name": "[0][5]", "means": [0.1, 0.12], "spreads": [1.0, 1.02], "shift": 0.02, "ratio": 1.02}
    for other, named in ((like, False), ({**like, "shift": 0.9}, True), ({**like, "ratio": 0.5}, True)):
        summary = found(inputs={**FAR, "largest": [*FAR["largest"], other]}).summary
        assert ("[0][5]" in summary) is named


def test_sick_without_held_out_rows_a_moderate_difference_is_suspected() -> None:
    finding = found(inputs=NEAR)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)


def test_sick_held_out_rows_that_do_well_tell_it_even_where_no_test_does() -> None:
    finding = found(held_out=0.15)
    assert finding.confidence is Confidence.CONFIRMED
    # The standard errors 0.03, 0.01 and 0.03 times the normal quantile of 0.975.
    told = "validation rows score 1.7 ± 0.059 and training rows 0.1 ± 0.02, held-out training rows 0.15 ± 0.059 (95%)"
    assert told in finding.summary
    bars = [finding.evidence[f"{name}_bar"] for name in ("validation", "train", "holdout")]
    assert bars == pytest.approx([0.0588, 0.0196, 0.0588], abs=1e-4)
    assert "their inputs alone do not show it" in finding.remedy


def test_sick_other_labels_are_a_mismatch_too() -> None:
    assert "within each class" in found(targets=NEAR).remedy


def test_healthy_held_out_rows_that_do_as_badly_are_overfitting_whatever_a_test_says() -> None:
    assert judge(held_out=1.65, inputs=FAR) is None


def test_sick_held_out_rows_too_few_to_split_the_gap_by_count_as_none() -> None:
    # Three times 0.6 are more than the 1.6 between training and validation.
    finding = found(held_out=1.65, kept_error=0.6, inputs=FAR)
    assert "holdout" not in finding.evidence
    assert judge(held_out=0.15, kept_error=0.6) is None


def test_healthy_rows_that_differ_do_no_harm_where_validation_does_well() -> None:
    assert judge(0.2, 0.95, inputs=FAR) is None


def test_healthy_a_high_validation_loss_on_rows_that_are_alike_is_overfitting() -> None:
    assert judge() is None


def test_healthy_a_sure_but_slight_difference_is_no_reason() -> None:
    assert judge(inputs=SLIGHT) is None


def test_augmentation_of_training_rows_leaves_it_a_suspicion_and_is_said() -> None:
    finding = found(inputs=FAR, augmentation="RandomCrop")
    assert finding.confidence is Confidence.SUSPECTED
    assert finding.evidence["augmentation"] == "RandomCrop"
    assert "augmentation off" in finding.remedy


@pytest.mark.parametrize(("learned", "ill"), [(0.9, True), (0.98, False)])
def test_learned_is_what_training_rows_must_avoid_first(learned: float, ill: bool) -> None:
    # They avoid 97 %.
    assert (judge(inputs=FAR, learned=learned) is not None) is ill


def test_healthy_a_run_that_has_hardly_begun_has_no_gap_to_explain() -> None:
    assert judge(2.2, 0.0, inputs=FAR, held_out=2.0) is None


@pytest.mark.parametrize(("train", "ill"), [(0.78, False), (0.82, True)])
def test_a_run_that_goes_on_must_have_learned_most_first(train: float, ill: bool) -> None:
    assert (judge(inputs=FAR, train=train, ended=False) is not None) is ill
    assert judge(inputs=FAR, train=train, ended=True) is not None


@pytest.mark.parametrize(("skill", "ill"), [(0.68, False), (0.66, True)])
def test_a_moderate_difference_must_have_done_twice_the_harm(skill: float, ill: bool) -> None:
    assert (judge(1.7, skill, inputs=NEAR) is not None) is ill


def test_where_validation_does_well_all_the_same_it_is_a_note() -> None:
    assert found(1.7, 0.81, inputs=FAR).severity is Severity.NOTE


@pytest.mark.parametrize(("error", "ill"), [(0.3, True), (0.5, False)])
def test_sigmas_is_how_surely_validation_must_do_worse(error: float, ill: bool) -> None:
    # 1.7 − 0.1 are 1.6: four times 0.4.
    assert (judge(inputs=FAR, error=error) is not None) is ill


@pytest.mark.parametrize(("skill", "ill"), [(0.83, False), (0.81, True)])
def test_lost_is_what_it_must_lose_of_what_predictions_avoid(skill: float, ill: bool) -> None:
    # 15 % less than 97 %.
    assert (judge(1.7, skill, inputs=FAR) is not None) is ill


@pytest.mark.parametrize(("loss", "ill"), [(0.40, False), (0.48, True)])
def test_lost_is_a_share_of_a_constants_loss_where_no_predictions_are_known(loss: float, ill: bool) -> None:
    # 15 % of 2.3 are 0.345.
    assert (judge(loss, None, inputs=FAR) is not None) is ill


def test_a_loss_of_the_validation_step_is_not_set_against_a_constant_of_the_training_loss() -> None:
    history = headed(LOGITS, skill=0.97, losses=decay(2.3, 0.1, 20, 200), baseline=2.3, run=COMPLETED)
    history.facts["comparison"] = {"inputs": FAR, "targets": ALIKE}
    # In per cent, say: far over the constant's 2.3, which would be no learning at all.
    scored(history, "train", [230.0, 10.0], error=1.0)
    scored(history, "validation", [230.0, 170.0], error=3.0)
    assert distribution_mismatch(history) is None
    history.facts["scored"]["step"] = "validation_step"
    finding = distribution_mismatch(history)
    assert finding is not None
    assert finding.evidence["scored_by"] == "validation_step"


@pytest.mark.parametrize(("held_out", "ill"), [(0.8, True), (1.0, False)])
def test_share_of_the_gap_must_open_beyond_held_out_rows(held_out: float, ill: bool) -> None:
    # Half of the way from 0.1 to 1.7.
    assert (judge(held_out=held_out) is not None) is ill


@pytest.mark.parametrize(
    ("first_epoch", "best", "ill"),
    [
        # New training rows were predicted, validation rows never were.
        (2.15, 2.29, True),
        # Nor were new training rows: then what is learned is learned by heart.
        (2.30, 2.29, False),
        # Validation rows were, for a while.
        (2.15, 1.90, False),
    ],
)
def test_sick_rows_that_were_new_in_the_first_epoch_tell_what_held_out_ones_would(
    first_epoch: float, best: float, ill: bool
) -> None:
    losses = noisy([*decay(2.3, first_epoch, 5, 40), *decay(2.1, 0.1, 60, 160)], 0.01)
    history = headed(LOGITS, skill=0.97, losses=losses, baseline=2.3, trainer={"steps_per_epoch": 40}, run=COMPLETED)
    history.facts["comparison"] = {"inputs": ALIKE, "targets": ALIKE}
    scored(history, "train", [2.2, 1.0, 0.1], skills=[0.2, 0.6, 0.97], error=0.01)
    scored(history, "validation", [2.31, best, 2.9], skills=[0.0, 0.0 if best > 2 else 0.3, 0.0], error=0.03)
    finding = distribution_mismatch(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
        assert "all of them were new" in finding.summary
        # The standard error of 0.03 times the normal quantile of 1 − 0.05 / 3 / 2.
        assert "2.29 ± 0.072 at best (95%, the best of 3)" in finding.summary


@pytest.mark.parametrize(("repeated", "ill"), [(0.7, True), (0.98, False)])
def test_copies_of_a_few_rows_are_no_sample_that_could_differ(repeated: float, ill: bool) -> None:
    assert (judge(inputs=FAR, repeated=repeated) is not None) is ill


@pytest.mark.parametrize(("own", "ill"), [([1.9, 2.3, 2.9], True), ([1.9, 2.3], False), ([1.9, 1.3, 2.9], False)])
def test_passes_of_the_runs_own_count_where_few_were_scored(own: list[float], ill: bool) -> None:
    losses = noisy([*decay(1.4, 0.8, 10, 90), *decay(0.8, 0.1, 60, 270)], 0.01)
    history = headed(LOGITS, skill=0.95, losses=losses, baseline=1.39, trainer={"steps_per_epoch": 90}, run=COMPLETED)
    history.facts["comparison"] = {"inputs": ALIKE, "targets": ALIKE}
    scored(history, "train", [0.77, 0.15], skills=[0.57, 0.94], error=0.01)
    scored(history, "validation", [1.85, 2.9], skills=[-0.1, -0.08], error=0.05)
    reading(history, "val_loss", own, 90)
    assert (distribution_mismatch(history) is not None) is ill


@pytest.mark.parametrize(
    ("first", "own", "keeps", "at", "ill"),
    [
        (1.66, 0.71, 0.06, 89, True),
        # Validation rows cost what new training rows did.
        (0.85, 0.71, 0.06, 89, False),
        # So do rows that were trained on, in eval mode or from another part of the epoch.
        (1.66, 1.60, 0.06, 89, False),
        # A quarter of what new rows showed is kept, and more of it.
        (1.66, 0.71, 0.14, 89, True),
        (1.66, 0.71, 0.16, 89, False),
        # Scored long after the first epoch it may be learned by heart.
        (1.66, 0.71, 0.06, 130, False),
    ],
)
def test_sick_next_to_nothing_of_what_new_rows_showed(
    first: float, own: float, keeps: float, at: int, ill: bool
) -> None:
    losses = noisy([*decay(1.4, 0.75, 20, 90), *decay(0.75, 0.1, 60, 270)], 0.01)
    history = headed(LOGITS, skill=0.95, losses=losses, baseline=1.39, trainer={"steps_per_epoch": 90}, run=COMPLETED)
    history.facts["comparison"] = {"inputs": ALIKE, "targets": ALIKE}
    for sample, values, skills in (("train", (own, 0.15), (0.6, 0.94)), ("validation", (first, 2.2), (keeps, 0.2))):
        for step, value, skill in zip((at, 359), values, skills, strict=True):
            history.record(f"eval_loss/{sample}", step, value)
            history.record(f"eval_skill/{sample}", step, skill)
            history.record(f"eval_error/{sample}", step, 0.03)
    history.facts["scored"] = {"step": "training_step", "train": 400, "validation": 400}
    finding = distribution_mismatch(history)
    assert (finding is not None) is ill
    # Of a text whose windows overlap next to nothing is new.
    history.facts["loss_head"] = {**LOGITS, "target_shape": [32, 24]}
    assert distribution_mismatch(history) is None
    if finding is not None:
        assert (finding.severity, finding.confidence, finding.onset) == (Severity.WARNING, Confidence.SUSPECTED, at)
        assert "of a constant's errors" in finding.summary
