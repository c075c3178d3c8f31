from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_doctor import Doctor
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.bad_initialization import bad_initialization
from tests.histories import ADAM, COMPLETED, SGD, decay, history_of, noisy, reading
from tests.runs import DigitsNet, fit

FLAT = noisy([2.3] * 400, 0.02)
CLASSES = {"loss": "cross_entropy", "targets": "class_index", "reduction": "mean"}
SCALED = {"abs_max": 1.0, "integers": False}


def layers(count: int, between: str = "relu") -> list[dict[str, Any]]:
    stack = []
    for index in range(count):
        last = index == count - 1
        stack.append({"layer": f"l{index}", "class": "Linear", "kind": "linear", "units": 50, "last": last})
        if not last:
            stack.append({"layer": f"a{index}", "class": between, "kind": between, "units": 50, "last": False})
    return stack


def run(
    sizes: Sequence[float],
    losses: Sequence[float] = FLAT,
    *,
    skill: float = 0.0,
    baseline: float | None = 2.3,
    validation: float | None = None,
    between: str = "relu",
    **facts: Any,
) -> History:
    """A run whose layers first put out numbers of these sizes."""
    facts = {"inputs": SCALED, "loss_head": CLASSES, **facts}
    history = history_of(losses, activations=layers(len(sizes), between), **facts)
    for index, size in enumerate(sizes):
        reading(history, f"activation_std/l{index}", [size] * 5, 90)
        reading(history, f"activation_mean/l{index}", [0.0] * 5, 90)
    reading(history, "skill", [skill] * 40)
    if baseline is not None:
        history.record("baseline_loss", 1, baseline)
    return history if validation is None else reading(history, "val_loss", [validation] * 3, 120)


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return bad_initialization(run(*args, **kwargs))


LOUD = decay(9500.0, 12.0, 20, 400)
GROWING = [4.0, 65.0, 1000.0, 14000.0]


def test_sick_weights_that_enlarge_from_layer_to_layer_and_a_loud_start() -> None:
    finding = judge(GROWING, LOUD, skill=0.9)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD208", Severity.WARNING, "confirmed")
    assert finding.onset == 0
    assert "the first loss is 9500 where a constant prediction costs 2.3" in finding.summary
    assert "4 → 65 → 1e+03 → 1.4e+04" in finding.summary
    assert "kaiming_normal_" in finding.remedy
    assert "zeros in l3" in finding.remedy


def test_sick_it_is_said_in_the_first_steps() -> None:
    assert judge(GROWING, LOUD[:4], trainer={"planned_steps": 1000}).severity is Severity.WARNING  # type: ignore[union-attr]


def test_sick_one_look_at_the_layers_is_enough_where_the_next_step_breaks_the_run() -> None:
    history = history_of([2000.0, 2e25, *[float("nan")] * 20], loss_head=CLASSES, inputs=SCALED, activations=layers(4))
    for index, size in enumerate(GROWING):
        history.record(f"activation_std/l{index}", 0, size)
        history.record(f"activation_mean/l{index}", 0, 0.0)
    history.record("baseline_loss", 1, 2.3)
    assert bad_initialization.lacks(history) is None
    finding = bad_initialization(history)
    assert finding is not None
    assert "4 → 65 → 1e+03 → 1.4e+04" in finding.summary


def test_sick_scars_that_only_held_out_data_show() -> None:
    learned = decay(9500.0, 0.1, 10, 400)
    finding = judge(GROWING, learned, skill=0.95, validation=200.0, run=COMPLETED)
    assert finding is not None
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(
    ("optimizers", "limit", "severity"),
    # Hidden values of 50 make the curvature 2500 times and the steps of Adam 50 times too large: a rate of 0.1 is too
    # high for these weights only where the limit is 4e-5 or more, or 2e-3, and not too high at all over itself.
    [
        (SGD, 5e-5, Severity.ERROR),
        (SGD, 3e-5, Severity.WARNING),
        (SGD, 0.2, Severity.WARNING),
        (ADAM, 3e-3, Severity.ERROR),
        (ADAM, 1e-3, Severity.WARNING),
    ],
)
def test_a_rate_that_would_do_for_other_weights_is_not_to_blame(
    optimizers: Any, limit: float, severity: Severity
) -> None:
    history = run([50.0, 60.0], decay(100.0, 12.0, 20, 400), rates=(0.1,), optimizers=optimizers)
    finding = bad_initialization(reading(history, "scan_limit", [limit] * 3 + [limit / 100]))
    assert finding is not None
    assert finding.severity is severity


def test_healthy_a_loud_start_that_is_unlearned_is_a_note() -> None:
    finding = judge(GROWING, decay(9500.0, 0.1, 10, 400), skill=0.95, validation=0.2, run=COMPLETED)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_a_last_layer_alone_unlearns_its_weights_and_is_told_in_a_note() -> None:
    finding = judge([15.0], decay(25.0, 0.7, 60, 400), skill=0.7)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_a_usual_start_is_silent() -> None:
    assert judge([0.5, 0.4, 0.3], decay(2.4, 0.1, 40, 400), skill=0.95) is None


def test_healthy_inputs_that_are_large_are_another_illness() -> None:
    inputs = {"abs_max": 3000.0, "integers": False}
    assert judge([400.0, 300.0, 200.0], decay(400.0, 2.0, 40, 400), inputs=inputs) is None


def test_healthy_targets_that_are_large_are_another_illness() -> None:
    head = {"loss": "mse", "targets": "real", "target_mean": 5000.0, "target_std": 100.0}
    assert judge([0.5, 0.4, 0.3], [2.5e7] * 400, baseline=1e4, loss_head=head) is None


def test_sick_outputs_far_over_the_targets_are_the_weights_own() -> None:
    head = {"loss": "mse", "targets": "real", "target_mean": 1.0, "target_std": 1.0}
    assert judge([30.0, 30.0], decay(900.0, 0.9, 200, 400), baseline=1.0, loss_head=head) is not None


def test_integers_are_compared_with_what_the_first_layer_makes_of_them() -> None:
    ids = {"abs_max": 3.0, "integers": True}
    assert judge([400.0, 300.0, 200.0], decay(400.0, 2.0, 40, 400), inputs=ids) is None
    assert judge([1.0, 30.0, 200.0], decay(400.0, 2.0, 40, 400), inputs=ids) is not None


def test_sick_a_recurrent_layer_that_enlarges_is_deep_too() -> None:
    history = run([50.0], LOUD[:4], trainer={"planned_steps": 1000})
    reading(history, "activation_std/rnn", [30.0])
    reading(history, "activation_mean/rnn", [0.0])
    history.facts["activations"].insert(0, {"layer": "rnn", "class": "RNN", "kind": "other", "units": 64})
    finding = bad_initialization(history)
    assert finding is not None
    assert finding.severity is Severity.WARNING


def test_inputs_of_nothing_but_zeros_have_no_size_to_compare_with() -> None:
    assert judge(GROWING, LOUD, inputs={"abs_max": 0.0, "integers": False}) is None


@pytest.mark.parametrize(("start", "found"), [(22.0, False), (24.0, True)])
def test_ten_times_the_loss_of_guessing_is_loud(start: float, found: bool) -> None:
    assert (judge(GROWING, decay(start, 1.0, 40, 400), skill=0.7) is not None) is found


@pytest.mark.parametrize(("size", "found"), [(9.5, False), (10.5, True)])
def test_ten_times_the_inputs_is_enlarged(size: float, found: bool) -> None:
    assert (judge([size, size], LOUD) is not None) is found


def test_sick_one_layer_out_of_scale_whose_neighbour_makes_up_for_it() -> None:
    finding = judge([98.0, 0.3, 0.2], skill=0.0, run=COMPLETED)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, "suspected")
    assert "the first loss" not in finding.summary
    # Nor is it harm without harm.
    assert judge([98.0, 0.3, 0.2], skill=0.9, run=COMPLETED) is None


def test_healthy_a_normalisation_layer_makes_up_for_any_scale() -> None:
    history = run([98.0, 0.3, 0.2], run=COMPLETED)
    history.facts["activations"].append({"layer": "n", "class": "LayerNorm", "kind": "norm", "units": 50})
    assert bad_initialization(history) is None


def test_without_a_baseline_a_start_is_not_called_loud() -> None:
    assert judge(GROWING, LOUD, baseline=None, skill=0.9) is None


@pytest.mark.parametrize(("last", "found"), [(1.1e-3, False), (9e-4, True)])
def test_sick_weights_that_drown_the_input_a_thousandfold(last: float, found: bool) -> None:
    finding = judge([1.0, 0.03, last, 0.5], between="tanh")
    assert (finding is not None) is found
    if finding is not None:
        assert finding.severity is Severity.WARNING
        assert "xavier_normal_" in finding.remedy


def test_healthy_a_drowned_input_in_a_network_that_learns_is_silent() -> None:
    assert judge([1.0, 0.03, 1e-4, 0.5], skill=0.9) is None


def test_healthy_a_last_layer_of_zeros_is_silent() -> None:
    history = run([1.0, 1.0, 1.0, 0.0])
    reading(history, "weight_norm/l3", [0.0, 0.1, 0.2])
    reading(history, "equal_share/l3", [1.0, 1.0, 1.0])
    assert bad_initialization(history) is None


@pytest.mark.parametrize(("share", "found"), [(0.89, False), (0.91, True)])
def test_sick_units_that_stay_alike(share: float, found: bool) -> None:
    finding = bad_initialization(reading(run([1.0, 1.0]), "equal_share/l0", [1.0, 1.0, share]))
    assert (finding is not None) is found
    if finding is not None:
        assert finding.severity is Severity.ERROR
        assert "all 50 units of l0 put out the same" in finding.summary


def test_healthy_units_that_tell_themselves_apart_after_the_first_step_are_silent() -> None:
    assert bad_initialization(reading(run([1.0, 1.0]), "equal_share/l0", [1.0, 0.0, 0.0])) is None


def test_healthy_weights_of_zero_that_move_are_silent() -> None:
    assert bad_initialization(reading(run([1.0, 1.0]), "weight_norm/l0", [0.0, 0.1, 0.3])) is None


def net(value: float | None, gain: float | None = None) -> DigitsNet:
    module = DigitsNet()
    for parameter in module.net.parameters():
        if value is not None:
            nn.init.constant_(parameter, value)
        elif gain is not None:
            with torch.no_grad():
                parameter.mul_(gain)
    return module


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (net(0.1), "all 32 units of net.0 put out the same"),
        (net(0.0), "all weights of net.0 are zero"),
        (net(None, gain=40.0), "the first weights enlarge inputs of at most 1 to"),
    ],
    ids=["alike", "zero", "large"],
)
def test_sick_real_first_weights_are_found_in_the_first_steps(tmp_path: Path, module: DigitsNet, words: str) -> None:
    doctor = Doctor(strict=True, select=["LD208"])
    fit(tmp_path, module, doctor)
    (finding,) = doctor.report.findings
    assert words in finding.summary
    assert (finding.onset, finding.step < 10) == (0, True)


def test_healthy_real_first_weights_are_well(tmp_path: Path) -> None:
    doctor = Doctor(strict=True, select=["LD208"])
    fit(tmp_path, net(None), doctor)
    assert (doctor.report.findings, doctor.report.healthy) == ([], ["LD208"])


@pytest.mark.parametrize(("first", "start", "ill"), [(8.0, 60.0, True), (1.0, 60.0, False), (8.0, 5.0, False)])
def test_sick_products_of_embeddings_that_begin_far_too_large(first: float, start: float, ill: bool) -> None:
    head = {"loss": "mse", "targets": "real", "reduction": "mean", "target_mean": 0.0, "target_std": 1.0}
    history = history_of(decay(start, 1.5, 60, 400), loss_head=head, run=COMPLETED)
    reading(history, "baseline_loss", [1.0] * 8)
    reading(history, "output_level", [first, *[1.0] * 7])
    reading(history, "activation_std/users", [1.0] * 8)
    finding = bad_initialization(history)
    assert (finding is not None) is ill
    assert finding is None or "the first weights put out 8 where targets are of size 1" in finding.summary


@pytest.mark.parametrize(("scatter", "ill"), [(3.0, False), (3.3, True)])
def test_first_outputs_may_be_scattered_rather_than_large(scatter: float, ill: bool) -> None:
    head = {"loss": "mse", "targets": "real", "reduction": "mean", "target_mean": 3.5, "target_std": 1.0}
    history = history_of(decay(40.0, 12.0, 60, 400), loss_head=head, run=COMPLETED)
    reading(history, "baseline_loss", [1.0] * 8)
    reading(history, "output_level", [6.0] * 8)
    reading(history, "output_spread", [scatter] * 8)
    reading(history, "activation_std/users", [1.0] * 8)
    finding = bad_initialization(history)
    # The root of ten times the deviation of the targets.
    assert (finding is not None) is ill
    assert finding is None or "outputs scatter by 3.3 where targets do by 1" in finding.summary


@pytest.mark.parametrize(
    ("norms", "gradients", "trained", "found"),
    [
        ([0.0] * 3, [0.0] * 3, 2, True),
        ([0.0] * 2, [0.0] * 3, 2, False),
        ([0.0, 0.0, 0.1], [0.0] * 3, 2, False),
        # A parameter for the optimizer's sake, as beside a memory of class means.
        ([0.0] * 3, [0.0] * 3, 1, False),
    ],
)
def test_sick_factors_that_are_both_zero_get_no_gradient(
    norms: list[float], gradients: list[float], trained: int, found: bool
) -> None:
    history = run([1.0, 1.0], parameters={"trained": trained}, run=COMPLETED)
    reading(reading(history, "weight_norm", norms), "grad_norm", gradients)
    finding = bad_initialization(history)
    assert (finding is not None) is found
    if finding is not None:
        assert (finding.severity, finding.onset) == (Severity.ERROR, 0)
        assert "one factor of each product" in finding.remedy


@pytest.mark.parametrize(("planned", "severity"), [(1590, Severity.ERROR), (1620, Severity.NOTE)])
def test_what_may_wait_for_its_turn_is_a_note(planned: int, severity: Severity) -> None:
    history = run([1.0, 1.0], parameters={"trained": 2}, trainer={"planned_steps": planned})
    reading(reading(history, "weight_norm", [0.0] * 3), "grad_norm", [0.0] * 3)
    finding = bad_initialization(history)
    assert finding is not None
    assert finding.severity is severity


class Adapted(DigitsNet):
    """Trains nothing but a change of low rank."""

    def __init__(self, *, drawn: bool) -> None:
        super().__init__()
        self.net.requires_grad_(False)
        self.down = nn.Parameter(0.1 * torch.randn(8, 64) if drawn else torch.zeros(8, 64))
        self.up = nn.Parameter(torch.zeros(10, 8))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        rows = images.flatten(1)
        return nn.functional.cross_entropy(self.net(rows) + rows @ self.down.T @ self.up.T, labels)


@pytest.mark.parametrize("drawn", [False, True])
def test_sick_a_real_adapter_that_begins_at_zero_all_through(tmp_path: Path, drawn: bool) -> None:
    doctor = Doctor(strict=True, select=["LD208"])
    fit(tmp_path, Adapted(drawn=drawn), doctor)
    assert [finding.name for finding in doctor.report.findings] == ([] if drawn else ["bad_initialization"])
