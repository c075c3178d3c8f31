from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.double_sigmoid import double_sigmoid
from tests.histories import COMPLETED, HEAD, headed
from tests.runs import LABELS, found

TWICE = {**HEAD, "loss": "bce_with_logits", "activation": "sigmoid", "targets": "binary"}
HIGH = (LABELS >= 5).float()[:, None]


def judge(head: dict[str, Any], **options: Any) -> Finding | None:
    return double_sigmoid(headed(head, **options))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_sick_probabilities_given_to_a_loss_of_logits_are_named(activation: str) -> None:
    layers = [{"layer": "head.1", "class": "Activation", "kind": activation}]
    finding = judge({**TWICE, "activation": activation}, activations=layers)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD302", Severity.ERROR, Confidence.CONFIRMED)
    # What a sigmoid of 0 and of 1 costs.
    assert finding.evidence["floor_negative"] == pytest.approx(0.6931, abs=1e-4)
    assert finding.evidence["floor_positive"] == pytest.approx(0.3133, abs=1e-4)
    assert "`head.1`" in finding.remedy


@pytest.mark.parametrize(("skill", "severity"), [(0.85, "note"), (0.55, "note"), (0.45, "error")])
def test_it_is_a_note_unless_the_run_does_badly(skill: float, severity: str) -> None:
    finding = judge(TWICE, skill=skill, run=COMPLETED)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("left", "severity"), [(0.5, "warning"), (0.02, "note")])
def test_within_a_loss_that_is_no_single_one_it_is_named_unless_the_loss_went_far(left: float, severity: str) -> None:
    losses = [left + (1 - left) * 0.97**step for step in range(400)]
    history = headed({}, skill=None, losses=losses, baseline=None, run=COMPLETED, sigmoid_twice=True)
    del history.facts["loss_head"]
    finding = double_sigmoid(history)
    assert finding is not None
    assert finding.severity == severity
    assert finding.evidence["most"] == pytest.approx(0.7311, abs=1e-4)


def test_a_loss_that_cannot_be_read_is_undecided() -> None:
    history = headed({}, skill=None, baseline=None, sigmoid_twice={"classes": 3})
    del history.facts["loss_head"]
    with pytest.raises(Undecided, match="loss_head"):
        double_sigmoid(history)


@pytest.mark.parametrize(
    "change", [{"activation": None}, {"loss": "bce"}, {"activation": "tanh"}, {"output_max": 8.0}, {"loss": "mse"}]
)
def test_healthy_heads_that_look_like_it_are_silent(change: dict[str, Any]) -> None:
    assert judge({**TWICE, **change}) is None


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.head = nn.Linear(64, 8), nn.Linear(64, 8), nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.value(inputs) * self.gate(inputs).sigmoid())
        return scores


def test_sick_in_a_real_run(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 1), nn.Sigmoid())

    finding = found(tmp_path, "double_sigmoid", net, functional.binary_cross_entropy_with_logits, HIGH)
    assert finding is not None
    assert "Sigmoid `net.1`" in finding.remedy


def test_healthy_a_gate_inside_the_network_is_silent_in_a_real_run(tmp_path: Path) -> None:
    assert found(tmp_path, "double_sigmoid", Gated, functional.binary_cross_entropy_with_logits, HIGH) is None
