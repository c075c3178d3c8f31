from __future__ import annotations

import math

import pytest

from lightning_doctor.history import History
from lightning_doctor.rules.loss_plateau import loss_plateau
from tests.histories import COMPLETED, FULL_BATCH, decay, gauss, history_of, noisy

DATA = {"batch_size": 32}


def test_sick_loss_that_never_left_its_start_is_a_suspicion_with_a_test_to_make() -> None:
    finding = loss_plateau(history_of(noisy([2.303] * 600, 0.03), run=COMPLETED, data=DATA))
    assert finding is not None
    assert finding.code == "LD105"
    assert (finding.severity, finding.confidence, finding.onset) == ("warning", "suspected", 0)
    assert finding.evidence["start"] == pytest.approx(2.303, abs=0.03)
    assert "overfit one batch" in finding.remedy


def test_sick_full_batch_that_rests_well_above_zero_after_progress_is_a_note() -> None:
    losses = decay(2.3, 1.5, 20, 600)
    finding = loss_plateau(history_of(losses, run=COMPLETED, trainer=FULL_BATCH))
    assert finding is not None
    assert finding.severity == "note"


@pytest.mark.parametrize(("level", "severity"), [(0.97, "warning"), (0.85, "note")])
def test_a_loss_that_lost_a_share_of_its_start_did_leave_it(level: float, severity: str) -> None:
    # The default share is 5 %.
    losses = noisy([*[1.0] * 30, *[level] * 570], 0.01)
    finding = loss_plateau(history_of(losses, run=COMPLETED, data=DATA))
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("steps", "ill"), [(149, False), (150, True)])
def test_a_plateau_takes_a_number_of_steps(steps: int, ill: bool) -> None:
    history = history_of(noisy([2.303] * steps, 0.01), run=COMPLETED, data=DATA)
    assert (loss_plateau(history) is not None) is ill


@pytest.mark.parametrize(("planned", "ill"), [(1210, False), (1190, True)])
def test_a_run_that_goes_on_has_half_its_plan_to_start(planned: int, ill: bool) -> None:
    history = history_of(noisy([2.303] * 600, 0.03), data=DATA, trainer={"planned_steps": planned})
    assert (loss_plateau(history) is not None) is ill


@pytest.mark.parametrize(("level", "ill"), [(0.2, False), (0.3, True)])
def test_a_loss_under_a_quarter_of_its_start_is_converged(level: float, ill: bool) -> None:
    history = history_of(decay(1.0, level, 15, 600), run=COMPLETED, trainer=FULL_BATCH)
    assert (loss_plateau(history) is not None) is ill


def test_healthy_converged_run_is_well() -> None:
    assert loss_plateau(history_of(noisy(decay(2.3, 0.1, 60, 1000), 0.02), run=COMPLETED, data=DATA)) is None


def test_healthy_run_at_the_noise_floor_of_its_data_is_well() -> None:
    assert loss_plateau(history_of(noisy(decay(1.0, 0.5, 60, 1000), 0.12), run=COMPLETED, data=DATA)) is None


@pytest.mark.parametrize("seed", range(5))
def test_healthy_slow_but_steady_fall_is_no_plateau(seed: int) -> None:
    losses = noisy([2.3 - 0.2 * step / 1000 for step in range(1000)], 0.03, seed)
    assert loss_plateau(history_of(losses, run=COMPLETED, data=DATA)) is None


def test_healthy_deep_sigmoid_network_rests_and_then_falls() -> None:
    losses = noisy([*[2.31] * 600, *decay(2.31, 0.1, 100, 600)], 0.03)
    for end in range(50, 1201, 50):
        assert loss_plateau(history_of(losses[:end], data=DATA, trainer={"planned_steps": 1200})) is None or end == 600


@pytest.mark.parametrize("seed", range(5))
def test_healthy_losses_of_single_samples_are_too_noisy_to_call_flat(seed: int) -> None:
    # Falls by a tenth, which noise of this kind hides; so it is not ruled out either.
    losses = [(1 - 0.1 * step / 300) * error * error for step, error in enumerate(gauss(300, 1.0, seed))]
    assert loss_plateau(history_of(losses, run=COMPLETED, data={"batch_size": 1})) is None


def test_healthy_fine_tuning_whose_validation_is_good_is_a_note() -> None:
    history = history_of(
        noisy([0.05] * 600, 0.003), run=COMPLETED, data=DATA, validation={"metric": "acc", "mode": "max"}
    )
    history.record("val_metric", 599, 0.97)
    finding = loss_plateau(history)
    assert finding is not None
    assert finding.severity == "note"


def test_healthy_fine_tuning_is_told_by_how_few_samples_carry_its_loss() -> None:
    # Batch losses that spread by half their mean, in batches of 64: single samples spread by four times theirs.
    losses = [0.05 * (1 + max(-0.95, 0.5 * error)) for error in gauss(4000, 1.0)]
    finding = loss_plateau(history_of(losses, run=COMPLETED, data={"batch_size": 64}))
    assert finding is None or finding.severity == "note"


def test_healthy_rest_under_a_decayed_learning_rate_is_the_schedules_doing() -> None:
    losses = noisy([*decay(2.3, 1.4, 50, 300), *[1.4] * 300], 0.01)
    rates = [0.1] * 300 + [0.001] * 300
    assert loss_plateau(history_of(losses, rates=rates, run=COMPLETED, data=DATA)) is None


def test_healthy_warm_up_has_not_begun_to_learn() -> None:
    rates = [step / 10000 for step in range(600)]
    assert loss_plateau(history_of(noisy([2.3] * 600, 0.01), rates=rates, data=DATA)) is None


def test_sick_run_that_jumps_in_its_first_steps_and_settles_at_its_start_has_not_improved() -> None:
    # Digits at 20 times the right rate: 2.35, 2.9, 3.7, then 2.45 for good; measured by the jump it would have fallen.
    losses = [2.35, 2.9, 3.4, 3.7, 3.2, 2.8, *noisy([2.45] * 194, 0.12)]
    finding = loss_plateau(history_of(losses, run=COMPLETED, data=DATA))
    assert finding is not None
    assert finding.severity == "warning"
    assert finding.evidence["start"] == 2.35


def no_gradient(losses: list[float], since: int = 0) -> History:
    history = history_of(losses, run={}, trainer={"planned_steps": 10_000}, data=DATA)
    for step in range(0, len(losses), 5):
        history.record("grad_norm", step, 0.0 if step >= since else 1.7)
    return history


def test_sick_run_without_a_gradient_is_known_whatever_its_noise() -> None:
    # A softmax over one unit: the share of zeros among the labels decides the loss of a batch, and nothing else.
    finding = loss_plateau(no_gradient([max(1.0, loss) for loss in noisy([8.0] * 400, 2.0)], since=40))
    assert finding is not None
    assert (finding.severity, finding.confidence, finding.onset) == ("warning", "confirmed", 40)
    assert "exactly zero since step 40" in finding.summary


def test_one_gradient_that_is_not_zero_keeps_the_run_alive() -> None:
    history = no_gradient([max(1.0, loss) for loss in noisy([8.0] * 400, 2.0)], since=300)
    assert loss_plateau(history) is None


@pytest.mark.parametrize(("stopped", "ill"), [(150, False), (30, True)])
def test_a_gradient_that_is_zero_at_a_low_loss_has_arrived_unless_it_was_so_at_once(stopped: int, ill: bool) -> None:
    history = history_of([1e13, *noisy([2.3] * 399, 0.1)])
    for step in range(400):
        history.record("grad_norm", step, float(step < stopped))
    assert (loss_plateau(history) is not None) is ill


def test_sick_run_that_comes_down_from_a_jump_is_not_on_its_way() -> None:
    # With momentum the jump lasts: 2.35, up to 4, then ever more slowly back towards chance.
    losses = [2.35, 3.0, *noisy([2.6 + 1.4 * math.exp(-step / 60) for step in range(438)], 0.15)]
    finding = loss_plateau(history_of(losses, run=COMPLETED, data=DATA))
    assert finding is not None
    assert finding.severity == "warning"


def test_healthy_run_whose_first_values_fall_by_less_than_noise_each_is_measured_by_the_very_first() -> None:
    losses = noisy(decay(2.4, 1.9, 6, 400), 0.1)
    finding = loss_plateau(history_of(losses, run=COMPLETED, data=DATA))
    assert finding is None or finding.severity == "note"


@pytest.mark.parametrize(
    ("end", "said"), [(2.3, "is back at its start after 0.99"), (3.5, "is over its start after 0.99")]
)
def test_sick_what_was_learned_is_lost_again(end: float, said: str) -> None:
    losses = noisy([2.3] * 20 + [1.0] * 80 + [end] * 500, 0.01)
    finding = loss_plateau(history_of(losses, run=COMPLETED))
    assert finding is not None
    assert said in finding.summary
    assert finding.evidence["best"] == pytest.approx(1.0, abs=0.01)
    assert finding.onset is not None
    assert 50 <= finding.onset <= 150
