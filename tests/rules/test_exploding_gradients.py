from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.exploding_gradients import exploding_gradients
from lightning_doctor.sinks.marks import levels
from tests.histories import COMPLETED, SGD, decay, gauss, history_of, noisy, reading


def run(
    norms: Sequence[float], losses: Sequence[float], layers: dict[str, Sequence[float]] | None = None, **facts: Any
) -> History:
    history = history_of(losses, **facts)
    for step, norm in enumerate(norms):
        history.record("grad_norm", step, norm)
    for name, values in (layers or {}).items():
        for number, value in enumerate(values):
            history.record(f"grad_norm/{name}", 20 * number + 19, value, capacity=128)
    return history


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return exploding_gradients(run(*args, **kwargs))


CALM = [abs(1 + error) for error in gauss(200, 0.2)]
FALLING = noisy(decay(2.3, 0.5, 50, 200), 0.02)


def test_sick_a_gradient_that_grew_and_stays_while_the_loss_is_lost_again_is_a_warning() -> None:
    norms = [*CALM, *(10 ** (i / 10) for i in range(30)), *[1000.0] * 20]
    losses = [*FALLING, *(0.6 + 0.5 * i for i in range(50))]
    finding = judge(norms, losses, optimizers=SGD)
    assert finding is not None
    assert (finding.code, finding.severity) == ("LD202", Severity.WARNING)
    # The norm leaves ten times its calm ten steps after the calm ends.
    assert finding.onset == pytest.approx(210, abs=3)
    assert finding.evidence["calm"] == pytest.approx(1.0, abs=0.1)
    assert "gradient_clip_val=0.99)" in finding.remedy
    assert "lower lr from 0.1 to 0.01" in finding.remedy


def test_sick_growth_into_infinity_within_a_few_steps_is_seen_in_what_came_before() -> None:
    norms = [175.0 * 9**i for i in range(18)] + [float("inf"), float("nan")]
    losses = [166.0 * 80**i for i in range(18)] + [float("inf"), float("nan")]
    finding = judge(norms, losses)
    assert finding is not None
    assert finding.onset is not None
    assert finding.onset <= 3


@pytest.mark.parametrize(("second", "ill"), [(150.0, True), (90.0, False)])
def test_sick_a_gradient_that_is_out_of_all_numbers_in_a_few_steps_has_no_calm_part(second: float, ill: bool) -> None:
    broken = [float("nan")] * 20
    finding = judge([1.0, second, *broken], [2.3, 90.0, *broken], optimizers=SGD)
    assert (finding is not None) is ill
    assert finding is None or (finding.severity, finding.onset) == (Severity.ERROR, 0)
    assert finding is None or levels(finding) == {"grad_norm": [("first", 1.0)]}


def test_sick_a_gradient_that_is_out_of_all_numbers_one_look_after_the_first() -> None:
    broken = [float("nan")] * 20
    finding = judge([26000.0, float("inf"), *broken], [2000.0, 2e25, *broken], optimizers=SGD)
    assert finding is not None
    assert (finding.severity, finding.onset) == (Severity.ERROR, 0)
    assert finding.summary == "the gradient norm was 2.6e+04 at first, and out of all numbers one look later"


@pytest.mark.parametrize(
    ("norm", "loss", "ill"),
    [("inf", 2e5, True), ("inf", 1.9e5, False), ("nan", 2e25, False)],
    ids=["far", "near", "0/0"],
)
def test_one_look_tells_an_explosion_by_a_loss_that_grew_and_a_norm_beyond_numbers(
    norm: str, loss: float, ill: bool
) -> None:
    broken = [float("nan")] * 20
    finding = judge([26000.0, float(norm), *broken], [2000.0, loss, *broken], optimizers=SGD)
    assert (finding is not None) is ill


def test_the_remedy_does_not_say_to_clip_where_it_is_clipped() -> None:
    norms, losses = [*CALM, *[1000.0] * 40], [*FALLING, *[20.0] * 40]
    finding = judge(norms, losses, trainer={"gradient_clip_val": 1.0}, optimizers=SGD)
    assert finding is not None
    assert "gradient_clip_val" not in finding.remedy
    assert "lower lr" in finding.remedy


def test_healthy_a_gradient_that_grows_as_the_run_leaves_a_saddle() -> None:
    losses = [5.06, 5.06, 5.06, 5.06, 5.05, 5.05, 5.03, 5.02, 4.99, 4.94, 4.88, 4.8, 4.69, 4.54, 4.35, 4.12]
    history = history_of(losses)
    for step in range(16):
        history.record("grad_norm", step, 0.006 * 1.55**step)
    assert exploding_gradients(history) is None


def test_healthy_a_slow_starter_whose_gradient_grows_a_thousandfold_while_the_loss_falls_is_well() -> None:
    norms = [0.002 * 10 ** (3 * min(i, 150) / 150) for i in range(300)]
    losses = noisy([*[2.3] * 150, *decay(2.3, 0.5, 40, 150)], 0.01)
    for count in (16, 32, 100, 150, 200, 300):
        assert judge(norms[:count], losses[:count]) is None


def test_healthy_a_single_bad_batch_is_well_even_just_after_it() -> None:
    norms, losses = [*CALM, 5000.0, *CALM[:100]], [*FALLING, 300.0, *[0.6] * 100]
    for count in (201, 202, 205, 300):
        assert judge(norms[:count], losses[:count]) is None


def test_healthy_a_converged_run_whose_tiny_loss_moves_is_well() -> None:
    # From 2.3 to 1e-6, then up to 1e-4: four orders of magnitude of the gradient, nothing of what was gained.
    norms = [*(1.0 * 0.95**i for i in range(250)), *[0.05] * 50]
    losses = [*(2.3 * 0.94**i for i in range(250)), *[1e-4] * 50]
    assert judge(norms, losses) is None


@pytest.mark.parametrize(("factor", "ill"), [(80.0, False), (120.0, True)])
def test_growth_is_relative_to_the_calmest_level(factor: float, ill: bool) -> None:
    assert (judge([*[1.0] * 200, *[factor] * 40], [*FALLING, *[20.0] * 40]) is not None) is ill


@pytest.mark.parametrize(("loss", "ill"), [(0.8, False), (1.2, True)])
def test_a_share_of_what_the_loss_had_gained_must_be_lost(loss: float, ill: bool) -> None:
    # From 2.3 to about 0.5: a quarter of the gain is 0.45.
    assert (judge([*CALM, *[1000.0] * 40], [*FALLING, *[loss] * 40]) is not None) is ill


@pytest.mark.parametrize(("steps", "ill"), [(4, False), (14, True)])
def test_it_must_have_lasted(steps: int, ill: bool) -> None:
    assert (judge([*CALM, *[1000.0] * steps], [*FALLING, *[20.0] * steps]) is not None) is ill


def layered(ratio: float) -> dict[str, Sequence[float]]:
    return {name: [ratio ** (1 - i / 4)] * 10 for i, name in enumerate(("a", "b", "c", "d", "e"))}


STUCK = noisy([2.3] * 200, 0.05)
ORDER = {"layer_names": ["a", "b", "c", "d", "e"]}


def test_sick_gradients_that_grow_towards_the_input_while_the_loss_never_fell_are_suspected() -> None:
    finding = judge(CALM, STUCK, layered(1e6), model=ORDER)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, "suspected")
    assert (finding.evidence["early_layer"], finding.evidence["last_layer"]) == ("b", "e")
    assert finding.remedy.startswith("initialise")


def test_healthy_the_same_ratio_in_a_network_that_learns_is_well() -> None:
    assert judge(CALM, FALLING, layered(1e6), model=ORDER) is None


def test_healthy_a_first_layer_with_the_size_of_its_inputs_is_well() -> None:
    assert judge(CALM, STUCK, {**layered(1.0), "a": [1e6] * 10}, model=ORDER) is None


@pytest.mark.parametrize(("ratio", "ill"), [(900.0, False), (1100.0, True)])
def test_depth_is_the_ratio_to_the_last_layer(ratio: float, ill: bool) -> None:
    layers = {**layered(1.0), "b": [ratio] * 10}
    assert (judge(CALM, STUCK, layers, model=ORDER) is not None) is ill


def thrown(ratio: float, moved: float, *, learned: float = 0.05) -> Finding | None:
    """A run whose first gradients grew towards the input, and later ones no more, after a step of so many weights."""
    losses = noisy(decay(2.3, 2.3 * (1 - learned), 20, 200), 0.02)
    layers = {name: [size, *[1.0] * 9] for name, size in zip("abcde", (1.0, ratio, 10.0, 1.0, 1.0), strict=True)}
    history = run(CALM, losses, layers, model=ORDER, run=COMPLETED)
    reading(history, "baseline_loss", [2.3] * 3)
    for layer in "abcde":
        history.record(f"update_ratio/{layer}", 0, moved)
    return exploding_gradients(history)


def test_sick_a_first_step_that_replaces_the_early_layers() -> None:
    finding = thrown(1e4, 8.0)
    assert finding is not None
    assert (finding.severity, finding.confidence, finding.onset) == (Severity.WARNING, "suspected", 0)
    assert (
        "the gradient of b was 10000 times that of e, and a step was 8 times as large as its weights" in finding.summary
    )
    assert "shortcuts" in finding.remedy


@pytest.mark.parametrize(
    ("ratio", "moved", "learned", "ill"),
    [(1100.0, 1.1, 0.4, True), (900.0, 8.0, 0.05, False), (1e4, 0.9, 0.05, False), (1e4, 8.0, 0.6, False)],
)
def test_healthy_a_large_gradient_at_first_that_did_no_harm(
    ratio: float, moved: float, learned: float, ill: bool
) -> None:
    assert (thrown(ratio, moved, learned=learned) is not None) is ill
