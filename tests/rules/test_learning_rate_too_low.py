from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.learning_rate_too_low import learning_rate_too_low
from tests.histories import (
    COMPLETED,
    FULL_BATCH,
    LOGITS,
    SGD,
    decay,
    headed,
    history_of,
    noisy,
    point,
    reading,
    scanned,
)

SLOW = noisy([40.0 - 0.01 * step for step in range(400)], 0.02)


def run(losses: list[float] = SLOW, *, larger: float = -0.01, rate: float = 1e-3, **facts: object) -> History:
    history = history_of(losses, **({"run": COMPLETED} | facts))
    return scanned(history, [-0.01] * (len(losses) // 10), smaller=-0.01, larger=larger, rate=rate)


def test_sick_a_slow_steady_fall_that_larger_steps_would_quicken() -> None:
    finding = learning_rate_too_low(run())
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.evidence["recommended"] == pytest.approx(0.032)
    assert "from 0.001 to about 0.032" in finding.remedy


def test_healthy_larger_steps_would_raise_the_loss() -> None:
    assert learning_rate_too_low(run(larger=0.01)) is None


def test_healthy_a_limit_was_seen_near_the_rate() -> None:
    near, far = run(), run()
    near.record("scan_limit", 0, 0.002)
    far.record("scan_limit", 0, 0.02)
    for history in (near, far):
        # Longer steps than that raised the loss there.
        for factor in (4, 16, 64):
            history[f"scan/{factor}"].values[0] = 0.5
    assert learning_rate_too_low(near) is None
    finding = learning_rate_too_low(far)
    assert finding is not None
    assert finding.evidence["recommended"] == 0.01


def test_healthy_a_run_that_is_nearly_done_falls_slowly_too() -> None:
    assert learning_rate_too_low(run(noisy(decay(40.0, 0.1, 60, 400), 0.001))) is None


def test_healthy_a_loss_that_does_not_fall_is_not_slow() -> None:
    assert learning_rate_too_low(run(noisy([40.0] * 400, 0.02))) is None


@pytest.mark.parametrize(("change", "ill"), [(-1e-4, True), (-1e-3, False)])
def test_steps_too_small_to_be_seen_are_found_by_the_scans(change: float, ill: bool) -> None:
    # 400 steps of 1e-4 take 4 % off the loss, which its noise hides; of 1e-3 40 %, which is not there.
    history = history_of(noisy([40.0] * 400, 3.0), run=COMPLETED)
    scanned(history, [change] * 40, smaller=change, larger=change, rate=1e-3)
    assert (learning_rate_too_low(history) is not None) is ill


# A step takes 0.4 thousandths off: over the run a sixth, which its noise does not hide; late in it, it does.
@pytest.mark.parametrize(("fall", "ill"), [(0.016, True), (0.0, False)])
def test_a_fall_that_noise_hides_late_in_the_run_goes_on_as_the_scans_say(fall: float, ill: bool) -> None:
    history = history_of(noisy([40.0 - fall * step for step in range(400)], 3.0), run=COMPLETED)
    scanned(history, [-4e-4] * 40, smaller=-4e-4, larger=-4e-4, rate=1e-3)
    assert (learning_rate_too_low(history) is not None) is ill


@pytest.mark.parametrize(("start", "ill"), [(-1e-3, True), (-1e-2, False)])
def test_steps_that_shrink_at_once_do_nothing_however_long_the_first_were(start: float, ill: bool) -> None:
    history = history_of(noisy([40.0] * 400, 3.0), run=COMPLETED)
    changes = [start, *[-1e-4] * 39]
    scanned(history, changes, smaller=-1e-4, larger=-1e-3, rate=1e-3)
    assert (learning_rate_too_low(history) is not None) is ill


@pytest.mark.parametrize(("lasts", "first", "ill"), [(400, -1e-4, True), (30, -1e-3, False)])
def test_sick_a_schedule_whose_highest_rate_would_have_done_nothing_all_along(
    lasts: int, first: float, ill: bool
) -> None:
    # What counts is what four hundred steps like the first would have done, not that the rate is gone at the end.
    left = [max(1e-3, 1 - step / lasts) for step in range(400)]
    history = history_of(noisy([40.0] * 400, 3.0), rates=[1e-6 * share for share in left], run=COMPLETED)
    changes = [first * share for share in left[::10]]
    for factor, times in (("0.25", 0.25), ("1", 1.0), ("16", 16.0), ("64", 64.0)):
        reading(history, f"scan/{factor}", [times * change for change in changes])
    finding = learning_rate_too_low(history)
    assert (finding is not None) is ill
    assert finding is None or finding.evidence["rate"] == 1e-6


def test_healthy_a_run_that_does_well_by_its_predictions() -> None:
    assert learning_rate_too_low(reading(run(), "skill", [0.95] * 40)) is None


@pytest.mark.parametrize(("skill", "severity"), [(0.6, Severity.NOTE), (0.4, Severity.WARNING)])
def test_a_run_that_has_learned_most_of_it_gets_a_note(skill: float, severity: Severity) -> None:
    finding = learning_rate_too_low(reading(run(), "skill", [skill] * 40))
    assert finding is not None
    assert finding.severity is severity


def test_healthy_a_pace_that_takes_it_there_in_time() -> None:
    fast = noisy([40.0 - 0.05 * step for step in range(400)], 0.02)
    assert learning_rate_too_low(run(fast, run={}, trainer={"planned_steps": 800})) is None
    slow = run(SLOW, run={}, trainer={"planned_steps": 800})
    assert learning_rate_too_low(slow) is not None


@pytest.mark.parametrize(("steps", "ill"), [(300, False), (500, True)])
def test_a_run_without_a_planned_end_is_given_hundreds_of_steps(steps: int, ill: bool) -> None:
    losses = noisy([40.0 - 0.01 * step for step in range(steps)], 0.02)
    assert (learning_rate_too_low(run(losses, run={}, trainer={})) is not None) is ill


@pytest.mark.parametrize(("newest", "ill"), [(38.5, True), (28.0, False)])
def test_healthy_a_fall_that_the_mean_of_many_rows_shows_to_gather_pace(newest: float, ill: bool) -> None:
    history = run(run={}, trainer={"planned_steps": 800})
    reading(history, "val_loss", [40.0, 39.5, 39.0, 38.75 if ill else 36.0, newest], every=99)
    assert (learning_rate_too_low(history) is not None) is ill


def test_nothing_is_said_in_the_first_quarter() -> None:
    assert learning_rate_too_low(run(SLOW, run={}, trainer={"planned_steps": 1601})) is None
    assert learning_rate_too_low(run(SLOW, run={}, trainer={"planned_steps": 1600})) is not None


@pytest.mark.parametrize("rates", [[1e-3] * 200 + [1e-5] * 200, [1e-3 * (step + 1) / 400 for step in range(400)]])
def test_healthy_a_rate_that_has_decayed_or_is_warming_up(rates: list[float]) -> None:
    history = scanned(history_of(SLOW, rates=rates, run={}, trainer={"planned_steps": 800}), [-0.01] * 40, larger=-0.01)
    assert learning_rate_too_low(history) is None


RISING = [1e-5 * (step + 1) / 400 for step in range(400)]


def warming(
    rates: list[float], *, skill: float = 0.0, larger: float = -1e-4, end: float = 2.28, **facts: Any
) -> History:
    """A run whose loss hardly falls, from 2.3 on; a step of the usual length takes 1e-4 off, of any other so much."""
    losses = noisy(decay(2.3, end, 300, 400), 0.01)
    history = headed(LOGITS, skill=skill, losses=losses, rates=rates, baseline=2.3, **({"run": COMPLETED} | facts))
    return scanned(history, [-1e-4] * 40, smaller=-1e-4, larger=larger)


def test_sick_a_warm_up_that_is_longer_than_the_run() -> None:
    finding = learning_rate_too_low(warming(RISING))
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    assert "still rising at step 399, from 2.5e-08 to 1e-05" in finding.summary
    assert "warm-up" in finding.remedy


@pytest.mark.parametrize(
    "history",
    [
        warming(RISING, skill=0.9),
        warming(RISING, skill=0.45, end=1.6),
        warming([1e-5 * min(1.0, (step + 1) / 20) for step in range(400)]),
        warming([1e-5 * min(1.0, (step + 1) / 200) for step in range(400)]),
        warming(RISING, larger=1e-4),
        warming(RISING, end=2.6),
        warming([*RISING[:200], *RISING[199::-1]]),
        warming([1e-5] * 400),
    ],
    ids=[
        "learned",
        "half of it learned",
        "short warm-up",
        "half of the run",
        "larger steps would raise it",
        "diverged",
        "came down again",
        "constant",
    ],
)
def test_healthy_a_rate_that_rose_for_long(history: History) -> None:
    finding = learning_rate_too_low(history)
    assert finding is None or "still rising" not in finding.summary


@pytest.mark.parametrize(("skill", "told"), [(0.1, True), (None, False)])
def test_a_loss_that_came_down_has_learned_something_where_nothing_tells_how_much(
    skill: float | None, told: bool
) -> None:
    schedule = [{"class": "LambdaLR", "interval": "epoch", "frequency": 1}]
    facts = {"run": COMPLETED, "schedulers": schedule, "baseline": None if skill is None else 2.3}
    history = headed(LOGITS, skill=skill, losses=noisy(decay(2.3, 1.9, 300, 400), 0.01), rates=RISING, **facts)
    finding = learning_rate_too_low(scanned(history, [-1e-4] * 40, smaller=-1e-4, larger=-1e-2))
    assert (finding is not None and "still rising" in finding.summary) is told
    if finding is not None and told:
        assert "step LambdaLR once per batch (`interval: step`)" in finding.remedy


def test_a_schedule_that_never_raises_a_rate_makes_no_warm_up() -> None:
    schedule = [{"class": "StepLR", "interval": "epoch", "frequency": 1}]
    finding = learning_rate_too_low(warming(RISING, schedulers=schedule))
    assert finding is not None
    assert "StepLR" not in finding.remedy


@pytest.mark.parametrize(("planned", "told"), [(650, True), (700, False)])
def test_no_warm_up_takes_most_of_a_run(planned: int, told: bool) -> None:
    finding = learning_rate_too_low(warming(RISING, run={}, trainer={"planned_steps": planned}))
    assert (finding is not None) is told


@pytest.mark.parametrize(("raising", "ill"), [(10, True), (2, False)])
def test_larger_steps_must_lower_the_loss_of_nearly_all_samples_or_surely_on_average(raising: int, ill: bool) -> None:
    history = run()
    for index in range(40):
        for name in ("scan/64", "scan/16"):
            history[name].values[index] = 1.0 if index % raising == 0 else -1.0
    assert (learning_rate_too_low(history) is not None) is ill


@pytest.mark.parametrize(("sharpness", "ill"), [(240.0, True), (260.0, False)])
def test_healthy_the_curvature_bears_no_rate_so_much_larger(sharpness: float, ill: bool) -> None:
    # Half of sixteen times 0.001 is stable up to a curvature of 2/0.008 = 250.
    history = run(optimizers=SGD, trainer=FULL_BATCH)
    finding = learning_rate_too_low(reading(history, "curvature/sharpness", [sharpness] * 3, every=100))
    assert (finding is not None) is ill
    if finding is not None:
        # At most half of what is stable there.
        assert finding.evidence["recommended"] == pytest.approx(1 / 240, rel=1e-9)


@pytest.mark.parametrize(("kind", "ill"), [("minimum", False), ("flat", False), ("saddle", True)])
def test_healthy_at_a_minimum_no_step_goes_down(kind: str, ill: bool) -> None:
    assert (learning_rate_too_low(run(curvature=point(kind))) is not None) is ill


# Of a loss whose floor is not known, as that of a ranking: 4.2 to 3.8, most of it in the first half or all along.
@pytest.mark.parametrize(("time", "ill"), [(60.0, False), (400.0, True)])
def test_healthy_a_fall_that_fades_has_come_down_to_what_there_is(time: float, ill: bool) -> None:
    losses = noisy([3.8 + 0.4 * share for share in decay(1.0, 0.0, time, 400)], 0.002)
    assert (learning_rate_too_low(run(losses)) is not None) is ill


@pytest.mark.parametrize(("late", "ill"), [(0.01, False), (-0.16, True)])
def test_healthy_of_a_loss_that_has_come_down_only_late_scans_tell(late: float, ill: bool) -> None:
    history = history_of(noisy([40.0 - 0.01 * step for step in range(400)], 0.02), run=COMPLETED)
    scanned(history, [-0.01] * 40, smaller=-0.01, larger=-0.16, rate=1e-3)
    for name in ("scan/16", "scan/64"):
        for step in range(200, 400, 10):
            history[name].values[history[name].steps.index(step)] = late
    assert (learning_rate_too_low(history) is not None) is ill


def test_steps_that_are_missing_in_the_middle_tell_of_no_fading() -> None:
    history = history_of([], run=COMPLETED)
    for index, loss in enumerate(SLOW[:80]):
        history.record("train_loss", index if index < 40 else 10_000 + index, loss)
    scanned(history, [-0.01] * 8, smaller=-0.01, larger=-0.16, rate=1e-3)
    assert learning_rate_too_low(history) is not None


@pytest.mark.parametrize(("fall", "told"), [(0.01, True), (0.03, False)])
def test_scans_of_long_ago_tell_nothing_of_a_loss_that_has_fallen_far_since(fall: float, told: bool) -> None:
    # Ten scans up to step 90; 300 steps later the loss is under theirs by less than a fifth, or by more.
    history = history_of(noisy([40.0 - fall * step for step in range(400)], 0.02), run=COMPLETED)
    scanned(history, [-0.01] * 10, smaller=-0.01, larger=-0.16, rate=1e-3)
    if told:
        assert learning_rate_too_low(history) is not None
    else:
        with pytest.raises(Undecided, match="0 of 10 scans are of a loss like that of now"):
            learning_rate_too_low(history)


def test_healthy_a_loss_that_has_come_under_half_of_a_constants_was_not_too_slow_whatever_scans_are_there() -> None:
    # Where it is now none of the ten scans were taken, and none is needed.
    losses = noisy([40.0] * 100 + [40.0 - 0.1 * step for step in range(300)], 0.02)
    history = history_of(losses, run=COMPLETED)
    scanned(history, [-0.01] * 10, smaller=-0.01, larger=-0.16, rate=1e-3)
    assert learning_rate_too_low(history) is None
