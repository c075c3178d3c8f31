from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.non_finite_gradients import non_finite_gradients
from tests.histories import COMPLETED, history_of, noisy

NAN, INF = float("nan"), float("inf")
NAMES = {"layer_names": ["encoder", "norm", "head"]}


def run(
    losses: Sequence[float],
    bad: Sequence[int],
    layers: Sequence[str] | None = None,
    norms: Sequence[float] = (),
    **facts: Any,
) -> History:
    history = history_of(losses, **facts)
    for step in range(len(losses)):
        history.record("grad_non_finite", step, 4.0 if step in bad else 0.0)
    for step, norm in enumerate(norms):
        history.record("grad_norm", step, norm)
    if layers is not None and bad:
        history.happened("non_finite_gradient", bad[0], layers=list(layers), loss=losses[bad[0]])
    return history


def found(*args: Any, **kwargs: Any) -> Finding:
    finding = non_finite_gradients(run(*args, **kwargs))
    assert finding is not None
    return finding


GOOD = noisy([0.3] * 50, 0.02)
BROKEN = [*GOOD, NAN, NAN, NAN]


def test_sick_a_square_root_at_zero_is_an_error_with_its_step() -> None:
    finding = found(BROKEN, [49, 50, 51, 52], ["encoder", "norm", "head"], model=NAMES)
    assert (finding.code, finding.severity, finding.onset) == ("LD203", Severity.ERROR, 49)
    assert finding.confidence is Confidence.CONFIRMED
    assert finding.evidence["tensors"] == 4


def test_a_gradient_broken_from_the_last_layer_on_points_at_the_loss_function() -> None:
    finding = found(BROKEN, [49], ["encoder", "norm", "head"], model=NAMES)
    assert finding.evidence["layer"] == "head"
    assert "guard the loss function" in finding.remedy


def test_the_culprit_is_the_last_broken_layer_where_later_ones_are_finite() -> None:
    finding = found(BROKEN, [49], ["encoder"], model=NAMES)
    assert (finding.evidence["layer"], finding.evidence["next_layer"]) == ("encoder", "norm")
    assert "between encoder and norm" in finding.remedy


@pytest.mark.parametrize("facts", [{}, {"model": {}}, {"model": {"layer_names": []}}])
def test_without_layer_names_the_layer_is_named_all_the_same(facts: dict[str, Any]) -> None:
    assert "behind encoder" in found(BROKEN, [49], ["encoder"], **facts).remedy


def test_without_an_event_the_step_is_known_and_the_layer_is_not() -> None:
    finding = found(BROKEN, [49])
    assert "layer" not in finding.evidence
    assert finding.onset == 49


def test_sick_in_the_very_first_step() -> None:
    assert found([0.3, NAN, NAN], [0, 1, 2], ["encoder"], model=NAMES).severity is Severity.ERROR


def test_before_the_next_loss_it_is_a_suspicion_and_at_the_end_of_the_run_an_error() -> None:
    assert found(GOOD, [49]).severity is Severity.WARNING
    assert found(GOOD, [49]).confidence is Confidence.SUSPECTED
    assert found(GOOD, [49], run=COMPLETED).severity is Severity.ERROR


def test_healthy_a_finite_run_is_well() -> None:
    assert non_finite_gradients(run(GOOD, [])) is None


def test_healthy_where_the_loss_itself_is_not_finite_the_loss_is_the_illness() -> None:
    assert non_finite_gradients(run(BROKEN, [50, 51, 52], ["encoder"])) is None


def test_healthy_the_overflow_of_a_loss_that_exploded_is_that_explosion() -> None:
    assert non_finite_gradients(run([2.3, 410.0, 8e7, 3e19, INF, NAN], [3, 4, 5])) is None


def test_healthy_the_overflow_of_a_gradient_that_exploded_first_is_that_explosion() -> None:
    norms = [*[1.0] * 45, 1e4, 1e9, 1e17, 1e28]
    assert non_finite_gradients(run(BROKEN, [49], norms=norms)) is None


@pytest.mark.parametrize(("loss", "ill"), [(90 * 0.3, True), (110 * 0.3, False)])
def test_explosion_is_relative_to_the_usual_loss(loss: float, ill: bool) -> None:
    assert (non_finite_gradients(run([*[0.3] * 49, loss, NAN], [49])) is not None) is ill


def test_only_the_steps_of_the_window_are_usual() -> None:
    # An old, small loss must not make the usual one look like an explosion.
    losses = [*[1e-4] * 150, *[0.3] * 140, NAN]
    assert non_finite_gradients(run(losses, [289])) is not None
    assert non_finite_gradients(run(losses, [289]), window=300) is None


def test_a_single_one_in_a_run_that_went_on_is_a_note() -> None:
    finding = found([*GOOD, *GOOD], [30])
    assert finding.severity is Severity.NOTE
    assert "the run went on" in finding.summary


@pytest.mark.parametrize(("count", "severity"), [(4, "note"), (8, "warning")])
def test_recurring_ones_in_a_run_that_goes_on_are_a_warning(count: int, severity: str) -> None:
    # 600 steps from the first one on: 1 % of them are 6.
    losses = noisy([0.3] * 650, 0.02)
    assert found(losses, [50 + 20 * i for i in range(count)]).severity == severity


def test_with_several_optimizers_their_own_losses_tell_what_became_of_the_run() -> None:
    history = History()
    history.absent["train_loss"] = "2 optimizers: no single loss has to fall"
    for step in range(20):
        history.record("train_loss/0", step, 0.3 if step < 11 else NAN)
        history.record("train_loss/1", step, 0.7)
        history.record("grad_non_finite", step, 2.0 if step >= 10 else 0.0)
    finding = non_finite_gradients(history)
    assert finding is not None
    assert (finding.severity, finding.onset) == (Severity.ERROR, 10)
