from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_doctor.findings import Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.stuck_at_baseline import stuck_at_baseline
from tests.histories import COMPLETED, decay, history_of, noisy, reading
from tests.scored import scored

BASELINE = math.log(10)
FLAT = noisy([BASELINE] * 400, 0.05)


def run(losses: list[float] = FLAT, skill: float | None = 0.0, **facts: object) -> History:
    history = reading(history_of(losses, **({"run": COMPLETED} | facts)), "baseline_loss", [BASELINE] * 40)
    return history if skill is None else reading(history, "skill", [skill] * 40)


def test_sick_a_loss_that_stays_at_what_a_constant_scores() -> None:
    finding = stuck_at_baseline(run())
    assert finding is not None
    assert finding.evidence["baseline"] == pytest.approx(BASELINE)
    assert "a constant would do better" not in finding.summary


def test_what_was_learned_and_lost_began_where_it_was_lost() -> None:
    finding = stuck_at_baseline(run(noisy([BASELINE] * 50 + [1.8] * 100 + [BASELINE] * 250, 0.05)))
    assert finding is not None
    # A twelfth of 400 steps is 33: medians tell it to one of these.
    assert 133 <= finding.onset <= 167  # type: ignore[operator]
    never = stuck_at_baseline(run())
    assert never is not None
    assert never.onset == 0


def test_it_began_where_the_loss_came_to_rest() -> None:
    finding = stuck_at_baseline(run(noisy([BASELINE + 1 - step / 200 for step in range(200)] + [BASELINE] * 200, 0.05)))
    assert finding is not None
    assert 167 <= finding.onset <= 200  # type: ignore[operator]


def test_a_drift_far_below_what_counts_as_learned_is_none() -> None:
    # From ln 10 down by 0.02, where 0.115 would be learned.
    finding = stuck_at_baseline(run(noisy([BASELINE + 0.02 - step / 200_000 for step in range(4000)], 0.005)))
    assert finding is not None
    assert finding.onset == 0


def test_sick_a_loss_over_it() -> None:
    finding = stuck_at_baseline(run([8.0] * 400))
    assert finding is not None
    assert "a constant would do better" in finding.summary


def test_sick_it_fell_from_far_above_to_the_baseline_only() -> None:
    assert stuck_at_baseline(run(noisy(decay(60.0, BASELINE, 10, 400), 0.02))) is not None


def test_healthy_a_loss_well_under_the_baseline() -> None:
    assert stuck_at_baseline(run(noisy([1.5] * 400, 0.05), skill=0.4)) is None


@pytest.mark.parametrize(("share", "ill"), [(0.01, True), (0.1, False)])
def test_a_share_of_the_baseline_must_be_gone(share: float, ill: bool) -> None:
    assert (stuck_at_baseline(run([(1 - share) * BASELINE] * 400)) is not None) is ill


def test_healthy_predictions_that_are_right_though_the_loss_is_high() -> None:
    # One sample a network is sure and wrong about costs more than all the others save.
    assert stuck_at_baseline(run(skill=0.6)) is None


def test_without_a_skill_the_loss_decides() -> None:
    assert stuck_at_baseline(run(skill=None)) is not None


def test_healthy_a_deep_network_may_rest_before_it_falls() -> None:
    planned = {"run": {}, "trainer": {"planned_steps": 2000}}
    assert stuck_at_baseline(run(**planned)) is None
    assert stuck_at_baseline(run(noisy([BASELINE] * 800, 0.05), **planned)) is not None


def test_healthy_a_loss_that_has_begun_to_fall() -> None:
    falling = noisy([BASELINE] * 200 + [BASELINE - 0.004 * step for step in range(200)], 0.01)
    assert stuck_at_baseline(run(falling)) is None


@pytest.mark.parametrize(("sigma", "ill"), [(0.1, True), (0.6, False)])
def test_noise_that_could_hide_what_was_learned_is_no_proof(sigma: float, ill: bool) -> None:
    # The median of 160 values is known to a tenth of their deviation; a twentieth of the baseline is 0.115.
    assert (stuck_at_baseline(run(noisy([BASELINE] * 400, sigma))) is not None) is ill


LINEAR = {"layers": {"Linear": 1}, "trainable": 100}
SEEN = [{"layer": "head", "class": "Linear", "kind": "linear"}]
HEAD = {"loss": "cross_entropy", "reduction": "mean", "output_shape": [32, 10], "classes": 10}


# Ninety free weights take 0.113 ± 0.017 nats off the loss of 400 samples of noise: with three errors 0.163, or 0.07 of
# the baseline.
@pytest.mark.parametrize(("gain", "ill"), [(0.15, True), (0.18, False)])
def test_what_a_linear_model_fits_of_pure_noise_is_not_learned(gain: float, ill: bool) -> None:
    facts = {"model": LINEAR, "loss_head": HEAD, "data": {"train_samples": 400}, "activations": SEEN}
    finding = stuck_at_baseline(run([BASELINE - gain] * 400, **facts))
    assert (finding is not None) is ill
    if finding is not None:
        assert "as many weights would take 0.16 off it by chance" in finding.summary


@pytest.mark.parametrize(
    "facts",
    [
        {"model": {**LINEAR, "layers": {"Linear": 2}}},
        {"data": {"train_samples": 150}},
        {"activations": [*SEEN, {"layer": "act", "class": "GELU", "kind": "other"}]},
        {"loss_head": {**HEAD, "weighted": True}},
        {"loss_head": {**HEAD, "output_shape": [32, 10, 20]}},
        {"loss_head": {**HEAD, "loss": "l1"}},
    ],
)
def test_what_chance_would_learn_is_known_of_plain_linear_models_only(facts: dict[str, object]) -> None:
    known = {"model": LINEAR, "loss_head": HEAD, "data": {"train_samples": 400}, "activations": SEEN} | facts
    assert stuck_at_baseline(run([BASELINE - 0.15] * 400, **known)) is None


# Sixty weights take a share of 60 / 600 off the squared error of noise, give or take 0.018.
@pytest.mark.parametrize(("share", "ill"), [(0.14, True), (0.17, False)])
def test_a_squared_error_shrinks_by_the_share_of_weights_to_samples(share: float, ill: bool) -> None:
    head = {"loss": "mse", "reduction": "mean", "output_shape": [32, 1]}
    facts: dict[str, object] = {"model": {**LINEAR, "trainable": 60}, "loss_head": head, "data": {"train_samples": 600}}
    facts["activations"] = SEEN
    assert (stuck_at_baseline(run([(1 - share) * BASELINE] * 400, **facts)) is not None) is ill


@pytest.mark.parametrize(("skills", "ill"), [([0.1, 0.3, 0.0, 0.5] * 10, True), ([0.0] * 39 + [0.5], False)])
def test_where_some_is_chance_the_skill_of_a_batch_is_judged_by_how_skills_scatter(
    skills: list[float], ill: bool
) -> None:
    facts = {"model": LINEAR, "loss_head": HEAD, "data": {"train_samples": 400}, "activations": SEEN}
    history = reading(run(skill=None, **facts), "skill", skills)
    assert (stuck_at_baseline(history) is not None) is ill


def beside(train: float = 0.01, validation: float = 0.0, losses: list[float] = FLAT, **facts: object) -> History:
    """A run whose loss has other terms, so that nobody knows what a constant scores."""
    history = history_of(losses, **({"run": COMPLETED} | facts))
    history.lack(["baseline_loss"], "the loss has other terms")
    scored(history, "train", [2.4, 2.3], skills=[-1.0, train], every=399)
    return scored(history, "validation", [2.4, 2.3], skills=[-1.0, validation], every=399)


def test_sick_where_no_constant_is_known_rows_that_are_predicted_as_by_one() -> None:
    finding = stuck_at_baseline(beside())
    assert finding is not None
    assert "of its errors 1.0% are avoided" in finding.summary


@pytest.mark.parametrize(
    "options", [{"train": 0.06}, {"validation": 0.06}, {"losses": noisy([4.0 - 0.005 * i for i in range(400)], 0.01)}]
)
def test_healthy_rows_of_either_kind_that_are_predicted_or_a_loss_that_falls(options: dict[str, Any]) -> None:
    assert stuck_at_baseline(beside(**options)) is None


def test_without_rows_that_were_scored_at_the_end_it_is_unassessed() -> None:
    with pytest.raises(Undecided, match="the loss has other terms"):
        stuck_at_baseline(beside(run={}))
    with pytest.raises(Undecided, match="baseline_loss has 1 of the 2 values needed"):
        stuck_at_baseline(reading(history_of(FLAT, run=COMPLETED), "baseline_loss", [BASELINE]))
    with pytest.raises(Undecided, match="baseline_loss is not finite at step 10"):
        stuck_at_baseline(reading(history_of(FLAT, run=COMPLETED), "baseline_loss", [BASELINE, math.inf]))


def test_healthy_squares_tell_little_of_a_loss_that_is_indifferent_to_outliers() -> None:
    with pytest.raises(Undecided, match="indifferent to outliers"):
        stuck_at_baseline(beside(loss_head={"loss": "l1"}))


def test_a_loss_that_weighs_its_samples_may_ask_for_more_errors_than_a_constant_makes() -> None:
    with pytest.raises(Undecided, match="weighs its samples"):
        stuck_at_baseline(beside(loss_head={"loss": "bce_with_logits", "weighted": True}))


@pytest.mark.parametrize(
    ("skill", "classes", "severity"),
    [
        (0.03, False, Severity.NOTE),
        # Nine over 500 rows is what three standard errors make.
        (0.017, False, Severity.WARNING),
        (-0.1, False, Severity.WARNING),
        (0.03, True, Severity.WARNING),
    ],
)
def test_the_little_that_noise_lets_be_learned_of_numbers_is_a_note(
    skill: float, classes: bool, severity: Severity
) -> None:
    history = run(skill=None)
    scored(history, "validation", [2.31, 2.3], skills=[0.0, skill], every=399)
    if not classes:
        history.forget(["eval_accuracy/validation"])
    finding = stuck_at_baseline(history)
    assert finding is not None
    assert finding.severity is severity
    assert ("of its errors on validation rows 3.0% are avoided" in finding.summary) is (severity is Severity.NOTE)


def test_what_is_far_worse_than_a_constant_is_no_noise() -> None:
    history = scored(run([8.0] * 400, skill=None), "validation", [2.31, 2.3], skills=[0.0, 0.03], every=399)
    history.forget(["eval_accuracy/validation"])
    finding = stuck_at_baseline(history)
    assert finding is not None
    assert finding.severity is Severity.WARNING
