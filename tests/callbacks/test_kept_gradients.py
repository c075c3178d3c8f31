from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from tests.callbacks.watched import EXAMINED, watch
from tests.runs import DigitsNet


class Manual(DigitsNet):
    """Manual optimization; ``training_step`` is the variation."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class ZeroBefore(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.manual_backward(self.loss(batch))
        self.optimizers().step()


class ZeroInPlaceAfter(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.optimizers().step()
        self.optimizers().zero_grad(set_to_none=False)


class ZeroNever(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.clip_gradients(self.optimizers(), gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        self.optimizers().step()


class Accumulating(Manual):
    """Five batches a step: none of the early examined batches is one that steps."""

    forgets = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch) / 5)
        if batch_idx % 5 == 4:
            self.optimizers().step()
            if not self.forgets:
                self.optimizers().zero_grad()


class AccumulatingForEver(Accumulating):
    forgets = True


class TwoLosses(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.manual_backward(self.loss(batch))
        self.manual_backward(self.net[0].weight.square().mean())
        self.optimizers().step()


class ZeroInPlaceAutomatic(DigitsNet):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)


class ZeroAfterStepAutomatic(DigitsNet):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        pass

    def on_train_batch_end(self, *_: Any) -> None:
        self.zero_grad()


class ZeroNeverAutomatic(DigitsNet):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        pass


@pytest.mark.parametrize("kind", [ZeroNever, AccumulatingForEver, ZeroNeverAutomatic])
def test_sick_gradients_that_nobody_sets_to_zero_are_kept(tmp_path: Path, kind: type[DigitsNet]) -> None:
    values = watch(tmp_path, kind(), max_epochs=4)["gradients_kept"].values
    assert len(values) >= 2
    assert set(values) == {1.0}


@pytest.mark.parametrize(
    "kind",
    [
        DigitsNet,
        ZeroBefore,
        ZeroInPlaceAfter,
        Accumulating,
        TwoLosses,
        ZeroInPlaceAutomatic,
        ZeroAfterStepAutomatic,
    ],
)
def test_healthy_gradients_are_set_to_zero_somewhere_between_two_steps(tmp_path: Path, kind: type[DigitsNet]) -> None:
    values = watch(tmp_path, kind(), max_epochs=4)["gradients_kept"].values
    assert len(values) >= 2
    assert set(values) == {0.0}


def test_accumulation_by_lightning_keeps_nothing_though_most_passes_begin_with_gradients(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), accumulate_grad_batches=4, max_epochs=4)
    assert history["gradients_kept"].values == [0.0] * len(history["gradients_kept"])
    assert len(history["gradients_kept"]) == 3
    history = watch(tmp_path, ZeroNeverAutomatic(), accumulate_grad_batches=4, max_epochs=4)
    assert history["gradients_kept"].values == [1.0] * 3


class Adversaries(LightningModule):
    """A generator whose backward pass fills the critic's gradients too, and a critic that steps several times."""

    forgets: tuple[str, ...] = ()

    def __init__(self, critic_steps: int = 1, toggles: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.generator = nn.Linear(4, 64)
        self.critic = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))
        self.critic_steps = critic_steps
        self.toggles = toggles

    def training_step(self, batch: Any, batch_idx: int) -> None:
        critic, generator = self.optimizers()
        fake = self.generator(batch[0][:, :4])
        for _ in range(self.critic_steps):
            loss = self.critic(fake.detach()).mean() - self.critic(batch[0]).mean()
            self._step(critic, loss, "critic")
        if self.toggles:
            self.toggle_optimizer(generator)
        self._step(generator, -self.critic(fake).mean(), "generator")
        if self.toggles:
            self.untoggle_optimizer(generator)

    def _step(self, optimizer: Any, loss: Tensor, name: str) -> None:
        if name not in self.forgets:
            optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(player.parameters(), lr=1e-3) for player in (self.critic, self.generator)]


@pytest.mark.parametrize("forgets", ["critic", "generator"])
@pytest.mark.parametrize("options", [{}, {"critic_steps": 3}, {"toggles": True}])
def test_one_adversary_s_gradients_are_its_own_affair(tmp_path: Path, forgets: str, options: dict[str, Any]) -> None:
    net = Adversaries(**options)
    assert set(watch(tmp_path, net)["gradients_kept"].values) == {0.0}
    net.forgets = (forgets,)
    assert set(watch(tmp_path, net)["gradients_kept"].values) == {1.0}


def test_several_optimizers_share_ratios_and_have_cosines_of_their_own(tmp_path: Path) -> None:
    history = watch(tmp_path, Adversaries(toggles=True))
    assert history["update_ratio"].steps == history["weight_norm"].steps == EXAMINED
    layers = {"critic.0", "critic.2", "generator"}
    assert {name.partition("/")[2] for name in history.names("update_ratio/")} == layers
    assert history["gradient_cosine/optimizer0"].steps == history["gradient_cosine/optimizer1"].steps == EXAMINED[1:]
    assert history.absent["gradient_cosine"] == "2 optimizers: each has a gradient of its own"
    fact = history.facts["parameters"]
    assert fact["frozen"] == fact["unchanged"] == fact["no_gradient"] == fact["idle_optimizers"] == []
    assert fact["last_layer"] == {"name": "critic.2", "trained": True}


def test_an_optimizer_that_steps_without_any_gradient_is_idle(tmp_path: Path) -> None:
    class CutOff(Adversaries):
        def _step(self, optimizer: Any, loss: Tensor, name: str) -> None:
            # What the generator's loss leaves in the critic is the critic's alone.
            super()._step(optimizer, loss if name == "critic" else self.critic.zero_grad() or loss.detach(), name)

        def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if loss.requires_grad:
                super().manual_backward(loss, *args, **kwargs)

    fact = watch(tmp_path, CutOff()).facts["parameters"]
    assert fact["idle_optimizers"] == [1]
    assert fact["no_gradient"] == ["generator.weight", "generator.bias"]


@pytest.mark.parametrize("unheard", [False, True])
def test_an_optimizer_that_nobody_steps_is_named_by_its_parameters(tmp_path: Path, unheard: bool) -> None:
    class Forgetful(Adversaries):
        def _step(self, optimizer: Any, loss: Tensor, name: str) -> None:
            if name == "critic":
                super()._step(optimizer, loss, name)
            elif unheard:
                self.manual_backward(loss)
                self.trainer.optimizers[1].step()

    fact = watch(tmp_path, Forgetful()).facts["parameters"]
    assert fact["unstepped"] == ([] if unheard else ["generator.weight", "generator.bias"])
    assert watch(tmp_path, Adversaries()).facts["parameters"]["unstepped"] == []


def test_the_only_optimizer_that_nobody_steps_is_named_too(tmp_path: Path) -> None:
    class Forgetful(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.optimizers().zero_grad()
            self.manual_backward(self.loss(batch))

    fact = watch(tmp_path, Forgetful()).facts["parameters"]
    assert fact["unstepped"] == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]


def test_steps_between_the_examined_batches_are_looked_at_when_none_else_steps(tmp_path: Path) -> None:
    history = watch(tmp_path, Accumulating(), max_epochs=4)
    assert history["update_ratio"].steps == [4, 9, 19, 34]
    assert min(history["update_ratio"].values) > 0


def test_a_backward_pass_that_lightning_does_not_hear_of_is_a_reason(tmp_path: Path) -> None:
    class Unheard(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.loss(batch).backward()
            self.optimizers().step()

    history = watch(tmp_path, Unheard())
    assert history.absent["gradients_kept"] == "manual_backward was not called between two steps"
