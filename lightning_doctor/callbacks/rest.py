"""Steps that nobody looks at: the Trainer passes over the hooks they do not need, so that they cost next to nothing."""

from __future__ import annotations

import math
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim import Optimizer

    from lightning_doctor.callbacks.base import Trainer
    from lightning_doctor.callbacks.case import Case
    from lightning_doctor.callbacks.monitor import Monitor
    from lightning_doctor.callbacks.staff import Staff

# What a step needs no call of while it rests, what it needs none of where each batch is a step, and what automatic
# optimization never does.
_WHILE_RESTING = ("on_train_batch_start", "on_before_backward")
_BEFORE_STEP = "on_before_optimizer_step"
_BATCH_BY_BATCH = (_BEFORE_STEP,)
_NEVER = ("on_before_zero_grad", "on_after_backward")
_LIGHTER = "on_train_batch_end"
# One in so many resting steps is timed, and stands for the others.
_TIMED = 16
HUSHED = (*_WHILE_RESTING, *_BATCH_BY_BATCH, *_NEVER)
CHANGED = (*HUSHED, _LIGHTER)


class Rest:
    """Puts the leader's hooks to sleep and wakes them.

    Lightning dispatches every hook to every callback, whether or not it does anything there, for two to three
    microseconds each; a hook that is None it passes over. Where each batch is a step a lighter hook takes the end of a
    batch, and the one before a step wakes for those alone whose gradients are glanced at. Hooks that a subclass
    overrides are left alone.

    Args:
        case: The case, whose leader is the callback through which the Trainer's hooks arrive.
        staff: The monitors.
        possible: Whether steps may rest at all.

    Attributes:
        on: Whether the coming step rests.
    """

    def __init__(self, case: Case, staff: Staff, possible: bool) -> None:
        from lightning_doctor.callbacks.monitor import Monitor

        self.on = False
        self._case, self._staff = case, staff
        self._leader = case.leader
        self._possible = possible
        self._until = 0
        # Of a fit that ended in the middle of something.
        self._own = {name for name in CHANGED if name in vars(self._leader) and _is_ours(vars(self._leader)[name])}
        self._unhush(CHANGED)
        self._own = set()
        if possible and passes_over_none(case.trainer):
            self._own = {name for name in CHANGED if getattr(type(self._leader), name) is getattr(Monitor, name)}
        self._hush(_NEVER)

    def plan(self) -> None:
        """Lets the coming steps rest, as many as nobody wants to see; fewer than two are not worth it."""
        case = self._case
        length = case.pace.quiet()
        for part in self._staff.listening("awaits") if length else ():
            wanted = self._staff.ask(part, "awaits")
            length = length if wanted is None else min(length, wanted // max(1, case.run.accumulate))
        if not self._possible or length < 2:
            return
        light = case.run.steps_each_batch and self._own.issuperset((*_BATCH_BY_BATCH, _LIGHTER))
        # Who fails wakes the steps that rest by then.
        calls = [(part, self._staff.ask(part, "resting")) for part in self._staff.listening("rested") if light]
        self.on = True
        self._until = case.pace.steps + length
        self._hush(_WHILE_RESTING)
        if light:
            setattr(self._leader, _LIGHTER, self._lighter([(part, call) for part, call in calls if call is not None]))

    def is_last(self, step: int) -> bool:
        """Whether the step after this one no longer rests."""
        return step + 1 >= self._until

    def wake(self) -> None:
        """The coming step does not rest."""
        if self.on:
            self.on = False
            self._unhush((*_WHILE_RESTING, *_BATCH_BY_BATCH, _LIGHTER))

    def end(self) -> None:
        """Gives the leader all of its hooks back."""
        self.on = self._possible = False
        self._unhush(CHANGED)

    def _turn(self) -> float:
        """Lets the coming step be glanced at if that is due; returns after which one to ask again."""
        pace = self._case.pace
        if not self.on:
            return math.inf
        if pace.glancing:
            # A device that works on its own has to be asked what a glance took.
            if self._staff.device_time is None:
                setattr(self._leader, _BEFORE_STEP, self._glance)
            else:
                self._unhush(_BATCH_BY_BATCH)
            return pace.steps
        self._hush(_BATCH_BY_BATCH)
        return pace.next_glance - 1

    def _glance(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        """What the hook before a step is left with then: the step is glanced at."""
        case, budget, staff = self._case, self._case.budget, self._staff
        if case.stepped:
            # An optimizer that evaluates its closure several times announces each.
            return
        case.stepped = True
        began = budget.clock()
        for part in staff.listening("glance"):
            staff.ask(part, "glance", optimizer)
        case.pace.glanced()
        budget.spent += budget.clock() - began

    def _lighter(self, calls: Sequence[tuple[Monitor, Callable[..., None]]]) -> Callable[..., None]:
        """Returns what a batch's end is left with while every batch is a step that rests: the step is counted.

        What is called then was looked up once: between two training steps every look-up misses the processor's caches.
        """
        case, pace, budget, leader, staff = self._case, self._case.pace, self._case.budget, self._leader, self._staff
        clock, last = budget.clock, self._until - 1
        turn = self._turn()

        def count(trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            nonlocal turn
            if batch is None:
                # Nothing was trained on.
                return
            case.batch_idx = batch_idx
            steps = pace.steps
            # A checkpoint moves the window's end.
            if steps >= last or steps + 1 >= pace.next_close:
                case.stepped = True
                delattr(leader, _LIGHTER)
                leader.on_train_batch_end(trainer, module, outputs, batch, batch_idx)
                return
            # To look at the clock takes as long as what it is to time.
            timed = steps % _TIMED == 0
            began = clock() if timed else 0.0
            for part, call in calls:
                try:
                    call(outputs, batch_idx)
                except Exception as error:  # noqa: BLE001, PERF203
                    # It wakes the steps that rest.
                    staff.lose(part, error)
            if timed:
                budget.spent += _TIMED * (clock() - began)
            pace.steps = steps + 1
            if steps >= turn:
                case.stepped = False
                turn = self._turn()

        return count

    def _hush(self, names: tuple[str, ...]) -> None:
        self._leader.__dict__.update(dict.fromkeys(name for name in names if name in self._own))

    def _unhush(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in self._own:
                self._leader.__dict__.pop(name, None)


def _is_ours(hook: Any) -> bool:
    return hook is None or getattr(hook, "__module__", None) == __name__


def passes_over_none(trainer: Trainer) -> bool:
    """Whether this Lightning passes over a hook that is None, as every one so far does; tried on a stand-in."""
    tried: Any = SimpleNamespace(lightning_module=None, callbacks=[SimpleNamespace(state_key="", hook=None)])
    try:
        package = type(trainer).__module__.rpartition(".")[0]
        import_module(f"{package}.call")._call_callback_hooks(tried, "hook")
    except Exception:  # noqa: BLE001
        return False
    return True
