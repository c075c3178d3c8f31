from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.broadcast_targets import broadcast_targets
from tests.histories import COMPLETED, HEAD, headed
from tests.runs import LABELS, found

SLIP = {**HEAD, "broadcast": True, "target_shape": [32]}
REAL = LABELS.float() / 3


def judge(head: dict[str, Any], **options: Any) -> Finding | None:
    return broadcast_targets(headed(head, **options))


def test_sick_a_column_less_a_row_compares_all_with_all() -> None:
    finding = judge(SLIP)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD305", Severity.ERROR, Confidence.CONFIRMED)
    assert "output of shape [32, 1]" in finding.summary
    assert "`targets.reshape(-1, 1)`" in finding.remedy


def test_sick_the_other_way_round_the_output_is_to_be_reshaped() -> None:
    finding = judge({**SLIP, "output_shape": [32], "target_shape": [32, 1]})
    assert finding is not None
    assert "`outputs.reshape(-1, 1)`" in finding.remedy


@pytest.mark.parametrize(("shape", "ill"), [([32, 1], True), ([32], True), ([32, 8], False), ([32, 1, 4], False)])
def test_where_the_targets_shape_is_not_known_one_number_a_sample_is_taken_for_a_slip(
    shape: list[int], ill: bool
) -> None:
    assert (judge({**SLIP, "output_shape": shape, "target_shape": None}) is not None) is ill


def test_healthy_a_run_that_does_well_in_spite_of_it_has_a_note() -> None:
    finding = judge(SLIP, skill=0.9, run=COMPLETED)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(
    ("terms", "found"),
    [
        ([{"output_shape": [32, 4], "target_shape": [32, 4]}, {"output_shape": [32, 1], "target_shape": [32]}], True),
        ([{"output_shape": [32, 1], "target_shape": [32, 5]}], False),
        ([{"output_shape": [32, 1], "target_shape": None}], False),
        ([{"output_shape": [32, 1, 4], "target_shape": [1, 32, 4]}], False),
    ],
)
def test_sick_one_term_of_several_may_be_the_slip(terms: list[dict[str, Any]], found: bool) -> None:
    history = headed({}, broadcast_terms=terms)
    assert (broadcast_targets(history) is not None) is found


def test_without_a_loss_that_could_be_read_nothing_is_said() -> None:
    history = headed({})
    history.lack(["loss_head"], "2 optimizers: no single loss has to fall")
    with pytest.raises(Undecided, match="2 optimizers"):
        broadcast_targets(history)


@pytest.mark.parametrize(
    "change",
    [
        {"broadcast": False},
        # One prediction for several raters.
        {"target_shape": [32, 5]},
        # All with all on purpose: a[:, None] - b[None].
        {"output_shape": [32, 1, 4], "target_shape": [1, 32, 4]},
    ],
)
def test_healthy_shapes_that_are_meant_are_silent(change: dict[str, Any]) -> None:
    assert judge({**SLIP, **change}) is None


def by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def pinball(outputs: Tensor, targets: Tensor) -> Tensor:
    errors = targets - outputs
    return torch.maximum(0.9 * errors, -0.1 * errors).mean()


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loss", [functional.mse_loss, by_hand, pinball])
def test_sick_in_a_real_run_and_healthy_once_reshaped(tmp_path: Path, loss: Any) -> None:
    finding = found(tmp_path, "broadcast_targets", lambda: nn.Linear(64, 1), loss, REAL, lr=0.01)
    assert finding is not None
    assert "[32, 1] is compared with targets of shape [32]" in finding.summary
    assert found(tmp_path, "broadcast_targets", lambda: nn.Linear(64, 1), loss, REAL[:, None], lr=0.01) is None


def test_sick_quantiles_that_are_added_up(tmp_path: Path) -> None:
    def quantiles(outputs: Tensor, targets: Tensor) -> Tensor:
        return pinball(outputs[:, :1], targets) + pinball(outputs[:, 1:], targets)

    finding = found(tmp_path, "broadcast_targets", lambda: nn.Linear(64, 2), quantiles, REAL, lr=0.01)
    assert finding is not None
    assert "[32, 1] is compared with targets of shape [32]" in finding.summary
