from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.linear_stack import linear_stack
from tests.histories import COMPLETED, HEAD, headed
from tests.runs import IMAGES, LABELS, found

CROSSED = (LABELS % 2).float()[:, None]


def linear(name: str, features: int, units: int, fed_by: str | None) -> dict[str, Any]:
    size = {"features": features, "units": units, "fed_by": fed_by}
    return {"layer": name, "class": "Linear", "kind": "linear", "last": False, **size}


def relu(name: str) -> dict[str, Any]:
    return {"layer": name, "class": "ReLU", "kind": "relu", "units": 8, "last": False}


LINEAR = [linear("a", 2, 8, ""), linear("b", 8, 1, "a")]


def judge(layers: list[dict[str, Any]], head: dict[str, Any] = HEAD, **options: Any) -> Finding | None:
    return linear_stack(headed(head, activations=layers, **options))


def test_sick_a_network_without_an_activation_that_does_badly_is_a_linear_model() -> None:
    finding = judge(LINEAR)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD306", Severity.WARNING, Confidence.CONFIRMED)
    assert finding.onset == 0
    assert "the whole network is one linear model" in finding.summary
    assert finding.remedy == "put an activation (`nn.ReLU()`) after a"


def test_sick_a_loss_far_over_a_constants_has_another_cause_as_well_and_it_is_only_suspected() -> None:
    finding = judge(LINEAR, skill=-3.0, losses=[4.0] * 400)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)


def test_sick_activations_behind_the_last_layer_make_it_no_less_linear() -> None:
    finding = judge([*LINEAR, {"layer": "s", "class": "Sigmoid", "kind": "sigmoid", "units": 1, "last": True}])
    assert finding is not None
    assert finding.severity is Severity.WARNING


def autoencoder(*units: int) -> list[dict[str, Any]]:
    return [linear(str(i), a, b, str(i - 1) if i else "") for i, (a, b) in enumerate(pairwise(units))]


@pytest.mark.parametrize("units", [(64, 8, 64), (64, 16, 4, 16, 64), (8, 8, 8, 8)])
def test_healthy_linear_autoencoder_is_nowhere_wider_than_its_ends(units: tuple[int, ...]) -> None:
    assert judge(autoencoder(*units), {**HEAD, "output_shape": [32, 64]}) is None


def test_sick_autoencoder_with_wider_layers_lacks_activations() -> None:
    finding = judge(autoencoder(32, 96, 96, 2, 96, 96, 32), {**HEAD, "output_shape": [32, 32]})
    assert finding is not None
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(("better", "severity"), [("linear", "note"), ("shallow", "warning")])
def test_where_a_linear_model_does_better_it_is_not_for_want_of_an_activation(better: str, severity: str) -> None:
    reference = {"step": 399, "rows": 200, "constant": 1.0, "network": 0.9, better: 0.1, f"{better}_error": 0.02}
    finding = judge(LINEAR, reference=reference, model={"layers": {"Linear": 2}}, run=COMPLETED)
    assert finding is not None
    assert finding.severity == severity


def test_a_linear_model_is_compared_where_no_single_loss_has_to_fall_too() -> None:
    history = headed({}, skill=None, baseline=None, activations=LINEAR, run=COMPLETED, model={"layers": {"Linear": 2}})
    history.facts["reference"] = {
        "step": 399, "rows": 200, "constant": 1.0, "network": 0.9, "linear": 0.1, "linear_error": 0.02,
    }  # fmt: skip
    losses = history.to_dict()
    losses["series"]["train_loss/0"] = losses["series"].pop("train_loss")
    finding = linear_stack(History.from_dict(losses))
    assert finding is not None
    assert finding.severity == "note"


@pytest.mark.parametrize(
    ("skill", "share", "severity"), [(0.9, 0.5, "note"), (0.3, 0.1, "note"), (0.3, 0.5, "warning")]
)
def test_it_is_a_warning_only_once_the_run_does_badly(skill: float, share: float, severity: str) -> None:
    finding = judge(LINEAR, skill=skill, share=share)
    assert finding is not None
    assert finding.severity == severity


def test_healthy_two_layers_in_a_network_with_activations_are_a_note() -> None:
    finding = judge([*LINEAR[:1], linear("b", 8, 8, "a"), relu("r"), linear("c", 8, 1, None)], run=COMPLETED)
    assert finding is not None
    assert finding.severity is Severity.NOTE
    assert "nothing non-linear between a, b: they are one linear layer" in finding.summary


@pytest.mark.parametrize(("middle", "ill"), [(7, False), (8, True)])
def test_a_middle_narrower_than_both_sides_keeps_the_rank_low_on_purpose(middle: int, ill: bool) -> None:
    assert (judge([linear("a", 64, middle, ""), linear("b", middle, 8, "a")]) is not None) is ill


@pytest.mark.parametrize(
    "layers",
    [
        [linear("a", 64, 32, ""), relu("r"), linear("b", 32, 10, None)],
        # Queries, keys and values: all three from one input.
        [linear("q", 64, 64, None), linear("k", 64, 64, None), linear("v", 64, 64, None)],
        [linear("a", 64, 10, "")],
        [relu("r")],
    ],
)
def test_healthy_networks_are_silent(layers: list[dict[str, Any]]) -> None:
    assert judge(layers) is None


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.1), nn.Linear(32, 1))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.second(torch.relu(self.first(inputs)))
        return scores


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, 8, 8)
        weights = (self.q(rows) @ self.k(rows).transpose(1, 2)).softmax(-1)
        scores: Tensor = self.head((rows + self.out(weights @ self.v(rows))).mean(1))
        return scores


def test_sick_in_a_real_run(tmp_path: Path) -> None:
    loss = functional.binary_cross_entropy_with_logits
    # Noise for labels: no linear model learns them.
    labels = torch.randint(2, (320, 1), generator=torch.Generator().manual_seed(0)).float()
    finding = found(tmp_path, "linear_stack", plain, loss, labels, lr=0.01, max_epochs=4)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert "net.0, net.2" in finding.summary


@pytest.mark.parametrize("net", [Functional, Attentive])
def test_healthy_real_networks_are_silent(tmp_path: Path, net: Any) -> None:
    loss = functional.binary_cross_entropy_with_logits
    assert found(tmp_path, "linear_stack", net, loss, CROSSED, inputs=IMAGES) is None
