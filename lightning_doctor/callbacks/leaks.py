"""Whether the prediction for one sample depends on the other samples of its batch, and on all of its time steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric

from lightning_doctor.budget import too_dear
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.rehearsal import Rehearsal, Unrehearsable, obstacle, why_not
from lightning_doctor.measure.rows import count_rows, has_rows, take, tensors

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.case import Case

_TIMES = 2
# Steps before the second time: by then the network uses its inputs, which a last layer of zeros does not at first.
_LATER = 50
# A prediction has changed if by more than this share of how far the predictions of different samples lie apart, and
# by more than so many roundings of its own size: kernels may add in another order, no leak is that small.
_SHARE, _ROUNDINGS = 1e-3, 16
# The parts of a sequence of which the first and the last are tried, and the time steps that make one.
_PARTS, _FEWEST_STEPS = 4, 8


class LeakProbe(Monitor):
    """Replaces half of a batch by one of its other rows, and looks whether the predictions for these change.

    In eval mode, on a copy of the model, twice a run at most: after the first examined step and once later. What it
    finds is the fact ``leak``, whose ``changed`` is the share of rows whose prediction depends on other rows.
    Predictions are what the last layer with a row for each sample returns: a loss may compare samples as it likes.

    The second time the first quarter of the time steps that a recurrent layer reads is replaced by that of other
    samples, and the last quarter: the fact ``recurrence`` says how far either moves the predictions.
    """

    signals = ("leak", "recurrence")

    def begin(self, case: Case) -> None:
        """Nothing is known yet."""
        self._left = _TIMES
        self._due = False
        case.history.lack(self.signals, "no batch has been tried on a copy of the model")

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Plans to try the batch that follows an examined step."""
        ripe = self._left == _TIMES or (self._left > 0 and case.run.step >= _LATER)
        if ripe and case.examining and not case.trying:
            reason = obstacle(case.run.trainer, case.run.module)
            case.history.lack(self.signals, reason or too_dear(case.pace.trial_cost))
        self._due = self._due or (case.trying and ripe)

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Tries this batch."""
        if not self._due:
            return
        self._due = False
        self._left -= 1
        try:
            rehearsal = Rehearsal(case.run.trainer, case.run.module)
            trial = _Trial(rehearsal, batch, batch_idx, _rows(case, batch))
            changed = trial.changed()
        except Exception as error:  # noqa: BLE001
            case.history.lack(self.signals, why_not(error))
        else:
            # Once found it is there. Each rank tries as often: what one has found does not spare the others a pass.
            known = case.history.fact("leak.changed", 0.0)
            case.history.facts["leak"] = {"tested": True, "changed": max(changed, known)}
            case.history.absent.pop("leak", None)
            if case.run.step >= _LATER:
                self._hear(case, trial)

    def _hear(self, case: Case, trial: _Trial) -> None:
        try:
            heard = trial.heard()
        except Exception as error:  # noqa: BLE001
            case.history.lack(["recurrence"], why_not(error))
            return
        if isinstance(heard, str):
            case.history.lack(["recurrence"], heard)
            return
        case.history.facts["recurrence"] = {"step": case.run.step, **heard}
        case.history.absent.pop("recurrence", None)


class _Trial:
    """One batch, whole and with either half replaced by a row of the other, through a copy of the model.

    Args:
        rehearsal: The copy.
        batch: The batch, with a row for each sample.
        batch_idx: Its index.
        rows: The number of its samples.
    """

    def __init__(self, rehearsal: Rehearsal, batch: Any, batch_idx: int, rows: int) -> None:
        self._rehearsal = rehearsal
        self._batch = batch
        self._batch_idx = batch_idx
        self._rows = rows
        self._entering = False
        self._entered: Tensor | None = None
        self._predictions: Tensor | None = None
        for part in rehearsal.module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
                raise Unrehearsable("batch normalisation without running statistics mixes the rows of a batch")
            if part is not rehearsal.module:
                part.register_forward_pre_hook(self._enters, with_kwargs=True)
            if not isinstance(part, (_Loss, Metric)) and any(True for _ in part.parameters()):
                part.register_forward_hook(self._ran)

    def changed(self) -> float:
        """Returns the share of rows whose prediction changes when other rows do.

        Raises:
            Unrehearsable: Where that cannot be told.
        """
        index = torch.arange(self._rows)
        half = self._rows // 2
        first = index < half
        entered, before = self._run(index)
        limit = self._limit(before, self._run(index)[1])
        dependent = 0
        # Either half: where rows are read one after the other, as a recurrent layer does, only the later ones depend.
        # By a single sample, since halves may be alike as a whole: of few symbols, whose mean is all that leaks.
        for kept, other in ((first, 0), (~first, half)):
            now_entered, now = self._run(index.where(kept, other))
            if entered is not None and now_entered is not None and _rows_of(entered != now_entered)[kept].any():
                self._refuse_mixtures(entered)
            differs = _rows_of((now - before).abs() > limit)
            if not differs[~kept].any():
                raise Unrehearsable("the predictions do not depend on the tensors of the batch")
            dependent += int(differs[kept].sum())
        return dependent / self._rows

    def heard(self) -> dict[str, Any] | str:
        """Returns how far the first and the last time steps that the first recurrent layer reads move the predictions.

        Each in shares of how far the predictions of different samples lie apart; a reason where that cannot be told.
        """
        named = self._rehearsal.module.named_modules()
        name, layer = next(((n, part) for n, part in named if isinstance(part, nn.RNNBase)), ("", None))
        if layer is None:
            return "the model has no recurrent layer"
        index = torch.arange(self._rows)
        before = self._run(index)[1].double()
        spread = _spread(before)
        moved: dict[str, float] = {}
        for part in ("early", "late"):
            read: dict[str, int] = {}
            hook = layer.register_forward_pre_hook(partial(_exchange, early=part == "early", read=read))
            after = self._run(index)[1].double()
            hook.remove()
            if not read or not spread > 0:
                return "the time steps of the recurrent layer are few, packed, or alike in all samples"
            moved[part] = float((after - before).square().mean().sqrt()) / spread
        return {"layer": name, "time_steps": read["steps"], **moved}

    def _run(self, index: Tensor) -> tuple[Tensor | None, Tensor]:
        """Returns what the first layer gets and what the last one returns when these rows are the batch."""
        self._entering, self._entered, self._predictions = True, None, None
        batch = take(self._batch, self._rows, index)
        self._rehearsal.loss(batch, self._batch_idx, train=False)
        if any(part.training for part in self._rehearsal.module.modules()):
            raise Unrehearsable("the training step puts parts of the model into train mode itself")
        if self._predictions is None:
            raise Unrehearsable(f"no layer returns a row for each of the {self._rows} samples of a batch")
        return self._entered, self._predictions.cpu()

    def _limit(self, before: Tensor, again: Tensor) -> float:
        """Returns the change that is none, from two passes over the same batch."""
        spread = _spread(before)
        noise = float((again - before).abs().max())
        if not noise <= 0.01 * spread:
            raise Unrehearsable("two passes over the same batch do not give the same predictions")
        rounding = torch.finfo(before.dtype).eps * float(before.abs().max())
        return max(_SHARE * spread, _ROUNDINGS * rounding, 4 * noise)

    def _enters(self, part: nn.Module, args: Any, kwargs: Any) -> None:
        if self._entering:
            self._entering = False
            found = [tensor for tensor in tensors((args, kwargs)) if has_rows(tensor, self._rows)]
            self._entered = found[0].detach().cpu().clone() if found else None

    def _ran(self, part: nn.Module, args: Any, output: Any) -> None:
        found = [t for t in tensors(output) if has_rows(t, self._rows) and t.is_floating_point()]
        # As many columns as rows: what a whole model returns are then similarities of the samples, as CLIP's.
        if found and not (found[0].shape[1:2] == (self._rows,) and any(True for _ in part.children())):
            self._predictions = found[0].detach()

    def _refuse_mixtures(self, entered: Tensor) -> None:
        """Other rows reach the very first layer: moved there by a reshape, which is a bug, or mixed in on purpose."""
        values = entered.flatten().sort().values
        for tensor in tensors(self._batch):
            if tensor.numel() == values.numel() and torch.equal(tensor.cpu().flatten().sort().values, values):
                return
        raise Unrehearsable("rows are mixed before the first layer, as mixup does")


def _spread(predictions: Tensor) -> float:
    """Returns how far the predictions of different samples lie apart, as a standard deviation."""
    return float(predictions.double().std(0, correction=0).square().mean().sqrt())


def _exchange(layer: nn.Module, args: tuple[Any, ...], *, early: bool, read: dict[str, int]) -> Any:
    """Replaces the first or the last time steps of each sample by those of the sample before it."""
    values = args[0] if args else None
    if not isinstance(values, Tensor) or values.ndim != 3:
        return None
    time, row = (1, 0) if getattr(layer, "batch_first", False) else (0, 1)
    steps = values.shape[time]
    count = steps // _PARTS
    others, begin = values.roll(1, row), 0 if early else steps - count
    part = others.narrow(time, begin, count)
    alike = (part == values.narrow(time, begin, count)).transpose(0, row).flatten(1).all(1)
    if steps < _FEWEST_STEPS or alike.double().mean() > 0.5:
        return None
    read["steps"] = steps
    exchanged = values.clone()
    exchanged.narrow(time, begin, count).copy_(part)
    return (exchanged, *args[1:])


def _rows(case: Case, batch: Any) -> int:
    rows = count_rows(batch, case.history.fact("data.batch_size"), case.history.fact("data.train_samples", 0))
    if rows is None:
        raise Unrehearsable("the first dimension of the batch is not known to be that of its samples")
    return rows


def _rows_of(far: Tensor) -> Tensor:
    """Returns which rows have a True, [N]; of a square tensor, whose samples may be its columns, where both do."""
    rows = far.flatten(1).any(1) if far.ndim > 1 else far
    if far.ndim > 1 and far.shape[1] == len(far):
        rows = rows & far.transpose(0, 1).flatten(1).any(1)
    return rows
