"""Steps that nobody looks at: the Trainer passes over the hooks they do not need, so that they cost next to nothing."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import Trainer
    from lightning_doctor.callbacks.monitor import Monitor

# What a step needs no call of while it rests, and what automatic optimization never does.
_WHILE_RESTING = ("on_train_batch_start", "on_before_backward")
_NEVER = ("on_before_zero_grad", "on_after_backward")
HUSHED = (*_WHILE_RESTING, *_NEVER)


class Rest:
    """Puts the leader's hooks to sleep and wakes them.

    Lightning dispatches every hook to every callback, whether or not it does anything there, for two to three
    microseconds each; a hook that is None it passes over. Hooks that a subclass overrides are left alone.

    Args:
        leader: The callback through which the Trainer's hooks arrive.
        trainer: The Trainer.
        possible: Whether steps may rest at all.

    Attributes:
        on: Whether the coming step rests.
    """

    def __init__(self, leader: Monitor, trainer: Trainer, possible: bool) -> None:
        from lightning_doctor.callbacks.monitor import Monitor

        self.on = False
        self._leader = leader
        self._possible = possible
        self._until = 0
        # Of a fit that ended in the middle of something.
        self._own = {name for name in HUSHED if vars(leader).get(name, self) is None}
        self._unhush(HUSHED)
        self._own = set()
        if possible and passes_over_none(trainer):
            self._own = {name for name in HUSHED if getattr(type(leader), name) is getattr(Monitor, name)}
        self._hush(_NEVER)

    def begin(self, step: int, length: int) -> None:
        """Lets so many steps rest, from the coming one on; fewer than two are not worth it."""
        if self._possible and length >= 2:
            self.on = True
            self._until = step + length
            self._hush(_WHILE_RESTING)

    def is_last(self, step: int) -> bool:
        """Whether the step after this one no longer rests."""
        return step + 1 >= self._until

    def wake(self) -> None:
        """The coming step does not rest."""
        if self.on:
            self.on = False
            self._unhush(_WHILE_RESTING)

    def end(self) -> None:
        """Gives the leader all of its hooks back."""
        self.on = self._possible = False
        self._unhush(HUSHED)

    def _hush(self, names: tuple[str, ...]) -> None:
        self._leader.__dict__.update(dict.fromkeys(name for name in names if name in self._own))

    def _unhush(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in self._own:
                self._leader.__dict__.pop(name, None)


def passes_over_none(trainer: Trainer) -> bool:
    """Whether this Lightning passes over a hook that is None, as every one so far does; tried on a stand-in."""
    tried: Any = SimpleNamespace(lightning_module=None, callbacks=[SimpleNamespace(state_key="", hook=None)])
    try:
        package = type(trainer).__module__.rpartition(".")[0]
        import_module(f"{package}.call")._call_callback_hooks(tried, "hook")
    except Exception:  # noqa: BLE001
        return False
    return True
