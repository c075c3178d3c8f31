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
from lightning_doctor.rules.dead_units import dead_units
from tests.histories import ADAM, COMPLETED, history_of, noisy, reading
from tests.runs import DigitsNet, fit

FLAT = noisy([2.3] * 400, 0.02)


def layer(name: str, kind: str, last: bool = False) -> dict[str, Any]:
    return {"layer": name, "class": {"relu": "ReLU"}.get(kind, "Linear"), "kind": kind, "units": 64, "last": last}


STACK = [layer("one", "linear"), layer("act", "relu"), layer("two", "linear", last=True)]
RELU_OUTPUT = [*STACK[:2], layer("two", "linear"), layer("out", "relu", last=True)]


def run(
    shares: Sequence[float],
    *,
    skill: float = 0.0,
    of: str = "act",
    gradient: float = 1.0,
    activations: Sequence[dict[str, Any]] = STACK,
    **facts: Any,
) -> History:
    """A run of 400 steps whose layer had these shares of dead units."""
    history = history_of(FLAT, activations=list(activations), optimizers=ADAM, **facts)
    every = 390 // max(1, len(shares) - 1)
    reading(history, "skill", [skill] * 40)
    reading(history, f"dead_share/{of}", shares, every)
    for name in ("mean", "std"):
        reading(history, f"activation_{name}/{of}", [float(share < 1) for share in shares], every)
    reading(history, "grad_norm/one", [0.0 if share == 1 else gradient for share in shares], every)
    return reading(history, "grad_norm/two", [float(of != "out" or share < 1) for share in shares], every)


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return dead_units(run(*args, **kwargs))


def test_sick_a_layer_that_died_early_cuts_off_what_comes_before_it_and_is_an_error() -> None:
    finding = judge([0.1, 0.8, 1, 1, 1])
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD204", Severity.ERROR, "confirmed")
    # By the look at step 97 most were dead.
    assert finding.onset == 97
    assert "every unit of act is zero for every sample since step 194" in finding.summary
    assert "lower lr from 0.003 to 0.0003" in finding.remedy
    assert "LeakyReLU" in finding.remedy


def test_a_layer_half_of_which_was_dead_all_along_began_to_die_where_the_rest_did() -> None:
    finding = judge([0.55] * 7 + [1] * 4)
    assert finding is not None
    assert finding.onset == 273


def test_sick_a_layer_that_was_never_on_is_told_to_be_initialised() -> None:
    finding = judge([1, 1, 1])
    assert finding is not None
    assert finding.onset == 0
    assert "kaiming_normal_" in finding.remedy
    assert "lower lr" not in finding.remedy


def test_sick_a_dead_output_is_named_apart() -> None:
    finding = judge([1, 1, 1], of="out", activations=RELU_OUTPUT)
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert "every output of out, the last layer, is zero" in finding.summary
    assert finding.remedy.startswith("take ReLU out off the output")


@pytest.mark.parametrize(
    ("of", "before", "after", "ill"),
    [
        pytest.param("out", 1.0, 0.0, False, id="margins that are kept"),
        pytest.param("act", 1.0, 0.0, True, id="a hidden layer"),
        pytest.param("out", 1.0, 1.0, True, id="the loss is there"),
        pytest.param("out", -1.0, 0.0, True, id="a score to be raised"),
        pytest.param("out", 0.0, 0.0, True, id="never a loss"),
    ],
)
def test_healthy_an_output_of_zero_is_wanted_where_the_loss_is_gone(
    of: str, before: float, after: float, ill: bool
) -> None:
    history = run([0.1, 0.5, 1, 1, 1], of=of, activations=RELU_OUTPUT)
    losses = history["train_loss"]
    losses.values = [after if step > 150 else before for step in losses.steps]
    assert (dead_units(history) is not None) is ill


def test_sick_the_output_of_a_whole_small_data_set_needs_no_probe_of_64_samples() -> None:
    history = run([1, 1, 1], data={"batch_size": 7}, trainer={"batches_per_epoch": 1})
    history._series.pop("dead_share/act")
    assert dead_units(history) is not None
    # The same seven rows of many more say little.
    history.facts["trainer"] = {"batches_per_epoch": 50}
    assert dead_units(history) is None


def test_healthy_a_layer_with_a_way_around_it_may_rest() -> None:
    history = run([1, 1, 1])
    history.record("grad_norm/one", 399, 0.5)
    finding = dead_units(history)
    assert finding is not None
    assert finding.severity is not Severity.ERROR
    assert "100% of the units" in finding.summary


def test_a_whole_layer_in_a_run_that_does_well_is_a_note() -> None:
    finding = judge([1, 1, 1], skill=0.95)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(("share", "found"), [(0.49, False), (0.51, True)])
def test_half_of_the_units_are_enough_to_tell_in_a_run_that_does_badly(share: float, found: bool) -> None:
    finding = judge([0.1, 0.3, share], skill=0.2, run=COMPLETED)
    assert (finding is not None) is found
    if finding is not None:
        assert (finding.severity, finding.confidence) == (Severity.WARNING, "suspected")
        assert finding.evidence["dead_at_first"] == 0.1


@pytest.mark.parametrize(("share", "severity"), [(0.79, Severity.NOTE), (0.81, Severity.WARNING)])
def test_healthy_while_some_units_are_left_the_run_is_given_half_of_its_time(share: float, severity: Severity) -> None:
    finding = judge([0.1, 0.5, share], skill=0.2, trainer={"planned_steps": 1000})
    assert finding is not None
    assert finding.severity is severity


@pytest.mark.parametrize(("share", "severity"), [(0.79, Severity.NOTE), (0.81, Severity.WARNING)])
def test_where_nothing_is_learned_units_that_are_left_show_that_the_dead_ones_are_not_why(
    share: float, severity: Severity
) -> None:
    finding = judge([0.1, 0.5, share], skill=0.0, run=COMPLETED)
    assert finding is not None
    assert finding.severity is severity


@pytest.mark.parametrize(("loss", "found"), [(2.3, True), (1.2, False)])
def test_units_that_were_dead_before_the_run_came_far_are_not_known_to_be_now(loss: float, found: bool) -> None:
    history = run([0.2, 0.3, 0.8], run=COMPLETED)
    series = history["dead_share/act"]
    series.steps[:] = [1, 7, 31]
    losses = history["train_loss"]
    losses.values = [2.3 if step < 40 else loss for step in losses.steps]
    assert (dead_units(history) is not None) is found


def test_healthy_half_of_the_units_dead_in_a_run_that_does_well_is_a_note() -> None:
    finding = judge([0.5, 0.5, 0.5], skill=0.9, run=COMPLETED)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_sparse_but_alive_is_silent() -> None:
    assert judge([0.1, 0.1, 0.12, 0.12]) is None
    assert judge([0.1, 0.1, 0.12, 0.12], run=COMPLETED) is None


def test_healthy_a_network_without_relu_has_no_dead_units() -> None:
    assert judge([0.0, 0.0, 0.0], activations=[layer("one", "linear"), layer("two", "linear", last=True)]) is None


def net(bias: float = 0.0, last: nn.Module | None = None) -> DigitsNet:
    module = DigitsNet()
    nn.init.constant_(module.net[0].bias, bias)
    if last is not None:
        module.net.append(last)
        with torch.no_grad():
            # Images are not negative: all sums are.
            module.net[2].bias.fill_(-50.0)
    return module


@pytest.mark.parametrize(
    ("module", "layer"), [(net(bias=-50.0), "net.1"), (net(last=nn.ReLU()), "net.3")], ids=["hidden", "output"]
)
def test_sick_a_real_network_with_a_dead_layer_is_found_in_its_first_steps(
    tmp_path: Path, module: DigitsNet, layer: str
) -> None:
    doctor = Doctor(strict=True, select=["LD204"])
    fit(tmp_path, module, doctor)
    (finding,) = doctor.report.findings
    assert (finding.severity, finding.evidence["layer"], finding.onset) == (Severity.ERROR, layer, 0)
    assert finding.step < 10


def test_healthy_a_real_network_of_the_same_shape_is_well(tmp_path: Path) -> None:
    doctor = Doctor(strict=True, select=["LD204"])
    fit(tmp_path, net(), doctor)
    assert (doctor.report.findings, doctor.report.healthy) == ([], ["LD204"])
