from __future__ import annotations

import pytest

from lightning_doctor.noise import shift
from lightning_doctor.rules.undertrained import undertrained
from tests.histories import COMPLETED, decay, history_of, noisy, reading


def line(start: float, end: float, count: int = 600) -> list[float]:
    return [start + (end - start) * step / (count - 1) for step in range(count)]


def test_sick_run_that_ended_in_full_fall_is_told_to_go_on() -> None:
    history = history_of(noisy(line(2.3, 1.5), 0.03), rates=[0.01] * 600, run=COMPLETED, trainer={"max_epochs": 3})
    finding = undertrained(history)
    assert finding is not None
    assert (finding.code, finding.severity) == ("LD108", "warning")
    # A quarter of a straight fall by 0.8.
    assert finding.evidence["fall_last_quarter"] == pytest.approx(0.2, abs=0.03)
    assert "raise max_epochs from 3 to 6" in finding.remedy
    assert "larger lr than 0.01" in finding.remedy


@pytest.mark.parametrize("ended", [None, "stopped", "exception", "interrupted"])
def test_only_a_run_that_used_up_its_budget_is_judged(ended: str | None) -> None:
    assert undertrained(history_of(noisy(line(2.3, 1.5), 0.03), run={"ended": ended})) is None


@pytest.mark.parametrize(("end", "ill"), [(0.55, False), (0.8, True)])
def test_much_must_be_left_of_the_start(end: float, ill: bool) -> None:
    # 30 % of 2.3 is 0.69.
    assert (undertrained(history_of(noisy(line(2.3, end), 0.03), run=COMPLETED)) is not None) is ill


@pytest.mark.parametrize(("time", "ill"), [(900, True), (150, False)])
def test_a_good_share_of_the_fall_must_be_in_the_last_quarter(time: float, ill: bool) -> None:
    # After 600 steps with time constant 900 a fifth of the fall was in the last quarter; with 150 a thirtieth.
    losses = noisy(decay(2.3, 0.8, time, 600), 0.02)
    assert (undertrained(history_of(losses, run=COMPLETED)) is not None) is ill


@pytest.mark.parametrize(("sigma", "ill"), [(0.05, True), (1.2, False)])
def test_the_fall_must_stand_out_of_the_noise(sigma: float, ill: bool) -> None:
    losses = [max(0.01, loss) for loss in noisy(line(2.3, 1.5), sigma)]
    assert (undertrained(history_of(losses, run=COMPLETED)) is not None) is ill


@pytest.mark.parametrize(("end", "ill"), [(2.05, False), (1.6, True)])
def test_as_many_steps_again_must_promise_a_clear_gain(end: float, ill: bool) -> None:
    # A straight fall from 2.3 promises the same fall again: 12 % of 2.05, 44 % of 1.6; a fifth is asked for.
    assert (undertrained(history_of(noisy(line(2.3, end), 0.01), run=COMPLETED)) is not None) is ill


def test_a_steady_fall_in_noise_of_a_tenth_is_seen() -> None:
    # One weight under RMSprop at a rate of 0.001: the loss loses 0.03 a step, in batches that differ by 5.
    losses = noisy(line(77.0, 53.0, 800), 5.0, seed=2)
    finding = undertrained(history_of(losses, run=COMPLETED))
    assert finding is not None
    assert 2 < -shift(losses[600:700], losses[700:]).sigmas < 4


def test_healthy_fall_that_ended_with_the_third_quarter_is_over() -> None:
    losses = noisy([*line(2.3, 1.5, 450), *[1.5] * 150], 0.05)
    assert undertrained(history_of(losses, run=COMPLETED)) is None


def test_healthy_slow_starter_that_got_there_is_well() -> None:
    losses = noisy([*[2.31] * 400, *decay(2.31, 0.1, 60, 300)], 0.02)
    assert undertrained(history_of(losses, run=COMPLETED)) is None


def test_healthy_converged_run_is_well() -> None:
    assert undertrained(history_of(noisy(decay(2.3, 0.2, 60, 600), 0.02), run=COMPLETED)) is None


def test_healthy_decay_phase_at_the_very_end_promises_little() -> None:
    # Converged at a high rate; the decay of the last tenth brings it down by a last bit.
    losses = noisy([*decay(2.3, 0.9, 60, 540), *decay(0.9, 0.75, 20, 60)], 0.04)
    rates = [0.1] * 540 + [0.001] * 60
    assert undertrained(history_of(losses, rates=rates, run=COMPLETED)) is None


@pytest.mark.parametrize("seed", range(5))
def test_healthy_noise_about_a_constant_is_not_falling(seed: int) -> None:
    losses = [max(0.01, loss) for loss in noisy([1.0] * 400, 0.3, seed)]
    assert undertrained(history_of(losses, run=COMPLETED)) is None


def test_a_loss_that_may_be_negative_is_not_judged() -> None:
    assert undertrained(history_of(noisy(line(1.0, -2.0), 0.03), run=COMPLETED)) is None


@pytest.mark.parametrize(("skill", "severity"), [(0.3, "warning"), (0.6, "note")])
def test_a_run_that_has_learned_most_of_it_gets_a_note(skill: float, severity: str) -> None:
    history = reading(history_of(noisy(line(2.3, 1.5), 0.03), run=COMPLETED), "skill", [skill] * 60)
    finding = undertrained(history)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("baseline", "severity"), [(3.2, "note"), (2.9, "warning")])
def test_what_the_very_end_has_learned_counts(baseline: float, severity: str) -> None:
    # The last losses lie near 1.55: half of a baseline of 3.1.
    history = reading(history_of(noisy(line(2.3, 1.5), 0.03), run=COMPLETED), "skill", [0.3] * 60)
    finding = undertrained(reading(history, "baseline_loss", [baseline] * 60))
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("last", "severity"), [(1.9, "note"), (1.4, "warning")])
def test_where_validation_has_turned_longer_training_is_no_cure(last: float, severity: str) -> None:
    history = history_of(noisy(line(2.3, 1.5), 0.03), run=COMPLETED)
    for index, loss in enumerate([2.0, 1.6, 1.5, *line(1.5, last, 12)]):
        history.record("val_loss", 40 * index + 39, loss)
    finding = undertrained(history)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("end", "severity"), [(0.9, "note"), (1.3, "warning")])
def test_a_loss_of_unknown_kind_of_which_less_than_half_is_left_is_no_warning(end: float, severity: str) -> None:
    finding = undertrained(history_of(noisy(line(2.3, end), 0.03), run=COMPLETED))
    assert finding is not None
    assert finding.severity == severity
