from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.learning_rate_too_high import learning_rate_too_high
from tests.histories import COMPLETED, decay, history_of, noisy, reading, scanned

BOUNCING = noisy([2.3] * 300, 0.3, seed=1)


def run(losses: list[float], changes: list[float], skill: float | None = 0.1, **options: float) -> History:
    history = scanned(history_of(losses, run=COMPLETED), changes, **options)
    return history if skill is None else reading(history, "skill", [skill] * 30)


def test_sick_steps_that_overshoot_in_a_run_that_learned_nothing() -> None:
    finding = learning_rate_too_high(run(BOUNCING, [0.5] * 30, limit=0.02))
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    assert finding.evidence["limit"] == 0.02
    assert "from 0.1 to about 0.01" in finding.remedy


def test_sick_gradient_descent_that_explodes_in_three_steps() -> None:
    history = scanned(history_of([130.5, 8434.1, 545230.0]), [63.6, 63.6], smaller=-13.0, limit=0.0224, every=1)
    finding = learning_rate_too_high(history)
    assert finding is not None
    assert finding.confidence is Confidence.CONFIRMED
    assert "0.0224" in finding.remedy
    assert "about 0.011" in finding.remedy


def test_a_loss_that_is_lost_makes_it_an_error() -> None:
    finding = learning_rate_too_high(run([2.0, 9.0, float("nan")], [5.0, 5.0], limit=0.01))
    assert finding is not None
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(("growth", "ill"), [(0.1, True), (0.0, False)])
def test_a_loss_that_climbed_for_long_before_it_was_out_of_all_numbers_is_the_steps_doing(
    growth: float, ill: bool
) -> None:
    # By e^30 in 300 steps of single samples, which raise the loss of others as often as not, and so do shorter ones.
    losses = [math.exp(growth * step + value) for step, value in enumerate(noisy([0.0] * 300, 1.0))]
    history = run([*losses, *[math.inf] * 20], [0.4, -0.5] * 16, smaller=0.1, skill=None)
    finding = learning_rate_too_high(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.severity is Severity.ERROR
        assert "where it stays" in finding.summary


def test_sick_first_steps_that_broke_the_network_leave_a_suspicion() -> None:
    losses = [2.3, 40.0, 12.0, *[2.3] * 297]
    history = run(losses, [15.0, *[-1e-9] * 29], limit=0.01, smaller=-1e-3)
    finding = learning_rate_too_high(history)
    assert finding is not None
    assert finding.confidence is Confidence.SUSPECTED
    assert finding.onset == 0


# By a 64th of that, the shortest step that was tried: one that goes the wrong way does harm at any length.
@pytest.mark.parametrize(("smaller", "ill"), [(0.0, True), (3.0, True), (3.4, False)])
def test_a_first_step_that_took_the_loss_far_up_by_its_length_counts_though_no_shorter_one_lowered_it(
    smaller: float, ill: bool
) -> None:
    losses = [2.3, 40.0, 12.0, *[2.3] * 297]
    finding = learning_rate_too_high(run(losses, [15.0, *[-1e-9] * 29], smaller=smaller))
    assert (finding is not None) is ill
    if finding is not None:
        assert "took the loss of other samples to 16 times what it was, and the mildest of" in finding.summary
        assert finding.onset == 0


def test_healthy_one_first_step_too_far_that_the_loss_does_not_show() -> None:
    assert learning_rate_too_high(run([2.3] * 300, [15.0, *[-1e-9] * 29], limit=0.01, smaller=-1e-3)) is None


def test_healthy_a_run_that_does_well_may_overshoot() -> None:
    assert learning_rate_too_high(run(BOUNCING, [0.5] * 30, skill=0.9, limit=0.02)) is None


def test_healthy_a_run_that_is_under_way_and_improves() -> None:
    history = run(noisy(decay(2.3, 0.2, 200, 300), 0.01), [0.5] * 30, skill=0.3)
    history.facts = {"trainer": {"planned_steps": 600}}
    assert learning_rate_too_high(history) is None


@pytest.mark.parametrize(
    ("planned", "schedulers", "severity"),
    [(700, [{}], Severity.NOTE), (500, [{}], Severity.WARNING), (700, [], Severity.WARNING)],
)
def test_a_decay_that_is_under_way_is_waited_for(planned: int, schedulers: list[object], severity: Severity) -> None:
    history = run(BOUNCING, [0.5] * 30, limit=0.02)
    history.facts = {"trainer": {"planned_steps": planned}, "schedulers": schedulers}
    reading(history, "learning_rate", [0.1 - 0.001 * i for i in range(30)])
    finding = learning_rate_too_high(history)
    assert finding is not None
    assert finding.severity is severity


def test_healthy_small_batches_whose_steps_point_the_wrong_way() -> None:
    # The smaller step raises the loss of the other samples as well: that is noise, and no matter of length.
    assert learning_rate_too_high(run(BOUNCING, [0.5] * 30, smaller=0.1)) is None


@pytest.mark.parametrize(("over", "ill"), [(16, True), (10, False)])
def test_half_of_the_later_steps_must_overshoot(over: int, ill: bool) -> None:
    changes = [-0.1] * 10 + [0.5, -0.1] * 10 if over < 16 else [-0.1] * 10 + [0.5] * 20
    changes = changes if ill else [-0.1] * 12 + [0.5, -0.1, -0.1] * 6
    assert (learning_rate_too_high(run(BOUNCING, changes)) is not None) is ill


def test_gradients_that_point_against_each_other_count_where_a_step_overshot() -> None:
    changes = [-0.1] * 12 + [0.5, -0.1, -0.1] * 6
    opposed = reading(run(BOUNCING, changes), "gradient_cosine", [-0.6] * 30)
    aligned = reading(run(BOUNCING, changes), "gradient_cosine", [0.6] * 30)
    assert learning_rate_too_high(opposed) is not None
    assert learning_rate_too_high(aligned) is None


def test_without_a_known_limit_the_rate_is_to_be_lowered_tenfold() -> None:
    finding = learning_rate_too_high(run(BOUNCING, [0.5] * 30))
    assert finding is not None
    assert finding.remedy == "lower lr from 0.1 to 0.01 or less"


@pytest.mark.parametrize(("last", "ill"), [(20.0, False), (26.0, True)])
def test_healthy_a_noisy_young_loss_is_not_lost_before_it_is_far_over_its_start(last: float, ill: bool) -> None:
    history = scanned(history_of([2.3, 3.1, last]), [0.5, 0.5], limit=0.02, every=1)
    assert (learning_rate_too_high(history) is not None) is ill


@pytest.mark.parametrize(("peak", "ill"), [(6.0, False), (8.0, True)])
def test_sick_first_steps_that_took_the_loss_far_up_are_suspected_without_a_scan_that_shows_it(
    peak: float, ill: bool
) -> None:
    # Momentum carries it there in many steps, of which none overshoots by itself.
    surged = [2.3, 2.4, *[peak] * 10, *[2.3] * 288]
    assert (learning_rate_too_high(run(surged, [-1e-6] * 30)) is not None) is ill
    assert learning_rate_too_high(run(surged, [-1e-6] * 30, skill=0.9)) is None


@pytest.mark.parametrize(("late", "baseline", "ill"), [(5.9, 2.43, True), (6.1, 2.43, False), (6.1, 2.41, True)])
def test_some_batches_that_cost_as_much_to_the_end_are_no_surge(late: float, baseline: float, ill: bool) -> None:
    surged = run([2.3, 2.4, *[18.0] * 10, *[2.3] * 285, *[late] * 3], [-1e-6] * 30)
    assert (learning_rate_too_high(reading(surged, "baseline_loss", [baseline] * 30)) is not None) is ill


def test_healthy_one_bad_batch_among_the_first_is_no_surge() -> None:
    assert learning_rate_too_high(run([2.3, 2.4, 50.0, *[2.3] * 297], [-1e-6] * 30)) is None


@pytest.mark.parametrize(("baseline", "ill"), [(4.0, True), (7.0, False)])
def test_a_surge_is_more_than_what_some_batches_cost(baseline: float, ill: bool) -> None:
    surged = run([2.3, 2.4, *[18.0] * 10, *[baseline] * 288], [-1e-6] * 30)
    assert (learning_rate_too_high(reading(surged, "baseline_loss", [baseline] * 30)) is not None) is ill


@pytest.mark.parametrize(("late", "ill"), [(2.1, True), (1.8, False)])
def test_healthy_a_surge_of_some_batches_of_a_run_that_learned_something(late: float, ill: bool) -> None:
    surged = run([2.3, 2.4, *[18.0] * 10, *[late] * 288], [-1e-6] * 30)
    assert (learning_rate_too_high(reading(surged, "baseline_loss", [2.3] * 30)) is not None) is ill


def test_healthy_rate_of_a_network_that_was_dead_before_its_first_step() -> None:
    dead = reading(run(BOUNCING, [0.5] * 30, limit=0.02), "dead_share", [0.9] * 30)
    died = reading(run(BOUNCING, [0.5] * 30, limit=0.02), "dead_share", [0.1, *[0.9] * 29])
    assert learning_rate_too_high(dead) is None
    assert learning_rate_too_high(died) is not None


@pytest.mark.parametrize(("level", "ill"), [(2.36, False), (2.6, True)])
def test_sick_a_loss_that_stays_over_its_start_and_over_what_a_constant_scores(level: float, ill: bool) -> None:
    history = reading(run(noisy([2.33] * 8 + [level] * 392, 0.02), [-1e-6] * 30), "baseline_loss", [2.28] * 40)
    assert (learning_rate_too_high(history) is not None) is ill


@pytest.mark.parametrize(("peak", "ill"), [(3.0, False), (40.0, True)])
def test_sick_a_loss_that_is_thrown_up_again_and_again(peak: float, ill: bool) -> None:
    # Every fifth loss: of 40 the mean is 8.6, with a standard error of 1.1; a constant scores 1 throughout.
    losses = noisy([peak if step % 5 == 0 and step > 200 else 1.0 for step in range(400)], 0.02)
    finding = learning_rate_too_high(reading(run(losses, [-1e-6] * 30), "baseline_loss", [1.0] * 40))
    assert (finding is not None) is ill
    if finding is not None:
        assert "again and again, to 8.6" in finding.summary


def test_healthy_one_bad_batch_in_many() -> None:
    losses = noisy([400.0 if step in (250, 300) else 1.0 for step in range(400)], 0.02)
    assert learning_rate_too_high(reading(run(losses, [-1e-6] * 30), "baseline_loss", [1.0] * 40)) is None


@pytest.mark.parametrize(
    ("best", "now", "ill"), [(2.0, 2.29, True), (2.25, 2.29, False), (2.0, 2.18, False), (2.0, 2.24, True)]
)
def test_sick_a_run_that_lost_again_what_it_had_learned(best: float, now: float, ill: bool) -> None:
    losses = noisy([2.3] * 100 + [best] * 100 + [now] * 200, 0.02)
    finding = learning_rate_too_high(reading(run(losses, [-1e-6] * 40), "baseline_loss", [2.3] * 40))
    assert (finding is not None) is ill
    if finding is not None:
        assert "undid" in finding.summary
        assert 195 <= finding.onset <= 240  # type: ignore[operator]


def test_healthy_a_part_of_the_run_that_was_lucky() -> None:
    losses = noisy([2.3] * 100 + [2.0] * 100 + [2.29] * 200, 1.5)
    assert learning_rate_too_high(reading(run(losses, [-1e-6] * 40), "baseline_loss", [2.3] * 40)) is None


@pytest.mark.parametrize(("ratio", "ill"), [(None, False), (0.9, False), (1.1, True)])
def test_where_a_third_of_the_scans_overshoot_the_curvature_along_the_steps_decides(
    ratio: float | None, ill: bool
) -> None:
    changes = [0.5 if index % 3 == 0 else -0.01 for index in range(30)]
    history = run(BOUNCING, changes, limit=0.02)
    if ratio is not None:
        reading(history, "curvature/step_ratio", [ratio] * 4, every=80)
    finding = learning_rate_too_high(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.evidence["step_ratio"] == 1.1


@pytest.mark.parametrize(("skill", "ill"), [(0.19, True), (0.21, False)])
def test_first_steps_that_overshot_have_lost_no_run_that_learned_something_since(skill: float, ill: bool) -> None:
    history = run([2.3, *[2.0] * 299], [0.5] * 3 + [-1e-3] * 27, skill=skill, limit=0.02)
    assert (learning_rate_too_high(history) is not None) is ill


def test_first_steps_that_wrecked_a_network_that_knew_something_count() -> None:
    history = run([0.3, 0.3, *[1.5] * 298], [0.5] * 3 + [-1e-3] * 27, skill=0.3, limit=0.02)
    assert learning_rate_too_high(reading(history, "baseline_loss", [2.3] * 30)) is not None


def test_healthy_curvature_alone_proves_no_rate_too_high() -> None:
    history = run(BOUNCING, [-0.01] * 30)
    assert learning_rate_too_high(reading(history, "curvature/step_ratio", [1.5] * 4, every=80)) is None


def test_sick_late_scans_prove_what_the_first_steps_began() -> None:
    losses = [0.6, 350.0, 3e4, *noisy([40.0] * 297, 5.0)]
    finding = learning_rate_too_high(run(losses, [600.0, *[-0.1] * 14, *[0.5] * 15], skill=None, limit=0.02))
    assert finding is not None
    assert finding.onset == 0


def test_sick_a_run_that_its_steps_took_over_a_constant_prediction_for_good() -> None:
    # Dead by then: no scanned step overshoots, and only the last bias still moves.
    history = run(noisy([2.3] * 40 + [3.4] * 260, 0.2), [-0.01, 0.01] * 15, smaller=0.1, skill=0.0)
    finding = learning_rate_too_high(reading(history, "baseline_loss", [2.3] * 30))
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.onset == 0


@pytest.mark.parametrize(("skill", "changes"), [(0.95, [-0.01, 0.01] * 15), (0.0, [-0.01] * 30)])
def test_healthy_a_loss_that_other_data_took_up_is_no_matter_of_the_steps(skill: float, changes: list[float]) -> None:
    # They lower it as they should, or what is predicted is right.
    history = run(noisy([*decay(2.3, 0.1, 20, 150), *[3.0] * 150], 0.1), changes, smaller=0.1, skill=skill)
    assert learning_rate_too_high(reading(history, "baseline_loss", [2.3] * 30)) is None


def test_a_chance_overshoot_of_a_warm_up_is_not_where_it_began() -> None:
    history = run(BOUNCING, [0.5, *[-0.1] * 14, *[0.5] * 15], limit=0.02)
    rates = history["learning_rate"]
    rates.values[:] = [0.001] * len(rates)
    history.record("learning_rate", 145, 0.1)
    finding = learning_rate_too_high(history)
    assert finding is not None
    assert finding.onset == 150


@pytest.mark.parametrize(("overshot", "ill"), [(1, False), (4, True)])
def test_gradients_that_oppose_each_other_need_more_than_a_single_overshoot(overshot: int, ill: bool) -> None:
    history = run(BOUNCING, [*[0.5] * overshot, *[-0.1] * (30 - overshot)], skill=0.1, limit=0.02)
    reading(history, "gradient_cosine", [-0.7] * 30)
    assert (learning_rate_too_high(history) is not None) is ill


def test_healthy_units_that_were_saturated_from_the_start_were_not_made_so_by_steps() -> None:
    history = run(BOUNCING, [0.5] * 30, limit=0.02)
    assert learning_rate_too_high(reading(history, "saturated_share/act", [1.0] * 10)) is None


def test_a_loss_that_nothing_moves_is_not_thrown_up_by_steps() -> None:
    # What sixteen samples of one class or the other cost, at a baseline of a quarter.
    losses = [abs(loss) for loss in noisy([0.62] * 300, 0.12, seed=3)]
    history = run(losses, [-1e-9] * 30, skill=-1.0)
    assert learning_rate_too_high(reading(history, "baseline_loss", [0.25] * 30)) is None


@pytest.mark.parametrize(("before", "ill"), [(2.3, True), (4.0, False)])
def test_earlier_scans_tell_where_there_was_no_time_for_late_ones(before: float, ill: bool) -> None:
    # Ten of the first 300 steps, which did harm, and one of the last ten, which did none.
    losses = noisy([2.3] * 8 + [before] * 292 + [2.3] * 1700, 0.05)
    history = scanned(history_of(losses, run=COMPLETED), [-0.5] * 4 + [0.5] * 10, limit=0.02, every=20)
    for factor, change in ((0.015625, -0.01), (1.0, -0.01), (4.0, 0.1)):
        history.record(f"scan/{factor:g}", 1990, change)
    reading(history, "skill", [0.1] * 200)
    assert (learning_rate_too_high(history) is not None) is ill


@pytest.mark.parametrize(
    ("rates", "late", "ill"),
    [
        pytest.param((0.1, 0.1), [-0.01], True, id="as before"),
        pytest.param((0.1, 0.01), [-0.01], False, id="at another rate"),
        pytest.param((0.01, 0.1), [0.5, 0.5], True, id="late ones tell themselves"),
    ],
)
def test_scans_at_another_rate_tell_nothing_of_the_steps_of_now(
    rates: tuple[float, float], late: list[float], ill: bool
) -> None:
    history = history_of(noisy([2.3] * 2000, 0.05), run=COMPLETED)
    for step, rate in ((0, rates[0]), (500, rates[1])):
        history.record("learning_rate", step, rate)
    early = 0.5 if rates[0] == 0.1 else -0.5
    scanned(history, [-0.5] * 4 + [early] * 10, limit=0.02, every=20)
    for index, change in enumerate(late):
        for factor, value in ((0.015625, -0.01), (1.0, change), (4.0, 0.6)):
            history.record(f"scan/{factor:g}", 1900 + 50 * index, value)
    reading(history, "skill", [0.1] * 200)
    assert (learning_rate_too_high(history) is not None) is ill


def test_a_first_step_that_is_too_long_by_orders_of_magnitude_wrecks_at_a_64th_too() -> None:
    losses = [2.3, 1e6, 12.0, *[2.3] * 297]
    # As of a parabola: by a square of the length.
    finding = learning_rate_too_high(run(losses, [1e6, *[-1e-9] * 29], smaller=64 * 244.0))
    assert finding is not None


OVERSHOOTS, GOES = [0.05] * 40, [-0.05] * 36
LOWERED = [*[0.1] * 120, *[0.01] * 80, *[0.1] * 200]


@pytest.mark.parametrize(
    ("best", "changes", "rates", "ill"),
    [
        (0.6, OVERSHOOTS, None, True),
        (1.0, OVERSHOOTS, None, False),
        # As where a schedule weighs a term more and more.
        (0.6, [*[0.05] * 4, *GOES], None, False),
        # And as a rate that was lowered and raised again does by itself.
        (0.6, OVERSHOOTS, LOWERED, False),
    ],
)
def test_a_loss_of_unknown_kind_that_climbed_back_from_its_best_does_badly(
    best: float, changes: list[float], rates: list[float] | None, ill: bool
) -> None:
    # Far under its start all the while, of which nobody knows how much there was to learn.
    losses = [*decay(10.0, 1.0, 20.0, 100), *noisy([best] * 100, 0.05), *noisy([1.1] * 200, 0.05, seed=1)]
    history = scanned(history_of(losses, run=COMPLETED, rates=rates), changes, limit=0.02)
    assert (learning_rate_too_high(history) is not None) is ill


def unscanned(losses: list[float]) -> History:
    """A run in manual optimization, which learned nothing."""
    history = history_of(losses, run=COMPLETED)
    history.lack(["scan/1"], "a step in manual optimization changes the weights, so that it cannot be rehearsed")
    return history


def test_sick_steps_that_nobody_scans_and_that_took_the_loss_far_up() -> None:
    finding = learning_rate_too_high(unscanned([2.3] * 40 + [40.0] * 5 + noisy([2.3] * 255, 0.02)))
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    assert "up to 40 at first" in finding.summary


@pytest.mark.parametrize(
    "losses",
    [noisy([2.3] * 300, 0.02), [2.3, 40.0, 2.3], decay(1.0, 0.4, 20, 100) + decay(0.4, 1.8, 40, 300)],
    ids=["no surge", "young", "a task that gets harder"],
)
def test_steps_that_nobody_scans_and_that_show_nothing_are_not_called_healthy(losses: list[float]) -> None:
    with pytest.raises(Undecided, match="in manual optimization"):
        learning_rate_too_high(unscanned(losses))


def test_a_run_of_which_too_few_steps_have_been_scanned_is_waited_for() -> None:
    with pytest.raises(Undecided, match="fewer than 2 steps"):
        learning_rate_too_high(history_of([2.3] * 3))


@pytest.mark.parametrize(
    ("late", "passes", "ill"),
    [(2.3, [], True), (2.3, [2.4] * 8, True), (1.7, [], False), (2.3, [2.4, *[1.9] * 7], False)],
    ids=["where it began", "validation too", "training came down", "validation came down"],
)
def test_a_surge_under_a_loss_of_unknown_kind_lost_nothing_where_the_loss_came_down(
    late: float, passes: list[float], ill: bool
) -> None:
    losses = [2.3] * 40 + [40.0] * 5 + noisy([late] * 255, 0.02)
    history = scanned(history_of(losses, run=COMPLETED), [-0.1] * 30)
    reading(history, "val_loss", passes, 40)
    assert (learning_rate_too_high(history) is not None) is ill


SWINGING = [0.8, 2.9, 0.7, 1.4, 0.9, 3.4, 0.7, 1.2, 4.0, 0.8, 1.6, 0.7, 2.2, 0.9, 1.5, 0.8]


@pytest.mark.parametrize(
    ("passes", "facts", "rates", "ill"),
    [
        (SWINGING, {}, [0.1], True),
        # Around 1.2 by 0.3: a quarter of it.
        ([1.2 + 0.3 * (loss - 1.2) for loss in SWINGING], {}, [0.1], False),
        (sorted(SWINGING), {}, [0.1], False),
        (SWINGING[:14], {}, [0.1], False),
        (SWINGING, {"model": {"layers": {"BatchNorm1d": 2}}}, [0.1], False),
        (SWINGING, {}, [0.1, 0.04], False),
    ],
    ids=["leaps", "noise", "one way", "seven passes of late", "batch statistics", "a rate that came down"],
)
def test_sick_steps_that_throw_the_validation_loss_about_from_pass_to_pass(
    passes: list[float], facts: dict[str, Any], rates: list[float], ill: bool
) -> None:
    # No step is scanned that overshoots: of batches of two rows nearly any step may raise the loss of others.
    history = scanned(history_of(BOUNCING, run=COMPLETED, **facts), [-0.1] * 30, rate=rates[0])
    history.record("learning_rate", 250, rates[-1])
    finding = learning_rate_too_high(reading(reading(history, "skill", [0.1] * 30), "val_loss", passes, 18))
    assert (finding is not None) is ill
    assert finding is None or "the validation loss leaps by" in finding.summary


@pytest.mark.parametrize(("error", "ill"), [(0.21, True), (0.22, False), (None, True)])
def test_a_leap_must_be_beyond_what_other_rows_in_each_pass_would_make_of_it(error: float | None, ill: bool) -> None:
    # The median leap is 0.9: more than 3 · √2 · 0.21.
    history = scanned(history_of(BOUNCING, run=COMPLETED, data={"val_samples": 100}), [-0.1] * 30)
    if error is not None:
        history.facts["scored"] = {"validation": 100}
        history.record("eval_error/validation", 299, error)
    finding = learning_rate_too_high(reading(reading(history, "skill", [0.1] * 30), "val_loss", SWINGING, 18))
    assert (finding is not None) is ill


def test_healthy_passes_that_mostly_cost_nothing_do_not_leap() -> None:
    history = scanned(history_of(BOUNCING, run=COMPLETED), [-0.1] * 30)
    passes = [0.0, 1.0, 0.0, 0.0] * 4
    assert learning_rate_too_high(reading(reading(history, "skill", [0.1] * 30), "val_loss", passes, 18)) is None
