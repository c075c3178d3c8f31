from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.always_clipped import always_clipped
from tests.histories import ADAM, COMPLETED, SGD, decay, history_of, noisy

CLIP = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "norm"}
FLAT = noisy([2.3] * 300, 0.05)


def run(factors: Sequence[float], losses: Sequence[float] = FLAT, limit: float = 0.01, **facts: Any) -> History:
    history = history_of(losses, **facts)
    for step, factor in enumerate(factors):
        history.record("clip_factor", step, factor)
        history.record("grad_norm", step, limit / factor)
    return history


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return always_clipped(run(*args, **kwargs))


def test_sick_plain_descent_clipped_to_a_fiftieth_that_gets_nowhere_is_a_warning() -> None:
    finding = judge([0.02] * 300, optimizers=SGD, trainer=CLIP)
    assert finding is not None
    assert (finding.code, finding.severity, finding.onset) == ("LD206", Severity.WARNING, 0)
    assert finding.evidence["factor"] == pytest.approx(0.02)
    assert "gradient_clip_val to about the median norm, 0.5 (now 0.01)" in finding.remedy
    # A rate lowered by as much would take the same steps, which lead nowhere.
    assert "lr" not in finding.remedy


@pytest.mark.parametrize("count", [50, 99])
def test_before_a_loss_can_have_fallen_it_is_a_note(count: int) -> None:
    finding = judge([0.02] * count, FLAT[:count], optimizers=SGD)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_while_the_loss_falls_it_is_a_note() -> None:
    finding = judge([0.02] * 300, noisy(decay(2.3, 0.3, 100, 300), 0.05), optimizers=SGD)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(("end", "severity"), [(1.9, Severity.WARNING), (1.3, Severity.NOTE)])
def test_sick_a_loss_nobody_can_read_that_still_falls_but_ends_with_most_of_it_left(
    end: float, severity: Severity
) -> None:
    finding = judge([0.002] * 300, noisy(decay(2.3, end, 100, 300), 0.05), optimizers=SGD, run=COMPLETED)
    assert finding is not None
    assert finding.severity is severity


@pytest.mark.parametrize(("end", "severity"), [(1.2, Severity.WARNING), (0.3, Severity.NOTE)])
def test_sick_a_loss_nobody_can_read_that_falls_as_steadily_as_ever_with_much_of_it_left(
    end: float, severity: Severity
) -> None:
    falling = [2.3 - (2.3 - end) * step / 300 for step in range(300)]
    finding = judge([0.002] * 300, noisy(falling, 0.05), optimizers=SGD, run=COMPLETED)
    assert finding is not None
    assert finding.severity is severity


def test_healthy_a_run_that_learned_and_rests_is_a_note() -> None:
    finding = judge([0.02] * 300, noisy(decay(2.3, 0.3, 10, 300), 0.05), optimizers=SGD)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_under_adam_the_length_does_not_matter_and_it_is_a_note() -> None:
    finding = judge([0.02] * 300, optimizers=ADAM, trainer=CLIP)
    assert finding is not None
    assert finding.severity is Severity.NOTE
    assert "lr" not in finding.remedy


def test_healthy_of_an_unknown_optimizer_it_is_a_note() -> None:
    finding = judge([0.02] * 300)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_occasional_clipping_is_silent() -> None:
    assert judge([1.0, 0.02, 1.0, 0.3, 0.9] * 60) is None


def test_healthy_clipping_of_the_first_steps_only_is_silent() -> None:
    assert judge([*[0.02] * 100, *[1.0] * 200]) is None


def test_healthy_clipping_to_a_half_is_silent() -> None:
    assert judge([0.5] * 300) is None


@pytest.mark.parametrize(("free", "ill"), [(16, False), (14, True)])
def test_share_is_of_the_newer_half_of_the_steps(free: int, ill: bool) -> None:
    # 14 of 300 are under 5 %, 16 are over it.
    assert (judge([0.02] * 300 + [1.0] * free + [0.02] * (300 - free)) is not None) is ill


@pytest.mark.parametrize(("factor", "ill"), [(0.11, False), (0.09, True)])
def test_factor_is_that_of_the_median_step(factor: float, ill: bool) -> None:
    assert (judge([factor] * 300) is not None) is ill


@pytest.mark.parametrize(("now", "severity"), [(2.2, "warning"), (1.9, "note")])
def test_a_share_of_its_start_gained_is_progress(now: float, severity: str) -> None:
    # A tenth of 2.3 is 0.23. A step at a twentieth of the run, so that no trend is left to see.
    losses = noisy([*[2.3] * 20, *[now] * 380], 0.3)
    finding = judge([0.02] * 400, losses, optimizers=SGD)
    assert finding is not None
    assert finding.severity == severity


def test_the_onset_is_where_the_last_stretch_begins() -> None:
    finding = judge([*[1.0] * 60, *[0.02] * 240])
    assert finding is not None
    assert finding.onset == 60


def test_clipping_by_value_is_told_a_value() -> None:
    trainer = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    finding = judge([0.02] * 300, trainer=trainer)
    assert finding is not None
    assert "raise gradient_clip_val to about 0.5 (now 0.01), or clip by norm at 0.5" in finding.remedy


@pytest.mark.parametrize(("skill", "severity"), [(0.1, Severity.WARNING), (0.7, Severity.NOTE)])
def test_sick_a_run_that_ended_far_from_what_it_could_learn_is_a_warning_though_its_loss_fell(
    skill: float, severity: Severity
) -> None:
    history = run([0.02] * 300, noisy(decay(2.3, 1.9, 100, 300), 0.02), optimizers=SGD, run={"ended": "completed"})
    for step in range(0, 300, 20):
        history.record("skill", step, skill)
    finding = always_clipped(history)
    assert finding is not None
    assert finding.severity is severity
