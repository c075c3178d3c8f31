"""Strategies that keep from a callback what it would look at: nothing is guessed, and the reason is said.

Neither DeepSpeed nor FSDP1 runs on a CPU: what stands in for them does to parameters and gradients what their documents
say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from lightning_doctor import CurvatureProbe, Doctor
from tests.runs import DigitsNet, fit, flat

ENGINE = "under DeepSpeed the engine keeps gradients, and the weights that are stepped, to itself"
_GRADIENTS = ("grad_norm", "grad_non_finite", "update_ratio", "weight_norm", "gradient_cosine", "zero_gradient_share")
_REHEARSED = ("scan/1", "curvature", "leak", "eval_loss/train")


class EnginePrecision(Precision):
    """Hands backward passes and steps to the engine, in the order in which Lightning's plugin for DeepSpeed does."""

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().backward(tensor, model, optimizer, *args, **kwargs)
        model.trainer.strategy.take_gradients()

    def optimizer_step(self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any) -> Any:
        loss = closure()
        self._after_closure(model, optimizer)
        model.trainer.strategy.step_engine()
        return loss


class DeepSpeedStrategy(SingleDeviceStrategy):
    """Steps flat copies of the weights, once in so many micro-batches; no parameter ever has a gradient."""

    def __init__(self) -> None:
        super().__init__("cpu", precision_plugin=EnginePrecision())
        self.gradients: list[Tensor] = []

    @property
    def handles_gradient_accumulation(self) -> bool:
        return True

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        self.steps_every, self.batches = trainer.accumulate_grad_batches, 0
        self.own = list(trainer.lightning_module.parameters())
        self.flat = nn.Parameter(flat(trainer.lightning_module))
        (self.optimizer,) = self.optimizers
        self.optimizer.param_groups[0]["params"] = [self.flat]

    def take_gradients(self) -> None:
        self.gradients.append(torch.cat([p.grad.reshape(-1) for p in self.own]))
        for parameter in self.own:
            parameter.grad = None

    def step_engine(self) -> None:
        self.batches += 1
        if self.batches % self.steps_every:
            return
        self.flat.grad = torch.stack(self.gradients).sum(0)
        self.gradients.clear()
        self.optimizer.step()
        self.flat.grad = None
        with torch.no_grad():
            nn.utils.vector_to_parameters(self.flat, self.own)


class ShardingStrategy(SingleDeviceStrategy):
    """Marks parameters as FSDP1 does, which leaves a rank its part of each."""

    def setup(self, trainer: Any) -> None:
        super().setup(trainer)
        for parameter in trainer.lightning_module.parameters():
            parameter._fsdp_flattened = True


class FSDPStrategy(ShardingStrategy):
    pass


def watched(folder: Path, strategy: SingleDeviceStrategy, **options: Any) -> tuple[Doctor, Tensor]:
    doctor, net = Doctor(strict=True, overhead=1.0), DigitsNet(0.5)
    fit(folder, net, doctor, CurvatureProbe(samples=64, every_n_steps=5), strategy=strategy, max_epochs=10, **options)
    assert doctor.report is not None
    assert doctor.report.notes == []
    return doctor, flat(net)


def plain(folder: Path, strategy: SingleDeviceStrategy, **options: Any) -> Tensor:
    net = DigitsNet(0.5)
    fit(folder, net, strategy=strategy, max_epochs=10, **options)
    return flat(net)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_under_deepspeed_the_run_goes_on_and_what_the_engine_keeps_is_unassessed(
    tmp_path: Path, accumulated: int
) -> None:
    doctor, weights = watched(tmp_path, DeepSpeedStrategy(), accumulate_grad_batches=accumulated)
    assert torch.equal(weights, plain(tmp_path, DeepSpeedStrategy(), accumulate_grad_batches=accumulated))
    history = doctor.report.history
    assert {history.absent[name] for name in (*_GRADIENTS, *_REHEARSED, "parameters")} == {ENGINE}
    # The engine trains, and its losses are those of whole batches.
    losses = history["train_loss"].values
    assert len(losses) == 100
    assert losses[0] == pytest.approx(2.3, abs=0.3)  # ln 10 for ten classes, and what the first weights add
    assert losses[-1] < losses[0] / 2
    assert history["val_loss"].values[-1] < history["val_loss"].values[0]
    reasons = doctor.report.unassessed
    assert {reasons[code] for code in ("LD103", "LD201", "LD202", "LD203", "LD207")} == {ENGINE}
    assert [finding.code for finding in doctor.report.findings if finding.code.startswith("LD2")] == []
    assert {"LD101", "LD102", "LD501"} <= set(doctor.report.healthy)


def test_under_fsdp1_nothing_is_said_of_gradients_of_which_a_rank_holds_a_part(tmp_path: Path) -> None:
    doctor, weights = watched(tmp_path, FSDPStrategy("cpu"))
    assert torch.equal(weights, plain(tmp_path, FSDPStrategy("cpu")))
    absent = doctor.report.history.absent
    assert {absent[name] for name in ("grad_norm", "grad_non_finite")} == {
        "gradients are sharded over ranks, and no rank sees a whole one"
    }
    assert {absent[name] for name in ("update_ratio", "weight_norm", "gradient_cosine")} == {
        "parameters are sharded over ranks, and no rank sees a whole one"
    }
    assert {absent[name] for name in _REHEARSED} == {"under FSDPStrategy no rank holds the whole model"}
    assert "sharded over ranks" in doctor.report.unassessed["LD202"]
    assert len(doctor.report.history["train_loss"]) == 100


def test_a_partition_of_zero_3_is_known_by_what_hangs_on_an_empty_parameter(tmp_path: Path) -> None:
    from lightning_doctor.measure.norms import are_sharded

    whole, part = nn.Parameter(torch.ones(2)), nn.Parameter(torch.empty(0))
    part.ds_tensor = torch.ones(1)  # type: ignore[attr-defined]
    assert not are_sharded([whole])
    assert are_sharded([whole, part])
