from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_doctor import Doctor
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.frozen_parameters import frozen_parameters
from tests.histories import COMPLETED, decay, history_of, noisy, reading
from tests.runs import DigitsNet, fit

FLAT = noisy([2.3] * 200, 0.02)
NAMES = ["trunk.weight", "trunk.bias", "middle.weight", "middle.bias", "head.weight", "head.bias"]


def run(
    *,
    skill: float | None = 0.0,
    steps: int = 9,
    dead: Sequence[float] = (),
    losses: Sequence[float] = FLAT,
    **lists: Any,
) -> History:
    table: dict[str, Any] = {
        "tensors": 6,
        "trained": 6,
        "steps": steps,
        "last_layer": {"name": "head", "trained": True},
        **lists,
    }
    table["counts"] = {key: len(names) for key, names in lists.items() if isinstance(names, list)}
    history = history_of(losses, parameters=table, run=COMPLETED)
    reading(history, "dead_share/act", dead)
    return history if skill is None else reading(history, "skill", [skill] * 20)


def judge(**lists: Any) -> Finding | None:
    return frozen_parameters(run(**lists))


def test_sick_an_optimizer_that_holds_nothing_trainable_is_an_error() -> None:
    finding = judge(trained=0, frozen=["trunk.weight", "head.weight", "head.bias"], not_in_optimizer=["middle.weight"])
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD207", Severity.ERROR, "confirmed")
    assert finding.onset == 0
    assert "nothing is trained" in finding.summary
    assert "`head.requires_grad_(True)`" in finding.remedy


def test_sick_an_optimizer_of_nothing_is_told_what_to_be_given() -> None:
    finding = judge(trained=0, not_in_optimizer=["trunk.weight", "head.weight"])
    assert finding is not None
    assert "give trunk.weight, head.weight to the optimizer" in finding.remedy


def test_healthy_everything_is_trained() -> None:
    assert judge() is None
    assert judge(frozen=[], not_in_optimizer=[], no_gradient=[], zero_gradient=[], unchanged=[]) is None


@pytest.mark.parametrize(("skill", "severity"), [(0.9, Severity.NOTE), (0.1, Severity.WARNING)])
def test_parameters_in_no_optimizer_are_a_note_until_harm_shows(skill: float, severity: Severity) -> None:
    finding = judge(not_in_optimizer=["middle.weight", "middle.bias"], skill=skill)
    assert finding is not None
    assert finding.severity is severity
    assert "middle.weight, middle.bias" in finding.summary
    assert "`requires_grad_(False)`" in finding.remedy


@pytest.mark.parametrize(
    ("skill", "steps", "severity"),
    [(None, 3, Severity.WARNING), (0.6, 3, Severity.WARNING), (0.9, 3, Severity.NOTE), (None, 2, Severity.NOTE)],
)
def test_random_weights_that_get_gradients_wait_for_an_optimizer(
    skill: float | None, steps: int, severity: Severity
) -> None:
    lists = {"not_in_optimizer": ["middle.weight", "middle.bias"], "as_drawn": ["middle.weight"]}
    finding = judge(**lists, skill=skill, steps=steps)
    assert finding is not None
    assert finding.severity is severity
    assert ("the weights of middle.weight look as they were drawn" in finding.summary) is (steps == 3)
    assert (finding.confidence is Confidence.SUSPECTED) is (steps == 3)


@pytest.mark.parametrize(("skill", "severity"), [(0.9, Severity.NOTE), (0.1, Severity.WARNING)])
def test_parameters_that_the_module_does_not_know_are_a_note_until_harm_shows(skill: float, severity: Severity) -> None:
    finding = judge(unregistered=["hidden[0].weight", "hidden[0].bias"], skill=skill)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (severity, "confirmed")
    assert "no optimizer trains" in finding.summary
    assert "register hidden[0].weight, hidden[0].bias" in finding.remedy


@pytest.mark.parametrize(("skill", "severity"), [(0.9, Severity.NOTE), (0.1, Severity.WARNING)])
def test_parameters_that_never_get_a_gradient_are_a_note_until_harm_shows(skill: float, severity: Severity) -> None:
    finding = judge(no_gradient=["trunk.weight", "trunk.bias"], skill=skill)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (severity, "confirmed")
    assert ".detach()" in finding.remedy


@pytest.mark.parametrize(
    ("skill", "share", "severity"),
    [
        (None, 1.0, Severity.WARNING),
        (None, 0.8, Severity.WARNING),
        # It may have its turn later.
        (None, 0.6, None),
        (0.9, 1.0, Severity.NOTE),
    ],
)
def test_sick_an_optimizer_that_is_never_stepped(skill: float | None, share: float, severity: Severity | None) -> None:
    history = run(unstepped=["table.weight"], skill=skill)
    if share < 1:
        history.facts["run"] = {}
        history.facts["trainer"] = {"planned_steps": round((history.last_step + 1) / share)}
    finding = frozen_parameters(history)
    assert (None if finding is None else finding.severity) is severity
    if finding is not None:
        assert finding.summary.startswith("an optimizer has never been stepped: 1 parameter tensors are as they were")
        assert "call `.step()` on the optimizer of table.weight" in finding.remedy
        assert finding.confidence is Confidence.SUSPECTED


def test_sick_the_only_optimizer_is_never_stepped() -> None:
    finding = judge(unstepped=NAMES, skill=None)
    assert finding is not None
    assert finding.summary.startswith("the optimizer has never been stepped: 6 parameter tensors")
    assert finding.confidence is Confidence.CONFIRMED
    assert judge(unstepped=NAMES, skill=None, losses=FLAT[:90]) is None


@pytest.mark.parametrize(
    ("idle", "skill", "share", "moved", "severity"),
    [
        ([], None, 1.0, False, Severity.NOTE),
        ([1], None, 1.0, False, Severity.WARNING),
        ([1], None, 0.5, False, Severity.WARNING),
        # It may join later; its parameters may be stepped during the backward pass.
        ([1], None, 0.3, False, Severity.NOTE),
        ([1], None, 1.0, True, Severity.NOTE),
        ([1], 0.9, 1.0, False, Severity.NOTE),
    ],
)
def test_sick_an_optimizer_that_steps_in_vain_needs_no_harm_to_show(
    idle: list[int], skill: float | None, share: float, moved: bool, severity: Severity
) -> None:
    names = ["trunk.weight", "trunk.bias"]
    history = run(no_gradient=names, unchanged=[] if moved else names, idle_optimizers=idle, skill=skill)
    if share < 1:
        history.facts["run"] = {}
        history.facts["trainer"] = {"planned_steps": round((history.last_step + 1) / share)}
    finding = frozen_parameters(history)
    assert finding is not None
    assert finding.severity is severity
    assert ("optimizer 1 has stepped without any gradient so far" in finding.summary) is bool(idle)


@pytest.mark.parametrize(
    ("trained", "losses", "severity"),
    [
        (3, FLAT, Severity.WARNING),
        # A head that stays one of many, and features that were meant to be taken as they are.
        (4, FLAT, Severity.NOTE),
        (3, decay(2.3, 0.2, 40, 200), Severity.NOTE),
    ],
)
def test_sick_most_of_what_an_optimizer_holds_gets_no_gradient_in_a_run_that_nothing_but_its_loss_tells_of(
    trained: int, losses: list[float], severity: Severity
) -> None:
    names = ["trunk.weight", "trunk.bias"]
    finding = judge(no_gradient=names, unchanged=names, trained=trained, losses=losses, skill=None)
    assert finding is not None
    assert finding.severity is severity


@pytest.mark.parametrize(("steps", "found"), [(2, False), (3, True)])
def test_three_looks_must_agree_that_there_is_no_gradient(steps: int, found: bool) -> None:
    assert (judge(no_gradient=["trunk.weight"], steps=steps) is not None) is found


def test_sick_a_gradient_of_nothing_but_zeros_has_met_something_without_slope() -> None:
    finding = judge(zero_gradient=["trunk.weight", "trunk.bias"], unchanged=["trunk.weight", "trunk.bias"])
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, "suspected")
    assert "rounding" in finding.remedy


def test_a_gradient_that_dead_units_cut_off_is_their_illness() -> None:
    assert judge(zero_gradient=["trunk.weight"], unchanged=["trunk.weight"], dead=[1.0]) is None


def test_a_gradient_that_is_zero_at_the_output_already_is_the_illness_of_the_output() -> None:
    assert judge(zero_gradient=NAMES, unchanged=NAMES) is None


def test_sick_steps_that_are_rounded_away() -> None:
    finding = judge(unchanged=["middle.weight"])
    assert finding is not None
    assert "rounded away" in finding.remedy


@pytest.mark.parametrize(
    ("kind", "constant", "stuck"), [("recurrent", 0.9, True), ("recurrent", 0.4, False), ("linear", 0.9, False)]
)
def test_weights_of_gates_that_put_out_the_same_for_every_input_are_not_held_back_by_rounding(
    kind: str, constant: float, stuck: bool
) -> None:
    # A linear layer may put out the same for being unchanged: its weights may have begun at zero.
    history = run(unchanged=["gates.weight_hh_l0", "gates.bias_ih_l0"])
    history.facts["activations"] = [{"layer": "gates", "class": "LSTM", "kind": kind}]
    reading(history, "constant_share/gates", [constant] * 3)
    assert (frozen_parameters(history) is None) is stuck


def test_sick_a_group_without_a_learning_rate() -> None:
    finding = judge(zero_learning_rate=["head.weight", "head.bias"])
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert "give head.weight, head.bias a learning rate" in finding.remedy


def test_healthy_a_frozen_trunk_whose_head_learns_is_silent() -> None:
    assert judge(frozen=NAMES[:4], frozen_share=0.95, skill=0.9) is None


@pytest.mark.parametrize(("share", "found"), [(0.89, False), (0.91, True)])
def test_a_frozen_trunk_in_a_run_that_does_badly_is_a_note(share: float, found: bool) -> None:
    finding = judge(frozen=NAMES[:4], frozen_share=share)
    assert (finding is not None) is found
    if finding is not None:
        assert finding.severity is Severity.NOTE


def test_sick_a_frozen_head_in_a_run_that_does_badly_is_a_warning() -> None:
    finding = judge(frozen=NAMES[4:], frozen_share=0.1)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, "suspected")
    assert "the last layer, head, is frozen" in finding.summary


def test_healthy_a_frozen_head_in_a_run_that_learns_around_it_is_silent() -> None:
    assert judge(frozen=NAMES[4:], frozen_share=0.1, skill=0.9) is None


def test_many_names_are_cut_short() -> None:
    names = [f"block{i}.weight" for i in range(50)]
    finding = judge(no_gradient=names)
    assert finding is not None
    assert "50 parameter tensors" in finding.summary
    assert "block0.weight, block1.weight, block2.weight … block49.weight (50 in all)" in finding.summary


def test_without_the_fact_it_is_unassessed() -> None:
    assert "parameters" in str(frozen_parameters.lacks(history_of(FLAT)))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.trunk(images).detach().relu())
        return scores


class OnlySome(DigitsNet):
    """Gives its optimizer only these of its parameters."""

    chosen: Callable[[nn.Module], Any]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.chosen(self.net), lr=0.1)


def frozen_head() -> DigitsNet:
    module = OnlySome()
    module.chosen = lambda net: net[2].parameters()
    module.net[2].requires_grad_(False)
    return module


def detached() -> DigitsNet:
    module = DigitsNet()
    module.net = Detached()
    return module


def test_sick_a_real_optimizer_that_is_given_only_what_is_frozen_is_found_at_once(tmp_path: Path) -> None:
    doctor = Doctor(strict=True, select=["LD207"])
    fit(tmp_path, frozen_head(), doctor)
    (finding,) = doctor.report.findings
    assert (finding.severity, finding.step < 5) == (Severity.ERROR, True)
    assert "`net.2.requires_grad_(True)`" in finding.remedy


def test_sick_a_real_detach_is_found(tmp_path: Path) -> None:
    doctor = Doctor(strict=True, select=["LD207"])
    fit(tmp_path, detached(), doctor)
    (finding,) = doctor.report.findings
    assert "net.trunk.weight, net.trunk.bias" in finding.summary


def test_healthy_a_real_frozen_trunk_under_a_head_that_learns_is_well(tmp_path: Path) -> None:
    module = DigitsNet()
    module.net[0].requires_grad_(False)
    doctor = Doctor(strict=True, select=["LD207"])
    # By then a head on random features has learned most of it.
    fit(tmp_path, module, doctor, max_epochs=80)
    assert (doctor.report.findings, doctor.report.healthy) == ([], ["LD207"])


class Anew(DigitsNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return torch.tensor(float(super().training_step(batch, batch_idx)), requires_grad=True)


class Rounded(DigitsNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        return (self.net(images).round()[:, 0] - labels).square().mean()


@pytest.mark.parametrize(
    ("module", "summary", "remedy"),
    [
        (Anew, "the loss depends on no parameter that an optimizer holds", "torch.tensor(loss)"),
        (Rounded, "leads through `round`, whose derivative is zero", "what goes into `round`"),
    ],
)
def test_sick_a_real_loss_without_a_slope_is_found(
    tmp_path: Path, module: type[DigitsNet], summary: str, remedy: str
) -> None:
    doctor = Doctor(strict=True, select=["LD207", "LD105"])
    fit(tmp_path, module(), doctor, max_epochs=20)
    first, *symptoms = doctor.report.findings
    assert (first.code, first.severity, first.step < 5) == ("LD207", Severity.ERROR, True)
    assert summary in first.summary
    assert remedy in first.remedy
    assert all(finding.explained_by == "LD207" for finding in symptoms)


class Checkpointed(DigitsNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        logits = checkpoint(self.net, images.requires_grad_(), use_reentrant=True)
        return nn.functional.cross_entropy(logits, labels)


def test_healthy_a_real_model_whose_parameters_a_checkpoint_hides(tmp_path: Path) -> None:
    doctor = Doctor(strict=True, select=["LD207"])
    fit(tmp_path, Checkpointed(), doctor, max_epochs=8)
    assert (doctor.report.findings, doctor.report.healthy) == ([], ["LD207"])


@pytest.mark.parametrize(("share", "ill"), [(1.0, False), (0.5, True)])
def test_what_a_saturated_layer_lets_through_is_no_matter_of_freezing(share: float, ill: bool) -> None:
    history = run(zero_gradient=["trunk.weight", "trunk.bias"])
    assert (frozen_parameters(reading(history, "saturated_share/act", [share] * 5)) is not None) is ill


@pytest.mark.parametrize(
    ("gradients", "lists", "losses", "ill"),
    [
        ({}, {}, 3, True),
        # One loss without a slope may be the first of many with one.
        ({}, {}, 2, False),
        # A checkpoint hides parameters from the graph; of several optimizers each has a series of its own.
        ({"grad_norm/optimizer1": [0.0, 1.0]}, {}, 3, False),
        # Another network was given to the optimizer: that is told instead.
        ({}, {"not_in_optimizer": ["trunk.weight"]}, 3, True),
    ],
)
def test_a_loss_without_a_slope_is_told_where_nothing_says_otherwise(
    gradients: dict[str, Sequence[float]], lists: dict[str, Any], losses: int, ill: bool
) -> None:
    history = run(obstacle="", obstructed_losses=losses, **lists)
    for name, values in gradients.items():
        reading(history, name, values)
    finding = frozen_parameters(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert ("depends on no parameter" in finding.summary) is not bool(lists)


@pytest.mark.parametrize(("names", "automatic", "told"), [(4, False, True), (3, False, False), (4, True, False)])
def test_gradients_that_are_all_gone_by_hand_were_set_to_zero_too_late(names: int, automatic: bool, told: bool) -> None:
    history = run(no_gradient=[f"part{index}.weight" for index in range(names)], trained=4)
    history.facts["trainer"] = {"automatic_optimization": automatic}
    finding = frozen_parameters(history)
    assert finding is not None
    assert ("call `zero_grad` before `manual_backward`" in finding.remedy) is told


@pytest.mark.parametrize(("share", "found"), [(0.49, False), (0.51, True)])
def test_sick_a_frozen_trunk_that_looks_as_it_was_drawn_is_a_warning(share: float, found: bool) -> None:
    finding = judge(frozen=NAMES[:4], frozen_as_drawn=["trunk.weight"], frozen_share=0.8, frozen_as_drawn_share=share)
    assert (finding is not None) is found
    if finding is not None:
        assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
        assert "nothing seems to have trained them" in finding.summary
        assert finding.remedy.startswith("load the weights that were meant to be kept")


def test_healthy_a_random_trunk_whose_head_learns_is_silent() -> None:
    assert judge(frozen=NAMES[:4], frozen_share=0.95, frozen_as_drawn_share=0.9, skill=0.9) is None


@pytest.mark.parametrize("other", ["longer steps", "a loss that came far"])
def test_healthy_a_random_trunk_is_not_what_holds_a_run_back_that_gets_on(other: str) -> None:
    losses = decay(2.3, 0.2, 60, 200) if other == "a loss that came far" else FLAT
    history = run(losses=losses, frozen=NAMES[:4], frozen_share=0.8, frozen_as_drawn_share=0.8)
    if other == "longer steps":
        for step in range(100, 200, 10):
            history.record("scan/1", step, -0.001)
            history.record("scan/16", step, -0.015)
    assert frozen_parameters(history) is None
