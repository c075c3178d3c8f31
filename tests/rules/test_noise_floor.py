from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.noise_floor import noise_floor
from tests.histories import ADAM, COMPLETED, FULL_BATCH, SGD, decay, history_of, noisy, reading, scanned

RESTING = noisy(decay(2.0, 0.9, 20, 400), 0.1)
BATCHES = {"batches_per_epoch": 40}


def run(
    losses: list[float] = RESTING,
    *,
    skill: float | None = 0.3,
    noise: float = 15.0,
    least: float = 60.0,
    rates: Sequence[float] = (0.1,),
    optimizers: object = SGD,
    **facts: Any,
) -> History:
    facts = {
        "optimizers": optimizers,
        "run": COMPLETED,
        "trainer": BATCHES,
        "data": {"batch_size": 2},
        **facts,
    }
    history = history_of(losses, rates=rates, **facts)
    reading(history, "curvature/gradient_noise", [noise] * 4, every=100)
    reading(history, "curvature/least_noise_scale", [least] * 4, every=100)
    return history if skill is None else reading(history, "skill", [skill] * 40)


def test_sick_the_noise_of_small_batches_holds_the_loss_up_at_a_constant_rate() -> None:
    finding = noise_floor(run())
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    # 0.1/4 · 15/2; exact up to rounding.
    assert finding.evidence["held_up"] == pytest.approx(0.1875, rel=1e-9)
    assert finding.evidence["least_noise_scale"] == 60.0
    assert "decay lr from 0.1" in finding.remedy
    assert "of 8 or more" in finding.remedy


def test_the_excess_is_that_of_stochastic_gradient_descent_on_a_quadratic() -> None:
    # x ← x − η(λx + ε): the loss rests at ½λ·Var(x) = ησ²/(4 − 2ηλ), which the quarter of the variance is under by
    # no more than ηλ/2, here 5 %.
    rate, curvature, sigma, batch = 0.1, 1.0, 3.0, 2
    source, x, losses = random.Random(0), 0.0, []
    for _ in range(20000):
        losses.append(0.5 * curvature * x * x)
        x -= rate * (curvature * x + source.gauss(0, sigma / batch**0.5))
    excess = sum(losses) / len(losses)
    finding = noise_floor(run(noise=sigma**2, rates=[rate]))
    assert finding is not None
    # 20000 values correlated over 1/(ηλ) = 10 steps: a standard error of 3 %, three of which and those 5 %.
    assert finding.evidence["held_up"] == pytest.approx(excess, rel=0.14)


def test_a_heavy_ball_takes_the_longer_steps_that_it_takes() -> None:
    plain, heavy = (
        noise_floor(run(optimizers=[{"class": "SGD", "groups": [{"lr": 0.1, "momentum": beta}]}]))
        for beta in (0.0, 0.5)
    )
    assert plain is not None
    assert heavy is not None
    assert heavy.evidence["held_up"] == pytest.approx(2 * float(plain.evidence["held_up"]), rel=1e-9)


@pytest.mark.parametrize(("noise", "ill"), [(7.4, True), (7.0, False)])
def test_the_noise_must_account_for_a_tenth_of_the_loss(noise: float, ill: bool) -> None:
    # 0.0125 times it, against 0.09: 7.2.
    assert (noise_floor(run(noise=noise)) is not None) is ill


@pytest.mark.parametrize(("least", "ill"), [(8.1, True), (7.9, False)])
def test_the_noise_scale_must_surely_be_several_batches(least: float, ill: bool) -> None:
    # Four of 2.
    assert (noise_floor(run(least=least)) is not None) is ill


@pytest.mark.parametrize(("scale", "ill"), [(17.0, True), (15.0, False)])
def test_a_noise_scale_that_is_defined_counts_instead(scale: float, ill: bool) -> None:
    assert (noise_floor(reading(run(least=1.0), "curvature/noise_scale", [scale] * 4, every=100)) is not None) is ill


def scans(history: History, made: float, shorter: float) -> History:
    """Scans whose steps, and quarters of them, change the loss by these shares give or take a tenth of a per cent."""
    return scanned(history, noisy([made] * 40, 0.001), smaller=4 * shorter)


def test_sick_under_adam_the_scans_tell_whether_shorter_steps_would_do_better() -> None:
    finding = noise_floor(scans(run(optimizers=ADAM), 0.01, -0.004))
    assert finding is not None
    assert "held_up" not in finding.evidence
    assert noise_floor(run(optimizers=ADAM)) is None
    assert noise_floor(scans(run(optimizers=ADAM), -0.004, -0.001)) is None


def test_both_ways_of_telling_together_confirm_it() -> None:
    finding = noise_floor(scans(run(), 0.01, -0.004))
    assert finding is not None
    assert finding.confidence is Confidence.CONFIRMED


def test_healthy_steps_that_still_lower_the_loss_of_other_samples() -> None:
    assert noise_floor(scans(run(), -0.004, -0.001)) is None


def test_a_few_scans_that_went_down_by_luck_do_not_outweigh_a_loss_that_rests() -> None:
    # Six of them, 4.6 standard errors under zero: with five degrees of freedom three in a thousand are.
    down = [0.0] * 6 + [-0.127, -0.101, -0.076, -0.217, -0.228, -0.056]
    assert noise_floor(scanned(run(), down, smaller=-0.2)) is not None
    assert noise_floor(scanned(run(), [0.0] * 6 + [-0.127, -0.101] * 3, smaller=-0.2)) is None


def test_healthy_a_loss_that_slowly_falls_as_the_scans_say() -> None:
    # 4 % a quarter of the run; scans 2.5 standard errors under zero.
    falling = noisy([1.2 - 0.0005 * step for step in range(400)], 0.05)
    down = [0.0] * 20 + [-0.01 + 0.018 * (-1) ** index for index in range(20)]
    assert noise_floor(scanned(run(falling), down, smaller=-0.2)) is None


def test_sick_a_loss_whose_first_values_were_low_by_luck() -> None:
    assert noise_floor(run(noisy([0.9] * 400, 0.1))) is None
    low = reading(run(noisy([0.9] * 400, 0.1), skill=None), "baseline_loss", [1.3] * 40)
    assert noise_floor(low) is not None


def test_healthy_a_run_that_does_well() -> None:
    assert noise_floor(run(skill=0.9)) is None


def test_a_run_of_which_nothing_tells_how_it_does_gets_a_note() -> None:
    finding = noise_floor(run(skill=None))
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_full_batches_have_no_noise() -> None:
    assert noise_floor(run(trainer=FULL_BATCH)) is None


def test_healthy_a_rate_that_decays_or_is_about_to() -> None:
    assert noise_floor(run(rates=[0.1] * 300 + [0.05] * 100)) is None
    schedule = [{"class": "CosineAnnealingLR", "interval": "epoch", "frequency": 1}]
    assert noise_floor(run(run={}, schedulers=schedule)) is None
    assert noise_floor(run(schedulers=schedule)) is not None


def test_healthy_a_loss_that_still_falls() -> None:
    assert noise_floor(run(noisy([2.0 - 0.003 * step for step in range(400)], 0.1))) is None


def test_healthy_a_plateau_that_was_never_left() -> None:
    # Nothing was gained yet that noise could take back.
    assert noise_floor(run(noisy([2.0] * 400, 0.1))) is None


def test_healthy_a_true_plateau_has_little_noise() -> None:
    assert noise_floor(run(noise=0.01)) is None


@pytest.mark.parametrize(("noise", "ill"), [(140.0, True), (150.0, False)])
def test_twice_the_whole_loss_is_no_matter_of_noise(noise: float, ill: bool) -> None:
    # 0.1/4 · 140/2 = 1.75 of a loss of 0.9.
    assert (noise_floor(run(noise=noise)) is not None) is ill


def test_healthy_a_loss_that_rests_at_zero() -> None:
    assert noise_floor(run([1.0] * 50 + [0.0] * 350, noise=0.0)) is None


@pytest.mark.parametrize(
    ("bounds", "least"),
    [([60.0], 60.0), ([9.0, 60.0], 9.0), ([5.0, 60.0, 50.0], 50.0), ([9.0] * 5 + [60.0, 50.0, 40.0], 40.0)],
)
def test_of_several_bounds_the_largest_counts_that_enough_of_them_reach(bounds: list[float], least: float) -> None:
    history = run()
    series = history["curvature/least_noise_scale"]
    series.steps[:], series.values[:] = [100 + 10 * index for index in range(len(bounds))], bounds
    finding = noise_floor(history)
    assert finding is not None
    assert finding.evidence["least_noise_scale"] == least


def test_probes_of_long_ago_tell_of_a_loss_that_is_as_it_was_then() -> None:
    history = run(noisy(decay(2.0, 0.9, 20, 4000), 0.1))
    assert noise_floor(history) is not None
    for name in ("curvature/gradient_noise", "curvature/least_noise_scale"):
        history[name].steps[:] = [0, 1, 2, 3]
    with pytest.raises(Undecided, match="no noise of a gradient was measured at a loss like that of now"):
        noise_floor(history)
