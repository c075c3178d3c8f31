"""A copy of the model to try things on: nothing it does reaches the run."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

from lightning_doctor.callbacks.free_memory import free_memory
from lightning_doctor.callbacks.hand_step import HandStep, hand_obstacle
from lightning_doctor.callbacks.hand_step import Unrehearsable as Unrehearsable
from lightning_doctor.callbacks.screen import Mute, Screen
from lightning_doctor.callbacks.shards import Whole, engine, put_together, shards_obstacle
from lightning_doctor.measure.norms import are_sharded
from lightning_doctor.measure.rows import tensor_bytes
from lightning_doctor.measure.twin import twin

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import LightningModule, Trainer

Step = Literal["training_step", "validation_step"]
_WHOLE = ("SingleDeviceStrategy", "DDPStrategy")
# A copy, and the difference of two sets of weights, with room to run.
_COPIES = 4
# What trying a step on a copy takes at least on a CPU: forty moves of each byte, and the overhead of each tensor's
# operations [seconds]; measured with 1e8 weights and with 1,000 layers.
_BYTE, _TENSOR = 1e-8, 3e-4


def why_not(error: Exception, step: str = "training_step") -> str:
    """Returns why a rehearsal came to nothing, as a clause: the user's own step may not bear being run apart."""
    if isinstance(error, Unrehearsable):
        return str(error)
    return f"a rehearsed {step.replace('_', ' ')} failed ({type(error).__name__}: {error})"


class Rehearsal:
    """A deep copy of the model: weights, buffers, metrics and whatever else its step may change.

    It logs nothing, sees a Trainer whose loggers are dummies, and each of its passes begins at the same random state,
    which is the run's own afterwards again. A step that reaches outside the model (a file, a global) is not held back.

    Args:
        trainer: The Trainer, between two steps.
        module: The model.
        steps: Whether its training step is what will be run.
        whole: Gathers a weight that ranks hold in shards, where all of them make a copy.

    Attributes:
        drew: Whether the last step that was run has drawn random numbers.

    Raises:
        Unrehearsable: Where a copy is impossible or not the whole model.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, *, steps: bool = True, whole: Whole | None = None
    ) -> None:
        reason = obstacle(trainer, module, steps=steps, gathers=whole is not None)
        if reason is not None:
            raise Unrehearsable(reason)
        self._trainer = trainer
        self._source = module
        self.drew = False
        self.module, self._hand = _copied(trainer, module, whole)

    def of(self, module: LightningModule) -> Rehearsal:
        """Returns the same with another copy of the model."""
        other = copy.copy(self)
        other.module = module
        return other

    def loss(
        self,
        batch: Any,
        batch_idx: int,
        *,
        train: bool,
        with_graph: bool = False,
        step: Step = "training_step",
        by: Callable[[Any, Any], Any] | None = None,
    ) -> Tensor | None:
        """Runs a step of the copy; returns its loss, None where there is none.

        Args:
            batch: A batch, on the device; it is copied too.
            batch_idx: Its index.
            train: Whether dropout, batch normalisation and the like work as in training.
            with_graph: Whether autograd records.
            step: Which one; the validation step as of the first loader.
            by: What to run instead of it; it takes the copy and the batch.
        """
        for mine, theirs in zip(self.module.modules(), self._source.modules(), strict=True):
            # A user may keep some parts in eval mode.
            mine.training = train and theirs.training
        steps = step == "training_step" and by is None
        if steps and self._hand is None and not self._source.automatic_optimization:
            # It would step the run's own optimizers.
            raise Unrehearsable(hand_obstacle(self._trainer, self._source) or "it was copied before it could be")
        run: Callable[..., Any] = getattr(self.module, step) if by is None else partial(by, self.module)
        names = inspect.signature(run).parameters
        arguments = (batch, batch_idx) if len(names) > 1 else (batch,)
        loaders = {"dataloader_idx": 0} if "dataloader_idx" in names else {}
        precision = self._trainer.precision_plugin
        with (
            alone(self._trainer.strategy.root_device),
            torch.set_grad_enabled(with_graph),
            precision.train_step_context() if step == "training_step" else precision.val_step_context(),
            torch.compiler.set_stance("force_eager"),
        ):
            step_of_copy = partial(run, *copy.deepcopy(arguments), **loaders)
            by_hand = self._hand if steps else None
            before = _random_states(self._trainer.strategy.root_device)
            outputs = step_of_copy() if by_hand is None else by_hand.loss(step_of_copy)
            self.drew = _random_states(self._trainer.strategy.root_device) != before
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        return loss.reshape(()) if isinstance(loss, Tensor) and loss.numel() == 1 else None


def obstacle(trainer: Trainer, module: LightningModule, *, steps: bool = True, gathers: bool = False) -> str | None:
    """Says why this model cannot be copied and run apart, as a clause; None where it can.

    Args:
        trainer: The Trainer.
        module: The model.
        steps: Whether its training step is what will be run.
        gathers: Whether all ranks make a copy, and may gather weights that they hold in shards.
    """
    if steps and (reason := hand_obstacle(trainer, module)) is not None:
        return reason
    if (reason := engine(trainer)) is not None:
        return reason
    strategy = type(trainer.strategy).__name__
    parameters = list(module.parameters())
    holds = holds_whole(trainer, parameters)
    if not holds and not gathers:
        return f"under {strategy} no rank holds the whole model"
    if not holds and (reason := shards_obstacle(trainer, module)) is not None:
        return reason
    if any(is_lazy(parameter) for parameter in parameters):
        return "the model is lazy and has not been run yet"
    size = tensor_bytes(parameters)
    free = free_memory(trainer.strategy.root_device, trainer.num_devices)
    if free is not None and _COPIES * size > free:
        return f"{_COPIES} copies of its {size / 2**20:.0f} MiB of weights do not fit into the memory that is free"
    return None


def trial_cost(module: nn.Module) -> float:
    """Returns about what trying a step on a copy of the model takes, by its size alone [seconds]."""
    parameters = [parameter for parameter in module.parameters() if not is_lazy(parameter)]
    return _BYTE * tensor_bytes(parameters) + _TENSOR * len(parameters)


def holds_whole(trainer: Trainer, parameters: Sequence[Tensor]) -> bool:
    """Whether each rank has all of the model's parameters and of their gradients."""
    return any(kind.__name__ in _WHOLE for kind in type(trainer.strategy).__mro__) and not are_sharded(parameters)


def _copied(trainer: Trainer, module: LightningModule, whole: Whole | None) -> tuple[LightningModule, HandStep | None]:
    # What is not the model's own to change is shared: the Trainer behind a screen, data, and what is left of a graph.
    memo: dict[int, Any] = {}
    by_hand = not module.automatic_optimization and hand_obstacle(trainer, module) is None
    hand = HandStep(trainer, memo) if by_hand else None
    screen = Screen(trainer, logger=Mute(), loggers=[], **({} if hand is None else hand.own))
    memo[id(trainer)] = screen
    for part in module.modules():
        for value in _held(part):
            if isinstance(value, (Dataset, DataLoader)) or type(value).__name__.endswith(("DataModule", "DeviceMesh")):
                memo[id(value)] = value
            elif isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    try:
        if whole is not None:
            put_together(module, memo, whole)
        # Lightning's own `__getstate__` drops the Trainer.
        made = twin(module, memo, frozen=hand is not None)
        if hand is not None:
            hand.take(made, screen, memo)
    except Unrehearsable:
        # Of another rank.
        raise
    except Exception as error:
        raise Unrehearsable(f"the model cannot be copied ({type(error).__name__}: {error})") from error
    context = getattr(module, "_compiler_ctx", None)
    if context is not None:
        for name in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
            made.__dict__.pop(name, None)
    made._trainer = cast("Trainer", screen)
    for name in ("log", "log_dict", "print"):
        made.__dict__[name] = _nothing
    return made, hand


def _nothing(*_: Any, **__: Any) -> None:
    """Logs nothing."""


def _held(part: nn.Module) -> Iterator[Any]:
    for value in part.__dict__.values():
        yield value
        if isinstance(value, (list, tuple)):
            yield from value
        elif isinstance(value, Mapping):
            yield from value.values()


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """Gives every random generator back as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _random_states(device: torch.device) -> tuple[Any, ...]:
    """Returns where the random generators are that :func:`alone` gives back."""
    own = torch.get_rng_state().numpy().tobytes()
    theirs = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    kind, keys, *places = np.random.get_state(legacy=True)
    return own, theirs, kind, np.asarray(keys).tobytes(), places, random.getstate()
