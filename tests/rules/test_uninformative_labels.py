from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.uninformative_labels import uninformative_labels
from tests.histories import COMPLETED, LOGITS, headed, noisy, reading
from tests.scored import FAR, scored

# Ten classes, all as frequent.
CHANCE = 2.303
BY_HEART = [2.30, 2.26, 2.19, 2.02, 1.71, 1.22]
AT_CHANCE = [2.30, 2.31, 2.31, 2.34, 2.41, 2.55]


def judge(
    train: Sequence[float] = BY_HEART,
    validation: Sequence[float] = AT_CHANCE,
    *,
    first_epoch: float = CHANCE,
    losses: Sequence[float] = (),
    facts: dict[str, Any] | None = None,
    error: float = 0.02,
    train_skills: Sequence[float] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4),
    skills: Sequence[float] = (0.0, 0.01, -0.01, 0.01, 0.0, -0.01),
    held_out: Sequence[float] = (),
    **thresholds: float,
) -> Finding | None:
    losses = losses or noisy([first_epoch] * 40 + [2.1] * 80, 0.02)
    history = headed(LOGITS, skill=0.2, losses=losses, baseline=CHANCE, trainer={"steps_per_epoch": 40})
    history.facts |= facts or {}
    scored(history, "train", train, skills=train_skills, error=error)
    scored(history, "validation", validation, skills=skills, error=error, rows=400)
    if held_out:
        scored(history, "holdout", held_out, skills=skills, error=error, rows=400)
    assert uninformative_labels.lacks(history) is None
    return uninformative_labels(history, **thresholds)


def test_sick_training_rows_learned_by_heart_while_validation_is_at_chance_from_the_first_pass() -> None:
    finding = judge()
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD508", Severity.WARNING, Confidence.CONFIRMED)
    assert finding.evidence["best"] == 2.30
    # The standard error of 0.02 times the normal quantiles of 1 − 0.05 / 2, and of 1 − 0.05 / 6 / 2 for the best of 6.
    assert "to 1.22 ± 0.039, while validation rows" in finding.summary
    assert "2.3 ± 0.053 at best (95%, the best of 6)" in finding.summary
    assert "paired" in finding.remedy


def test_rows_that_the_validation_step_scored_are_not_set_against_a_constant_of_the_training_loss() -> None:
    with pytest.raises(Undecided, match="scored by the validation step"):
        judge(facts={"scored": {"step": "validation_step"}})


def test_sick_it_is_suspected_while_little_is_learned_by_heart() -> None:
    finding = judge(BY_HEART[:4], AT_CHANCE[:4])
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED


def test_healthy_a_network_that_first_learns_overfits() -> None:
    assert judge(validation=[2.30, 1.91, 1.42, 1.71, 2.02, 2.55], skills=[0.0, 0.3, 0.5, 0.5, 0.5, 0.5]) is None


def test_healthy_a_network_whose_classes_are_right_and_whose_probabilities_are_not_has_learned() -> None:
    assert judge(skills=[0.05, 0.1, 0.3, 0.3, 0.3, 0.3]) is None


def test_healthy_a_slow_start_is_the_same_on_both_sides() -> None:
    assert judge([2.30, 2.29, 2.28, 2.27], [2.30, 2.29, 2.285, 2.28], skills=[0.0, 0.01, 0.02, 0.03]) is None


def test_healthy_a_loss_that_fell_while_every_sample_was_new_is_learning_and_validation_is_of_another_kind() -> None:
    assert judge(first_epoch=1.6) is None


def test_healthy_validation_rows_of_another_kind_tell_nothing_of_labels() -> None:
    assert judge(facts={"comparison": {"inputs": FAR}}) is None


def test_held_out_training_rows_at_chance_tell_whatever_validation_is_like() -> None:
    finding = judge(held_out=AT_CHANCE, facts={"comparison": {"inputs": FAR}})
    assert finding is not None
    assert finding.evidence["sample"] == "held-out"


@pytest.mark.parametrize(("best", "ill"), [(2.27, True), (2.24, False)])
def test_learned_is_how_far_under_a_constant_counts(best: float, ill: bool) -> None:
    # 2 % of 2.303 are 0.046: over 2.257 nothing is learned.
    losses = [2.30, best, *AT_CHANCE[2:]]
    assert (judge(validation=losses, error=0.001) is not None) is ill


@pytest.mark.parametrize(("level", "ill"), [(2.28, False), (2.26, True)])
def test_memorised_is_how_far_the_training_rows_must_be(level: float, ill: bool) -> None:
    # 1.5 % of 2.303 are 0.035.
    assert (judge([2.3, level], AT_CHANCE[:2], error=0.005, train_skills=(0.0, 0.1)) is not None) is ill


@pytest.mark.parametrize(("error", "ill"), [(0.02, True), (0.4, False)])
def test_the_gap_is_judged_by_its_standard_error(error: float, ill: bool) -> None:
    # From 1.22 to 2.55 are 1.33, and √2 · 0.4 · 3 = 1.7.
    assert (judge(error=error) is not None) is ill


def test_surely_is_the_share_from_which_it_is_confirmed() -> None:
    # 2.303 − 1.22 are 47 % of 2.303.
    finding = judge(surely=0.5)
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED


def test_without_scores_it_is_unassessed() -> None:
    history = headed(LOGITS, losses=[2.3] * 40, baseline=CHANCE)
    history.absent["eval_loss/train"] = "2 optimizers: no single loss is to be compared"
    assert uninformative_labels.lacks(history) == "2 optimizers: no single loss is to be compared"
    assert isinstance(history, History)


def test_validation_rows_of_another_shape_leave_it_a_suspicion() -> None:
    finding = judge(
        facts={"comparison": {"inputs": {"reason": "a training row has shape [10], a validation row [20]"}}}
    )
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED


@pytest.mark.parametrize(("best", "ill"), [(2.30, True), (2.05, False)])
def test_held_out_rows_at_chance_are_outvoted_by_validation_rows_that_were_learned(best: float, ill: bool) -> None:
    finding = judge(validation=[2.30, 2.29, best, 2.31, 2.4, 2.5], held_out=AT_CHANCE)
    assert (finding is not None) is ill


@pytest.mark.parametrize(("first_epoch", "ill"), [(2.28, True), (2.22, False)])
def test_healthy_new_samples_that_were_surely_predicted_in_the_first_epoch(first_epoch: float, ill: bool) -> None:
    # 2 % of 2.303 are 0.046, and the noise of ten losses of 0.02 is far less.
    assert (judge(first_epoch=first_epoch) is not None) is ill


@pytest.mark.parametrize(("last", "ill"), [((2.6, 2.7, 1.9, 1.3), True), ((1.8, 1.9, 1.6, 1.5), False)])
def test_a_few_noisy_batches_under_the_constant_at_the_end_of_the_first_epoch_may_be_luck(
    last: tuple[float, ...], ill: bool
) -> None:
    losses = [*[CHANCE] * 12, *last, *[2.1] * 104]
    assert (judge(losses=losses, facts={"trainer": {"steps_per_epoch": 16}}) is not None) is ill


@pytest.mark.parametrize(("linear", "ill"), [(2.29, True), (1.5, False)])
def test_healthy_what_a_simple_model_predicts_the_inputs_do_tell(linear: float, ill: bool) -> None:
    reference = {"step": 119, "rows": 200, "network": 1.9, "constant": CHANCE, "linear": linear, "linear_error": 0.02}
    assert (judge(facts={"reference": reference}) is not None) is ill


@pytest.mark.parametrize(
    ("directions", "kinds", "told"), [(46.0, False, False), (12.0, False, True), (46.0, True, True)]
)
def test_rows_that_fit_any_labels_tell_nothing_of_these(directions: float, kinds: bool, told: bool) -> None:
    reference = {"step": 119, "rows": 80, "network": 0.1, "constant": CHANCE, "linear": 2.6, "linear_error": 0.1}
    reference |= {"fitted": 60, "directions": directions, "kinds": kinds}
    if told:
        assert judge(facts={"reference": reference}) is not None
    else:
        with pytest.raises(Undecided, match="so few samples fit any labels"):
            judge(facts={"reference": reference})


@pytest.mark.parametrize(("shallow", "ill"), [(2.4, True), (2.2, False), (None, False)])
def test_few_rows_are_enough_where_simple_models_find_nothing_either(shallow: float | None, ill: bool) -> None:
    reference = {"step": 119, "rows": 200, "network": 1.9, "constant": CHANCE, "linear": CHANCE, "linear_error": 0.02}
    if shallow is not None:
        reference |= {"shallow": shallow, "shallow_error": 0.02}
    # Of 2.5 standard errors: more than two, less than three.
    assert (judge(error=0.33, facts={"reference": reference}) is not None) is ill


@pytest.mark.parametrize("compared", [True, False])
def test_where_no_simple_model_was_fitted_it_may_be_the_models_doing(compared: bool) -> None:
    reference = {"step": 119, "rows": 200, "network": 1.9, "constant": CHANCE, "linear": CHANCE, "linear_error": 0.02}
    finding = judge(facts={"reference": reference} if compared else {})
    assert finding is not None
    assert ("nothing that this model can express" in finding.summary) is not compared
    assert ("a model of another kind" in finding.remedy) is not compared


@pytest.mark.parametrize(("skill", "ill"), [(0.02, True), (0.04, False)])
def test_healthy_numbers_of_which_other_rows_were_surely_predicted(skill: float, ill: bool) -> None:
    # Of 400 rows predictions that know nothing avoid 3.5² / 400 = 3.1 % of the squared errors at the very most.
    history = headed(LOGITS, skill=0.2, losses=noisy([CHANCE] * 40 + [2.1] * 80, 0.02), baseline=CHANCE)
    scored(history, "train", BY_HEART)
    scored(history, "validation", AT_CHANCE, rows=400)
    for sample, skills in (("train", [0.1, 0.3, 0.5]), ("validation", [-0.2, -0.1, skill])):
        for index, value in enumerate(skills):
            history.record(f"eval_skill/{sample}", 20 * index, value)
    assert (uninformative_labels(history) is not None) is ill


# What simple models make of 240 rows that they were not fitted to.
BLIND = {
    "step": 119,
    "rows": 240,
    "constant": CHANCE,
    "network": 2.31,
    "kinds": False,
    "linear": 2.30,
    "linear_error": 0.01,
    "shallow": 2.42,
    "shallow_error": 0.04,
}


def at_chance(
    *, steps: int = 120, lengths: dict[float, float] | None = None, dead: float = 0.4, **reference: object
) -> History:
    """A network that has learned nothing: long steps raise the loss of other samples, and short ones do nothing."""
    history = headed(LOGITS, skill=0.0, losses=noisy([CHANCE] * steps, 0.02), baseline=CHANCE, run=COMPLETED)
    history.facts["reference"] = {**BLIND, **reference}
    reading(history, "dead_share/net.1", [dead] * 4)
    for factor in (1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64):
        change = (lengths or {}).get(factor, 0.002 * factor)
        reading(history, f"scan/{factor:g}", noisy([change] * 6, 0.001))
    return scored(scored(history, "train", AT_CHANCE), "validation", AT_CHANCE)


def test_sick_a_network_at_chance_where_simple_models_find_nothing_either() -> None:
    finding = uninformative_labels(at_chance())
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    assert "so is a linear model (2.3 on 240 training rows" in finding.summary
    assert "paired" in finding.remedy


@pytest.mark.parametrize(
    "history",
    [
        at_chance(linear_error=0.13),
        at_chance(kinds=True),
        at_chance(network=2.40),
        at_chance(linear=1.9),
        at_chance(lengths={64: -0.1}),
        at_chance(lengths={1 / 64: -0.01}),
        at_chance(lengths={16: 0.0, 64: 0.0}),
        at_chance(dead=0.8),
        at_chance(steps=99),
    ],
    ids=[
        "too few rows",
        "words",
        "a simple model does better than the network",
        "a simple model learns",
        "longer steps help",
        "shorter steps help",
        "it answers to no step",
        "a dead layer",
        "hardly begun",
    ],
)
def test_healthy_labels_where_something_else_may_be_the_reason(history: History) -> None:
    assert uninformative_labels(history) is None


@pytest.mark.parametrize(("samples", "ill"), [(400, False), (401, True)])
def test_no_more_samples_than_numbers_in_each_fit_any_labels(samples: int, ill: bool) -> None:
    batch = {"leaves": [{"key": "[0]", "shape": [16, 4, 100]}, {"key": "[1]", "shape": [16]}], "inputs": "[0]"}
    facts = {"data": {"train_samples": samples}, "batch": batch}
    if ill:
        assert judge(facts=facts) is not None
    else:
        with pytest.raises(Undecided, match="400 samples of 400 numbers each"):
            judge(facts=facts)
