from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.vanishing_gradients import vanishing_gradients
from tests.histories import COMPLETED, SGD, decay, history_of, noisy, reading
from tests.scored import scored

NAMES = ["one", "two", "three", "four", "five", "six"]
FLAT = noisy([2.3] * 600, 0.05)
NORMS = [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0]
RATIOS = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]


def layers(names: Sequence[str], between: str) -> list[dict[str, Any]]:
    """A stack of linear layers with an activation after each but the last."""
    stack = []
    for name in names:
        stack.append({"layer": name, "class": "Linear", "kind": "linear", "units": 30, "last": name == names[-1]})
        if name != names[-1]:
            kind = between.lower()
            stack.append({"layer": f"{name}.act", "class": between, "kind": kind, "units": 30, "last": False})
    return stack


def run(
    norms: Sequence[float] = NORMS,
    ratios: Sequence[float] = RATIOS,
    *,
    losses: Sequence[float] = FLAT,
    skill: float = 0.0,
    between: str = "Sigmoid",
    sizes: Sequence[float] = (0.5,) * 6,
    **facts: Any,
) -> History:
    history = history_of(losses, optimizers=SGD, **facts)
    names = NAMES[: len(norms)]
    history.facts["activations"] = layers(names, between)
    for step in range(0, len(losses), 50):
        history.record("skill", step, skill)
        for name, norm, ratio, size in zip(names, norms, ratios, sizes, strict=False):
            history.record(f"grad_norm/{name}", step, norm)
            history.record(f"update_ratio/{name}", step, ratio)
            history.record(f"weight_norm/{name}", step, 5.0)
            history.record(f"activation_std/{name}", step, size)
    return history


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return vanishing_gradients(run(*args, **kwargs))


@pytest.mark.parametrize(("early", "ill"), [(0.0, True), (1e-7, False)])
def test_beside_layers_that_never_move_a_last_one_that_moves_little_is_free_to(early: float, ill: bool) -> None:
    # 600 steps of 5e-4: 0.3 of its weights, where 0.5 is asked of one beside layers that move at all.
    assert (judge(ratios=[early] * 5 + [5e-4]) is not None) is ill


def test_sick_a_deep_sigmoid_stack_whose_early_layers_stay_where_they_began() -> None:
    finding = judge()
    assert finding is not None
    assert (finding.code, finding.severity, finding.onset) == ("LD201", Severity.WARNING, 0)
    # 600 steps of 1e-6 of the second layer's weights, the median of the three early ones, down a slope of 1e-4.
    assert finding.evidence["early_path"] == pytest.approx(6e-4)
    assert finding.evidence["early_reach"] == pytest.approx(6e-4 * 5 * 1e-4)
    assert finding.evidence["last_path"] == pytest.approx(6.0)
    assert "one, two, three" in finding.summary
    assert "replace Sigmoid between the layers by ReLU" in finding.remedy


def test_sick_weights_that_shrink_what_passes_are_told_to_be_initialised() -> None:
    finding = judge(between="Tanh", sizes=[1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
    assert finding is not None
    assert "Xavier" in finding.remedy
    assert "replace" not in finding.remedy


def test_a_network_that_normalises_is_not_told_to() -> None:
    history = run()
    history.facts["activations"].insert(
        1, {"layer": "norm", "class": "LayerNorm", "kind": "norm", "units": 30, "last": False}
    )
    # A few numbers that move at a pace of their own say nothing of the depth.
    history.record("grad_norm/norm", 0, 10.0)
    history.record("update_ratio/norm", 0, 0.5)
    finding = vanishing_gradients(history)
    assert finding is not None
    assert "normalisation" not in finding.remedy
    assert "residual" in finding.remedy


def test_healthy_a_deep_network_that_learns_in_spite_of_it_is_silent() -> None:
    assert judge(skill=0.9) is None
    assert judge(losses=noisy(decay(2.3, 0.3, 200, 600), 0.05)) is None


def test_healthy_a_slow_start_is_waited_for_where_early_layers_do_move() -> None:
    # Four hidden sigmoid layers that leave their plateau after 40 % of 8400 steps.
    slow = [1e-4, 1.5e-4, 6e-4, 3e-3, 2.8e-2]
    norms = [6.4e-3, 9.7e-3, 4e-2, 0.17, 0.8]
    assert judge(norms, slow, trainer={"planned_steps": 8400}) is None


@pytest.mark.parametrize(("norm", "found"), [(8e-4, False), (7e-4, True)])
def test_a_thousandth_of_the_loss_is_out_of_reach(norm: float, found: bool) -> None:
    # 600 steps of 1e-3 of weights of length 5 are a way of 3: down a slope of 7.7e-4 it would take 2.3e-3 off 2.3.
    assert (judge([norm] * 3 + [1.0] * 3, [1e-3] * 6, run=COMPLETED) is not None) is found


@pytest.mark.parametrize(("path", "share", "found"), [(0.018, 0.3, True), (0.022, 0.3, False), (0.022, 0.6, True)])
def test_layers_that_do_move_are_given_half_of_the_run(path: float, share: float, found: bool) -> None:
    planned = round(600 / share)
    ratios = [path / planned] * 3 + [1e-2] * 3
    assert (judge([1e-6] * 3 + [1.0] * 3, ratios, trainer={"planned_steps": planned}) is not None) is found


def test_sick_adam_moves_early_layers_far_and_to_no_effect() -> None:
    norms = [2e-10, 7e-9, 4e-7, 2e-5, 1e-3, 0.6]
    finding = judge(norms, [4e-3] * 6, run=COMPLETED)
    assert finding is not None
    assert finding.evidence["early_path"] > 2


@pytest.mark.parametrize(("factor", "found"), [(90, False), (110, True)])
def test_the_gradient_must_fade_a_hundredfold(factor: float, found: bool) -> None:
    norms = [1 / factor] * 3 + [1.0] * 3
    assert (judge(norms) is not None) is found


@pytest.mark.parametrize(("last", "found"), [(8e-4, False), (9e-4, True)])
def test_healthy_a_rate_that_moves_no_layer_is_another_illness(last: float, found: bool) -> None:
    # 600 steps of 8.3e-4 would come to half of the last layer's weights.
    assert (judge(ratios=[*RATIOS[:-1], last]) is not None) is found


def test_healthy_three_layers_are_no_depth() -> None:
    assert judge([1e-6, 1e-3, 1.0], [1e-8, 1e-5, 1e-2]) is None


def test_healthy_before_a_quarter_of_the_run_it_is_too_early() -> None:
    assert judge(trainer={"planned_steps": 2500}) is None


def test_without_the_forward_order_the_order_of_registration_serves() -> None:
    history = run(model={"layer_names": NAMES})
    del history.facts["activations"]
    assert vanishing_gradients(history) is not None
    history.facts["model"] = {"layer_names": NAMES[::-1]}
    assert vanishing_gradients(history) is None


def test_where_something_was_learned_first_it_began_when_that_was_lost() -> None:
    finding = judge(losses=noisy([*decay(2.3, 0.9, 20, 200), *[2.3] * 400], 0.05))
    assert finding is not None
    assert finding.onset == pytest.approx(200, abs=50)


def behind_padding(middle: str) -> History:
    """An embedding, a layer that reads it word by word, and a head that looks where nothing but padding was read."""
    history = run([1e-17, 3e-2, 0.1], [0.0, 1e-3, 5e-3])
    kinds = [("one", "Embedding", "other"), ("two", "LSTM", middle), ("three", "Linear", "linear")]
    history.facts["activations"] = [
        {"layer": layer, "class": name, "kind": kind, "units": 32, "last": layer == "three"}
        for layer, name, kind in kinds
    ]
    return history


def test_sick_a_recurrent_layer_is_as_deep_as_its_inputs_are_long() -> None:
    finding = vanishing_gradients(behind_padding("recurrent"))
    assert finding is not None
    assert finding.evidence["early_layers"] == "one"
    assert "padding" in finding.remedy


def test_healthy_three_layers_without_a_recurrent_one_are_not_judged() -> None:
    assert vanishing_gradients(behind_padding("other")) is None


def test_healthy_a_gradient_that_dead_units_cut_off_has_not_faded() -> None:
    history = run([0.0, 0.0, 0.0, 1e-2, 0.1, 1.0], run=COMPLETED)
    assert vanishing_gradients(history) is not None
    # By the last look most of its units were; the others are since.
    history.record("dead_share/three.act", 0, 0.94)
    assert vanishing_gradients(history) is None
    history["dead_share/three.act"].values[:] = [0.4]
    assert vanishing_gradients(history) is not None


def test_a_gradient_that_came_through_at_first_has_faded_since_it_no_longer_did() -> None:
    history = run(run=COMPLETED)
    history["grad_norm/one"].values[:3] = [0.5, 0.02, 0.011]
    finding = vanishing_gradients(history)
    assert finding is not None
    # Looked at every fifty steps, and a hundredth of the last layer's is where it begins.
    assert finding.onset == 150


def recurrent(early: float = 1e-4, late: float = 0.9, *, skill: float = 0.0, step: int = 90, **options: Any) -> History:
    """A recurrent layer between an embedding and a head, whose predictions other values move so far."""
    history = run([0.1] * 3, [1e-3] * 3, skill=skill, **{"run": COMPLETED, **options})
    history.facts["recurrence"] = {"step": step, "layer": "rnn", "time_steps": 40, "early": early, "late": late}
    return reading(history, "baseline_loss", [2.3])


def test_sick_a_recurrent_layer_that_forgets_what_it_read_first() -> None:
    finding = vanishing_gradients(recurrent())
    assert finding is not None
    assert (finding.severity, finding.confidence, finding.onset) == (Severity.WARNING, "suspected", 0)
    assert "rnn forgets: other values in the first quarter of its 40 time steps" in finding.summary
    assert "LSTM" in finding.remedy


@pytest.mark.parametrize(
    ("early", "skill", "found"), [(8e-4, 0.04, True), (1e-3, 0.04, False), (1e-4, 0.06, False), (1e-4, 0.9, False)]
)
def test_healthy_what_comes_first_may_not_matter(early: float, skill: float, found: bool) -> None:
    assert (vanishing_gradients(recurrent(early, skill=skill)) is not None) is found


@pytest.mark.parametrize(("validation", "found"), [(2.29, True), (1.9, False)])
def test_sick_rows_that_were_not_trained_on_tell_whether_anything_is_learned(validation: float, found: bool) -> None:
    history = scored(recurrent(skill=0.3), "validation", [2.3, validation, 2.4])
    assert (vanishing_gradients(history) is not None) is found


def test_healthy_what_was_tried_at_another_loss_tells_nothing_of_now() -> None:
    fell = noisy([2.8] * 100 + [2.2] * 500, 0.05)
    assert vanishing_gradients(recurrent(losses=fell)) is None
    assert vanishing_gradients(recurrent(losses=fell, step=300)) is not None
