"""What kind of run this is, as plain JSON, so that remedies can fit it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from lightning_doctor.callbacks.loaders import first, samples

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.base import LightningModule, Trainer

_MOST_LAYERS = 1000
_MOST_GROUPS = 16
_MOST_TRANSFORMS = 64


def describe(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Returns the facts that :attr:`History.facts <lightning_doctor.history.History.facts>` holds.

    They ask the user's own classes, so that any of them may fail; what fails is left out.
    """
    sections: dict[str, Callable[[], Any]] = {
        "model": lambda: _model(module),
        "optimizers": lambda: [_optimizer(optimizer) for optimizer in trainer.optimizers],
        "schedulers": lambda: [_scheduler(config) for config in trainer.lr_scheduler_configs],
        "trainer": lambda: _trainer(trainer, module),
        "data": lambda: _data(trainer),
        "run": dict,
    }
    facts = {}
    for name, section in sections.items():
        with suppress(Exception):
            facts[name] = section()
    return facts


def all_callbacks(trainer: Trainer) -> list[Any]:
    """Returns the Trainer's own list of callbacks, an attribute that its class does not declare."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def ending(trainer: Trainer, exception: BaseException | None) -> str:
    """Says how a run ended: ``completed``, ``stopped``, ``interrupted`` or ``exception``."""
    if isinstance(exception, KeyboardInterrupt):
        return "interrupted"
    if exception is not None:
        return "exception"
    reached = (trainer.max_epochs not in (None, -1) and trainer.current_epoch >= int(trainer.max_epochs or 0)) or (
        trainer.max_steps not in (None, -1) and trainer.global_step >= trainer.max_steps
    )
    return "stopped" if trainer.should_stop and not reached else "completed"


def _model(module: LightningModule) -> dict[str, Any]:
    leaves = [(name, child) for name, child in module.named_modules() if not list(child.children())]
    parameters = list(module.parameters())
    dropout = {name: float(child.p) for name, child in leaves[:_MOST_LAYERS] if isinstance(child, _DropoutNd)}
    return {
        "class": type(module).__name__,
        "parameters": sum(_size(p) for p in parameters),
        "trainable": sum(_size(p) for p in parameters if p.requires_grad),
        "layers": dict(Counter(type(child).__name__ for _, child in leaves)),
        "layer_names": [name for name, _ in leaves[:_MOST_LAYERS]],
        **({"dropout": dropout} if dropout else {}),
    }


def _size(parameter: Tensor) -> int:
    # A lazy parameter has no size before its first forward pass, and says so by raising.
    return 0 if is_lazy(parameter) else parameter.numel()


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    wanted = ("lr", "momentum", "dampening", "nesterov", "maximize", "betas", "eps", "weight_decay", "lr_decay")
    return {
        "class": type(optimizer).__name__,
        "groups": [
            {key: _plain(group[key]) for key in wanted if key in group}
            for group in optimizer.param_groups[:_MOST_GROUPS]
        ],
    }


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) else list(value) if isinstance(value, tuple) else value


def _scheduler(config: Any) -> dict[str, Any]:
    return {"class": type(config.scheduler).__name__, "interval": config.interval, "frequency": config.frequency}


def _trainer(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": None if trainer.gradient_clip_val is None else _clipping(trainer),
        "precision": str(trainer.precision),
        "world_size": trainer.world_size,
        "callbacks": [type(callback).__name__ for callback in all_callbacks(trainer)],
        "automatic_optimization": module.automatic_optimization,
    }
    batches = trainer.num_training_batches
    planned = [trainer.max_steps] if trainer.max_steps not in (None, -1) else []
    if math.isfinite(batches):
        facts["batches_per_epoch"] = int(batches)
        facts["steps_per_epoch"] = math.ceil(batches / trainer.accumulate_grad_batches)
        if trainer.max_epochs not in (None, -1):
            planned.append(int(trainer.max_epochs or 0) * facts["steps_per_epoch"])
    if planned:
        facts["planned_steps"] = min(planned)
    return {key: value for key, value in facts.items() if value is not None}


def _clipping(trainer: Trainer) -> str:
    return str(getattr(trainer.gradient_clip_algorithm, "value", None) or "norm")


def _data(trainer: Trainer) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    loader = trainer.train_dataloader
    batch_size = getattr(loader, "batch_size", None)
    if isinstance(batch_size, int):
        facts["batch_size"] = batch_size
    workers = getattr(loader, "num_workers", None)
    if isinstance(workers, int):
        facts["workers"] = workers
    sampler = getattr(loader, "sampler", None)
    if sampler is not None:
        facts["sampler"] = type(sampler).__name__
    if (count := samples(loader)) is not None:
        facts["train_samples"] = count
    if (names := _augmentation(loader)) is not None:
        facts["augmentation"] = names
    if (count := _validated(trainer)) is not None:
        facts["val_samples"] = count
    return facts


def _validated(trainer: Trainer) -> int | None:
    """Returns how many samples a validation pass sees, of the first loader; None where that does not say."""
    loader = first(trainer.val_dataloaders)
    count, size, batches = samples(loader), getattr(loader, "batch_size", None), first(trainer.num_val_batches)
    if count is not None and isinstance(size, int) and isinstance(batches, int):
        # A pass may be cut short (limit_val_batches); each rank has its own batches.
        return min(count, batches * size * trainer.world_size)
    return count


def _augmentation(loader: Any) -> str | None:
    """Returns the names of the random transforms of a data set, as torchvision keeps them; None where none is seen."""
    waiting: list[Any] = []
    names: list[str] = []
    with suppress(Exception):
        waiting.append(loader.dataset)
    for _ in range(_MOST_TRANSFORMS):
        if not waiting:
            break
        held = waiting.pop()
        name = type(held).__name__
        if any(part in name for part in ("Random", "Jitter", "Augment", "AugMix", "CutOut", "GaussianNoise")):
            names.append(name)
        with suppress(Exception):
            for value in (vars(held).get(key) for key in ("dataset", "transform", "transforms", "_modules")):
                inner = list(value.values()) if isinstance(value, dict) else value
                waiting.extend(inner if isinstance(inner, (list, tuple)) else [inner])
    return ", ".join(dict.fromkeys(names)) or None
