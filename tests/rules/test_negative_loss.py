from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.negative_loss import negative_loss
from tests.histories import COMPLETED, HEAD, LOGITS, headed, reading
from tests.runs import IMAGES, LABELS, Fitted, found, trainer

BCE = {**HEAD, "loss": "bce", "activation": "sigmoid"}
PROBABILITIES = {"target_min": 0.0, "target_max": 1.0}


def judge(head: dict[str, Any], **options: Any) -> Finding | None:
    return negative_loss(headed(head, **options))


def test_sick_three_labels_for_one_unit_are_named_before_the_loss_is_negative() -> None:
    finding = judge({**BCE, "target_min": 0.0, "target_max": 2.0}, skill=None, baseline=None)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD307", Severity.ERROR, Confidence.CONFIRMED)
    assert finding.onset == 0
    assert "put out 3 scores and use `cross_entropy`" in finding.remedy


@pytest.mark.parametrize(
    ("low", "high", "columns", "advice"),
    [
        (-1.0, 1.0, 1, "`(targets + 1) / 2`"),
        (1.0, 2.0, 1, "`targets - 1`"),
        (0.0, 255.0, 64, "scale them into [0, 1]: they lie in [0, 255]"),
        (-2.3, 1.7, 1, "`mse_loss`"),
    ],
)
def test_the_remedy_is_that_of_the_targets(low: float, high: float, columns: int, advice: str) -> None:
    finding = judge({**BCE, "target_min": low, "target_max": high, "output_shape": [32, columns]})
    assert finding is not None
    assert advice in finding.remedy


@pytest.mark.parametrize(("high", "ill"), [(1.04, False), (1.06, True)])
def test_beyond_is_how_far_outside_a_probability_may_lie(high: float, ill: bool) -> None:
    for loss in ("bce", "bce_with_logits"):
        assert (judge({**BCE, "loss": loss, "target_min": 0.0, "target_max": high}) is not None) is ill


def test_sick_soft_targets_of_cross_entropy_that_are_no_probabilities() -> None:
    soft = {**LOGITS, "targets": "real", "target_shape": [32, 10], "target_min": -1.5, "target_max": 2.0}
    finding = judge(soft)
    assert finding is not None
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize("loss", ["nll", "mse", "kl_div"])
def test_sick_a_loss_that_is_negative_and_cannot_be_is_an_error_since_then(loss: str) -> None:
    losses = [0.5] * 30 + [-0.5] * 370
    finding = judge({**HEAD, "loss": loss, **PROBABILITIES}, losses=losses)
    assert finding is not None
    assert (finding.severity, finding.onset) == (Severity.ERROR, 30)
    assert finding.evidence["lowest"] == -0.5
    assert ("log_softmax" in finding.remedy) is (loss == "nll")


@pytest.mark.parametrize(("activation", "told"), [("softmax", True), (None, False)])
def test_a_divergence_of_probabilities_is_told_what_it_takes(activation: str | None, told: bool) -> None:
    head = {**HEAD, "loss": "kl_div", "activation": activation, **PROBABILITIES}
    finding = judge(head, losses=[-0.5] * 400)
    assert finding is not None
    assert ("give `kl_div` the output of log_softmax" in finding.remedy) is told


@pytest.mark.parametrize(("lowest", "ill"), [(-0.0009, False), (-0.0011, True)])
def test_below_is_a_share_of_the_usual_size_of_the_loss(lowest: float, ill: bool) -> None:
    assert (judge({**HEAD, **PROBABILITIES}, losses=[1.0] * 399 + [lowest]) is not None) is ill


def test_sick_a_loss_that_falls_for_ever_and_then_overflows_is_still_named() -> None:
    losses = [-(10.0**i) for i in range(30)] + [math.nan] * 10
    finding = judge({**HEAD, "loss": "nll"}, losses=losses)
    assert finding is not None
    assert finding.severity is Severity.ERROR


def test_healthy_a_run_that_does_well_in_spite_of_it_has_a_note() -> None:
    finding = judge({**BCE, "target_min": 0.0, "target_max": 1.2}, skill=0.9, run=COMPLETED)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(
    ("head", "losses"),
    [
        ({**BCE, **PROBABILITIES}, [0.3] * 400),
        # Labels are the numbers of classes, not probabilities.
        (LOGITS, [0.3] * 400),
        # A reward among its terms.
        ({**HEAD, "loss": "mse", "terms": 2}, [-3.0] * 400),
        # Densities and rates may be over one.
        ({**HEAD, "loss": "poisson"}, [-3.0] * 400),
        # An advantage is under zero where less came of an action than of most.
        ({**LOGITS, "weighted": True}, [-0.4] * 400),
        (HEAD, [0.0] * 400),
    ],
)
def test_healthy_losses_are_silent(head: dict[str, Any], losses: list[float]) -> None:
    assert judge(head, losses=losses) is None


def test_sick_in_a_real_run_of_labels_of_plus_and_minus_one(tmp_path: Path) -> None:
    signs = (LABELS >= 5).float()[:, None] * 2 - 1
    loss = functional.binary_cross_entropy_with_logits
    finding = found(tmp_path, "negative_loss", lambda: nn.Linear(64, 1), loss, signs)
    assert finding is not None
    assert "(targets + 1) / 2" in finding.remedy
    assert found(tmp_path, "negative_loss", lambda: nn.Linear(64, 1), loss, (signs + 1) / 2) is None


def test_sick_in_a_real_run_of_a_likelihood_without_a_logarithm(tmp_path: Path) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.nll_loss(outputs.softmax(1), labels)

    finding = found(tmp_path, "negative_loss", lambda: nn.Linear(64, 10), loss, LABELS)
    assert finding is not None
    assert "log_softmax" in finding.remedy


def subtracted(losses: list[float], *, value: float = -3.0, looks: int = 3) -> Finding | None:
    fact = {"value": value, "looks": looks, "loss": "cross_entropy"}
    history = headed({}, skill=None, losses=losses, baseline=None, run=COMPLETED, subtracted=fact)
    del history.facts["loss_head"]
    return negative_loss(history)


def test_sick_a_term_that_is_subtracted_from_others_of_the_same_predictions() -> None:
    finding = subtracted([1.9] * 10 + [-1.5] * 190)
    assert finding is not None
    assert (finding.severity, finding.confidence, finding.onset) == (Severity.WARNING, Confidence.SUSPECTED, 10)
    assert "cross-entropy is subtracted from other terms of the same predictions, down to -3" in finding.summary


@pytest.mark.parametrize(("last", "severity"), [(1.16, Severity.WARNING), (1.14, Severity.NOTE)])
def test_where_validation_lost_half_of_its_start_it_is_a_note(last: float, severity: Severity) -> None:
    fact = {"value": -3.0, "looks": 3, "loss": "cross_entropy"}
    history = headed({}, skill=None, losses=[-1.5] * 200, baseline=None, run=COMPLETED, subtracted=fact)
    del history.facts["loss_head"]
    finding = negative_loss(reading(history, "val_loss", [2.3, last, last, last], 50))
    assert finding is not None
    assert finding.severity is severity


def test_healthy_a_sum_that_never_came_under_zero_is_silent() -> None:
    assert subtracted([1.9] * 200) is None


def test_two_looks_at_such_a_term_are_not_enough() -> None:
    with pytest.raises(Undecided, match="loss_head"):
        subtracted([-1.5] * 200, looks=2)


def _mixed(share: float, rest: float) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        one = functional.cross_entropy(outputs, labels)
        return share * one + rest * functional.cross_entropy(outputs, labels.flip(0))

    return loss


def test_sick_in_a_real_run_of_shares_that_do_not_add_up(tmp_path: Path) -> None:
    finding = found(tmp_path, "negative_loss", lambda: nn.Linear(64, 10), _mixed(0.4, -0.6), LABELS)
    assert finding is not None
    assert finding.evidence["value"] < 0


def _apart(outputs: Tensor, labels: Tensor) -> Tensor:
    """Two heads, of which one is to know nothing."""
    own = functional.cross_entropy(outputs[:, :10], labels)
    return own - 2.0 * functional.cross_entropy(outputs[:, 10:], labels % 3)


@pytest.mark.parametrize(("net", "loss"), [(10, _mixed(0.4, 0.6)), (13, _apart)])
def test_healthy_in_a_real_run_of_a_sum_it_is_not_judged(
    tmp_path: Path, net: int, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    doctor = Doctor(select=["LD307"], strict=True, overhead=1.0)
    rows = TensorDataset(IMAGES[:320], LABELS[:320])
    trainer(tmp_path, doctor).fit(Fitted(Heads(net), loss, 0.1), DataLoader(rows, 32, shuffle=True))
    assert doctor.report is not None
    assert doctor.report.findings == []
    assert doctor.report.unassessed == {"LD307": "the loss is a sum of 2 terms"}
    assert "subtracted" not in doctor.report.history.facts


class Heads(nn.Module):
    """Two heads side by side, where there are more numbers than digits."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(64, 10), nn.Linear(64, size - 10) if size > 10 else None

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.one(inputs)
        return scores if self.other is None else torch.cat([scores, self.other(inputs)], 1)
