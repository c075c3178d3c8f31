from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rules.squared_error_on_classes import squared_error_on_classes
from tests.histories import COMPLETED, HEAD, headed, reading
from tests.runs import IMAGES, LABELS, found

SHAPE = {"output_shape": [32, 10], "target_shape": [32, 10]}
ONE_HOT = {**HEAD, **SHAPE, "activation": "softmax", "targets": "one_hot", "classes": 10}
BINARY = {**HEAD, "activation": "sigmoid", "targets": "binary", "classes": 2}


def judge(head: dict[str, Any], **options: Any) -> Finding | None:
    return squared_error_on_classes(headed(head, **options))


def test_sick_a_softmax_that_stays_worse_than_a_constant_under_squared_error() -> None:
    finding = judge(ONE_HOT, losses=[0.17] * 400, baseline=0.09)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD303", Severity.WARNING, Confidence.CONFIRMED)
    assert "use `cross_entropy` on the scores before softmax" in finding.remedy


@pytest.mark.parametrize(("loss", "sure"), [(0.0935, False), (0.0955, True)])
def test_worse_is_what_the_loss_must_lie_over_that_of_a_constant_to_be_sure(loss: float, sure: bool) -> None:
    # 0.09 and a twentieth of it are 0.0945.
    finding = judge(ONE_HOT, losses=[loss] * 400, baseline=0.09)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert (finding.confidence is Confidence.CONFIRMED) is sure


def test_sick_one_unit_for_two_classes_is_told_the_binary_loss() -> None:
    finding = judge(BINARY, losses=[0.4] * 400, baseline=0.25)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert "use `binary_cross_entropy_with_logits`" in finding.remedy


def test_healthy_one_sigmoid_that_is_not_sure_of_the_wrong_class_has_most_of_its_gradient() -> None:
    finding = judge(BINARY, losses=[0.251] * 400, baseline=0.25)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(("level", "severity"), [(0.02, "warning"), (0.95, "warning"), (0.2, "note"), (0.6, "note")])
def test_one_sigmoid_that_is_sure_of_one_class_for_all_has_lost_its_gradient(level: float, severity: str) -> None:
    # Of few positives an answer of nothing costs hardly more than the best constant.
    history = headed(BINARY, losses=[0.04] * 400, baseline=0.0384)
    reading(history, "output_level", [0.5, level])
    finding = squared_error_on_classes(history)
    assert finding is not None
    assert finding.severity == severity


def test_sick_an_absolute_error_calls_everything_the_most_frequent_class() -> None:
    finding = judge({**ONE_HOT, "loss": "l1", "activation": None})
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert "an absolute error on the scores" in finding.summary


NUMBERS = {**HEAD, "target_min": 0.0, "target_max": 9.0, "target_mean": 4.5, "target_std": 2.87}
BATCH = {"targets": "y", "leaves": [{"key": "x", "dtype": "float32"}, {"key": "y", "dtype": "int64"}]}


@pytest.mark.parametrize(("skill", "severity"), [(0.92, "warning"), (0.94, "note")])
def test_sick_labels_met_as_numbers_until_most_outputs_round_to_their_class(skill: float, severity: str) -> None:
    # 0.674 · 2.87 · √0.08 = 0.55 and 0.674 · 2.87 · √0.06 = 0.47 are on either side of half a class.
    finding = judge(NUMBERS, skill=skill, batch=BATCH)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (severity, Confidence.SUSPECTED)
    assert "put out 10 scores" in finding.remedy


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        ({}, "float32"),
        # Counts crowd about their mean.
        ({"target_std": 1.9}, "int64"),
        ({"target_min": 1.0}, "int64"),
        ({"target_max": 960.0, "target_std": 290.0}, "int64"),
        # Divided by something.
        ({"target_max": 2.5, "target_std": 0.8}, "int64"),
        ({"loss": "poisson"}, "int64"),
        ({"output_shape": [32, 4]}, "int64"),
    ],
)
def test_healthy_amounts_are_no_class_numbers(change: dict[str, Any], dtype: str) -> None:
    batch = {"targets": "y", "leaves": [{"key": "y", "dtype": dtype}]}
    assert judge({**NUMBERS, **change}, batch=batch) is None


def test_healthy_a_young_run_on_class_numbers_has_a_note() -> None:
    finding = judge(NUMBERS, share=0.3, batch=BATCH)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_where_the_classes_are_found_all_the_same_it_is_a_note() -> None:
    finding = judge(ONE_HOT, skill=0.9, losses=[0.01] * 400, baseline=0.09, run=COMPLETED)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_a_linear_output_does_not_get_stuck_and_is_a_note() -> None:
    finding = judge({**ONE_HOT, "activation": None})
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(
    "change",
    [
        {"targets": "real"},
        # Pictures of black and white, and tags.
        {"targets": "binary"},
        {"loss": "cross_entropy"},
        # Its loss cannot move at all, for another reason.
        {"targets": "binary", "output_shape": [32, 1], "target_shape": [32, 1]},
    ],
)
def test_healthy_heads_that_look_like_it_are_silent(change: dict[str, Any]) -> None:
    assert judge({**ONE_HOT, **change}) is None


def sure_and_wrong() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 10), nn.Softmax(1))
    with torch.no_grad():
        # The first class wins by far, whatever the picture.
        net[0].bias[0] = 60.0  # type: ignore[operator]
    return net


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(outputs, functional.one_hot(labels, 10).float())


def test_sick_in_a_real_run_that_begins_sure_and_wrong(tmp_path: Path) -> None:
    finding = found(tmp_path, "squared_error_on_classes", sure_and_wrong, squared, LABELS, max_epochs=4)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.CONFIRMED)
    assert finding.evidence["skill"] < 0.1  # type: ignore[operator]


def test_healthy_an_autoencoder_of_binary_pixels_is_silent_in_a_real_run(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid())

    pixels = (IMAGES > 0.5).float()
    assert found(tmp_path, "squared_error_on_classes", net, functional.mse_loss, pixels, inputs=pixels) is None


def test_sick_in_a_real_run_on_labels_as_numbers(tmp_path: Path) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(outputs[:, 0], labels.float())

    finding = found(tmp_path, "squared_error_on_classes", lambda: nn.Linear(64, 1), loss, LABELS, lr=0.01)
    assert finding is not None
    assert finding.evidence["classes"] == 10
