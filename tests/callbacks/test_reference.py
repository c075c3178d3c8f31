from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lightning_doctor import Doctor, budget
from lightning_doctor.callbacks import case
from lightning_doctor.callbacks.batches import BatchMonitor
from lightning_doctor.callbacks.hand_step import SEVERAL
from lightning_doctor.callbacks.heads import HeadMonitor
from lightning_doctor.callbacks.reference import ReferenceProbe
from lightning_doctor.history import History
from lightning_doctor.measure import references
from tests.callbacks.test_scans import ByHand, Uncopied
from tests.runs import IMAGES, LABELS, DigitsNet, Fitted, digits, flat, trainer


def watch(folder: Path, net: Any, loader: Any = None, reference: Any = None, **options: Any) -> History:
    seed_everything(0, verbose=False)
    probe = ReferenceProbe(reference)
    probe.settings.strict = True
    probe.settings.overhead = 1.0
    trainer(folder, BatchMonitor(), HeadMonitor(), probe, **options).fit(net, loader or digits(0, 640))
    assert probe.report is not None
    return probe.report.history


@pytest.mark.parametrize("draws", [torch.randn_like, lambda images: torch.tensor(np.random.rand()), torch.zeros_like])
def test_whether_the_step_draws_random_numbers_in_eval_mode_is_noted(tmp_path: Path, draws: Any) -> None:
    class Noisy(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            return nn.functional.cross_entropy(self.net(images + draws(images)), labels)

    fact = watch(tmp_path, Noisy(), max_epochs=4).fact("reference")
    assert fact["draws"] is (draws is not torch.zeros_like)


def test_the_network_is_scored_at_the_end_on_rows_that_no_simple_model_was_fitted_to(tmp_path: Path) -> None:
    net = DigitsNet(1e-3, torch.optim.Adam)
    history = watch(tmp_path, net, max_epochs=10)
    fact = history.fact("reference")
    assert fact["step"] == 199
    assert fact["rows"] == 250
    # Ten classes, about as frequent.
    assert fact["constant"] == pytest.approx(2.303, abs=0.05)
    assert 0 < fact["linear"] < 0.7
    # Of 250 rows a quarter chooses the penalty. Of 64 pixels some are alike, and some always empty.
    assert fact["fitted"] == 188
    assert 30 < fact["directions"] < 60
    # Half of 500 of the 640 rows; the loss of all of them is within a few standard errors, each some 8 % of it.
    with torch.no_grad():
        whole = float(nn.functional.cross_entropy(net.net(IMAGES[:640]), LABELS[:640]))
    assert fact["network"] == pytest.approx(whole, rel=0.3)


def test_a_network_that_is_hardly_trained_is_worse_than_a_linear_model(tmp_path: Path) -> None:
    fact = watch(tmp_path, DigitsNet(1e-4), max_epochs=5).fact("reference")
    assert fact["network"] - fact["linear"] > 10 * fact["linear_error"]


def test_regression_in_one_dimension_is_compared_too(tmp_path: Path) -> None:
    targets = IMAGES.sum(1, keepdim=True)
    rows = DataLoader(TensorDataset(IMAGES[:640], targets[:640]), 32, shuffle=True)
    fact = watch(tmp_path, Fitted(nn.Linear(64, 1), nn.functional.mse_loss, 1e-3), rows, max_epochs=5).fact("reference")
    assert fact["linear"] < 0.1 * fact["constant"]


def test_nothing_of_the_run_changes(tmp_path: Path) -> None:
    plain, watched = DigitsNet(), DigitsNet()
    seed_everything(0, verbose=False)
    trainer(tmp_path, max_epochs=5).fit(plain, digits(0, 640))
    state = torch.get_rng_state()
    assert "network" in watch(tmp_path, watched, max_epochs=5).fact("reference")
    assert torch.equal(flat(plain), flat(watched))
    assert torch.equal(torch.get_rng_state(), state)


class Weighted(DigitsNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1], weight=torch.arange(1.0, 11.0))


class Penalised(DigitsNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        return loss + 0.01 * self.net[0].weight.square().sum()


class Lost(DigitsNet):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 3:
            self.net[0].weight.data.fill_(torch.nan)


class Copies(DigitsNet):
    """An autoencoder whose batches hold what it is to put out as well."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 64))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return


def test_of_targets_that_are_the_inputs_a_copy_is_no_reference(tmp_path: Path) -> None:
    images = next(iter(digits(0, 400, 400)))[0]
    loader = DataLoader(TensorDataset(images, images), batch_size=40, shuffle=True)
    reason = "the targets are the inputs themselves, which a linear model copies"
    assert watch(tmp_path, Copies(), loader, max_epochs=4).absent["reference"] == reason


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Lost, "not every loss is finite"),
        (ByHand, SEVERAL),
        (Uncopied, "the model cannot be copied (TypeError: there is only one of me)"),
        (Weighted, "the loss is no plain mean over samples"),
        (Penalised, "the loss is more than that of its predictions"),
    ],
)
def test_what_cannot_be_compared_leaves_the_reason(tmp_path: Path, net: type[DigitsNet], reason: str) -> None:
    assert watch(tmp_path, net(), max_epochs=4).absent["reference"] == reason


def test_few_rows_are_too_few(tmp_path: Path) -> None:
    reason = watch(tmp_path, DigitsNet(), digits(0, 40, 8), max_epochs=10).absent["reference"]
    assert reason == "40 rows are too few to fit a model to half of them"


def test_a_loss_may_be_given(tmp_path: Path) -> None:
    fact = watch(tmp_path, ByHand(), reference=0.25).fact("reference")
    assert (fact["target"], fact["target_of"]) == (0.25, "the target")


def test_the_log_of_another_run_may_be_given(tmp_path: Path) -> None:
    class Logging(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train_loss", 0.125, on_step=True)
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    logger = CSVLogger(tmp_path, name="earlier")
    trainer(tmp_path, logger=logger, log_every_n_steps=1).fit(Logging(), digits())
    fact = watch(tmp_path, ByHand(), reference=logger.log_dir).fact("reference")
    assert fact["target"] == 0.125
    assert str(logger.log_dir) in fact["target_of"]


def test_a_model_that_is_trained_already_may_be_given(tmp_path: Path) -> None:
    teacher = DigitsNet()
    seed_everything(0, verbose=False)
    trainer(tmp_path, max_epochs=20).fit(teacher, digits(0, 640))
    fact = watch(tmp_path, DigitsNet(1e-4), reference=teacher, max_epochs=5).fact("reference")
    assert fact["model"] < 0.5 < fact["network"]


def test_a_model_that_does_not_fit_the_data_leaves_the_simple_ones(tmp_path: Path) -> None:
    other = Fitted(nn.Linear(7, 10), nn.functional.cross_entropy, 0.1)
    fact = watch(tmp_path, DigitsNet(), reference=other, max_epochs=2).fact("reference")
    assert {"linear", "shallow", "network"} <= set(fact)
    assert "RuntimeError" in fact["model_unread"]


def test_a_row_that_was_drawn_twice_is_not_both_fitted_and_scored(tmp_path: Path) -> None:
    # Labels of chance: only who has seen a row can tell its label. 500 of 640 draws of 100 rows are kept.
    labels = torch.randint(0, 10, (100,), generator=torch.Generator().manual_seed(0))
    few = TensorDataset(IMAGES[:100], labels)
    drawn = DataLoader(few, 32, sampler=WeightedRandomSampler(torch.ones(100), 640))
    reason = watch(tmp_path, DigitsNet(1e-4), drawn, max_epochs=5).absent["reference"]
    assert reason.endswith("rows are drawn once only: too few to score a fitted model on")
    rows = TensorDataset(IMAGES[:640], torch.randint(0, 10, (640,), generator=torch.Generator().manual_seed(0)))
    drawn = DataLoader(rows, 32, sampler=WeightedRandomSampler(torch.ones(640), 640))
    fact = watch(tmp_path, DigitsNet(1e-4), drawn, max_epochs=5).fact("reference")
    assert fact["rows"] < 250
    # What nobody has seen is no better than guessing, but for two standard errors of some 0.05.
    assert fact["shallow"] > fact["constant"] - 0.1


class Tagger(DigitsNet):
    """Reads words, of which it adds up vectors: their order is lost."""

    def __init__(self, kinds: int, classes: int) -> None:
        super().__init__(1e-2, torch.optim.Adam)
        self.net = nn.Sequential(nn.EmbeddingBag(kinds, 16), nn.Linear(16, classes))


def test_words_are_told_apart_by_what_stands_where(tmp_path: Path) -> None:
    words = torch.randint(0, 8, (640, 6), generator=torch.Generator().manual_seed(0))
    rows = DataLoader(TensorDataset(words, words[:, 0]), 32, shuffle=True)
    fact = watch(tmp_path, Tagger(8, 8), rows, max_epochs=10).fact("reference")
    # Which word comes first a bag of words does not tell, but for how often each occurs.
    assert fact["network"] > 0.6 * fact["constant"]
    assert fact["linear"] < 0.2 * fact["constant"]


class Smoothed(DigitsNet):
    """A loss for which no simple model is fitted."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1], label_smoothing=0.1)


def test_a_model_is_compared_where_no_simple_one_can_be(tmp_path: Path) -> None:
    rows = digits(0, 640)
    teacher = Smoothed()
    trainer(tmp_path, max_epochs=10).fit(teacher, rows)
    absent = watch(tmp_path, Smoothed(1e-4), rows, max_epochs=5).absent["reference"]
    assert absent == "the loss is no plain mean over samples"
    fact = watch(tmp_path, Smoothed(1e-4), rows, teacher, max_epochs=5).fact("reference")
    assert fact["model"] < 1 < fact["network"]
    assert fact["constant"] == pytest.approx(2.3, abs=0.1)
    assert "linear" not in fact


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        (True, "reference must be a loss, a log directory or a trained LightningModule, got True"),
        (nn.Linear(64, 10), "or a trained LightningModule, got Linear"),
        ([1], "reference must be a loss"),
        (float("nan"), "reference must be a loss"),
        ("/no/such/folder", "no run can be read in /no/such/folder"),
    ],
)
def test_anything_else_is_refused_at_once(reference: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Doctor(reference=reference)


@pytest.mark.parametrize(("left", "seconds"), [(0.28, 0.16), (2.0, 0.25), (0.24, 0.0)])
def test_a_fit_keeps_to_the_time_that_is_left_and_is_not_begun_without_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, seconds: float
) -> None:
    now, losses, each = [0.0], references._losses, 0.002

    def timed(*arguments: Any) -> torch.Tensor:
        now[0] += each
        return losses(*arguments)

    monkeypatch.setattr(references, "_losses", timed)
    monkeypatch.setattr(budget, "FIRST_LOOK", left)
    monkeypatch.setattr(case, "Budget", partial(budget.Budget, clock=lambda: now[0]))
    probe = ReferenceProbe()
    probe.settings.overhead = 1e-9
    trainer(tmp_path, HeadMonitor(), probe, max_epochs=2).fit(DigitsNet(), digits(0, 640))
    assert probe.report is not None
    fact = probe.report.history.fact("reference")
    # Time is looked at after every tenth step of each of the two models.
    assert seconds <= now[0] <= seconds + 2 * 11 * each
    assert (fact is not None) is (seconds > 0)
    if fact is None:
        assert "it takes about 0.15 s" in probe.report.history.absent["reference"]


@pytest.mark.parametrize("left", [0.0, 2.0])
def test_after_its_last_turn_others_may_take_what_was_kept_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float
) -> None:
    monkeypatch.setattr(budget, "FIRST_LOOK", left)
    probe = ReferenceProbe()
    kept: list[float] = []
    monkeypatch.setattr(probe, "end", lambda case: kept.append(probe.kept))
    probe.settings.overhead = 1e-9
    trainer(tmp_path, HeadMonitor(), probe, max_epochs=2).fit(DigitsNet(), digits(0, 640))
    assert probe.report is not None
    assert (probe.report.history.fact("reference") is not None) is (left > 0)
    assert kept == [0.0]


class Contrast(DigitsNet):
    """Tells which of two noisy views belong together: its classes are the samples of the batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        codes = self.net(batch[0] + 0.1 * torch.randn_like(batch[0]))
        others = self.net(batch[0] + 0.1 * torch.randn_like(batch[0]))
        return nn.functional.cross_entropy(codes @ others.T, torch.arange(len(codes)))


class Standardised(Fitted):
    """Scales its targets in the step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch[0], (batch[1] - 300) / 60), batch_idx)


def test_a_loss_of_other_targets_than_the_batch_holds_is_not_compared(tmp_path: Path) -> None:
    told = "the targets of the loss are not those of the batch"
    assert watch(tmp_path, Contrast(1e-3), max_epochs=5).absent["reference"] == told
    rows = DataLoader(TensorDataset(IMAGES[:640], IMAGES[:640].sum(1, keepdim=True) * 16), 32, shuffle=True)
    net = Standardised(nn.Linear(64, 1), nn.functional.mse_loss, 1e-3)
    assert watch(tmp_path, net, rows, max_epochs=5).absent["reference"] == told


class Denoised(Fitted):
    """Draws what it is to find in the step, and makes nothing of what its data set holds beside the rows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch[0], torch.randn(len(batch[0]), 1)), batch_idx)


def test_targets_that_are_all_the_same_in_the_batch_and_not_in_the_loss_are_not_compared(tmp_path: Path) -> None:
    rows = DataLoader(TensorDataset(IMAGES[:640], torch.zeros(640, 1)), 32, shuffle=True)
    net = Denoised(nn.Linear(64, 1), nn.functional.mse_loss, 1e-3)
    told = "the targets of the loss are not those of the batch"
    assert watch(tmp_path, net, rows, max_epochs=5).absent["reference"] == told


def test_targets_of_which_few_batches_show_only_one_kind_are_compared_all_the_same(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    rare = (torch.rand(640, 1) < 0.01).float()
    heavy = torch.randn(640, 1).mul(2).exp()
    for targets, loss in (
        (rare, nn.functional.binary_cross_entropy_with_logits),
        (heavy, nn.functional.mse_loss),
    ):
        rows = DataLoader(TensorDataset(IMAGES[:640], targets), 8, shuffle=True)
        net = Fitted(nn.Linear(64, 1), loss, 1e-3)
        assert watch(tmp_path, net, rows, max_epochs=2).fact("reference") is not None
