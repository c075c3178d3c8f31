from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_doctor.history import History
from lightning_doctor.rules.vanished_learning_rate import vanished_learning_rate
from tests.histories import COMPLETED, decay, history_of, noisy, reading, scanned


def linear(total: int, count: int) -> list[float]:
    return [0.1 * max(0.0, 1 - step / total) for step in range(count)]


def frozen_after(at: int, count: int, level: float = 1.8, sigma: float = 0.03) -> list[float]:
    fall = [2.3 - (2.3 - level) * min(step, at) / at for step in range(count)]
    return noisy(fall, sigma)


def run_of(losses: list[float], rates: list[float], planned: int, interval: str = "step", **more: Any) -> History:
    schedulers = [{"class": more.pop("scheduler", "LinearLR"), "interval": interval, "frequency": 1}]
    return history_of(
        losses, rates=rates, trainer={"planned_steps": planned, "max_epochs": 20, **more}, schedulers=schedulers
    )


def test_sick_schedule_counted_in_epochs_but_stepped_per_batch_is_seen_soon() -> None:
    # 20 epochs of 20 batches: the rate is gone after 20 of 400 steps.
    losses = frozen_after(20, 50)
    finding = vanished_learning_rate(run_of(losses, linear(20, 50), planned=400))
    assert finding is not None
    assert (finding.code, finding.severity, finding.onset) == ("LD109", "warning", 19)
    assert "400 steps" in finding.remedy
    assert "counted in epochs (20) but stepped per batch" in finding.remedy


def test_sick_decay_that_ends_at_two_fifths_is_confirmed() -> None:
    finding = vanished_learning_rate(run_of(frozen_after(400, 700), linear(400, 700), planned=1000))
    assert finding is not None
    assert finding.confidence == "confirmed"
    assert finding.evidence["unused_share"] == pytest.approx(0.6, abs=0.01)
    assert "it ended after 400" in finding.remedy


@pytest.mark.parametrize(("planned", "ill"), [(480, False), (520, True)])
def test_a_share_of_the_planned_run_must_be_left(planned: int, ill: bool) -> None:
    # The rate is gone at 400: a fifth of the plan is left from 500 steps on.
    history = run_of(frozen_after(400, 460), linear(400, 460), planned=planned)
    assert (vanished_learning_rate(history) is not None) is ill


@pytest.mark.parametrize(("floor", "ill"), [(5e-5, True), (2e-4, False)])
def test_a_rate_is_gone_under_a_thousandth_of_its_peak(floor: float, ill: bool) -> None:
    # The peak is 0.1.
    rates = [max(floor, rate) for rate in linear(400, 700)]
    assert (vanished_learning_rate(run_of(frozen_after(400, 700), rates, planned=1000)) is not None) is ill


@pytest.mark.parametrize(("level", "ill"), [(0.5, False), (0.7, True)])
def test_a_loss_that_is_low_already_needs_no_rate(level: float, ill: bool) -> None:
    # A quarter of 2.3 is 0.575.
    history = run_of(frozen_after(400, 700, level), linear(400, 700), planned=1000)
    assert (vanished_learning_rate(history) is not None) is ill


@pytest.mark.parametrize("planned", [None, 700])
def test_healthy_schedule_that_ends_on_the_last_step_is_well(planned: int | None) -> None:
    losses, rates = noisy(decay(2.3, 0.8, 300, 700), 0.03), linear(699, 700)
    for end in (*range(50, 700, 50), 700):
        history = run_of(losses[:end], rates[:end], planned=planned)  # type: ignore[arg-type]
        assert vanished_learning_rate(history) is None


def test_healthy_cosine_tail_is_well() -> None:
    rates = [0.05 * (1 + math.cos(math.pi * step / 999)) for step in range(1000)]
    losses = noisy(decay(2.3, 0.8, 300, 1000), 0.03)
    for end in range(50, 1001, 50):
        assert vanished_learning_rate(run_of(losses[:end], rates[:end], planned=1000)) is None


def test_healthy_warm_up_from_zero_is_well() -> None:
    rates = [0.1 * min(1.0, (step // 20) / 10) for step in range(400)]
    losses = noisy(decay(2.3, 0.8, 300, 400), 0.03)
    for end in (8, 16, 20, 32, 50, 100, 400):
        assert vanished_learning_rate(run_of(losses[:end], rates[:end], planned=1000)) is None


def test_healthy_warm_restarts_come_back() -> None:
    rates = [0.05 * (1 + math.cos(math.pi * (step % 250) / 249)) for step in range(1000)]
    losses = noisy(decay(2.3, 0.8, 300, 1000), 0.03)
    for end in range(240, 1001):
        history = run_of(losses[:end], rates[:end], planned=1000, scheduler="CosineAnnealingWarmRestarts")
        assert vanished_learning_rate(history) is None


def test_healthy_reduction_on_a_plateau_follows_the_loss() -> None:
    losses = noisy([*decay(2.3, 1.0, 30, 300), *[1.0] * 400], 0.03)
    rates = [0.1] * 350 + [1e-5] * 350
    history = run_of(losses, rates, planned=1000, interval="epoch", scheduler="ReduceLROnPlateau")
    assert vanished_learning_rate(history) is None


def test_healthy_reduction_on_a_plateau_after_a_quick_fall_is_not_blamed_for_the_fall() -> None:
    # Fell fast and was still falling a little when the first cut came, within the 64 values that are judged as one.
    losses = noisy([*decay(0.64, 0.19, 8, 42), *[0.19] * 18], 0.01)
    rates = [0.003] * 30 + [3e-6] * 12 + [3e-9] * 18
    history = run_of(losses, rates, planned=60, interval="epoch", scheduler="ReduceLROnPlateau")
    assert vanished_learning_rate(history) is None


def test_healthy_end_of_a_run_that_had_stopped_improving_costs_nothing() -> None:
    losses = noisy([*decay(2.3, 1.0, 20, 300), *[1.0] * 400], 0.03)
    assert vanished_learning_rate(run_of(losses, [0.1] * 350 + [0.0] * 350, planned=1000)) is None


def test_a_group_that_still_has_a_rate_goes_on_learning() -> None:
    history = run_of(frozen_after(400, 700), linear(400, 700), planned=1000)
    for step in range(700):
        history.record("learning_rate/1", step, 0.01)
    assert vanished_learning_rate(history) is None


def test_a_group_without_a_rate_from_the_start_is_frozen_on_purpose() -> None:
    history = run_of(frozen_after(400, 700), linear(400, 700), planned=1000)
    for step in range(700):
        history.record("learning_rate/1", step, 0.0)
    assert vanished_learning_rate(history) is not None


@pytest.mark.parametrize(("shrunk", "ill"), [(0.005, True), (0.05, False)])
def test_adagrad_whose_steps_shrank_a_hundredfold_is_suspected(shrunk: float, ill: bool) -> None:
    history = run_of(frozen_after(400, 1000), [0.1] * 1000, planned=2000)
    history.facts["optimizers"] = [{"class": "Adagrad", "groups": [{"lr": 0.1}]}]
    for step in range(0, 1000, 10):
        history.record("adagrad_step", step, 1.0 if step < 400 else shrunk)
    finding = vanished_learning_rate(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.confidence == "suspected"
        assert "instead of Adagrad" in finding.remedy


@pytest.mark.parametrize(("skill", "ill"), [(0.3, True), (0.9, False)])
def test_sick_a_plateau_scheduler_that_cut_at_once_in_a_run_that_learned_little(skill: float, ill: bool) -> None:
    losses = noisy(decay(2.3, 2.2, 60, 120) + [2.2] * 880, 0.02)
    rates = [0.02] * 100 + [2e-3] * 20 + [2e-9] * 880
    history = run_of(losses, rates, planned=1000, interval="epoch", scheduler="ReduceLROnPlateau")
    history.facts["run"] = {"ended": "completed"}
    for step in range(0, 1000, 50):
        history.record("skill", step, skill)
    finding = vanished_learning_rate(history)
    assert (finding is not None) is ill
    assert finding is None or "patience of ReduceLROnPlateau" in finding.remedy


@pytest.mark.parametrize(
    ("level", "rests", "ill"), [(1.5, False, True), (1.5, True, False), (0.4, False, False)], ids=["cut", "rest", "low"]
)
def test_sick_a_plateau_scheduler_that_cut_a_loss_nobody_can_read_while_it_fell(
    level: float, rests: bool, ill: bool
) -> None:
    fall = decay(2.3, level, 20, 200) if rests else [2.3 - (2.3 - level) * step / 200 for step in range(200)]
    rates = [0.02] * 180 + [2e-3] * 20 + [2e-9] * 800
    history = run_of(
        noisy([*fall, *[level] * 800], 0.02), rates, planned=1000, interval="epoch", scheduler="ReduceLROnPlateau"
    )
    history.facts["run"] = {"ended": "completed"}
    assert (vanished_learning_rate(history) is not None) is ill
    for index, value in enumerate([2.3, 1.9, 1.8, 1.8, 1.82, 1.85, 1.9]):
        history.record("val_loss", 30 * index, value)
    # It had stopped to fall where the scheduler looks.
    assert vanished_learning_rate(history) is None


def test_three_decays_to_a_tenth_are_a_thousandth_whatever_they_round_to() -> None:
    rates = [0.05] * 6 + [0.005] * 4 + [0.0005] * 4 + [0.05 * 0.1 * 0.1 * 0.1] * 466
    assert vanished_learning_rate(run_of(noisy([1.4, 1.35, 1.3, *[1.25] * 477], 0.03), rates, 480)) is not None


@pytest.mark.parametrize(("decay", "remedy"), [(1.0, "set lr_decay of Adagrad from 1 to 0"), (0.0, "use RMSprop")])
def test_adagrads_own_decay_is_to_be_taken_away_first(decay: float, remedy: str) -> None:
    history = run_of(frozen_after(400, 1000), [0.1] * 1000, planned=2000)
    history.facts["optimizers"] = [{"class": "Adagrad", "groups": [{"lr": 0.1, "lr_decay": decay}]}]
    for step in range(0, 1000, 10):
        history.record("adagrad_step", step, 1.0 if step < 400 else 0.005)
    finding = vanished_learning_rate(history)
    assert finding is not None
    assert remedy in finding.remedy


def decayed_by_half_after_two_steps(changes: list[float], skill: float = 0.0, falls: float = 1.0) -> History:
    """lr / (1 + 0.9 t), as of Keras, down to a six hundredth, where 16 times the step would do so much."""
    rates = [0.01 / (1 + 0.9 * step * falls) for step in range(600)]
    history = run_of(noisy([2.3] * 600, 0.03), rates, planned=600, scheduler="LambdaLR")
    history.facts["run"] = COMPLETED
    reading(history, "skill", [skill] * 60)
    scanned(history, [change / 16 for change in changes], rate=0.01)
    for index, change in enumerate(changes):
        history.record("scan/16", 10 * index + 1, change)
    return history


def test_sick_a_decay_that_left_a_rate_too_small_for_what_there_was_to_learn() -> None:
    finding = vanished_learning_rate(decayed_by_half_after_two_steps([-1e-3] * 60))
    assert finding is not None
    assert (finding.severity, finding.confidence) == ("warning", "suspected")
    # 1 / (1 + 0.9 t) is under a tenth from the tenth step on.
    assert finding.onset == 10
    assert "lr fell from 0.01 under 10% of that by step 10 and is 1.85e-05" in finding.summary


def test_sick_the_same_decay_in_a_run_so_long_that_the_rate_is_all_gone_in_the_end() -> None:
    history = run_of(
        noisy([2.3] * 1800, 0.03), [0.01 / (1 + 0.9 * step) for step in range(1800)], planned=1800, scheduler="LambdaLR"
    )
    history.facts["run"] = COMPLETED
    reading(history, "skill", [0.0] * 180)
    scanned(history, [-6e-5] * 60, rate=0.01)
    for index in range(60):
        history.record("scan/16", 10 * index + 1, -1e-3)
    finding = vanished_learning_rate(history)
    assert finding is not None
    assert finding.onset == 10


@pytest.mark.parametrize(
    ("factor", "skill", "longer", "ill"),
    [(0.95, 0.0, -1e-3, True), (0.95, 0.7, -1e-3, False), (0.983, 0.0, -1e-3, False), (0.95, 0.0, 1e-3, False)],
    ids=["early", "it does well", "late", "no steps would have helped"],
)
def test_sick_a_decay_that_left_no_rate_to_speak_of_early_in_a_run_that_learned_nothing(
    factor: float, skill: float, longer: float, ill: bool
) -> None:
    # Under a tenth after 45 and 135 of 450 steps, and under a thousandth after 135 and 403.
    rates = [0.003 * factor**step for step in range(450)]
    history = run_of(noisy([0.69] * 450, 0.02), rates, planned=450, scheduler="ExponentialLR")
    history.facts["run"] = COMPLETED
    for step in range(0, 450, 50):
        history.record("scan/1", step, longer / 16)
        history.record("scan/16", step, longer)
    finding = vanished_learning_rate(reading(history, "skill", [skill] * 45))
    assert (finding is not None) is ill
    assert finding is None or "let ExponentialLR fall so slowly" in finding.remedy


@pytest.mark.parametrize(
    ("changes", "skill", "falls"),
    [([1e-3, -1e-3] * 30, 0.0, 1.0), ([-1e-3] * 60, 0.9, 1.0), ([-1e-3] * 60, 0.0, 0.01)],
    ids=["longer steps do not lower it", "it does well", "slowly"],
)
def test_healthy_decays_that_are_not_in_the_way(changes: list[float], skill: float, falls: float) -> None:
    assert vanished_learning_rate(decayed_by_half_after_two_steps(changes, skill, falls)) is None
