from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_doctor.findings import Severity
from lightning_doctor.history import History, Series
from lightning_doctor.loss_levels import lowest_part
from lightning_doctor.progress import Standing, hardly_fell, is_like_now, standing
from tests.histories import COMPLETED, decay, history_of, noisy, reading


def run(losses: list[float], skills: list[float] = (), baseline: float | None = None, **facts: object) -> History:  # type: ignore[assignment]
    history = reading(history_of(losses, **facts), "skill", skills)
    return history if baseline is None else reading(history, "baseline_loss", [baseline])


@pytest.mark.parametrize(("validated", "poor"), [(0.6, False), (1.6, True)])
def test_a_run_is_not_poor_whose_validation_shows_most_to_be_learned(validated: float, poor: bool) -> None:
    # What dropout and augmentation make harder says too little of it.
    history = run([1.5] * 200, baseline=2.3, loss_head={"reduction": "mean"})
    assert standing(history).poor
    assert standing(reading(history, "val_loss", [validated] * 4)).poor is poor


def test_nothing_is_known_of_an_empty_history() -> None:
    now = standing(History())
    assert (now.skill, now.learned, now.share, now.improving, now.ended) == (None, None, None, False, False)
    assert not now.good
    assert not now.poor
    assert not now.harmed


def test_skill_is_that_of_the_recent_predictions() -> None:
    now = standing(run([1.0] * 200, skills=[0.0] * 15 + [0.9] * 5))
    assert now.skill == 0.9
    assert now.good


def test_a_single_lucky_batch_is_no_skill() -> None:
    assert standing(run([1.0] * 40, skills=[0.0, 0.1, 0.0, 0.9])).skill == pytest.approx(0.05)


@pytest.mark.parametrize(("looks", "skill"), [([181, 331, 631], 0.525), ([331, 481, 631], 0.45)])
def test_while_a_run_improves_looks_of_its_first_half_tell_nothing_of_now(looks: list[int], skill: float) -> None:
    history = run(noisy([1 - 0.15 * step / 860 for step in range(860)], 0.01))
    for step, value in zip(looks, [0.2, 0.45, 0.6], strict=True):
        history.record("skill", step, value)
    assert standing(history).skill == pytest.approx(skill)


@pytest.mark.parametrize(
    ("scored", "at", "skill"), [(0.7, 199, 0.7), (0.49, 199, 0.46), (0.3, 199, 0.46), (0.7, 150, 0.46)]
)
def test_what_was_not_learned_at_the_last_look_may_be_when_rows_are_scored(
    scored: float, at: int, skill: float
) -> None:
    history = run([1.0] * 200, skills=[])
    history.record("skill", 110, 0.46)
    history.record("eval_skill/train", at, scored)
    assert standing(history).skill == pytest.approx(skill)


@pytest.mark.parametrize(("loss", "skill"), [("huber", 0.75), ("l1", 0.75), ("mse", 0.0)])
def test_under_a_robust_loss_the_median_sample_tells(loss: str, skill: float) -> None:
    history = run([1.0] * 40, skills=[0.0] * 4, loss_head={"loss": loss})
    assert standing(reading(history, "typical_error", [0.5] * 4)).skill == pytest.approx(skill)


def test_without_skill_the_share_of_the_baseline_loss_counts() -> None:
    now = standing(run(decay(2.3, 0.1, 20, 200), baseline=2.3))
    assert now.learned == pytest.approx(1 - 0.1 / 2.3, abs=0.01)
    assert now.good


def terms_of(*learned: tuple[float, float, int], step: int = 199, **others: Any) -> dict[str, Any]:
    """The fact of a sum of terms, each learned so far, known so well, after so many looks."""
    kind = {"loss": "mse", "to_zero": True, **others}
    terms = [{**kind, "learned": share, "learned_error": error, "looks": looks} for share, error, looks in learned]
    return {"step": step, "terms": terms}


@pytest.mark.parametrize(
    ("terms", "learned"),
    [
        pytest.param(terms_of((0.1, 0.05, 8), (0.5, 0.01, 8)), 0.52, id="the one that is learned most"),
        pytest.param(terms_of((0.1, 0.05, 8)), 0.2, id="at the most"),
        pytest.param(terms_of((0.4, 0.05, 8), loss="l1"), 0.75, id="of a robust one as of its square"),
        pytest.param(terms_of((0.4, 0.05, 8), loss="rmse"), 0.75, id="of a root too"),
        pytest.param(terms_of((-1e200, 0.0, 8), loss="l1"), None, id="out of all numbers"),
        pytest.param(terms_of((0.1, 0.05, 8), to_zero=False), None, id="one that has no end at zero"),
        pytest.param(terms_of((0.1, 0.05, 8), (math.nan, math.nan, 0)), None, id="one is unknown"),
        pytest.param(terms_of((0.1, 0.05, 2)), None, id="too few looks"),
        pytest.param({"terms": []}, None, id="none"),
    ],
)
def test_of_a_sum_the_term_counts_that_is_learned_most(terms: dict[str, Any], learned: float | None) -> None:
    assert standing(run([1.0] * 200, loss_terms=terms)).best_term == (learned and pytest.approx(learned))


def test_a_sum_may_be_poor_by_its_terms_but_is_not_good_by_the_best_of_them() -> None:
    bad = standing(run([1.0] * 200, loss_terms=terms_of((0.1, 0.05, 8), (0.2, 0.05, 8)), run=COMPLETED))
    assert bad.harmed
    known = standing(run([1.0] * 200, loss_terms=terms_of((0.1, 0.05, 8), (0.99, 0.001, 8)), run=COMPLETED))
    assert (known.harmed, known.good, known.reached) == (False, False, None)


@pytest.mark.parametrize(("late", "known"), [(1.0, True), (0.2, False)])
def test_terms_that_were_looked_at_long_ago_count_where_the_loss_is_what_it_was(late: float, known: bool) -> None:
    history = run([1.0] * 100 + [late] * 100, loss_terms=terms_of((0.1, 0.05, 8), step=60))
    assert (standing(history).best_term is not None) is known


def test_what_is_learned_is_read_off_the_mean_of_a_skewed_loss() -> None:
    # Two batches in five hold a rare label, and cost five times the others.
    losses = [0.05, 0.05, 0.3, 0.05, 0.3] * 60
    assert standing(run(losses, baseline=0.15)).learned == pytest.approx(0.0, abs=0.05)


def test_a_spike_does_not_take_away_what_is_learned() -> None:
    losses = decay(2.3, 0.1, 20, 300)
    losses[290] = 1e6
    assert standing(run(losses, baseline=2.3)).learned == pytest.approx(1 - 0.1 / 2.3, abs=0.01)


def test_skill_goes_before_loss_for_a_confident_network_may_have_a_high_loss() -> None:
    now = standing(run([5.0] * 200, skills=[0.9] * 20, baseline=2.3))
    assert now.learned < 0
    assert now.good


def test_a_loss_that_may_be_negative_has_no_share() -> None:
    assert standing(run([1.0, -1.0] * 50, baseline=1.0)).learned is None


@pytest.mark.parametrize(
    ("scores", "improving"),
    [
        pytest.param([2.30, 2.31, 2.29, 2.27, 2.2], True, id="begins to fall"),
        pytest.param([2.30, 2.32, 2.31, 2.29, 2.28], False, id="as far as little noise"),
        pytest.param([2.20, 2.60, 2.30, 2.25, 2.0], False, id="as far as noise"),
        pytest.param([2.30, 2.31, 2.19, 2.27, 2.2], False, id="was lower before"),
        pytest.param([2.30, 2.31, 2.29, 2.2, 2.27], False, id="rose again"),
        pytest.param([2.30, 2.299, 2.298, 2.297, 2.29], False, id="too slowly"),
        pytest.param([2.31, 2.29, 2.2], False, id="too few"),
        pytest.param([60.0, 59.0, 58.0, 40.0, 12.0], False, id="dearer than a constant"),
    ],
)
def test_a_run_improves_once_its_validation_loss_has_begun_to_fall(scores: list[float], improving: bool) -> None:
    history = run(noisy([2.3] * 400, 0.1), baseline=2.3, loss_head={"reduction": "mean"})
    reading(history, "val_loss", scores, every=399 // (len(scores) - 1))
    assert standing(history).improving is improving


def test_a_fall_of_long_ago_or_of_a_run_that_is_over_is_no_improvement() -> None:
    scores = [2.30, 2.31, 2.29, 2.27, 2.2]
    assert not standing(reading(run(noisy([2.3] * 400, 0.1)), "val_loss", scores, every=70)).improving
    assert not standing(reading(run(noisy([2.3] * 400, 0.1), run=COMPLETED), "val_loss", scores, every=99)).improving


def test_noise_alone_seldom_makes_a_run_improve() -> None:
    # By noise of a twentieth, which a fall that matters is not far from: 2 of 100 at most.
    for passes in (5, 10):
        found = [
            standing(
                reading(run([2.3] * 400), "val_loss", noisy([2.3] * passes, 0.12, seed), every=399 // (passes - 1))
            )
            for seed in range(200)
        ]
        assert sum(now.improving for now in found) <= 4


@pytest.mark.parametrize(("time", "improving"), [(150, True), (12, False)])
def test_a_loss_improves_while_it_falls_at_a_pace_that_matters(time: int, improving: bool) -> None:
    assert standing(run(noisy(decay(2.0, 0.2, time, 400), 0.01))).improving is improving


def test_noise_alone_is_no_improvement() -> None:
    assert not any(standing(run(noisy([2.0] * 400, 0.3, seed))).improving for seed in range(20))


def test_a_poor_run_is_harmed_once_it_is_over_or_late_and_not_moving() -> None:
    flat = noisy([2.3] * 200, 0.01)
    planned = {"trainer": {"planned_steps": 1000}}
    assert not standing(run(flat, [0.0] * 20, **planned)).harmed
    assert standing(run(flat + flat, [0.0] * 40, **planned)).harmed
    falling = noisy(decay(2.3, 0.1, 300, 400), 0.01)
    assert not standing(run(falling, [0.2] * 40, **planned)).harmed
    assert standing(run(falling, [0.2] * 40, run=COMPLETED)).harmed
    assert not standing(run(falling, [0.6] * 40, run=COMPLETED)).harmed


def test_a_fault_weighs_by_what_it_does() -> None:
    good, poor = (run([1.0] * 200, [skill] * 20, run=COMPLETED) for skill in (0.9, 0.1))
    assert standing(good).unless_good(Severity.ERROR) is Severity.NOTE
    assert standing(poor).unless_good(Severity.ERROR) is Severity.ERROR
    assert standing(good).if_harmed(Severity.WARNING) is Severity.NOTE
    assert standing(poor).if_harmed(Severity.WARNING) is Severity.WARNING
    assert standing(run([1.0] * 200)).if_harmed(Severity.WARNING) is Severity.NOTE


@pytest.mark.parametrize(("skill", "known"), [(0.9, 0.9), (0.3, None)])
def test_what_was_learned_long_ago_is_still_known_what_was_not_may_be_by_now(skill: float, known: float | None) -> None:
    assert standing(run(decay(2.3, 0.3, 50, 400), [skill] * 10)).skill == known
    risen = [*decay(2.3, 0.3, 50, 200), *[2.3] * 200]
    assert standing(run(risen, [skill] * 10)).skill is None


@pytest.mark.parametrize(("late", "known"), [(0.05, None), (0.95, 0.6)])
def test_what_was_learned_long_ago_goes_behind_a_loss_that_tells_of_more(late: float, known: float | None) -> None:
    history = reading(history_of(noisy([*[1.0] * 60, *[late] * 340], 0.01)), "skill", [0.6] * 6)
    assert standing(reading(history, "baseline_loss", [2.3] * 6)).skill == known


@pytest.mark.parametrize("head", [{"targets": "probabilities"}, {"targets": "class_index", "label_smoothing": True}])
def test_a_loss_that_cannot_come_to_zero_has_no_share(head: dict[str, object]) -> None:
    assert standing(run([0.4] * 200, baseline=0.5, loss_head=head)).learned is None
    assert standing(run([0.4] * 200, baseline=0.5)).learned == pytest.approx(0.2)


def test_the_baseline_of_a_sum_over_one_small_batch_does_not_count() -> None:
    history = run([50.0] * 200)
    reading(history, "baseline_loss", [140.0, 144.0, 146.0, 147.0, 7.0])
    assert standing(history).learned == pytest.approx(1 - 50 / 146)


@pytest.mark.parametrize(
    ("skill", "learned", "attainable", "share", "severity"),
    [
        (0.4, None, 1.0, 0.5, "error"),
        (0.6, None, 1.0, 0.5, "note"),
        # Too young to tell.
        (0.4, None, 1.0, 0.35, "note"),
        # Half of what the fault leaves to be learned.
        (None, 0.19, 0.4, 0.5, "error"),
        (None, 0.21, 0.4, 0.5, "note"),
        (None, None, 1.0, 0.5, "error"),
        (None, None, 1.0, 0.35, "note"),
    ],
)
def test_a_fault_that_many_live_with_is_a_note_while_the_run_is_young_or_well(
    skill: float | None, learned: float | None, attainable: float, share: float, severity: str
) -> None:
    now = Standing(skill=skill, learned=learned, improving=True, share=share, ended=False)
    assert now.if_poor(Severity.ERROR, attainable=attainable) == severity


REFERENCE = {"step": 199, "rows": 100, "hidden": 32, "network": 1.5, "constant": 2.3, "constant_error": 0.1}
REFERENCE |= {"linear": 1.7, "linear_error": 0.1, "shallow": 1.6, "shallow_error": 0.1}


@pytest.mark.parametrize(
    ("changed", "matched"),
    [
        ({}, True),
        # Within the error of the comparison, which must be small beside what there is to gain.
        ({"network": 1.65}, True),
        ({"network": 1.75}, False),
        ({"network": 1.65, "shallow_error": 0.15}, False),
        ({"constant": 1.8}, False),
        ({"step": 100, "network": 1.0}, True),
    ],
)
def test_what_no_simple_model_does_better_is_not_poor(changed: dict[str, float], matched: bool) -> None:
    history = reading(history_of([1.5] * 200, reference=REFERENCE | changed), "skill", [0.3] * 20)
    assert standing(history).matched is matched
    assert standing(history).poor is not matched


def test_a_comparison_before_the_loss_rose_is_none() -> None:
    history = reading(history_of([1.5] * 120 + [2.0] * 80, reference=REFERENCE | {"step": 100}), "skill", [0.3] * 20)
    assert not standing(history).matched


def test_the_lowest_part_of_steps_that_go_backwards_is_all_of_them() -> None:
    series = Series()
    for step, loss in ((5, 1.0), (4, 2.0), (3, 3.0)):
        series.append(step, loss)
    assert lowest_part(series) == ([1.0, 2.0, 3.0], 3)


@pytest.mark.parametrize(("loss", "skill"), [(1.0, 0.2), (0.5, 0.6)])
def test_a_skill_of_another_loss_than_that_of_now_is_none(loss: float, skill: float) -> None:
    # Skills of steps 0, 10 and 20, the newest of late: at a loss that has halved since, only that one tells.
    history = run([1.0] * 100 + [loss] * 300)
    for step, value in ((0, 0.1), (20, 0.2), (380, 0.6)):
        history.record("skill", step, value)
    assert standing(history).skill == skill


def test_a_level_within_the_noise_of_the_losses_is_like_that_of_now() -> None:
    history = run(noisy([1.0] * 100 + [0.7] * 300, 1.5))
    assert is_like_now(history, 50)
    assert not is_like_now(run(noisy([1.0] * 100 + [0.7] * 300, 0.05)), 50)


@pytest.mark.parametrize(
    ("size", "shape", "skill"), [(1, [1, 10], None), (8, [8, 10], 0.0), (None, None, 0.0), (1, [1, 2, 64, 64], 0.0)]
)
def test_a_handful_of_rows_tells_no_skill_where_the_loss_tells_more(
    size: int | None, shape: list[int] | None, skill: float | None
) -> None:
    facts = {"data": {} if size is None else {"batch_size": size}, "loss_head": {"output_shape": shape}}
    history = run([1.0] * 40, skills=[1.0, 0.0, 0.0, 0.0], baseline=2.0, **facts)
    assert standing(history).skill == skill
    # Where the loss tells nothing they are all there is.
    assert standing(run([1.0] * 40, skills=[1.0, 0.0, 0.0, 0.0], **facts)).skill == 0.0


@pytest.mark.parametrize(
    ("end", "ended", "skill", "hardly"),
    [(1.9, True, None, True), (1.3, True, None, False), (1.9, False, None, False), (1.9, True, 0.3, False)],
)
def test_of_an_unread_loss_that_ends_most_of_it_is_left_or_not(
    end: float, ended: bool, skill: float | None, hardly: bool
) -> None:
    skills = [] if skill is None else [skill] * 21
    history = run(noisy(decay(2.3, end, 20, 200), 0.02), skills, run=COMPLETED if ended else {})
    assert hardly_fell(history) is hardly


def test_a_loss_that_may_be_negative_tells_nothing_of_what_is_left() -> None:
    assert not hardly_fell(run([2.0, -0.1, *[1.9] * 200], run=COMPLETED))
