from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.overfitting import overfitting
from tests.histories import decay, gauss, noisy
from tests.scored import FAR, scored

STEPS = 10
BARE: dict[str, Any] = {
    "model": {"parameters": 9000, "layers": {"Linear": 2, "ReLU": 1}},
    "optimizers": [{"class": "Adam", "groups": [{"lr": 1e-3, "weight_decay": 0.0}]}],
    "trainer": {"callbacks": ["ModelCheckpoint"]},
    "data": {"train_samples": 430, "val_samples": 430},
}


def run(
    validation: Sequence[float],
    training: Sequence[float] | None = None,
    metric: Sequence[float] | None = None,
    facts: dict[str, Any] | None = None,
    mode: str = "max",
) -> History:
    """Ten steps a pass; a training loss a pass, with the noise of its batches."""
    history = History()
    history.facts = {**(facts or {}), "validation": {"metric": "val_acc", "mode": mode}}
    wobble = gauss(STEPS * len(validation), 0.02, seed=1)
    for number, loss in enumerate(validation):
        end = STEPS * (number + 1) - 1
        if training is not None:
            for step in range(end - STEPS + 1, end + 1):
                history.record("train_loss", step, training[number] * (1 + wobble[step]))
        history.record("val_loss", end, loss)
        if metric is not None:
            history.record("val_metric", end, metric[number])
    return history


def turned(
    best: float = 0.45, end: float = 0.92, count: int = 30, start: float = 0.69, sigma: float = 0.004
) -> list[float]:
    """Falls for five passes, then rises in a straight line, with the noise of a pass."""
    down = [start + (best - start) * i / 5 for i in range(5)]
    up = [best + (end - best) * i / (count - 6) for i in range(count - 5)]
    return noisy([*down, *up], sigma, seed=3)


MEMORISED = decay(0.7, 0.005, 5, 30)


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    thresholds = kwargs.pop("thresholds", {})
    return overfitting(run(*args, **kwargs), **thresholds)


def found(*args: Any, **kwargs: Any) -> Finding:
    finding = judge(*args, **kwargs)
    assert finding is not None
    return finding


def test_sick_an_unregularised_network_that_loses_more_than_it_had_gained_is_a_confirmed_warning() -> None:
    finding = found(turned(), MEMORISED, facts=BARE)
    assert (finding.code, finding.severity, finding.confidence) == ("LD501", Severity.WARNING, Confidence.CONFIRMED)
    # The noise moves the best pass, the sixth, by one at most.
    assert finding.onset in (49, 59, 69)
    assert finding.evidence["share_lost"] > 1


@pytest.mark.parametrize("count", [8, 10, 12, 15, 20, 25, 30])
def test_sick_it_is_seen_from_a_few_passes_after_the_best_on_and_stays_seen(count: int) -> None:
    finding = judge(turned()[:count], MEMORISED[:count])
    assert (finding is not None) is (count >= 12)


def test_sick_without_a_training_loss_it_is_only_suspected() -> None:
    finding = found(turned())
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)


def test_sick_with_a_broken_training_loss_it_is_only_suspected() -> None:
    history = run(turned(), MEMORISED)
    history.record("train_loss", 400, math.nan)
    finding = overfitting(history)
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED


def test_a_training_loss_over_the_best_validation_loss_memorised_nothing_yet_and_is_a_note() -> None:
    finding = found(turned(), decay(1.5, 0.8, 5, 30))
    assert (finding.severity, finding.confidence) == (Severity.NOTE, Confidence.SUSPECTED)


def test_healthy_a_regularised_network_that_flattens_out_is_silent() -> None:
    assert judge(noisy(decay(0.69, 0.45, 5, 30), 0.004), decay(0.7, 0.3, 5, 30)) is None


def test_healthy_one_noisy_pass_is_silent() -> None:
    losses = noisy(decay(0.69, 0.45, 5, 30), 0.004)
    losses[20] = 1.5
    assert judge(losses, MEMORISED) is None


@pytest.mark.parametrize("seed", range(20))
def test_healthy_a_stable_gap_is_silent_whatever_its_noise(seed: int) -> None:
    losses = [*decay(0.69, 0.45, 3, 15), *noisy([0.45] * 60, 0.03, seed)]
    assert judge(losses, decay(0.7, 0.02, 10, 75)) is None


def test_healthy_a_dropout_gap_is_silent() -> None:
    assert judge(noisy(decay(2.3, 0.1, 5, 30), 0.003), decay(2.3, 0.4, 5, 30)) is None


def test_healthy_a_validation_loss_that_creeps_up_a_little_while_the_accuracy_stays_is_a_note_at_most() -> None:
    losses = [*decay(2.3, 0.10, 2, 15), *(0.10 + 0.004 * i for i in range(45))]
    finding = judge(losses, decay(2.3, 0.001, 3, 60), [0.97] * 60)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_a_training_loss_that_rises_too_is_another_illness() -> None:
    assert judge(turned(), [*decay(0.7, 0.5, 2, 6), *(0.5 + 0.02 * i for i in range(24))]) is None


def test_healthy_a_network_at_chance_whose_losses_wander_is_silent() -> None:
    # Digits from the prior: the training loss falls by the wandering of the bias, far inside the noise of a batch.
    training = [2.30 - 0.0005 * i for i in range(30)]
    validation = [2.303 - 0.0002 * min(i, 5) + 0.0003 * max(0, i - 5) for i in range(30)]
    assert judge(validation, training) is None


@pytest.mark.parametrize(("passes", "ill"), [(4, False), (5, True)])
def test_patience_is_the_number_of_passes_since_the_best(passes: int, ill: bool) -> None:
    falling = [0.69 - 0.02 * i for i in range(12)]
    rising = [falling[-1] + 0.05 * i for i in range(1, passes + 1)]
    count = len(falling) + passes
    finding = judge([*falling, *rising], decay(0.7, 0.01, 4, count), thresholds={"patience": 5})
    assert (finding is not None) is ill


@pytest.mark.parametrize(("sigmas", "ill"), [(3.0, True), (1e4, False)])
def test_the_rise_is_judged_against_the_noise_of_a_pass(sigmas: float, ill: bool) -> None:
    assert (judge(turned(), MEMORISED, thresholds={"sigmas": sigmas}) is not None) is ill


@pytest.mark.parametrize(("fall", "ill"), [(0.02, False), (0.2, True)])
def test_the_training_loss_must_have_fallen_beyond_the_noise_of_a_step(fall: float, ill: bool) -> None:
    # A batch is 2 % of 0.7 off: three times that are 0.042.
    training = [0.7 - fall * i / 29 for i in range(30)]
    assert (judge(turned(), training) is not None) is ill


@pytest.mark.parametrize(("end", "ill"), [(0.454, False), (0.5, True)])
def test_a_trifle_is_not_mentioned(end: float, ill: bool) -> None:
    # 5 % of the 0.7 that the training loss fell are 0.035.
    assert (judge(turned(end=end, sigma=1e-4), MEMORISED) is not None) is ill


@pytest.mark.parametrize(("end", "severity"), [(0.50, "note"), (0.56, "warning")])
def test_share_of_the_gain_makes_a_warning(end: float, severity: str) -> None:
    # The gain is 0.25, a third of it 0.08.
    assert found(turned(end=end, sigma=1e-4), MEMORISED).severity == severity


@pytest.mark.parametrize(("end", "severity"), [(0.60, "note"), (0.68, "warning")])
def test_a_metric_that_holds_asks_for_more(end: float, severity: str) -> None:
    finding = found(turned(end=end, sigma=1e-4), MEMORISED, noisy([0.8] * 30, 0.005))
    assert finding.evidence["metric_now"] == "holds"
    assert finding.severity == severity


@pytest.mark.parametrize(("end", "severity"), [(0.68, "note"), (0.80, "warning")])
def test_a_metric_that_still_improves_makes_it_over_confidence_until_all_gain_is_lost(
    end: float, severity: str
) -> None:
    metric = [0.6 + 0.01 * i for i in range(30)]
    finding = found(turned(end=end, sigma=1e-4), MEMORISED, metric)
    assert "over-confidence" in finding.summary
    assert finding.severity == severity


def test_a_metric_that_is_better_when_smaller_is_read_that_way_round() -> None:
    metric = [0.6 + 0.01 * i for i in range(30)]
    assert found(turned(), MEMORISED, metric, mode="min").evidence["metric_now"] == "falls"


def test_a_sample_more_or_less_is_not_a_fall_of_the_accuracy() -> None:
    metric = [0.988] * 8 + [0.977] * 22
    facts = {"data": {"val_samples": 171}}
    assert found(turned(), MEMORISED, metric, facts=facts).evidence["metric_now"] == "holds"
    assert found(turned(), MEMORISED, metric).evidence["metric_now"] == "falls"


def test_the_remedy_names_what_a_bare_network_lacks_and_nothing_that_it_has() -> None:
    remedy = found(turned(), MEMORISED, facts=BARE).remedy
    for advice in ("EarlyStopping", "weight_decay", "Dropout", "9000 parameters for 430 samples", "augmented data"):
        assert advice in remedy
    equipped = {
        "model": {"parameters": 400, "layers": {"Linear": 2, "Dropout": 1}},
        "optimizers": [{"class": "AdamW", "groups": [{"lr": 1e-3, "weight_decay": 0.01}]}],
        "trainer": {"callbacks": ["EarlyStopping"]},
        "data": {"train_samples": 430},
    }
    remedy = found(turned(), MEMORISED, facts=equipped).remedy
    for advice in ("EarlyStopping", "weight_decay", "Dropout", "smaller"):
        assert advice not in remedy
    assert remedy.endswith("train on more or augmented data")


def on_images(layers: dict[str, int], shape: list[int] | None = None, dropout: float | None = None) -> str:
    facts: dict[str, Any] = {
        "model": {"layers": layers, **({} if dropout is None else {"dropout": {"net.2": dropout}})},
        "batch": {"inputs": "[0]", "leaves": [{"key": "[0]", "shape": shape or [32, 1, 8, 8]}]},
    }
    return found(turned(), MEMORISED, facts=facts).remedy


def test_dense_layers_on_images_are_told_to_share_their_parameters_and_convolutions_are_not() -> None:
    assert "Conv2d layers in place of the first Linear" in on_images({"Flatten": 1, "Linear": 2})
    assert "Conv2d" not in on_images({"Conv2d": 1, "Flatten": 1, "Linear": 1})
    assert "Conv2d" not in on_images({"Linear": 2}, shape=[32, 64])


@pytest.mark.parametrize(("end", "told"), [(0.6, "of what it had gained"), (0.92, "more than all it had gained")])
def test_what_was_lost_is_told_as_a_share_of_the_gain_while_it_is_one(end: float, told: str) -> None:
    summary = found(turned(end=end), MEMORISED).summary
    assert told in summary
    assert "00%" not in summary


def test_dropout_that_drops_nothing_is_no_dropout() -> None:
    assert "raise p of Dropout from 0 to 0.2" in on_images({"Linear": 2, "Dropout": 1}, dropout=0.0)
    assert "Dropout" not in on_images({"Linear": 2, "Dropout": 1}, dropout=0.1)


def test_a_figure_of_few_samples_has_its_error_bar_beside_the_verdict() -> None:
    metric = [0.988] * 8 + [0.9] * 22
    finding = found(turned(), MEMORISED, metric, facts={"data": {"val_samples": 171}})
    # √(ln(2 · 30 / 0.05) / (2 · 171)), by Hoeffding for the best of 30 passes.
    assert finding.evidence["metric_bar"] == pytest.approx(0.144, abs=0.001)
    assert finding.summary.endswith("; 171 samples tell val_acc to ± 0.14 (95%, the best of 30)")
    history = run(turned(), MEMORISED, facts={"data": {"val_samples": 500}})
    scored(history, "validation", [0.69, 0.45, 0.92], error=0.02, every=130)
    scattered = overfitting(history)
    assert scattered is not None
    # 0.02 of all 500 rows, times the normal quantile of 1 − 0.05 / 30 / 2.
    assert scattered.evidence["bar"] == pytest.approx(0.0629, abs=0.0005)


def test_of_a_run_of_which_nothing_is_known_nothing_is_said_to_be_lacking() -> None:
    remedy = found(turned(), MEMORISED).remedy
    for advice in ("EarlyStopping", "weight_decay", "Dropout", "smaller"):
        assert advice not in remedy


def test_augmentation_is_not_asked_of_data_that_is_augmented() -> None:
    facts = {"data": {"augmentation": "RandomCrop"}}
    assert found(turned(), MEMORISED, facts=facts).remedy.endswith("train on more data")


@pytest.mark.parametrize(("parameters", "large"), [(4300, False), (4301, True)])
def test_capacity_is_the_number_of_parameters_a_sample(parameters: int, large: bool) -> None:
    facts = {"model": {"parameters": parameters}, "data": {"train_samples": 430}}
    assert ("make the network smaller" in found(turned(), MEMORISED, facts=facts).remedy) is large


def test_sick_validation_loss_that_has_risen_and_rests_up_there_is_still_ill() -> None:
    # A tiny training set learned by heart: 1.4 → 5.3 within ten passes, then flat while the training loss is zero.
    passes = [1.7, 1.5, 1.42, 1.6, 2.1, 2.9, 3.7, 4.5, 5.1, 5.3, *noisy([5.28] * 30, 0.02)]
    history = History()
    for index, loss in enumerate(passes):
        for step in range(10):
            history.record("train_loss", 10 * index + step, 2.3 * 0.7**index)
        history.record("val_loss", 10 * index + 9, loss)
    finding = overfitting(history)
    assert finding is not None
    assert finding.severity == "warning"


# Of 39 passes with a noise of 0.02 about 0.11 is needed.
@pytest.mark.parametrize(("level", "ill"), [(0.58, True), (0.48, False)])
def test_a_rise_that_rests_must_be_beyond_the_luck_of_all_passes(level: float, ill: bool) -> None:
    passes = [0.7, 0.6, 0.52, 0.46, 0.42, 0.4, 0.4, 0.4, 0.4, *noisy([level] * 30, 0.02)]
    assert (judge(passes, decay(0.7, 0.005, 5, 39)) is not None) is ill


def scoring(
    validation: Sequence[float],
    *,
    skills: Sequence[float] = (0.5, 0.9, 0.9),
    train: float = 0.01,
    train_skill: float = 1.0,
    other: float = 0.92,
    error: float = 0.02,
    held_out: float | None = None,
    training: Sequence[float] = MEMORISED,
) -> Finding | None:
    """The same with rows that a copy of the model scored at the first pass, at the best one and at the end."""
    history = run(validation, training)
    for sample, loss, found_skills in (("train", train, (0.5, 0.9, train_skill)), ("validation", other, skills)):
        scored(history, sample, [0.69, 0.45, loss], skills=found_skills, error=error, every=130)
    if held_out is not None:
        scored(history, "holdout", [0.69, 0.45, held_out], error=error, every=130)
    return overfitting(history)


def test_healthy_a_loss_that_rises_while_the_predictions_stay_good_is_a_note() -> None:
    finding = scoring(turned())
    assert finding is not None
    assert finding.severity is Severity.NOTE
    assert "the accuracy on validation rows holds" in finding.summary


def test_sick_predictions_that_were_never_good_do_not_excuse_a_loss_that_is_lost() -> None:
    finding = scoring(turned(), skills=(0.3, 0.5, 0.5))
    assert finding is not None
    assert finding.severity is Severity.WARNING


def test_sick_predictions_that_become_worse_do_not_excuse_it_either() -> None:
    finding = scoring(turned(), skills=(0.5, 0.95, 0.85))
    assert finding is not None
    assert finding.evidence["metric_now"] == "falls"
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(("error", "ill"), [(0.02, False), (0.3, True)])
def test_held_out_rows_that_do_well_put_the_gap_elsewhere_if_they_are_enough(error: float, ill: bool) -> None:
    # Of a gap of 0.91 they must tell a third.
    assert (scoring(turned(), held_out=0.02, error=error) is not None) is ill


@pytest.mark.parametrize(("error", "severity"), [(0.28, "warning"), (0.29, "note")])
def test_a_rise_that_another_validation_set_may_not_have_is_a_note(error: float, severity: str) -> None:
    # The rise from 0.477 to 0.877 is 0.4: 1.4 times 0.286. Scored rows lie further apart than that.
    finding = scoring(turned(), skills=(0.3, 0.5, 0.5), other=2.0, error=error)
    assert finding is not None
    assert finding.severity == severity


def test_healthy_held_out_rows_that_do_as_well_as_trained_ones_are_not_overfitted() -> None:
    assert scoring(turned(), held_out=0.03) is None
    assert scoring(turned(), held_out=0.9, skills=(0.3, 0.5, 0.5)) is not None


# Of 300 steps; before a gap had opened rows that were not trained on did as well.
@pytest.mark.parametrize(("step", "ill"), [(110, True), (130, False)])
def test_rows_that_were_scored_long_ago_put_the_gap_nowhere(step: int, ill: bool) -> None:
    history = run(turned(), MEMORISED)
    for sample in ("train", "validation"):
        history.record(f"eval_loss/{sample}", step, 0.45)
        history.record(f"eval_error/{sample}", step, 0.02)
    assert (overfitting(history) is not None) is ill


def test_healthy_training_rows_that_score_as_badly_in_eval_mode_are_not_learned_by_heart() -> None:
    assert scoring(turned(), train=0.9) is None


def test_it_is_suspected_while_the_training_loss_is_not_good() -> None:
    # From 0.7 to 0.3, under the best validation loss and far from nothing.
    training = decay(0.7, 0.3, 5, 30)
    finding = scoring(turned(), training=training, train_skill=0.6)
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED
    finding = scoring(turned(), training=training, train_skill=0.85)
    assert finding is not None
    assert finding.confidence is Confidence.CONFIRMED


@pytest.mark.parametrize(("target", "sure"), [(0.3, Confidence.CONFIRMED), (0.2, Confidence.SUSPECTED)])
def test_a_loss_that_was_asked_for_and_is_reached_is_good(target: float, sure: Confidence) -> None:
    facts = {"reference": {"target": target, "target_of": "the target"}}
    assert found(turned(), decay(0.7, 0.3, 5, 30), facts=facts).confidence is sure


def test_what_a_constant_scores_is_what_there_was_to_gain() -> None:
    history = run(turned(end=0.56, sigma=1e-4), MEMORISED)
    history.record("baseline_loss", 9, 1.0)
    finding = overfitting(history)
    assert finding is not None
    # A rise of 0.11, of 1.0 − 0.45 instead of 0.69 − 0.45.
    assert finding.severity is Severity.NOTE


# Fifteen held-out rows tell a gap of 0.45 but for 0.24; to validation rows it is 0.75.
@pytest.mark.parametrize(("held_out", "ill"), [(0.5, True), (0.3, False)])
def test_few_held_out_rows_that_open_most_of_the_gap_do_not_deny_it(held_out: float, ill: bool) -> None:
    history = run(turned(), MEMORISED)
    for sample, loss, error in (("train", 0.05, 0.01), ("validation", 0.8, 0.02), ("holdout", held_out, 0.24)):
        scored(history, sample, [0.69, 0.45, loss], skills=(0.3, 0.5, 0.5), error=error, every=130)
    assert (overfitting(history) is not None) is ill


def at_rest(
    *,
    train_skill: float = 0.99,
    other_skill: float = 0.25,
    error: float = 0.02,
    sample: str = "validation",
    end: float = 0.5,
    share: float = 1.0,
    passes: Sequence[float] = (),
    facts: dict[str, Any] | None = None,
) -> History:
    """A validation loss that falls by half and rests there, over training rows that are learned."""
    validation = [*decay(1.0, 0.5, 2, 10), *noisy([0.5 + (end - 0.5) * i / 19 for i in range(20)], 0.002)]
    history = run(passes or validation, MEMORISED, facts=BARE)
    history.facts |= {"trainer": {**BARE["trainer"], "planned_steps": round(300 / share)}, **(facts or {})}
    history.record("baseline_loss", 0, 1.0)
    for name, loss, skill in (("train", 0.01, train_skill), (sample, 0.75, other_skill)):
        scored(history, name, [loss] * 3, skills=[skill] * 3, error=error, every=149)
    return history


def test_sick_a_validation_loss_that_rests_far_over_what_is_learned_by_heart_is_suspected() -> None:
    finding = overfitting(at_rest())
    assert finding is not None
    assert (finding.severity, finding.confidence, finding.onset) == (Severity.WARNING, Confidence.SUSPECTED, 0)
    assert "avoids 99% where it was trained and 25% elsewhere" in finding.summary
    assert "make the network smaller (9000 parameters for 430 samples)" in finding.remedy


def test_rows_that_were_held_out_confirm_it() -> None:
    finding = overfitting(at_rest(sample="holdout"))
    assert finding is not None
    assert (finding.confidence, finding.evidence["sample"]) == (Confidence.CONFIRMED, "held-out")


@pytest.mark.parametrize(
    "options",
    [
        # Most of it holds elsewhere, or little is learned.
        {"other_skill": 0.6},
        {"train_skill": 0.7, "other_skill": 0.2},
        # Few rows tell nothing, an early run will learn them yet, and so will one whose validation loss falls.
        {"error": 0.2},
        {"share": 0.2},
        {"end": 0.4},
        {"facts": {"comparison": {"inputs": FAR}}},
    ],
)
def test_healthy_a_gap_that_is_small_unsure_young_closing_or_of_other_rows(options: dict[str, Any]) -> None:
    assert overfitting(at_rest(**options)) is None


@pytest.mark.parametrize(("apart", "ill"), [(0.7, True), (0.8, False)])
def test_apart_is_what_of_the_skill_other_rows_must_lack(apart: float, ill: bool) -> None:
    # 1 - 0.25 / 0.99.
    assert (overfitting(at_rest(), apart=apart) is not None) is ill


def test_a_small_rise_over_a_gap_is_more_than_a_note() -> None:
    # The validation loss rises by a tenth of what it had gained.
    finding = overfitting(at_rest(end=0.55))
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert "elsewhere" in finding.summary


def test_without_scores_of_now_a_gap_at_rest_is_not_seen() -> None:
    history = at_rest()
    early = run([1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], decay(2.0, 0.1, 1, 8), facts=BARE)
    for name in ("eval_loss", "eval_skill", "eval_error"):
        for sample in ("train", "validation"):
            early.record(f"{name}/{sample}", 0, history[f"{name}/{sample}"].values[0])
    early.record("baseline_loss", 0, 1.0)
    assert overfitting(early) is None


def test_healthy_a_validation_loss_that_falls_on_after_a_huge_first_pass_does_not_rest() -> None:
    assert overfitting(at_rest(passes=[20.0, *decay(1.0, 0.5, 30, 29)])) is None


def test_healthy_the_skill_of_few_rows_of_a_rare_class_may_be_luck() -> None:
    # Of 20 rows 11 are right, a skill of 0.5 within 0.25: as likely as not more than half of what is learned holds.
    history = at_rest(other_skill=0.45)
    history.facts["scored"] = {"train": 500, "validation": 20}
    assert overfitting(history) is None
    history.facts["scored"] = {"train": 500, "validation": 5000}
    assert overfitting(history) is not None


def test_a_gap_at_rest_is_no_matter_of_stopping_early() -> None:
    finding = overfitting(at_rest())
    assert finding is not None
    assert "EarlyStopping" not in finding.remedy
    assert "checkpoint" not in finding.remedy
