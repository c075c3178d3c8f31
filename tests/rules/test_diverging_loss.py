from __future__ import annotations

import math

import pytest

from lightning_doctor.history import History
from lightning_doctor.rules.diverging_loss import diverging_loss
from tests.histories import ADAM, FULL_BATCH, SGD, decay, gauss, history_of, noisy

# Gradient descent at lr 0.1 on rows [1,2,3] → 6 and [4,5,6] → 15, mean squared error, zero start.
GRADIENT_DESCENT = [130.5, 8434.1, 545230.0]
MINI = {"batch_size": 32}


def prefixes(losses: list[float], **facts: object) -> list[str]:
    """The severities along the run, at the points where a doctor looks."""
    marks = [2, 4, 8, 16, 32, *range(50, len(losses) + 1, 50)]
    findings = [diverging_loss(history_of(losses[:mark], **facts)) for mark in marks if mark <= len(losses)]
    return [str(finding.severity) for finding in findings if finding is not None]


def test_sick_gradient_descent_is_suspected_after_one_step_and_confirmed_after_two() -> None:
    one = diverging_loss(history_of(GRADIENT_DESCENT[:2], optimizers=SGD, trainer=FULL_BATCH))
    two = diverging_loss(history_of(GRADIENT_DESCENT, optimizers=SGD, trainer=FULL_BATCH))
    assert one is not None
    assert two is not None
    assert (one.severity, one.confidence) == ("error", "suspected")
    assert (two.confidence, two.onset) == ("confirmed", 0)
    assert "lower lr from 0.1 to 0.01" in two.remedy


def test_sick_explosion_over_mini_batches_is_seen_while_it_happens() -> None:
    losses = [2.3, 2.2, 2.4, 60.0, 900.0, 3e4, 1e6]
    finding = diverging_loss(history_of(losses, optimizers=SGD, data=MINI))
    assert finding is not None
    assert finding.confidence == "confirmed"
    assert finding.onset == 1


def test_sick_explosion_into_nan_is_still_seen_in_what_came_before() -> None:
    finding = diverging_loss(history_of([2.3, 2.1, 40.0, 3e5, math.nan, math.nan], data=MINI))
    assert finding is not None
    assert finding.severity == "error"


def test_sick_collapse_back_to_the_start_is_divergence() -> None:
    losses = noisy([*decay(2.3, 0.4, 20, 150), *[2.3] * 100], 0.05)
    finding = diverging_loss(history_of(losses, data=MINI))
    assert finding is not None
    assert finding.confidence == "confirmed"
    assert finding.onset is not None
    # The collapse is after step 150; the last values under the limit lie just before.
    assert 140 <= finding.onset <= 152


def test_sick_slow_rise_over_decades_is_seen_though_its_noise_grows_too() -> None:
    losses = [math.exp(step / 40 + error) for step, error in enumerate(gauss(400, 0.3))]
    finding = diverging_loss(history_of(losses, data=MINI))
    assert finding is not None


@pytest.mark.parametrize(("height", "ill"), [(5.0, False), (40.0, True)])
def test_sick_loss_that_exploded_at_once_is_measured_by_its_first_value(height: float, ill: bool) -> None:
    # Unscaled inputs: up within a step, then restless far over the start. Its opening lies as high as the rest.
    losses = [200.0, *(200.0 * height * math.exp(error) for error in gauss(300, 0.3))]
    assert (diverging_loss(history_of(losses, data=MINI)) is not None) is ill


def test_sick_negative_likelihood_that_leaves_its_start() -> None:
    losses = noisy([*decay(0.5, -1.5, 20, 60), *[8.0] * 100], 0.1)
    assert diverging_loss(history_of(losses, data=MINI)) is not None


@pytest.mark.parametrize(("height", "ill"), [(9.0, False), (11.0, True)])
def test_one_step_of_full_batch_descent_must_grow_tenfold(height: float, ill: bool) -> None:
    history = history_of([1.0, height], optimizers=SGD, trainer=FULL_BATCH)
    assert (diverging_loss(history) is not None) is ill


@pytest.mark.parametrize(("level", "ill"), [(1.85, False), (2.3, True)])
def test_last_quarter_must_stay_over_twice_the_start(level: float, ill: bool) -> None:
    losses = noisy([*[1.0] * 100, *[level] * 200], 0.02)
    assert (diverging_loss(history_of(losses, data=MINI)) is not None) is ill


@pytest.mark.parametrize(("level", "ill"), [(1.5, False), (2.2, True)])
def test_most_of_the_fall_must_be_lost_again(level: float, ill: bool) -> None:
    # Of the fall from 2.3 to 0.4, 80 % is lost at 1.92, less what the first values fall by.
    losses = noisy([*decay(2.3, 0.4, 40, 200), *[level] * 120], 0.05)
    assert (diverging_loss(history_of(losses, data=MINI)) is not None) is ill


@pytest.mark.parametrize("seed", range(5))
def test_healthy_losses_of_single_samples_are_heavy_tailed_not_diverging(seed: int) -> None:
    losses = [error * error for error in gauss(1000, 1.0, seed)]
    assert prefixes(losses, data={"batch_size": 1}, optimizers=SGD) == []


def test_healthy_spike_that_recovers_is_not_divergence() -> None:
    losses = noisy(decay(2.3, 0.3, 60, 400), 0.03)
    losses[200:204] = [40.0, 25.0, 9.0, 3.0]
    assert prefixes(losses, data=MINI) == []


def test_healthy_swings_to_and_fro_are_not_divergence() -> None:
    # The first swing alone could not be told from a collapse; it has come back by step 400.
    losses = noisy([1.2 + math.cos(step / 40) for step in range(1000)], 0.05)
    for end in range(400, 1001, 50):
        assert diverging_loss(history_of(losses[:end], data=MINI)) is None


def test_healthy_bump_of_adam_in_its_first_steps_is_not_divergence() -> None:
    losses = noisy([2.3, 4.0, 9.0, 14.0, 12.0, 8.0, 5.0, 3.0, 2.5, *decay(2.3, 0.1, 30, 200)], 0.02)
    assert prefixes(losses, optimizers=ADAM, trainer=FULL_BATCH) == []


def test_healthy_negative_likelihood_that_falls_is_well() -> None:
    assert prefixes(noisy(decay(1.0, -2.0, 60, 400), 0.2), data=MINI) == []


@pytest.mark.parametrize("seed", range(5))
def test_healthy_noise_about_a_constant_is_well(seed: int) -> None:
    assert prefixes(noisy([0.9] * 600, 0.25, seed), data=MINI) == []


def test_healthy_run_on_its_way_back_is_well() -> None:
    losses = noisy([*[1.0] * 100, *decay(9.0, 0.5, 120, 200)], 0.05)
    assert diverging_loss(history_of(losses, data=MINI)) is None


def test_several_optimizers_have_no_loss_that_has_to_fall() -> None:
    history = History()
    history.absent["train_loss"] = "2 optimizers: no single loss has to fall"
    assert diverging_loss.lacks(history) == "2 optimizers: no single loss has to fall"


def test_remedy_offers_no_clipping_to_a_run_that_clips() -> None:
    trainer = {**FULL_BATCH, "gradient_clip_val": 1.0}
    finding = diverging_loss(history_of(GRADIENT_DESCENT, optimizers=SGD, trainer=trainer))
    assert finding is not None
    assert "clip" not in finding.remedy


@pytest.mark.parametrize("level", [17.0, 42.0, 460.0])
def test_sick_run_that_leaves_its_start_in_the_first_step_is_measured_by_its_very_first_loss(level: float) -> None:
    # Digits at 100 times the right rate: 2.35, then 22, 30, 10, 18 … for good. The opening holds no untrained loss.
    losses = [2.35, *(level * math.exp(error) for error in gauss(200, 0.3))]
    finding = diverging_loss(history_of(losses, optimizers=SGD, data=MINI))
    assert finding is not None
    assert finding.onset == 0
    assert finding.evidence["start"] == 2.35


def test_healthy_a_first_batch_without_an_outlier_is_no_start_to_measure_by() -> None:
    # Half of the batches hold one target in a wrong unit.
    losses = [4.7, 4.4, 1251.0, 4.7, 5.6, 2503.0, 5.0, 1254.0] * 3
    losses += [math.exp(error) * (1100.0 if step % 3 else 60.0) for step, error in enumerate(gauss(400, 0.3))]
    assert diverging_loss(history_of(losses, optimizers=ADAM, data=MINI)) is None


def test_healthy_losses_of_single_samples_may_begin_far_too_low() -> None:
    losses = [0.01, *(error * error for error in gauss(200, 1.0))]
    assert diverging_loss(history_of(losses, optimizers=SGD, data={"batch_size": 1})) is None
    assert diverging_loss(history_of(losses, optimizers=SGD)) is None


def test_sick_loss_that_touched_zero_on_its_way_up_has_a_natural_zero_all_the_same() -> None:
    losses = [*decay(2.3, 0.2, 20, 100), 0.0, *(10.0 ** (step / 10) for step in range(300))]
    assert diverging_loss(history_of(losses, optimizers=SGD, data=MINI)) is not None


def test_sick_run_that_ended_on_its_way_back_ended_over_its_start() -> None:
    way_back = noisy(decay(5000.0, 300.0, 150, 400), 20.0)
    losses = [*noisy([100.0] * 20, 5.0), *way_back]
    running = history_of(losses, optimizers=SGD, data=MINI)
    ended = history_of(losses, optimizers=SGD, data=MINI, run={"ended": "completed"})
    assert diverging_loss(running) is None
    assert diverging_loss(ended) is not None
