from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_doctor import Doctor, GradientMonitor
from tests.runs import DigitsNet, digits, fit, trainer


class Recording(DigitsNet):
    """Keeps the gradient norms that Lightning itself shows before and after clipping."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before: list[float] = []
        self.after: list[float] = []
        self.layers: list[float] = []

    def _norm(self) -> float:
        return float(torch.cat([p.grad.reshape(-1) for p in self.parameters() if p.grad is not None]).double().norm())

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.before.append(self._norm())

    def on_train_batch_end(self, *_: Any) -> None:
        self.after.append(self._norm())


def test_the_global_norm_is_the_one_before_clipping_at_every_step(tmp_path: Path) -> None:
    doctor, net = Doctor(strict=True, overhead=1.0), Recording()
    fit(tmp_path, net, doctor, gradient_clip_val=0.5)
    history = doctor.report.history
    # float32 norms summed in another order: relative 1e-5.
    assert history["grad_norm"].values == pytest.approx(net.before, rel=1e-5)
    assert history["grad_norm_clipped"].values == pytest.approx(net.after, rel=1e-4)
    assert max(history["grad_norm_clipped"].values) <= 0.5 * (1 + 1e-4)
    factors = [min(1.0, after / before) for before, after in zip(net.before, net.after, strict=True)]
    assert history["clip_factor"].values == pytest.approx(factors, rel=1e-3)


def test_clipping_by_value_is_seen_as_what_it_leaves_of_the_norm(tmp_path: Path) -> None:
    doctor, net = Doctor(strict=True, overhead=1.0), Recording()
    fit(tmp_path, net, doctor, gradient_clip_val=0.01, gradient_clip_algorithm="value")
    history = doctor.report.history
    assert history["grad_norm_clipped"].values == pytest.approx(net.after, rel=1e-4)
    assert max(history["clip_factor"].values) < 1


def test_without_clipping_nothing_is_said_of_it(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), doctor)
    assert "clip_factor" not in doctor.report.history
    assert doctor.report.history.absent["clip_factor"] == "gradients are not clipped"


def test_a_layer_has_the_root_of_the_squares_of_its_tensors(tmp_path: Path) -> None:
    class OneStep(Recording):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            first = self.net[0]
            self.layers.append(float(torch.cat([first.weight.grad.reshape(-1), first.bias.grad]).norm()))

    doctor, net = Doctor(strict=True, overhead=1.0), OneStep()
    fit(tmp_path, net, doctor, max_steps=1, max_epochs=-1)
    assert doctor.report.history["grad_norm/net.0"].values == pytest.approx(net.layers, rel=1e-5)


def test_accumulation_gives_one_norm_a_step_of_the_accumulated_gradient(tmp_path: Path) -> None:
    doctor, net = Doctor(strict=True, overhead=1.0), Recording()
    fit(tmp_path, net, doctor, accumulate_grad_batches=3)
    assert len(net.before) == 8
    assert doctor.report.history["grad_norm"].values == pytest.approx(net.before, rel=1e-5)
    assert doctor.report.history["grad_norm"].steps == list(range(8))


@pytest.mark.parametrize("fused", [False, True])
def test_norms_under_an_fp16_scaler_are_unscaled(tmp_path: Path, fused: bool) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    scaled, plain = Doctor(strict=True, overhead=1.0), Doctor(strict=True, overhead=1.0)
    fit(tmp_path, DigitsNet(fused=fused), scaled, plugins=[plugin], max_steps=3, max_epochs=-1)
    fit(tmp_path, DigitsNet(fused=fused), plain, max_steps=3, max_epochs=-1)
    # fp16 carries three digits.
    assert scaled.report.history["grad_norm"].values == pytest.approx(
        plain.report.history["grad_norm"].values, rel=2e-2
    )


def test_a_step_that_the_scaler_skips_is_no_non_finite_gradient(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**60))
    doctor = Doctor(strict=True, overhead=1.0)
    fit(tmp_path, DigitsNet(), doctor, plugins=[plugin], max_steps=3, max_epochs=-1)
    history = doctor.report.history
    assert len(history["scaler_skips"]) == 3
    assert history.event("non_finite_gradient") is None
    assert "LD203" not in [finding.code for finding in doctor.report.findings]


class TwoOptimizers(LightningModule):
    """Two players, manual optimization, clipping by hand."""

    def __init__(self, clip: float | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.players = nn.ModuleList([nn.Linear(64, 4), nn.Linear(64, 4)])
        self.clip = clip
        self.norms: list[list[float]] = [[], []]
        self.losses: list[list[float]] = [[], []]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        images, _ = batch
        for i, optimizer in enumerate(self.optimizers()):
            optimizer.zero_grad()
            both = self.players[0](images).square().mean() + (i + 1) * self.players[1](images).square().mean()
            self.manual_backward(both)
            own = [p.grad.reshape(-1) for p in self.players[i].parameters()]
            self.norms[i].append(float(torch.cat(own).norm()))
            self.losses[i].append(float(both.detach()))
            if self.clip is not None:
                self.clip_gradients(optimizer, gradient_clip_val=self.clip, gradient_clip_algorithm="norm")
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(player.parameters(), lr=0.1) for player in self.players]


def test_each_of_several_optimizers_has_its_own_norms_and_losses(tmp_path: Path) -> None:
    doctor, net = Doctor(strict=True, overhead=1.0), TwoOptimizers()
    trainer(tmp_path, doctor).fit(net, digits())
    history = doctor.report.history
    for i in (0, 1):
        assert history[f"grad_norm/optimizer{i}"].values == pytest.approx(net.norms[i], rel=1e-5)
        assert history[f"train_loss/{i}"].values == pytest.approx(net.losses[i], rel=1e-5)
    assert "2 optimizers" in history.absent["grad_norm"]
    assert "2 optimizers" in doctor.report.unassessed["LD102"]


class ManualClip(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Linear(64, 10)
        self.before: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.manual_backward(loss)
        self.before.append(float(torch.cat([p.grad.reshape(-1) for p in self.parameters()]).norm()))
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_manual_clipping_is_seen_from_both_sides(tmp_path: Path) -> None:
    doctor, net = Doctor(strict=True, overhead=1.0), ManualClip()
    trainer(tmp_path, doctor).fit(net, digits())
    history = doctor.report.history
    assert history["grad_norm"].values == pytest.approx(net.before, rel=1e-5)
    assert history["grad_norm_clipped"].values == pytest.approx([0.1] * len(net.before), rel=1e-3)


def test_the_first_non_finite_gradient_names_its_step_and_layers(tmp_path: Path) -> None:
    class RootAtZero(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            scores = self.net(batch[0])
            # The root of an exact zero: the loss is finite, its gradient is not. Only the first layer lies behind it.
            zero = (self.net[0](batch[0]) * 0).sum() if self.global_step == 4 else torch.zeros((), requires_grad=True)
            root = zero.sqrt() if self.global_step == 4 else 0.0
            return nn.functional.cross_entropy(scores, batch[1]) + root

    doctor = Doctor(strict=True, overhead=1.0)
    fit(tmp_path, RootAtZero(), doctor)
    event = doctor.report.history.event("non_finite_gradient")
    assert event is not None
    assert event["step"] == 4
    assert event["layers"] == ["net.0"]
    assert not event["every_layer"]
    assert "non_finite_gradients" in [finding.name for finding in doctor.report.findings]


def test_frozen_layers_and_unused_parameters_are_passed_over(tmp_path: Path) -> None:
    class Partly(Recording):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)
            self.net[0].requires_grad_(False)

    doctor, net = Doctor(strict=True, overhead=1.0), Partly()
    fit(tmp_path, net, doctor)
    history = doctor.report.history
    assert history["grad_norm"].values == pytest.approx(net.before, rel=1e-5)
    assert history.names("grad_norm/") == ["grad_norm/net.2"]


def test_sparse_gradients_are_measured(tmp_path: Path) -> None:
    class Words(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(17, 10, sparse=True)
            self.norms: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.table((batch[0][:, 20] * 16).long()), batch[1])

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.norms.append(float(self.table.weight.grad.to_dense().norm()))

        def configure_optimizers(self) -> Any:
            return torch.optim.SparseAdam(list(self.parameters()), lr=0.01)

    doctor, net = Doctor(strict=True, overhead=1.0), Words()
    fit(tmp_path, net, doctor, validate=False)
    assert doctor.report.history["grad_norm"].values == pytest.approx(net.norms, rel=1e-5)


def test_lbfgs_counts_one_norm_a_step_though_its_closure_runs_often(tmp_path: Path) -> None:
    doctor, net = Doctor(strict=True, overhead=1.0), Recording(optimizer=torch.optim.LBFGS, lr=0.1, max_iter=4)
    fit(tmp_path, net, doctor, max_epochs=1)
    assert doctor.report.history["grad_norm"].steps == list(range(10))


def test_it_works_alone_and_brings_a_report(tmp_path: Path) -> None:
    monitor = GradientMonitor()
    fit(tmp_path, DigitsNet(), monitor)
    assert monitor.report.history["grad_norm"].steps == list(range(20))
    assert len(monitor.report.history["train_loss"]) == 20
    assert "val_loss" not in monitor.report.history
    assert "there is no GeneralizationMonitor" in monitor.report.unassessed.values()


def test_several_steps_of_one_optimizer_in_a_batch_keep_their_losses_to_themselves(tmp_path: Path) -> None:
    class Critics(TwoOptimizers):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            generator, critic = self.optimizers()
            for optimizer, player, scale in [(critic, 1, 10.0)] * 3 + [(generator, 0, 1.0)]:
                optimizer.zero_grad()
                weights = self.players[player].weight
                self.manual_backward((weights - weights.detach()).sum() + scale)
                optimizer.step()

    doctor = Doctor(strict=True, overhead=1.0)
    trainer(tmp_path, doctor, max_epochs=1).fit(Critics(), digits())
    history = doctor.report.history
    assert history["train_loss/0"].values == pytest.approx([1.0] * 10)
    assert history["train_loss/1"].values == pytest.approx([10.0] * 30)
