from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.outlier_targets import outlier_targets
from tests.histories import COMPLETED, HEAD, headed, reading
from tests.runs import LABELS, found

# One batch in four holds an outlier, and its loss is as large as that makes it.
LOSSES = [*[1.0] * 30, 100.0, *[1.0] * 9] * 10
SHARES, RATIOS = [0.3, 0.3, 0.3, 0.99] * 10, [4.0, 4.0, 4.0, 90.0] * 10


def run(
    shares: Sequence[float] = SHARES,
    ratios: Sequence[float] = RATIOS,
    *,
    typical: float | None = 0.8,
    head: dict[str, Any] = HEAD,
    samples: float = 32,
    **options: Any,
) -> History:
    # By the loss of most batches against what the mean of all scores such a run has learned all there is.
    history = headed(head, **{"losses": LOSSES, "skill": 0.0, "baseline": 80.0, **options})
    reading(history, "worst_share", shares)
    reading(history, "worst_ratio", ratios)
    reading(history, "batch_size", [samples] * 40)
    return history if typical is None else reading(history, "typical_error", [typical] * 40)


def judge(*args: Any, **options: Any) -> Finding | None:
    return outlier_targets(run(*args, **options))


def test_sick_a_few_samples_carry_the_loss_and_the_usual_one_is_not_fitted() -> None:
    finding = judge()
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD309", Severity.WARNING, Confidence.CONFIRMED)
    # Of 103 parts of the loss 100 are those of the batch with the outlier: 100 · 0.99 / 103.
    assert finding.evidence["worst_share"] == pytest.approx(0.961, abs=0.001)
    assert "huber_loss" in finding.remedy


def test_sick_a_batch_with_many_outliers_has_a_worst_twentieth_that_carries_less() -> None:
    # One in ten of those batches holds six of 32, and most of the whole loss.
    losses = [*LOSSES[:-10], *[1.0] * 10]
    losses[30] = 900.0
    shares = [0.3, 0.3, 0.3, 0.2, *SHARES[4:]]
    assert judge(shares, losses=losses) is not None
    assert judge([0.3, 0.3, 0.3, 0.2] * 10, losses=losses) is None


def elsewhere(losses: Sequence[float], **options: Any) -> Finding | None:
    """Judges a run none of whose few outliers was in a batch that was looked into."""
    # Every tenth is looked into.
    return judge([0.3] * 40, [4.0] * 40, losses=[1.0, *losses[:-1]], **options)


def test_sick_outliers_in_batches_that_were_not_looked_into_stand_out_by_their_loss() -> None:
    finding = elsewhere(LOSSES)
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    assert (finding.evidence["batches"], "worst_share" in finding.evidence) == (10, False)
    # (r² / 32 + 1) = 100.
    assert finding.evidence["worst_ratio"] == pytest.approx((99 * 32) ** 0.5)
    assert "10 of 400 batches, none of them looked into, carry 72%" in finding.summary


@pytest.mark.parametrize(
    "losses",
    [
        # So large a batch takes one error of 15 deviations.
        [*[1.0] * 30, 8.0, *[1.0] * 9] * 10,
        # Steps that were too long, from which the loss comes back.
        [*[1.0] * 30, 200.0, 12.0, 9.0, 6.0, 4.0, *[1.0] * 5] * 10,
        # A loss that fell by a factor of thousand, and one accident late.
        [1000.0 * 0.9**step + 1 for step in range(380)] + [1.0] * 10 + [1000.0] + [1.0] * 9,
        # As many as not: two kinds of batches.
        [*[1.0, 100.0] * 4, 100.0, 1.0] * 40,
    ],
    ids=["small", "overshoots", "fell", "half"],
)
def test_healthy_losses_that_no_single_sample_explains(losses: list[float]) -> None:
    assert elsewhere(losses) is None


@pytest.mark.parametrize(("typical", "severity"), [(0.48, "note"), (0.52, "warning")])
def test_usual_is_how_badly_the_usual_sample_is_fitted(typical: float, severity: str) -> None:
    finding = judge(typical=typical)
    assert finding is not None
    assert finding.severity == severity


# Of 103 parts of the loss 100 are those of the batch with the outlier.
@pytest.mark.parametrize(("share", "ill"), [(0.71, False), (0.73, True)])
def test_share_is_that_of_the_loss_over_batches(share: float, ill: bool) -> None:
    assert (judge([share] * 40) is not None) is ill


@pytest.mark.parametrize(("ratio", "ill"), [(19.0, False), (21.0, True)])
def test_ratio_is_how_far_the_largest_error_is_out(ratio: float, ill: bool) -> None:
    assert (judge([0.9] * 40, [ratio] * 40) is not None) is ill


@pytest.mark.parametrize(("samples", "ill"), [(4, False), (5, True)])
def test_batch_is_how_many_samples_it_must_have(samples: float, ill: bool) -> None:
    assert (judge(samples=samples) is not None) is ill


@pytest.mark.parametrize("options", [{"share": 0.35}, {"losses": [1000.0 / (1 + step) for step in range(400)]}])
def test_healthy_early_or_while_the_loss_falls_it_is_a_note(options: dict[str, Any]) -> None:
    finding = judge([0.9] * 40, [50.0] * 40, **options)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_a_heavy_tail_that_was_learned_is_a_note() -> None:
    finding = judge(typical=0.2, skill=0.98, run=COMPLETED)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize("loss", ["l1", "huber", "smooth_l1", "cross_entropy"])
def test_healthy_losses_that_outliers_do_not_rule_are_silent(loss: str) -> None:
    assert judge(head={**HEAD, "loss": loss}) is None


def test_healthy_normal_errors_are_silent() -> None:
    assert judge([0.3] * 40, [3.5] * 40) is None


def test_sick_in_a_real_run_and_healthy_without_the_outliers(tmp_path: Path) -> None:
    calm = LABELS.float()[:, None] / 3
    wild = calm.clone()
    wild[::40] += 500

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))

    options: dict[str, Any] = {"lr": 1e-3, "max_epochs": 8}
    finding = found(tmp_path, "outlier_targets", net, functional.mse_loss, wild, **options)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert found(tmp_path, "outlier_targets", net, functional.mse_loss, calm, **options) is None


# One step in ten was looked into: of those that held an outlier one.
@pytest.mark.parametrize(("others", "ill"), [((75, 155), True), ((75,), False)])
def test_of_batches_that_were_not_looked_into_a_loss_as_large_tells(others: tuple[int, ...], ill: bool) -> None:
    losses, shares, ratios = [1.0] * 400, [0.3] * 40, [4.0] * 40
    shares[3], ratios[3] = 0.99, 90.0
    for step in (30, *others):
        losses[step] = 100.0
    assert (judge(shares, ratios, losses=losses) is not None) is ill


@pytest.mark.parametrize(("last", "severity"), [(399, Severity.WARNING), (81, Severity.NOTE)])
def test_healthy_a_loss_that_is_nearly_gone_where_no_errors_were_seen_of_late(last: int, severity: Severity) -> None:
    history = run(typical=None, skill=None, run=COMPLETED)
    for step in (31, last):
        history.record("typical_error", step, 0.8)
    finding = outlier_targets(history)
    assert finding is not None
    assert finding.severity is severity
