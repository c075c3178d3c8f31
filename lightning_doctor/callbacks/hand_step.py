"""A training step in manual optimization, run on a copy: what it sends backward is its loss, and it steps nothing."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from lightning_doctor.callbacks.screen import Screen

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import LightningModule, Trainer

SEVERAL = "a step that steps several optimizers by hand has no one loss to be rehearsed for"
_OWN = "a step that steps optimizers which the Trainer does not know cannot be rehearsed"
_NOT_ALWAYS = "a step by hand is rehearsed only where each batch is one: of others the scale of the loss is not known"
_REACHED = "a rehearsed step reached the optimizer or the schedule of the run itself"
# What would change the run.
_OF_OPTIMIZERS, _OF_SCHEDULES = ("step", "zero_grad", "add_param_group", "load_state_dict"), ("step", "load_state_dict")


class Unrehearsable(Exception):  # noqa: N818
    """This model cannot be tried on a copy; the message is the reason, as a clause."""


def hand_obstacle(trainer: Trainer, module: LightningModule) -> str | None:
    """Says why a step in manual optimization cannot be rehearsed, as a clause; None where it can, or there is none."""
    if module.automatic_optimization:
        return None
    if len(trainer.optimizers) > 1:
        return SEVERAL
    known = {id(each) for each in (*trainer.optimizers, *trainer.strategy._lightning_optimizers)}
    held = (value for part in module.modules() for value in part.__dict__.values())
    if not list(trainer.optimizers[0].param_groups if trainer.optimizers else []) or any(
        isinstance(value, Optimizer) and id(value) not in known for value in held
    ):
        return _OWN
    loop = trainer.fit_loop.epoch_loop
    stepped, batches = loop.manual_optimization.optim_step_progress.total.completed, loop.batch_progress.total
    return None if batches.completed <= stepped <= batches.ready else _NOT_ALWAYS


class _StandIn(Optimizer):
    """An optimizer that steps nothing.

    Attributes:
        param_groups: Those of the optimizer that it stands for, over the parameters of the copy.
    """

    def __init__(self, stepped: Callable[[], None], emptied: Callable[[], None]) -> None:
        # Not that of all optimizers, which wants parameters before there are any.
        self._stepped, self._emptied = stepped, emptied
        self.param_groups = []
        self.state = defaultdict(dict)
        self.defaults = {}

    @property
    def optimizer(self) -> _StandIn:
        """What Lightning's own wrapper wraps."""
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Takes what was sent backward for discarded."""
        self._emptied()

    def step(self, closure: Callable[[], Any] | None = None, **_: Any) -> Any:
        """Takes what was sent backward for used."""
        found = None if closure is None else closure()
        self._stepped()
        return found

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Leaves it to all parameters whether they require a gradient."""
        yield

    def __deepcopy__(self, memo: dict[int, Any]) -> _StandIn:
        return self


class HandStep:
    """Stands between a copy of the model and all that its step would move by hand.

    The loss is what is sent backward before the optimizer steps, and was not discarded by ``zero_grad``. Gradients
    themselves are never computed. A step that gets at the run's own optimizer or schedule by another way than the
    module and its Trainer fails, before it has changed them.

    Args:
        trainer: The Trainer, with one optimizer.
        memo: Of ``copy.deepcopy``, to be used for the copy: it is told what stands for the optimizer.

    Attributes:
        own: What the Trainer of the copy has in place of its own, by name.
    """

    def __init__(self, trainer: Trainer, memo: dict[int, Any]) -> None:
        self._sent: list[Tensor] = []
        self._used = False
        self._optimizer = _StandIn(self._use, self._discard)
        self._behind = trainer.optimizers[0]
        self._held = [*trainer.optimizers, *trainer.strategy._lightning_optimizers]
        self._configs = trainer.lr_scheduler_configs
        self._schedules = [config.scheduler for config in self._configs]
        memo.update((id(held), self._optimizer) for held in self._held)
        self._strategy = Screen(
            trainer.strategy,
            optimizers=[self._optimizer],
            _lightning_optimizers=[self._optimizer],
            backward=self._send,
            optimizer_step=lambda optimizer, closure=None, *_, **__: self._optimizer.step(closure),
        )
        self.own = {"optimizers": [self._optimizer], "strategy": self._strategy}

    def take(self, made: LightningModule, screen: Screen, memo: dict[int, Any]) -> None:
        """Takes over a copy, once it is made."""
        # By the same memo: parameters are those of the copy, and schedules those of the stand-in.
        self._optimizer.param_groups = copy.deepcopy(self._behind.param_groups, memo)
        schedules = copy.deepcopy(self._configs, memo)
        for place in (screen, self._strategy):
            place.__dict__.update(lightning_module=made, model=made, lr_scheduler_configs=schedules)
        made.__dict__["zero_grad"] = self._optimizer.zero_grad

    def loss(self, run: Callable[[], Any]) -> Any:
        """Runs a step of the copy; returns what it sent backward, or what it returned where it sent nothing.

        Raises:
            Unrehearsable: Where that is no one loss, or the step reached what is the run's own.
        """
        self._sent, self._used = [], False
        with (
            _out_of_reach(self._held, _OF_OPTIMIZERS),
            _out_of_reach(self._schedules, _OF_SCHEDULES),
            _Unsent(self._send),
        ):
            outputs = run()
        sent, self._sent = self._sent, []
        if len(sent) > 1:
            raise Unrehearsable("several losses are sent backward in a step")
        return sent[0] if sent else outputs

    def _send(self, loss: Tensor, *_: Any, **__: Any) -> None:
        # What comes after the optimizer has stepped would be of other weights.
        if not self._used:
            self._sent.append(loss)

    def _use(self) -> None:
        self._used = bool(self._sent)

    def _discard(self) -> None:
        if not self._used:
            self._sent.clear()


class _Unsent(TorchFunctionMode):
    """Hands over the losses that are sent backward without Lightning."""

    def __init__(self, send: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._send = send

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.backward:
            return self._send(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def _out_of_reach(objects: Sequence[Any], names: Sequence[str]) -> Iterator[None]:
    """Has methods of objects refuse, whoever calls them."""

    def refuse(*_: Any, **__: Any) -> None:
        raise Unrehearsable(_REACHED)

    before = [(each, name, each.__dict__.get(name)) for each in objects for name in names]
    for each, name, _ in before:
        each.__dict__[name] = refuse
    try:
        yield
    finally:
        for each, name, own in before:
            if own is None:
                del each.__dict__[name]
            else:
                each.__dict__[name] = own
