from __future__ import annotations

import pytest

from lightning_doctor.rules.loss_spike import loss_spike
from tests.histories import decay, gauss, history_of, noisy

TRAINER = {"batches_per_epoch": 50}
QUIET = noisy(decay(2.3, 0.3, 60, 400), 0.03)


def spiked(at: dict[int, float], losses: list[float] = QUIET) -> list[float]:
    return [at.get(step, loss) for step, loss in enumerate(losses)]


def test_sick_single_step_far_above_all_others_is_a_note_with_its_batch() -> None:
    finding = loss_spike(history_of(spiked({233: 40.0}), trainer=TRAINER))
    assert finding is not None
    assert finding.code == "LD107"
    assert (finding.severity, finding.onset) == ("note", 233)
    assert finding.evidence["steps"] == "233"
    assert finding.evidence["batches"] == "33"
    assert "batch 33" in finding.remedy


def test_sick_spike_that_takes_a_few_steps_to_fade_is_one_spike() -> None:
    finding = loss_spike(history_of(spiked({233: 40.0, 234: 25.0, 235: 6.0}), trainer=TRAINER))
    assert finding is not None
    assert finding.evidence["spikes"] == 1
    assert finding.evidence["highest_step"] == 233


def test_sick_batch_index_counts_accumulated_batches() -> None:
    trainer = {"batches_per_epoch": 50, "accumulate_grad_batches": 4}
    finding = loss_spike(history_of(spiked({233: 40.0}), trainer=trainer))
    assert finding is not None
    # 50 batches in groups of 4 are 13 steps; step 233 is the 12th of its epoch, whose first batch is number 48.
    assert finding.evidence["batches"] == "48"


@pytest.mark.parametrize(("height", "ill"), [(1.0, False), (1.8, True)])
def test_a_spike_is_large_against_the_fall_of_the_run(height: float, ill: bool) -> None:
    # The run fell by 2.0, of which half is 1.0; the loss at step 300 is 0.31.
    assert (loss_spike(history_of(spiked({300: height}))) is not None) is ill


@pytest.mark.parametrize(("count", "ill"), [(4, True), (6, False)])
def test_spikes_are_rare(count: int, ill: bool) -> None:
    # One step in a hundred is allowed: four of 400.
    history = history_of(spiked({100 + 47 * i: 40.0 for i in range(count)}), trainer=TRAINER)
    assert (loss_spike(history) is not None) is ill


def test_healthy_run_is_well() -> None:
    assert loss_spike(history_of(QUIET)) is None


@pytest.mark.parametrize("seed", range(10))
def test_healthy_heavy_tailed_losses_have_a_continuum_not_spikes(seed: int) -> None:
    losses = [error**2 for error in gauss(800, 1.0, seed)]
    assert loss_spike(history_of(losses)) is None


@pytest.mark.parametrize("seed", range(5))
def test_healthy_small_batches_near_convergence_are_heavy_tailed(seed: int) -> None:
    losses = [level * error**4 for level, error in zip(decay(2, 0.05, 80, 800), gauss(800, 1.0, seed), strict=True)]
    assert loss_spike(history_of(losses)) is None


def test_healthy_harder_batch_of_every_epoch_is_no_spike() -> None:
    history = history_of(spiked({150 + 100 * i: 8.0 for i in range(3)}), trainer={"batches_per_epoch": 100})
    assert loss_spike(history) is None


def test_a_loss_that_stays_up_is_no_spike() -> None:
    assert loss_spike(history_of([*QUIET[:300], *noisy([40.0] * 100, 0.5)])) is None


def test_a_spike_at_the_very_end_is_not_judged_before_it_has_come_back() -> None:
    losses = spiked({398: 40.0})
    assert loss_spike(history_of(losses)) is None
    assert loss_spike(history_of([*losses, *noisy([0.3] * 20, 0.03)])) is not None


def test_healthy_first_fall_from_a_huge_start_is_no_spike() -> None:
    assert loss_spike(history_of([9500.0, 800.0, 90.0, 11.0, *noisy(decay(5, 0.5, 30, 200), 0.05)])) is None
