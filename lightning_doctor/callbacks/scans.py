"""The loss along the steps that the run makes, on samples that did not make them."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_doctor.budget import too_dear
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.rehearsal import Rehearsal, Unrehearsable, obstacle, why_not
from lightning_doctor.measure.scanning import FACTORS, scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from lightning_doctor.callbacks.case import Case

_CAPACITY = 256
_MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class StepScan(Monitor):
    """Records what smaller and larger steps than those made would have done, by forward passes of a copy of the model.

    ``scan/<t>`` is the change of the loss at ``t`` times an update, as a share of the loss before it, on the next
    batch; ``scan_limit`` the smallest learning rate along it that raised that loss, where one did; ``scan_best`` the
    multiple with the lowest loss. ``mode_gap`` is how far the loss of a batch in train mode lies over the one in eval
    mode, as a share of it.

    A scan can prove a rate too high. That a larger one would do better it cannot prove: one step is not a run.
    """

    signals = (*(f"scan/{factor:g}" for factor in FACTORS), "scan_limit", "scan_best", "mode_gap")

    def begin(self, case: Case) -> None:
        """Asks whether this model can be tried on a copy."""
        self._before: list[tuple[nn.Parameter, Tensor]] | None = None
        self._rate = 0.0
        self._modal = any(part.training and _asks_mode(part) for part in case.run.module.modules())
        reason = obstacle(case.run.trainer, case.run.module)
        self._able = reason is None
        if reason is not None:
            case.history.lack(self.signals, reason)
        self._waits = False
        self._expected = [name for name in self.signals if self._modal or name != "mode_gap"]
        if not self._modal:
            case.history.lack(["mode_gap"], "the model has no dropout or batch normalisation, and asks for no mode")

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Keeps the weights that a step to be tried starts from."""
        if not self._able:
            return
        if case.examining and not case.trying:
            self._waits = True
            case.history.lack(self._expected, too_dear(case.pace.trial_cost))
        elif case.trying and self._before is None:
            # Of several announcements within a batch the first: by hand those of all steps, or evaluations, are heard.
            if self._waits:
                self._waits = False
                for name in self._expected:
                    case.history.absent.pop(name, None)
            self._before = [(parameter, parameter.detach().clone()) for parameter in case.run.module.parameters()]
            self._rate = float(next(iter(optimizer.param_groups), {}).get("lr", 0.0))

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Scans the step that was made on the next batch."""
        if self._before is None:
            return
        before, self._before = self._before, None
        parameters = list(case.run.module.parameters())
        if [id(parameter) for parameter in parameters] != [id(parameter) for parameter, _ in before]:
            case.history.lack(
                self._expected, "the model was rebuilt after the step that was to be tried, as by pruning"
            )
            return
        try:
            self._scan(case, [start for _, start in before], batch, batch_idx)
        except Exception as error:  # noqa: BLE001
            self._able = False
            case.history.lack(self.signals, why_not(error))

    def end(self, case: Case) -> None:
        """Lets go of the weights."""
        self._before = None

    def _scan(self, case: Case, before: list[Tensor], batch: Any, batch_idx: int) -> None:
        rehearsal = Rehearsal(case.run.trainer, case.run.module)
        after = [parameter.detach() for parameter in case.run.module.parameters()]
        updates = torch._foreach_sub(after, before)
        weights = [parameter.detach() for parameter in rehearsal.module.parameters()]

        def loss_at(factor: float, *, train: bool = True) -> Tensor:
            for weight, start, update in zip(weights, before, updates, strict=True):
                torch.add(start, update, alpha=factor, out=weight)
            loss = rehearsal.loss(batch, batch_idx, train=train)
            if loss is None:
                raise Unrehearsable("the training step returned no loss on the batch that a step was scanned on")
            return loss

        result = scan(loss_at)
        # NaN for what there is not: on every rank the vector has the same length, and is averaged over them.
        numbers = [math.nan] * (len(FACTORS) + 3)
        if result is not None:
            limit = math.nan if result.limit is None else result.limit * self._rate
            numbers = [*result.changes, result.best, limit, math.nan]
            if self._modal:
                numbers[-1] = self._mode_gap(case, loss_at, result.losses[FACTORS.index(1.0)])
        # Of the step before this one.
        case.window.put(case.run.step - 1, torch.tensor(numbers, dtype=torch.float64), partial(_receive, case))

    def _mode_gap(self, case: Case, loss_at: Callable[..., Tensor], trained: float) -> float:
        try:
            evaluated = float(loss_at(1.0, train=False))
        except Exception as error:  # noqa: BLE001
            # One that puts out something else then, as no loss.
            self._modal = False
            self._expected.remove("mode_gap")
            case.history.lack(["mode_gap"], f"in eval mode {why_not(error)}")
            return math.nan
        return (trained - evaluated) / max(abs(evaluated), 1e-30)


def _asks_mode(part: nn.Module) -> bool:
    """Whether a part of a model does another thing in eval mode: it is known to, or its own code asks for the mode."""
    if isinstance(part, _MODAL):
        return True
    own = type(part)
    codes = [getattr(getattr(own, name, None), "__code__", None) for name in ("forward", "training_step")]
    return not own.__module__.startswith("torch.") and any(code and "training" in code.co_names for code in codes)


def _receive(case: Case, step: int, numbers: list[float]) -> None:
    history = case.history
    *changes, best, limit, gap = numbers
    if not any(changes):
        # A step that was skipped, or a model whose loss is another's.
        history.lack(StepScan.signals, "the loss of a copy does not change with its weights")
        return
    names = [*(f"scan/{factor:g}" for factor in FACTORS), "scan_best", "scan_limit", "mode_gap"]
    for name, value in zip(names, (*changes, best, limit, gap), strict=True):
        if math.isfinite(value):
            history.record(name, step, value, capacity=_CAPACITY)
