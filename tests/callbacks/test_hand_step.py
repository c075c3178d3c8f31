"""Steps by hand are rehearsed as those that Lightning makes are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor import CurvatureProbe, Doctor
from lightning_doctor.callbacks.leaks import LeakProbe
from tests.callbacks.test_scans import scanning
from tests.runs import DigitsNet, fit, flat


class Automatic(DigitsNet):
    """What Lightning does by itself, with a schedule."""

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Manual(Automatic):
    """The same by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()
        self.schedule()

    def schedule(self) -> None:
        schedule: Any = self.lr_schedulers()
        schedule.step()


class Closure(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)
        self.schedule()


class Torch(Manual):
    """Sends its loss backward as PyTorch does."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        optimizer.step()
        self.schedule()
        return loss


class Keeping(Manual):
    """Has kept the optimizer, its schedule, and functions of them; toggles, and clips by hand."""

    def on_train_start(self) -> None:
        self.mine: Any = self.optimizers()
        self.bare = self.mine.optimizer
        self.plan = [self.lr_schedulers()]
        self.step = lambda optimizer=self.mine: optimizer.step()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with self.mine.toggle_model(), self.toggled_optimizer(self.mine):
            self.bare.zero_grad()
            self.manual_backward(self.loss(batch))
            self.clip_gradients(self.mine, gradient_clip_val=1e3, gradient_clip_algorithm="norm")
            weights = [weight for group in self.bare.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, 1e3)
            self.step()
            self.plan[0].step()


class Twice(Manual):
    """Goes on after its first step, and by another loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        self.manual_backward(0 * self.loss(batch))
        self.zero_grad()


class Discarding(Manual):
    """Throws a gradient away before it takes another."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(3 * self.loss(batch))
        optimizer.zero_grad()
        super().training_step(batch, batch_idx)


class TensorRate(Manual):
    """Has a learning rate that is changed in place, and a list beside it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        (group,) = optimizer.param_groups
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()
        group["lr"].mul_(0.99)
        group["seen"].append(batch_idx)
        self.seen = len(group["seen"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=torch.tensor(0.1), momentum=0.9)
        optimizer.param_groups[0]["seen"] = []
        return optimizer


class Ticking(Manual):
    """Steps its schedule by another name, and keeps an average of its weights in a function."""

    def __init__(self) -> None:
        super().__init__()
        average = copy.deepcopy(self.net).eval()
        self.follow = lambda: [
            a.data.lerp_(b.data, 0.1) for a, b in zip(average.parameters(), self.net.parameters(), strict=True)
        ]
        self.average = lambda: average

    def schedule(self) -> None:
        schedule: Any = self.lr_schedulers()
        schedule.tick()
        self.follow()

    def configure_optimizers(self) -> Any:
        class Tick(torch.optim.lr_scheduler.ExponentialLR):
            def tick(self) -> None:
                self.step()

        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": Tick(optimizer, 0.99), "interval": "step"}]


class Careless(Manual):
    """Takes whatever is raised for a bad batch, and empties the gradients of what the Trainer trains."""

    bad: list[int] = []  # noqa: RUF012

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trainer.lightning_module.zero_grad()
        try:
            self.manual_backward(self.loss(batch))
            self.optimizers().step()  # type: ignore[union-attr]
        except:  # noqa: E722
            self.bad.append(batch_idx)
        self.schedule()


def trained(folder: Path, module: Automatic, *callbacks: Any) -> Automatic:
    fit(folder, module, *callbacks)
    return module


@pytest.mark.parametrize("kind", [Manual, Closure, Torch, Keeping, Twice, Discarding, TensorRate, Ticking, Careless])
def test_a_step_by_hand_is_scanned_and_probed_as_lightnings_own(tmp_path: Path, kind: type[Manual]) -> None:
    automatic, manual = scanning(), scanning()
    probes = [CurvatureProbe(samples=32, every_n_steps=4) for _ in range(2)]
    watched = trained(tmp_path, Automatic(), automatic, probes[0]), trained(tmp_path, kind(), manual, probes[1])
    plain = trained(tmp_path, kind())
    assert torch.equal(flat(watched[1]), flat(plain))
    assert Careless.bad == []
    assert getattr(watched[1], "seen", None) == getattr(plain, "seen", None)
    if isinstance(plain, Ticking):
        assert torch.equal(flat(watched[1].average()), flat(plain.average()))  # type: ignore[operator]
    assert flat(watched[0]) == pytest.approx(flat(plain), abs=1e-4)
    theirs, own = automatic.report.history, manual.report.history
    for name in ("scan/1", "scan/0.25", "scan_best", "curvature/loss", "curvature/sharpness"):
        assert len(own[name]) >= 3
        assert own[name].steps == theirs[name].steps
        assert own[name].values == pytest.approx(theirs[name].values, rel=1e-3, abs=1e-6)
    assert own.fact("curvature.kind") == theirs.fact("curvature.kind")
    assert manual.report.notes == []


class TwoParts(Manual):
    """Sends its loss in two parts, which may be seen from the outside only as a sum."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for share in (0.25, 0.75):
            self.manual_backward(share * self.loss(batch))
        optimizer.step()
        self.schedule()


class Accumulating(Manual):
    """Steps once in four batches."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(batch) / 4)
        if batch_idx % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


class Strategic(Manual):
    """Goes through the strategy."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.trainer.strategy.optimizers[0]
        optimizer.zero_grad()
        self.trainer.strategy.backward(self.loss(batch), optimizer)
        optimizer.step()
        self.schedule()


class Bare(Manual):
    """Steps the Trainer's optimizer, which nobody hears, and its schedule."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.trainer.optimizers[0]
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.step()


class Elsewhere(Manual):
    """Steps an optimizer that it reaches by a global."""

    known: list[Any] = []  # noqa: RUF012

    def on_train_start(self) -> None:
        Elsewhere.known = [self.optimizers()]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.known[0].zero_grad()
        self.manual_backward(self.loss(batch))
        self.known[0].step()


class Own(Manual):
    """Has an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mine.zero_grad()
        self.manual_backward(self.loss(batch))
        self.mine.step()

    def configure_optimizers(self) -> None:
        return None


class Reads(Manual):
    """Reads a gradient before it steps."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        for weight in self.parameters():
            weight.grad /= 2
        optimizer.step()


class Scattered(Manual):
    """Sends more than one number backward."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        self.manual_backward(losses, gradient=torch.full_like(losses, 1 / len(losses)))
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Reads, "a rehearsed training step failed (TypeError"),
        (Scattered, "returned no loss on the batch"),
        (TwoParts, "several losses are sent backward in a step"),
        (Accumulating, "only where each batch is one"),
        # Nobody hears these step.
        (Strategic, ""),
        (Bare, ""),
        (Elsewhere, "reached the optimizer or the schedule of the run itself"),
        (Own, "optimizers which the Trainer does not know"),
    ],
)
def test_what_is_no_loss_leaves_the_reason_and_the_run(tmp_path: Path, kind: type[Manual], reason: str) -> None:
    watched, plain = kind(), kind()
    fit(tmp_path, watched, monitor := scanning())
    fit(tmp_path, plain)
    assert torch.equal(flat(watched), flat(plain))
    assert "scan/1" not in monitor.report.history
    assert reason in monitor.report.history.absent.get("scan/1", "")
    assert monitor.report.notes == []


def test_samples_of_a_step_by_hand_are_told_apart(tmp_path: Path) -> None:
    monitor = LeakProbe()
    monitor.settings.strict = True
    fit(tmp_path, Manual(), monitor)
    assert monitor.report.history.fact("leak.tested") is True


def test_a_compiled_model_whose_step_cannot_be_rehearsed_says_so(tmp_path: Path) -> None:
    net = TwoParts()
    net.net.compile(backend="aot_eager")
    doctor = Doctor(strict=True)
    fit(tmp_path, net, doctor)
    assert doctor.report is not None
    absent = doctor.report.history.absent
    assert "several losses are sent backward" in absent["scan/1"]
    assert absent["loss_head"].startswith("the model is compiled, and several losses")
    assert doctor.report.notes == []
