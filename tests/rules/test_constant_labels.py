from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rules.constant_labels import constant_labels
from tests.histories import LOGITS, history_of, reading
from tests.runs import IMAGES, LABELS, DigitsNet, trainer


def run_of(
    counts: dict[str, int],
    *,
    batches: int = 40,
    size: int = 32,
    classes: int = 10,
    samples: int | None = 1280,
    target: list[int] | None = None,
    **facts: Any,
) -> History:
    """A run of batches of 32, 40 an epoch, whose labels have these counts."""
    history = history_of(
        [0.5] * batches,
        labels={"counts": counts, "samples": sum(counts.values())},
        loss_head={**LOGITS, "classes": classes},
        batch={
            "leaves": [{"key": "[0]", "shape": [size, 64]}, {"key": "[1]", "shape": target or [size]}],
            "inputs": "[0]",
            "targets": "[1]",
        },
        trainer={"steps_per_epoch": 40},
        data={"batch_size": size, **({} if samples is None else {"train_samples": samples})},
        **facts,
    )
    return reading(history, "batch_size", [float(size)] * batches, every=1)


def test_sick_labels_that_are_all_zero_are_an_error_from_the_start() -> None:
    finding = constant_labels(run_of({"0": 200, "1": 0}))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence, finding.onset) == ("LD607", "error", "confirmed", 0)
    assert finding.summary == "all 1280 training labels seen are 0"
    assert "[1]" in finding.remedy


def test_healthy_labels_differ() -> None:
    assert constant_labels(run_of({"0": 199, "7": 1})) is None


def test_healthy_labels_that_are_rare_but_there_are_another_illness() -> None:
    # Where two labels have come, their order is defined, even if those on examined steps were all the same.
    assert constant_labels(reading(run_of({"0": 200}), "label_run", [0.0])) is None


@pytest.mark.parametrize(("batches", "ill"), [(39, False), (40, True)])
def test_sorted_data_begin_with_one_label_so_that_an_epoch_must_be_over(batches: int, ill: bool) -> None:
    assert (constant_labels(run_of({"0": 200}, batches=batches)) is not None) is ill


@pytest.mark.parametrize(("size", "ill"), [(1, False), (2, True)])
def test_enough_labels_must_have_been_seen(size: int, ill: bool) -> None:
    # 40 batches of 1 are 40 labels, of 2 80; 64 are asked for.
    assert (constant_labels(run_of({"0": 40}, size=size)) is not None) is ill


@pytest.mark.parametrize(("samples", "ill"), [(2400, True), (2700, False), (None, False)])
def test_of_two_classes_one_may_be_rare_so_that_half_of_the_data_must_be_seen(samples: int | None, ill: bool) -> None:
    # 1280 labels were seen.
    assert (constant_labels(run_of({"0": 200}, classes=2, samples=samples)) is not None) is ill


@pytest.mark.parametrize(
    "batch",
    [
        # No targets at all; two views of a picture, from which the step makes its labels.
        {"leaves": [{"key": "[0]", "shape": [32, 64]}], "inputs": "[0]", "targets": None},
        {"leaves": [{"key": "[1]", "shape": [32, 3, 8, 8]}], "inputs": "[0]", "targets": "[1]"},
        {"leaves": [{"key": "[1]", "shape": None}], "inputs": "[0]", "targets": "[1]"},
    ],
)
def test_healthy_contrastive_loss_makes_labels_that_are_all_the_same(batch: dict[str, Any]) -> None:
    history = run_of({"0": 200})
    history.facts["batch"] = batch
    assert constant_labels(history) is None


def test_one_hot_labels_and_masks_are_labels_too() -> None:
    assert constant_labels(run_of({"3": 200}, target=[32, 10])) is not None
    masks = run_of({"0": 200}, target=[32, 8, 8])
    masks.facts["loss_head"]["target_shape"] = [32, 8, 8]
    assert constant_labels(masks) is not None


def test_without_labels_or_batch_nothing_is_said() -> None:
    for fact in ("labels", "batch"):
        history = run_of({"0": 200})
        del history.facts[fact]
        assert constant_labels.lacks(history) is not None


class Contrastive(DigitsNet):
    """Tells the other view of a sample, which comes first, from those of others: the label is always 0."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows = batch[0]
        views = [self.net(rows + 0.1 * torch.randn_like(rows)) for _ in range(2)]
        scores = torch.cat([(views[0] * views[1]).sum(1, keepdim=True), views[0] @ views[1].roll(1, 0)[:8].T], 1)
        return nn.functional.cross_entropy(scores, torch.zeros(len(rows), dtype=torch.long))


@pytest.mark.parametrize(
    ("net", "labels", "ill"),
    [(DigitsNet, LABELS * 0, True), (DigitsNet, LABELS, False), (Contrastive, LABELS, False)],
)
def test_on_a_real_run(tmp_path: Path, net: type[DigitsNet], labels: torch.Tensor, ill: bool) -> None:
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    data = DataLoader(TensorDataset(IMAGES[:320], labels[:320]), 32, shuffle=True)
    trainer(tmp_path, doctor, max_epochs=2).fit(net(), data)
    assert doctor.report is not None
    assert ("LD607" in {finding.code for finding in doctor.report.findings}) is ill
