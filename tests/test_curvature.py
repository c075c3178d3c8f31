"""The reader of the fact ``curvature`` and of the series ``curvature/…``."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_doctor.curvature import (
    does_badly,
    is_full_batch,
    known,
    late_values,
    newest_probe,
    noise_bounds,
    resting_since,
    standing_probe,
    step_batch,
)
from lightning_doctor.history import History
from tests.histories import COMPLETED, SADDLE, decay, history_of, noisy, reading


def run(losses: list[float] | None = None, **facts: Any) -> History:
    return history_of(losses or noisy([1.3] * 400, 0.01), **facts)


def test_a_whole_fact_is_read() -> None:
    probe = newest_probe(run(curvature={**SADDLE, "noise_scale": {"samples": 400.0, "error": 30.0}}))
    assert probe is not None
    assert (probe.step, probe.kind, probe.samples, probe.loss) == (390, "saddle", 256, 1.3)
    assert (probe.low.value, probe.high.value, probe.high.residual, probe.failure) == (-2.0, 2.0, 0.01, 0.001)
    assert probe.gradient.near_zero is True
    assert probe.escape is not None
    assert (probe.escape.distance, probe.escape.fall, probe.escape.share) == (0.4, 0.12, 0.09)
    assert (probe.noise.samples, probe.noise.error, probe.noise.reason) == (400.0, 30.0, "")


@pytest.mark.parametrize("table", [None, {}, [], "saddle", 3.0])
def test_what_is_no_fact_is_no_probe(table: Any) -> None:
    assert newest_probe(run(curvature=table)) is None
    assert standing_probe(run(curvature=table)) is None
    assert newest_probe(History()) is None


def test_what_is_missing_or_of_another_type_is_the_worst_it_could_be() -> None:
    wrong = {key: ["wrong"] for key in SADDLE}
    for table in ({"backend": "exact"}, wrong, dict.fromkeys(SADDLE)):
        probe = newest_probe(run(curvature=table))
        assert probe is not None
        assert (probe.step, probe.kind, probe.because, probe.samples, probe.failure) == (0, "", "", 0, 1.0)
        assert probe.escape is None
        assert probe.gradient.near_zero is None
        assert math.isinf(probe.low.residual)
        assert all(map(math.isnan, (probe.loss, probe.low.value, probe.gradient.norm, probe.noise.samples)))


@pytest.mark.parametrize("number", [True, math.nan, math.inf, 10**400, "2"])
def test_what_is_no_finite_number_is_not_known(number: Any) -> None:
    probe = newest_probe(run(curvature={**SADDLE, "loss": number}))
    assert probe is not None
    assert math.isnan(probe.loss)


def test_a_probe_holds_until_the_loss_has_moved_on() -> None:
    assert standing_probe(run(curvature=SADDLE)) is not None
    fallen = noisy([*[1.3] * 300, *[0.4] * 100], 0.01)
    assert standing_probe(run(fallen, curvature={**SADDLE, "step": 290})) is None
    assert standing_probe(run(fallen, curvature={**SADDLE, "step": 370})) is not None
    assert standing_probe(run(curvature={**SADDLE, "step": 100})) is not None


def test_a_run_that_left_and_came_back_to_the_same_loss_is_not_where_it_was() -> None:
    losses = noisy([*[1.3] * 60, *[0.7] * 200, *[1.3] * 140], 0.01)
    assert standing_probe(run(losses, curvature={**SADDLE, "step": 40})) is None
    assert standing_probe(run(losses, curvature={**SADDLE, "step": 300})) is not None


def test_of_a_run_whose_losses_do_not_tell_an_old_probe_tells_nothing() -> None:
    losses = noisy([1.3] * 7, 0.01)
    assert standing_probe(run(losses, curvature={**SADDLE, "step": 2})) is None
    assert standing_probe(run(losses, curvature={**SADDLE, "step": 3})) is not None


def test_a_rest_began_when_the_loss_came_within_a_tenth() -> None:
    probe = newest_probe(run(curvature=SADDLE))
    assert probe is not None
    assert resting_since(run([*[2.0] * 100, *[1.3] * 300]), probe) == 99
    assert resting_since(run(), probe) == 0
    assert resting_since(History(), probe) == 390


def test_late_values_are_those_of_the_second_half_of_the_steps_and_three_at_least() -> None:
    history = History()
    for step in (7, 14, 28, 56, 112):
        history.record("rare", step, step)
    for step in range(100):
        history.record("often", step, step)
    assert late_values(history, "rare") == [28, 56, 112]
    assert late_values(history, "often")[0] == 50
    assert late_values(history, "never") == []


def test_values_of_long_ago_are_not_late() -> None:
    history = History()
    history.record("then", 40, 1.0)
    history.record("now", 100, 1.0)
    assert late_values(history, "then") == [1.0]
    history.record("now", 101, 1.0)
    assert late_values(history, "then") == []


@pytest.mark.parametrize(
    ("facts", "samples"),
    [
        ({"data": {"batch_size": 32}}, 32),
        ({"data": {"batch_size": 32}, "trainer": {"accumulate_grad_batches": 4, "world_size": 2}}, 256),
        ({"data": {"batch_size": 32}, "trainer": {"accumulate_grad_batches": "4"}}, 32),
        ({}, None),
        ({"data": {"batch_size": True}}, None),
    ],
)
def test_the_batch_of_a_step_counts_accumulated_batches_and_ranks(facts: dict[str, Any], samples: int | None) -> None:
    assert step_batch(run(**facts)) == samples


def test_the_batches_that_came_tell_more_than_what_was_planned() -> None:
    assert step_batch(reading(run(data={"batch_size": 32}), "batch_size", [20.0] * 9)) == 20


@pytest.mark.parametrize(
    ("trainer", "samples", "full"),
    [
        ({"batches_per_epoch": 1}, 32, True),
        ({"batches_per_epoch": 1}, 33, False),
        ({"batches_per_epoch": 2}, 64, False),
        ({"batches_per_epoch": 2, "steps_per_epoch": 1, "accumulate_grad_batches": 2}, 64, True),
        ({}, 32, False),
    ],
)
def test_a_batch_is_full_where_each_step_sees_all_samples(trainer: dict[str, int], samples: int, full: bool) -> None:
    assert is_full_batch(run(trainer=trainer, data={"batch_size": 32, "train_samples": samples})) is full


def test_the_noise_scale_lies_within_two_errors_or_half_of_it() -> None:
    history = reading(run(noisy([1.3] * 40, 0.01)), "curvature/noise_scale", [10.0, 100.0, 120.0, 110.0])
    assert noise_bounds(history) == (55.0, 165.0)
    history.facts["curvature"] = {"noise_scale": {"samples": 110.0, "error": 10.0}}
    assert noise_bounds(history) == (90.0, 130.0)
    assert noise_bounds(run()) is None


def test_where_noise_hides_the_gradient_the_noise_scale_has_no_upper_end() -> None:
    history = reading(run(noisy([1.3] * 40, 0.01)), "curvature/least_noise_scale", [100.0, 200.0, 300.0, 200.0])
    assert noise_bounds(history) == (200.0, math.inf)
    # An early scale says nothing of where later probes found none.
    history.record("curvature/noise_scale", 20, 10.0)
    assert noise_bounds(history) == (200.0, math.inf)
    history.record("curvature/noise_scale", 30, 10.0)
    assert noise_bounds(history) == (5.0, 15.0)


@pytest.mark.parametrize(
    ("losses", "skill", "badly"),
    [
        ([1.3] * 400, 0.1, True),
        ([1.3] * 400, 0.9, False),
        ([1.3] * 400, None, True),
        (decay(1.3, 0.1, 40, 400), None, False),
    ],
)
def test_a_run_does_badly_by_its_predictions_or_by_a_loss_near_its_start(
    losses: list[float], skill: float | None, badly: bool
) -> None:
    history = run(losses, run=COMPLETED)
    if skill is not None:
        reading(history, "skill", [skill] * 40)
    assert does_badly(history) is badly
    assert not does_badly(History())


def test_numbers_that_are_not_known_are_left_out() -> None:
    assert known(a=1.0, b=math.nan, c=math.inf, d=3) == {"a": 1.0, "d": 3}
