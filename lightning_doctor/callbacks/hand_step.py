"""A training step in manual optimization, run on a copy: what it sends backward is its loss, and it steps nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from lightning_doctor.callbacks.screen import Screen, nothing

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import Trainer


class _Stepped(BaseException):
    """The weights would have changed: what a step sends backward after that is of others."""


class _StandIn(Optimizer):
    """An optimizer that steps nothing.

    Attributes:
        param_groups: Those of the optimizer that it stands for, over the parameters of the copy.
    """

    def __init__(self, would_step: Callable[[], None]) -> None:
        # Not that of all optimizers, which wants parameters before there are any.
        self._would_step = would_step
        self.param_groups = []
        self.state = defaultdict(dict)
        self.defaults = {}

    @property
    def optimizer(self) -> _StandIn:
        """What Lightning's own wrapper wraps."""
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Leaves gradients as they are: nothing was sent backward."""

    def step(self, closure: Callable[[], Any] | None = None, **_: Any) -> None:  # type: ignore[override]
        """Ends the step, if there was a loss to step by."""
        if closure is not None:
            closure()
        self._would_step()

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Leaves it to all parameters whether they require a gradient."""
        yield

    def __deepcopy__(self, memo: dict[int, Any]) -> _StandIn:
        return self


class HandStep:
    """Stands between a copy of the model and all that its step would move by hand.

    The loss is the sum of what is sent backward until the optimizer steps, or until the step is over: that whose
    gradient the optimizer follows. Gradients themselves are never computed, and a step that reads them fails.

    Args:
        trainer: The Trainer, with one optimizer.

    Attributes:
        own: What the Trainer of the copy has in place of its own, by name.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._sent: list[Tensor] = []
        self._behind: Optimizer = trainer.optimizers[0]
        self._optimizer = _StandIn(self._would_step)
        self._held = [*trainer.optimizers, *trainer.strategy._lightning_optimizers]
        own: dict[str, Any] = {
            "optimizers": [self._optimizer],
            "lr_scheduler_configs": [
                Screen(config, scheduler=Screen(config.scheduler, step=nothing, optimizer=self._optimizer))
                for config in trainer.lr_scheduler_configs
            ],
        }
        strategy = Screen(trainer.strategy, _lightning_optimizers=[self._optimizer], backward=self._send, **own)
        self.own = {**own, "strategy": strategy}

    def stand_in(self, memo: dict[int, Any]) -> None:
        """Tells ``copy.deepcopy`` what stands for the optimizer wherever the model holds it."""
        memo.update((id(held), self._optimizer) for held in self._held)

    def take(self, memo: Mapping[int, Any]) -> None:
        """Takes over the parameters of the copy, once it is made."""
        self._optimizer.param_groups = [
            {**group, "params": [memo[id(weight)] for weight in group["params"] if id(weight) in memo]}
            for group in self._behind.param_groups
        ]

    def loss(self, run: Callable[[], Any]) -> Any:
        """Runs a step of the copy; returns what it sent backward, or what it returned where it sent nothing."""
        self._sent.clear()
        outputs = None
        try:
            with _Unsent(self._send):
                outputs = run()
        except _Stepped:
            pass
        sent = self._sent.copy()
        self._sent.clear()
        if not sent:
            return outputs
        return _sum(sent) if all(loss.numel() == 1 for loss in sent) else None

    def _send(self, loss: Tensor, *_: Any, **__: Any) -> None:
        self._sent.append(loss)

    def _would_step(self) -> None:
        if self._sent:
            raise _Stepped


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


def _sum(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack([loss.reshape(()) for loss in losses]).sum() if len(losses) > 1 else losses[0]
