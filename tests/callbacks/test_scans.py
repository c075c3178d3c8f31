from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_doctor import Doctor
from lightning_doctor.callbacks import case, leaks, pace, scans
from lightning_doctor.callbacks.hand_step import SEVERAL
from lightning_doctor.callbacks.rehearsal import trial_cost
from lightning_doctor.callbacks.scans import StepScan
from tests.runs import DigitsNet, fit, flat, trainer


def scanning(every_n_steps: int = 1) -> StepScan:
    monitor = StepScan()
    monitor.settings.strict = True
    monitor.settings.overhead = 1.0
    monitor.settings.every_n_steps = every_n_steps
    return monitor


class Descent(LightningModule):
    """Gradient descent on two rows: a parabola of known curvature."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.net = nn.Linear(3, 1, bias=False)
        nn.init.zeros_(self.net.weight)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.rate)


ROWS, TARGETS = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[6.0], [15.0]])


def test_the_limit_of_gradient_descent_on_a_parabola_is_the_one_of_theory(tmp_path: Path) -> None:
    trainer(tmp_path, monitor := scanning(), max_epochs=4).fit(
        Descent(0.1), DataLoader(TensorDataset(ROWS, TARGETS), 2)
    )
    history = monitor.report.history
    # Along the gradient g of a parabola with curvature H the loss is that of the start again after 2 gᵀg / gᵀHg.
    hessian = ROWS.T @ ROWS
    gradient = hessian @ torch.zeros(3, 1) - ROWS.T @ TARGETS
    limit = float(2 * gradient.square().sum() / (gradient.T @ hessian @ gradient))
    # The search ends within 3 % above.
    assert limit <= history["scan_limit"].values[0] <= 1.03 * limit
    assert history["scan/1"].steps[:2] == [0, 1]
    assert history["scan/1"].values[0] == pytest.approx(8434.1 / 130.5 - 1, rel=1e-3)
    assert history["scan/0.25"].values[0] > 0 > history["scan/0.0625"].values[0]
    assert history["scan_best"].values[0] == 0.0625


def test_the_scan_is_made_on_the_batch_after_the_one_that_made_the_step(tmp_path: Path) -> None:
    # Two samples that pull the same weight apart: a step for the one is a step against the other.
    rows, targets = torch.ones(2, 3), torch.tensor([[1.0], [-1.0]])
    loader = DataLoader(TensorDataset(rows, targets), 1)
    trainer(tmp_path, monitor := scanning(), max_steps=2, max_epochs=-1).fit(Descent(0.01), loader)
    # From (1 - 0)² and (-1 - 0)²: at 0.06 from a step for the first sample, the second's loss is 1.06².
    assert monitor.report.history["scan/1"].values == pytest.approx([1.06**2 - 1], rel=1e-4)
    assert "scan_limit" not in monitor.report.history


def test_a_step_that_lowers_the_loss_however_long_has_no_limit(tmp_path: Path) -> None:
    trainer(tmp_path, monitor := scanning(), max_epochs=3).fit(
        Descent(1e-6), DataLoader(TensorDataset(ROWS, TARGETS), 2)
    )
    history = monitor.report.history
    assert "scan_limit" not in history
    assert set(history["scan_best"].values) == {64.0}


class Memory(DigitsNet):
    """Whatever a step may change: random states, buffers, metrics, attributes, weights, the Trainer, a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))
        self.average = nn.Linear(1, 1)
        self.average.requires_grad_(False)
        self.metric = MeanMetric()
        self.queue: list[Any] = []
        self.last: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch[0].add_(0.01)
        loss = super().training_step(batch, batch_idx)
        with torch.no_grad():
            self.average.weight.mul_(0.9).add_(0.1 * float(loss))
        self.metric(loss)
        self.queue.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        self.last = 2 * loss
        self.log("mean", self.metric)
        self.logger and self.logger.experiment.add_scalar("own", loss, self.global_step)
        self.trainer.lately = float(loss)
        return loss


def test_nothing_of_the_run_changes_whatever_its_step_does(tmp_path: Path) -> None:
    def train(*callbacks: Any) -> tuple[Any, ...]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        net = Memory()
        run = fit(tmp_path, net, *callbacks)
        metrics = {name: float(value) for name, value in run.callback_metrics.items()}
        return (
            {name: value.clone() for name, value in net.state_dict().items()},
            (net.queue, random.getstate(), tuple(np.random.get_state()[1]), metrics, run.lately, float(net.last)),
            torch.get_rng_state(),
        )

    watched, plain = train(monitor := scanning()), train()
    assert len(monitor.report.history["scan/1"]) >= 5
    assert len(monitor.report.history["mode_gap"]) >= 5
    assert all(torch.equal(watched[0][name], plain[0][name]) for name in plain[0])
    assert watched[1] == plain[1]
    assert torch.equal(watched[2], plain[2])


def test_dropout_is_the_same_at_every_length_of_a_step(tmp_path: Path) -> None:
    class Frozen(DigitsNet):
        def __init__(self) -> None:
            super().__init__(lr=1e-5)
            self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))

    fit(tmp_path, Frozen(), monitor := scanning(), max_epochs=1)
    # Other masks would move the loss by a tenth, a step of 1e-5 along a gradient of about 1 by some 1e-5.
    assert max(map(abs, monitor.report.history["scan/1"].values)) < 1e-3


def test_the_gap_between_train_and_eval_mode_is_measured_where_there_is_one(tmp_path: Path) -> None:
    class Dropping(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.9), nn.Linear(32, 10))

    fit(tmp_path, Dropping(), dropping := scanning(every_n_steps=50), max_epochs=40)
    fit(tmp_path, DigitsNet(), plain := scanning())
    assert dropping.report.history["mode_gap"].values[-1] > 0.2
    reason = "the model has no dropout or batch normalisation, and asks for no mode"
    assert plain.report.history.absent["mode_gap"] == reason


def test_a_layer_of_ones_own_that_asks_for_its_mode_is_tried_in_both(tmp_path: Path) -> None:
    class OwnNorm(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs - inputs.mean(0)) / (inputs.std(0) + 0.1) if self.training else inputs

    class Normalised(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 32), OwnNorm(), nn.ReLU(), nn.Linear(32, 10))

    fit(tmp_path, Normalised(), monitor := scanning(every_n_steps=50), max_epochs=40)
    assert abs(monitor.report.history["mode_gap"].values[-1]) > 0.2


class Pruned(DigitsNet):
    """Pruning renames a weight and puts it behind the others."""

    def on_train_batch_end(self, *_: Any) -> None:
        if self.global_step == 4:
            prune.l1_unstructured(next(part for part in self.modules() if isinstance(part, nn.Linear)), "weight", 0.2)


def test_a_model_that_is_pruned_after_a_step_is_scanned_at_the_others(tmp_path: Path) -> None:
    fit(tmp_path / "whole", DigitsNet(), whole := scanning(), max_steps=9)
    fit(tmp_path / "pruned", Pruned(), pruned := scanning(), max_steps=9)
    assert whole.report.history["scan/1"].steps == [0, 1, 3, 7]
    assert pruned.report.history["scan/1"].steps == [0, 1, 7]


def test_a_model_that_gives_no_loss_in_eval_mode_keeps_its_scans(tmp_path: Path) -> None:
    class Aside(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not self.training:
                raise ValueError("only in train mode")
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    fit(tmp_path, Aside(), monitor := scanning())
    history = monitor.report.history
    assert len(history["scan/1"]) >= 5
    assert "only in train mode" in history.absent["mode_gap"]


class ByHand(DigitsNet):
    """Steps two optimizers by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        weights = list(self.parameters())
        return [torch.optim.SGD(weights[:2], lr=self.lr), torch.optim.SGD(weights[2:], lr=self.lr)]


class Uncopied(DigitsNet):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is only one of me")


class Choosy(DigitsNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not torch.is_grad_enabled():
            raise RuntimeError("no gradient, no step")
        return super().training_step(batch, batch_idx)


class Elsewhere(DigitsNet):
    """Its loss is that of a network which it finds by a number: a copy finds the same one."""

    known: list[nn.Module] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.known.append(self.net)
        self.number = len(self.known) - 1

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.known[self.number](batch[0]), batch[1])


class ByFunction(DigitsNet):
    """Its loss is that of a function that has closed over the network."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = [lambda images, net=self.net: net(images)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.functions[0](batch[0]), batch[1])


def test_a_function_that_reaches_the_network_is_scanned_with_that_of_the_copy(tmp_path: Path) -> None:
    watched, plain = ByFunction(), ByFunction()
    fit(tmp_path, watched, monitor := scanning())
    fit(tmp_path, plain)
    assert len(monitor.report.history["scan/1"]) >= 5
    assert any(monitor.report.history["scan/1"].values)
    assert torch.equal(flat(watched), flat(plain))


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (ByHand, SEVERAL),
        (Uncopied, "the model cannot be copied (TypeError: there is only one of me)"),
        (Choosy, "a rehearsed training step failed (RuntimeError: no gradient, no step)"),
        (Elsewhere, "the loss of a copy does not change with its weights"),
    ],
)
def test_a_model_that_cannot_be_rehearsed_leaves_the_reason_and_the_run(
    tmp_path: Path, net: type[DigitsNet], reason: str
) -> None:
    watched, plain = net(), net()
    fit(tmp_path, watched, monitor := scanning())
    fit(tmp_path, plain)
    assert monitor.report.history.absent["scan/1"] == reason
    assert monitor.report.notes == []
    assert torch.equal(flat(watched), flat(plain))


def test_a_model_whose_copy_takes_more_than_the_budget_has_is_not_copied_yet_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise AssertionError("a copy was made")

    monkeypatch.setattr(case, "trial_cost", lambda module: 1e4)
    # Steps that take as long: what a trial takes is told by them too.
    monkeypatch.setattr(pace, "_TRIAL_STEPS", 1e9)
    monkeypatch.setattr(scans, "Rehearsal", none)
    monkeypatch.setattr(leaks, "Rehearsal", none)
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), doctor)
    history = doctor.report.history
    reason = "it takes about 1e+04 s, more than the budget has for it yet"
    assert all(history.absent[name] == reason for name in ("scan/1", "scan_limit", "leak", "recurrence"))
    # What needs no copy was measured.
    assert len(history["update_ratio"]) > 1


def test_what_a_trial_takes_grows_with_weights_and_with_tensors() -> None:
    wide, deep = nn.Linear(1000, 1000), nn.Sequential(*(nn.Linear(2, 2) for _ in range(100)))
    assert trial_cost(nn.Linear(2, 2)) < 2e-3 < trial_cost(wide) < trial_cost(nn.Sequential(wide, *deep))
    assert 10 * trial_cost(nn.Linear(2, 2)) < trial_cost(deep)
    assert trial_cost(nn.LazyLinear(3)) == 0.0
