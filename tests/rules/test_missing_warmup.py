from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.history import History
from lightning_doctor.rules.missing_warmup import missing_warmup
from tests.histories import ADAM, COMPLETED, SGD, history_of, noisy, reading, scanned

BROKEN = [2.4, 9.1, 7.0, 4.0, *noisy([2.3] * 396, 0.02)]
FIRST_OVER = [2.0, 1.0, *[-1e-4] * 38]


def run(
    losses: list[float] = BROKEN,
    changes: list[float] = FIRST_OVER,
    *,
    skill: float = 0.05,
    optimizers: object = ADAM,
    rates: list[float] | None = None,
) -> History:
    history = history_of(losses, rates=rates, optimizers=optimizers, run=COMPLETED)
    return reading(scanned(history, changes, limit=0.001, rate=0.01), "skill", [skill] * 40)


def test_sick_first_steps_that_overshot_and_a_run_that_never_recovered() -> None:
    finding = missing_warmup(run())
    assert finding is not None
    assert "over the first 20 steps, from 0.0005 or less" in finding.remedy
    assert finding.onset == 0


def test_healthy_a_rate_that_is_too_high_throughout_is_another_illness() -> None:
    assert missing_warmup(run(changes=[2.0] * 40)) is None


@pytest.mark.parametrize(("over", "ill"), [(1, False), (2, True)])
def test_more_than_a_quarter_of_the_first_steps_must_overshoot(over: int, ill: bool) -> None:
    # Five of them are scanned in the first tenth of the run.
    assert (missing_warmup(run(changes=[2.0] * over + [-1e-4] * (40 - over))) is not None) is ill


def test_healthy_a_run_that_does_well() -> None:
    assert missing_warmup(run(skill=0.9)) is None


def test_healthy_first_steps_within_their_limit() -> None:
    assert missing_warmup(run(changes=[-0.1] * 40)) is None


def test_healthy_a_run_with_a_warm_up() -> None:
    assert missing_warmup(run(rates=[0.001 * min(10, step + 1) for step in range(400)])) is None


@pytest.mark.parametrize("optimizers", [SGD, []])
def test_healthy_an_optimizer_whose_steps_shrink_with_the_gradient_or_an_unknown_one(optimizers: object) -> None:
    assert missing_warmup(run(optimizers=optimizers)) is None


@pytest.mark.parametrize(("peak", "ill"), [(2.7, False), (3.0, True)])
def test_the_loss_must_rise_over_its_start(peak: float, ill: bool) -> None:
    assert (
        missing_warmup(run([2.4, peak, *BROKEN[2:4], *BROKEN[4:]][:2] + BROKEN[4:] + [2.3, 2.3])) is not None
    ) is ill


def erased(
    *,
    spreads: Sequence[float] = (0.1, 3e-4, 1e-4),
    first: Sequence[float] = (0.5, 1e-4, 1e-4),
    opening: float = -1e-4,
    **options: Any,
) -> History:
    """First steps that raise no loss, after which outputs are alike; the last value of each holds on."""
    history = run(noisy([2.3] * 400, 0.02), [opening, *[-1e-4] * 39], **options)
    for name, values in {"output_spread": spreads, "grad_norm/embed": first, "grad_norm/head": [1.0]}.items():
        reading(history, name, [*values, *values[-1:] * (40 - len(values))])
    return history


def test_sick_first_steps_that_erased_what_tells_inputs_apart() -> None:
    finding = missing_warmup(erased())
    assert finding is not None
    assert "the first 11 steps of Adam" in finding.summary
    assert "embed fell to 0.0002" in finding.summary
    assert "over the first 20 steps" in finding.remedy


@pytest.mark.parametrize(
    "options",
    [
        {"spreads": (0.1, 3e-4, 0.2)},
        {"spreads": (0.1, 0.09, 0.08, 0.08, 0.08, 0.08, 1e-4)},
        {"spreads": (1e-4,)},
        {"first": (0.5, 0.4)},
        {"first": (1e-4,)},
        {"first": (0.5, 0.0)},
        {"skill": 0.9},
        {"optimizers": SGD},
        {"rates": [0.001 * min(10, step + 1) for step in range(400)]},
    ],
    ids=[
        "came back",
        "late",
        "alike from the start",
        "gradients",
        "no gradient at the start",
        "cut off",
        "well",
        "SGD",
        "warmed",
    ],
)
def test_healthy_outputs_that_come_apart_again_or_were_not_erased_by_first_steps(options: dict[str, Any]) -> None:
    assert missing_warmup(erased(**options)) is None


@pytest.mark.parametrize(("opening", "at", "ill"), [(0.05, 15, True), (-1e-4, 15, False), (0.05, 17, False)])
def test_first_steps_that_overshot_are_given_four_times_as_long(opening: float, at: int, ill: bool) -> None:
    # The opening are 40 of 400 steps; looked at every ten.
    history = erased(spreads=[*[0.1] * at, 1e-4], first=[*[0.5] * at, 1e-4], opening=opening)
    assert (missing_warmup(history) is not None) is ill


@pytest.mark.parametrize(("share", "ill"), [(9e-5, True), (1.1e-4, False)])
def test_where_predictions_were_looked_at_before_only_gradients_tell(share: float, ill: bool) -> None:
    history = erased(spreads=(0.1, 0.05), first=(0.5, 0.5 * share))
    assert (missing_warmup(history) is not None) is ill


@pytest.mark.parametrize(("share", "ill"), [(0.009, True), (0.011, False)])
def test_the_differences_must_fall_to_a_hundredth(share: float, ill: bool) -> None:
    assert (missing_warmup(erased(spreads=(0.1, 0.1 * share))) is not None) is ill
    assert (missing_warmup(erased(first=(0.5, 0.5 * share))) is not None) is ill


@pytest.mark.parametrize(
    ("ratios", "ill"),
    [([8.0, 0.5, 0.5, 0.5], True), ([0.8, 0.5, 0.5, 0.5], False), ([8.0, 0.5, 1.5, 0.5], False)],
)
def test_without_scans_the_curvature_along_the_first_steps_and_the_later_ones_tells(
    ratios: list[float], ill: bool
) -> None:
    history = history_of(BROKEN, rates=[0.01], optimizers=ADAM, run=COMPLETED)
    reading(history, "skill", [0.05] * 40)
    for step, ratio in zip((7, 100, 200, 390), ratios, strict=True):
        history.record("curvature/step_ratio", step, ratio)
    finding = missing_warmup(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.evidence["limit"] == 0.01 / 8.0


def test_sick_a_single_look_after_they_were_erased_is_enough_where_gradients_say_that_it_stayed_so() -> None:
    history = erased()
    spread = history["output_spread"]
    spread.steps[:], spread.values[:] = [0, 1, 3, 7], [0.1, 0.02, 3e-3, 8e-4]
    finding = missing_warmup(history)
    assert finding is not None
    assert "the first 8 steps of Adam" in finding.summary


def test_steps_that_go_backwards_raise_nothing() -> None:
    history = erased()
    spread = history["output_spread"]
    spread.steps[:], spread.values[:] = [5, 4, 3, 2, 1], [0.1, 0.02, 3e-3, 8e-4, 8e-4]
    assert missing_warmup(history) is not None
