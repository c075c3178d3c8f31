from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rules.double_softmax import double_softmax
from tests.histories import COMPLETED, LOGITS, headed
from tests.runs import LABELS, found

TWICE = {**LOGITS, "activation": "softmax", "output_min": 0.01, "output_max": 0.9}


def judge(head: dict[str, Any], **options: Any) -> Finding | None:
    return double_softmax(headed(head, **options))


def test_sick_a_softmax_before_cross_entropy_is_named_with_the_floor_of_its_loss() -> None:
    layers = [
        {"layer": "attention.3", "class": "Softmax", "kind": "softmax"},
        {"layer": "net.2", "class": "Softmax", "kind": "softmax"},
        {"layer": "drop", "class": "Dropout", "kind": "dropout"},
    ]
    finding = judge(TWICE, activations=layers)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD301", Severity.ERROR, Confidence.CONFIRMED)
    assert finding.onset == 0
    # −ln softmax of a score of 1 among nine zeros.
    assert finding.evidence["floor"] == pytest.approx(-math.log(math.e / (math.e + 9)))
    assert "Softmax `net.2`" in finding.remedy


def test_sick_before_it_can_be_told_how_the_run_goes_it_is_a_warning() -> None:
    finding = judge(TWICE, skill=None, baseline=None, share=0.01)
    assert finding is not None
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(("skill", "severity"), [(0.85, "note"), (0.75, "warning"), (0.4, "error")])
def test_how_bad_it_is_depends_on_how_well_the_run_does(skill: float, severity: str) -> None:
    finding = judge(TWICE, skill=skill, run=COMPLETED)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(
    "change",
    [
        {"activation": None},
        # Log-softmax of a log-softmax is itself.
        {"activation": "log_softmax", "output_min": -9.0, "output_max": 0.0},
        {"loss": "nll"},
        # By hand the logarithm is taken of the softmax itself.
        {"written_by_hand": True},
        # Scaled up after the softmax.
        {"output_max": 20.0},
        # Softmax over one unit is another illness.
        {"output_shape": [32, 1], "output_min": 1.0, "output_max": 1.0},
    ],
)
def test_healthy_heads_that_look_like_it_are_silent(change: dict[str, Any]) -> None:
    assert judge({**TWICE, **change}) is None


def test_sick_in_a_real_run_of_a_function(tmp_path: Path) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.softmax(1), labels)

    finding = found(tmp_path, "double_softmax", lambda: nn.Linear(64, 10), loss, LABELS)
    assert finding is not None
    assert finding.evidence["classes"] == 10


def test_healthy_in_a_real_run_with_the_logarithm_of_a_softmax(tmp_path: Path) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.nll_loss(outputs.softmax(1).log(), labels)

    assert found(tmp_path, "double_softmax", lambda: nn.Linear(64, 10), loss, LABELS) is None
