from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.summed_loss import summed_loss
from tests.histories import ADAM, COMPLETED, HEAD, SGD, headed, reading
from tests.runs import LABELS, found

SUM = {**HEAD, "reduction": "sum"}
LOST = [10.0, 1e4, 1e12, math.inf, *[math.nan] * 36]


def run(
    losses: Sequence[float] = (50.0,) * 400,
    *,
    limit: float | None = 0.01,
    optimizers: Any = SGD,
    samples: float = 32,
    head: dict[str, Any] = SUM,
    **options: Any,
) -> History:
    history = headed(head, losses=losses, baseline=32.0, optimizers=optimizers, **options)
    reading(history, "batch_size", [samples] * 4)
    reading(history, "learning_rate", [0.1] * 4)
    return history if limit is None else reading(history, "scan_limit", [limit, limit / 20])


def judge(*args: Any, **options: Any) -> Finding | None:
    return summed_loss(run(*args, **options))


@pytest.mark.parametrize("limit", [0.01, None])
def test_sick_a_sum_that_blows_plain_descent_up_is_an_error(limit: float | None) -> None:
    finding = judge(LOST, skill=None, limit=limit)
    assert finding is not None
    assert (finding.code, finding.severity, finding.onset) == ("LD311", Severity.ERROR, 0)
    assert "lr 0.1 is 3.2 of a mean" in finding.summary
    assert "divide lr by 32: 0.0031" in finding.remedy


def test_sick_steps_too_long_by_the_scan_in_a_run_that_does_badly_are_a_warning() -> None:
    finding = judge()
    assert finding is not None
    assert finding.severity is Severity.WARNING


def test_sick_a_loss_that_is_finite_but_far_over_a_constant_is_lost_too() -> None:
    finding = judge([500.0] * 400, limit=None)
    assert finding is not None
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(("limit", "severity"), [(0.0064, "error"), (0.0061, "note")])
def test_room_is_how_much_shorter_the_steps_of_a_mean_must_be_than_those_that_failed(
    limit: float, severity: str
) -> None:
    # A thirty-second of 0.1 is 0.003125, and twice that 0.00625.
    finding = judge(LOST, skill=None, limit=limit)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(
    "options",
    [
        {"skill": 0.9, "run": COMPLETED},
        # Its steps are as long whatever the size of the gradient.
        {"optimizers": ADAM},
        # The rate is small enough for a sum.
        {"limit": 3.0},
        {"limit": None},
    ],
)
def test_healthy_a_sum_that_does_no_harm_is_a_note(options: dict[str, Any]) -> None:
    finding = judge(**options)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(
    "options",
    [
        {"head": HEAD},
        {"head": {**HEAD, "reduction": "unknown"}},
        {"samples": 1},
        # Not read yet: what it is divided by is not known.
        {"head": {**SUM, "target_min": None, "target_max": None}},
    ],
)
def test_healthy_a_mean_and_a_batch_of_one_are_silent(options: dict[str, Any]) -> None:
    assert judge(**options) is None


def summed(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="sum")


def per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="sum") / len(labels)


def test_sick_in_a_real_run_and_healthy_where_the_sum_is_divided(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    finding = found(tmp_path, "summed_loss", net, summed, LABELS, lr=0.5)
    assert finding is not None
    assert finding.severity in (Severity.WARNING, Severity.ERROR)
    assert finding.evidence["samples"] == 32
    assert found(tmp_path, "summed_loss", net, per_sample, LABELS, lr=0.5) is None
