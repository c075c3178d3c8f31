from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rule import Undecided
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


def test_sick_where_nothing_tells_how_the_run_goes_it_is_a_warning() -> None:
    finding = judge(TWICE, skill=None, baseline=None)
    assert finding is not None
    assert finding.severity is Severity.WARNING


def test_sick_a_run_that_does_badly_but_still_improves_has_a_warning() -> None:
    falling = [2.3 - 0.0005 * step for step in range(400)]
    finding = judge(TWICE, losses=falling, baseline=2.3, skill=0.3)
    assert finding is not None
    assert finding.severity is Severity.WARNING


def test_healthy_a_young_run_is_given_time() -> None:
    finding = judge(TWICE, share=0.1)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(("loss", "severity"), [(1.9, "warning"), (1.8, "note")])
def test_without_predictions_the_loss_is_compared_with_the_least_that_it_can_be(loss: float, severity: str) -> None:
    # Of 2.30 down to 1.46 half is at 1.88.
    falling = [loss + 0.3 * (400 - step) / 400 for step in range(400)]
    finding = judge(TWICE, skill=None, losses=[*falling[:200], *[loss] * 200], baseline=2.3026)
    assert finding is not None
    assert (finding.severity.rank > 0) is (severity == "warning")


@pytest.mark.parametrize(("skill", "severity"), [(0.85, "note"), (0.55, "note"), (0.45, "error")])
def test_it_is_a_note_unless_the_run_does_badly(skill: float, severity: str) -> None:
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


def test_sick_a_softmax_given_to_another_within_a_loss_that_is_no_single_one() -> None:
    history = headed({}, skill=None, baseline=None, run=COMPLETED, softmax_twice={"classes": 8})
    del history.facts["loss_head"]
    finding = double_softmax(history)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.evidence["most"] == pytest.approx(math.e / (math.e + 7))


def test_healthy_within_a_loss_that_lost_most_of_its_start_it_is_a_note() -> None:
    losses = [3.0 * 0.98**step + 0.05 for step in range(400)]
    history = headed({}, skill=None, losses=losses, baseline=None, run=COMPLETED, softmax_twice={"classes": 3})
    del history.facts["loss_head"]
    finding = double_softmax(history)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_a_loss_that_cannot_be_read_is_undecided() -> None:
    history = headed({}, skill=None, baseline=None)
    del history.facts["loss_head"]
    with pytest.raises(Undecided, match="loss_head"):
        double_softmax(history)
