"""One ``fit`` as the monitors need to know it: its optimizers, its step, its loss scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.base import LightningModule, Trainer


class Run:
    """A Trainer and its model, once training starts.

    Attributes:
        optimizers: The Trainer's.
        automatic: Whether Lightning steps them.
        scaler: The fp16 gradient scaler; None where there is none at work.
        clips: Whether gradients may be clipped before a step.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.trainer = trainer
        self.module = module
        self._steps_as_lightning = type(module).optimizer_step.__module__.endswith(".core.module")
        # A schedule sets how many batches are accumulated as an epoch begins, when the doctor may have been called.
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        self._scheduled = any(hasattr(each, "going_to_accumulate_grad_batches") for each in callbacks)
        self._loop = trainer.fit_loop.epoch_loop
        self.optimizers: list[Optimizer] = list(trainer.optimizers)
        self.automatic: bool = module.automatic_optimization
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.scaler: Any = scaler if scaler is not None and scaler.is_enabled() else None
        default = type(module).configure_gradient_clipping.__module__.endswith(".core.module")
        self.clips = bool(trainer.gradient_clip_val) or not default or not self.automatic

    @property
    def step(self) -> int:
        """The step on the axis of the logged metrics, which counts batches that stepped."""
        step: int = self._loop._batches_that_stepped
        return step

    @property
    def accumulate(self) -> int:
        """The number of micro-batches a step, which a scheduler may change."""
        return self.trainer.accumulate_grad_batches

    @property
    def epoch_steps(self) -> int:
        """The number of steps an epoch, about; 0 where nobody knows."""
        batches = self.trainer.num_training_batches
        return math.ceil(batches / self.accumulate) if math.isfinite(batches) else 0

    @property
    def steps_each_batch(self) -> bool:
        """Whether every batch is a step: nothing accumulates, or may soon, the model's ``optimizer_step`` included."""
        return self._steps_as_lightning and not self._scheduled and self.accumulate == 1

    def trained(self) -> list[Tensor]:
        """Returns the parameters that require gradients now."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def index(self, optimizer: Optimizer) -> int:
        """The place of this optimizer among the Trainer's; 0 for one that is wrapped beyond recognition."""
        return next((i for i, known in enumerate(self.optimizers) if known is optimizer), 0)

    def loss_scale(self) -> Tensor | None:
        """What an fp16 scaler multiplies the loss by, on its device; None without one."""
        if self.scaler is None:
            return None
        # The scaler's own getter would block.
        scale: Tensor = self.scaler.scale(torch.ones((), device=self.trainer.strategy.root_device))
        return scale

    def scale_left(self, optimizer: Optimizer) -> Tensor | None:
        """What gradients are still multiplied by before the step: only a fused optimizer unscales them itself."""
        if self.scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
            return None
        return self.loss_scale()
