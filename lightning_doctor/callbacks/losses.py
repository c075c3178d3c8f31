"""The training loss of every optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.monitor import Monitor

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.case import Case


class LossMonitor(Monitor):
    """Records ``train_loss``, one value an optimizer step: the mean over micro-batches and ranks.

    With several optimizers there is no single loss that has to fall: each gets a series of its own, ``train_loss/0``
    and so on, the sum of what was sent backward between two of its steps.
    """

    signals = ("train_loss",)

    def begin(self, case: Case) -> None:
        """Forgets the losses of a batch that was not finished."""
        self._sent: list[Tensor] = []
        self._returned: list[Tensor] = []
        # With the version each had: it is Lightning's own copy, which nobody has a reason to change.
        self._kept: list[tuple[int, Tensor, int]] = []
        # The one that each has as it comes.
        self._version = 0
        self._several = len(case.run.optimizers) > 1
        self._automatic = case.run.automatic
        reason = "training_step has returned no loss"
        if self._several:
            reason = f"{len(case.run.optimizers)} optimizers: no single loss has to fall"
        case.history.lack(self.signals, reason)

    def before_backward(self, case: Case, loss: Tensor) -> None:
        """Keeps what is sent backward: in manual optimization nothing need be returned."""
        if loss.numel() != 1:
            # Sent with a gradient of its own: what falls is not known.
            return
        loss, scale = loss.detach().reshape(()), case.run.loss_scale()
        self._sent.append(loss.clone() if scale is None else loss / scale)

    def end(self, case: Case) -> None:
        """Lets go of the losses of a batch that was not finished."""
        self._sent.clear()
        self._returned.clear()
        self._kept.clear()

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Gives each of several optimizers the losses sent backward since the last step of any."""
        if self._several and self._sent:
            index = case.run.index(optimizer)
            case.read(f"train_loss/{index}", torch.stack(self._sent).sum())
            self._sent.clear()

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Keeps the loss of a micro-batch; of the last before a step, the mean of them all."""
        self.rested(case, outputs, batch_idx)

    def rested(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Does the same on every step, measured or not."""
        if self._several:
            # What no step followed belongs to none.
            self._sent.clear()
            return
        # A dict needs no look at what counts as a mapping, which takes as long as all the rest.
        loss = outputs.get("loss") if type(outputs) is dict or isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            if self._automatic and case.stepped and not self._returned and case.run.accumulate == 1:
                # The only one of its step, as almost all are.
                self._version = loss._version
                self._kept.append((case.run.step, loss, self._version))
                return
            # In automatic optimization Lightning has copied it: a captured graph overwrites its outputs.
            self._returned.append(loss if self._automatic else loss.detach().clone())
        if not case.stepped:
            return
        losses = self._returned or self._sent
        if losses:
            value = losses[0]
            if self._automatic and case.run.accumulate > 1:
                # Lightning returns each micro-batch's loss divided by their number.
                value = _stack(losses).sum() * (case.run.accumulate / len(losses))
            elif len(losses) > 1:
                value = _stack(losses).sum()
            self._kept.append((case.run.step, value, value._version))
        self._sent.clear()
        self._returned.clear()

    def resting(self, case: Case) -> Callable[[Any, int], None]:
        """Returns the shortest way to do the same where each batch is a step."""
        run, kept, version = case.run, self._kept, self._version

        def keep(outputs: Any, batch_idx: int) -> None:
            if type(outputs) is dict and type(loss := outputs.get("loss")) is Tensor:
                kept.append((run.step, loss, version))
            else:
                case.stepped = True
                try:
                    self.rested(case, outputs, batch_idx)
                finally:
                    case.stepped = False

        return keep

    def before_close(self, case: Case) -> None:
        """Hands over the losses of the window, still on their device."""
        kept = [each for each in self._kept if each[1]._version == each[2] and each[1].numel() == 1]
        self._kept.clear()
        if kept:
            losses = _stack([loss for _, loss, _ in kept])
            case.window.put(kept[-1][0], losses, partial(_receive, case, [step for step, _, _ in kept]))


def _stack(losses: list[Tensor]) -> Tensor:
    return torch.stack([loss.detach().reshape(()) if loss.ndim or loss.requires_grad else loss for loss in losses])


def _receive(case: Case, steps: list[int], _: int, numbers: list[float]) -> None:
    for step, loss in zip(steps, numbers, strict=True):
        case.history.record("train_loss", step, loss)
