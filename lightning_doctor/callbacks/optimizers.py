"""Learning rate and momentum of every parameter group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.measure.norms import are_sharded

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.case import Case

MOST_GROUPS = 16


class OptimizerMonitor(Monitor):
    """Records ``learning_rate`` and ``momentum`` (β₁ for the Adam family) as each step used them.

    The first parameter group has the plain names, the others ``learning_rate/1`` and so on, counted over all
    optimizers; of more than 16 groups the first 16. A value is recorded on measured steps, when it has changed,
    and once a window.

    Under Adagrad, ``adagrad_step`` is what is left of the step once its accumulator has grown:
    ``lr · ‖g‖ / √Σ accumulator``, once a window (Duchi et al. 2011, the diagonal update, over all parameters); ``lr``
    as its own ``lr_decay`` leaves it.
    """

    signals = ("learning_rate", "momentum", "adagrad_step")

    def begin(self, case: Case) -> None:
        """Counts the parameter groups of all optimizers through."""
        self._last: dict[str, float | None] = {}
        self._first_group: list[int] = []
        self._adagrad_due = True
        count = 0
        for optimizer in case.run.optimizers:
            self._first_group.append(count)
            count += len(optimizer.param_groups)
        if not count:
            case.history.lack(self.signals, "there is no optimizer")
        if not any(isinstance(optimizer, torch.optim.Adagrad) for optimizer in case.run.optimizers):
            case.history.lack(["adagrad_step"], "the optimizer is not Adagrad")

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Reads the settings that the coming step uses."""
        if not (case.sampling or case.examining):
            return
        first = self._first_group[case.run.index(optimizer)]
        for index, group in enumerate(optimizer.param_groups[: max(0, MOST_GROUPS - first)], first):
            suffix = f"/{index}" if index else ""
            self._note(case, f"learning_rate{suffix}", group.get("lr"))
            self._note(case, f"momentum{suffix}", _momentum(group))
        if self._adagrad_due and isinstance(optimizer, torch.optim.Adagrad):
            self._adagrad_due = False
            self._note_adagrad(case, optimizer)

    def before_close(self, case: Case) -> None:
        """Lets the next step of each group be recorded again, changed or not."""
        self._last.clear()
        self._adagrad_due = True

    def _note(self, case: Case, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            case.read(name, value.detach().clone())
        elif value is not None and value != self._last.get(name):
            self._last[name] = value
            case.history.record(name, case.run.step, value)

    def _note_adagrad(self, case: Case, optimizer: torch.optim.Adagrad) -> None:
        held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        states = [state for p in held if "sum" in (state := optimizer.state.get(p, {}))]
        sums = [state["sum"] for state in states]
        gradients = [p.grad for p in held]
        if sums and not are_sharded([*held, *gradients]) and not any(gradient.is_sparse for gradient in gradients):
            square = torch.nn.utils.get_total_norm(gradients) ** 2
            total = torch.stack([s.sum() for s in sums]).sum() + square
            group = optimizer.param_groups[0]
            # On the host, where Adagrad counts: a number of no dimension goes along without a copy that waits.
            rate = group["lr"] / (1 + states[0]["step"] * group["lr_decay"])
            case.read("adagrad_step", ((square / total).sqrt() * rate).detach())


def _momentum(group: dict[str, Any]) -> Any:
    return group["betas"][0] if "betas" in group else group.get("momentum")
