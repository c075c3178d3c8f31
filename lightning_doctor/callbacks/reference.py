"""What simpler models score on rows that the network was trained on: the reference for its training loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_doctor.budget import too_dear
from lightning_doctor.callbacks.loaders import loader_size
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.rehearsal import Rehearsal, Unrehearsable, obstacle, why_not
from lightning_doctor.callbacks.simple_task import SimpleTask, find_task
from lightning_doctor.logs.runs import NothingToJudgeError, find_runs, read_run
from lightning_doctor.measure.held_out_rows import RowSample
from lightning_doctor.measure.references import HIDDEN, References
from lightning_doctor.measure.rows import take
from lightning_doctor.progress import standing
from lightning_doctor.sinks.report import read

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

# The batches in which the half of the rows is scored that was not fitted, and the rows that a half must have.
_PARTS, _FEWEST = 8, 32
# What fitting may take, and what it mostly does [seconds].
_FITTING, _USUAL = 0.25, 0.15
# The first step at which a plateau is worth a look, and how many times longer a run must be for the next.
_FIRST, _GROWTH = 128, 2.0
_NAMES = ("constant", "linear", "shallow")


class ReferenceProbe(Monitor):
    """Fits simple models to one half of some training rows, and scores them and the network on the other half.

    The network was trained on both halves, the simple models on the first only: where one of them still does better,
    the network could. A constant, a linear model and a network with one hidden layer, with penalties on their weights
    that a quarter of the rows chooses; for cross-entropy, binary cross-entropy, squared and absolute errors that are
    means and weigh all samples alike. Of what an embedding reads they weigh which kind is where and how often.
    The fact ``reference`` holds the losses, in the units of the training loss. A model that is given is scored for
    every loss whose best constant is known, and beside it the others where they can.

    Args:
        reference: What else to compare with: a loss that can be had, the log directory of another run, whose newest
            training loss counts, or another LightningModule that is trained already.

    Raises:
        ValueError: For anything else, or a directory without a run.
    """

    signals = ("reference",)

    def __init__(self, reference: Any = None) -> None:
        super().__init__()
        self.reference = reference
        self._target = _target(reference)

    def begin(self, case: Case) -> None:
        """Notes the loss that is given, and asks whether the model can be copied."""
        run = case.run
        self._sample = case.training_rows
        self._loader = loader_size(run.trainer.train_dataloader)
        self._epoch = run.trainer.current_epoch
        self._fitted: dict[str, list[float]] | None = None
        self._constant = math.nan
        self._shallow_parameters, self._kinds = 0, False
        self._of_rows: dict[str, float] = {}
        self._parts: list[tuple[Any, int]] = []
        self._look_at, self._fitting, self._scoring = _FIRST, _FITTING, 0.0
        planned = case.history.fact("trainer.planned_steps")
        self._planned: int | None = planned if isinstance(planned, int) else None
        reason = obstacle(run.trainer, run.module)
        if reason is None and case.trainer.world_size > 1:
            reason = "a run on several ranks is not compared with simple models"
        self._able = reason is None
        self.kept = _USUAL if self._able else 0.0
        waits = "the run was not compared with simple models yet"
        if self._planned is None:
            waits += ": that waits for its loss to rest, as no end is planned or the data do not tell their length"
        case.history.lack(self.signals, reason or waits)
        if self._target is not None:
            case.history.facts["reference"] = {**self._target, "step": run.step}
            case.history.absent.pop("reference", None)

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Takes training rows, in the first epoch."""
        if self._able and case.trainer.current_epoch == self._epoch and not self._sample.full:
            with torch.no_grad():
                self._sample.take(batch, batch_idx, *self._loader)

    def awaits(self, case: Case) -> int | None:
        """Wants the batches of the first epoch that it takes rows of, and the last step."""
        if not self._able:
            return None
        left = None if self._planned is None else self._planned - 1 - case.pace.steps
        rows = self._sample.passes(case.batch_idx + 1) if case.trainer.current_epoch == self._epoch else None
        return min((max(0, wish) for wish in (left, rows) if wish is not None), default=None)

    def probe(self, case: Case) -> None:
        """Compares when the loss rests, and at the end."""
        if not self._able or not self._due(case):
            return
        try:
            self._compare(case)
        except Exception as error:  # noqa: BLE001
            self._give_up(case, why_not(error))
        self.kept = min(self.kept, self._scoring)

    def end(self, case: Case) -> None:
        """Lets go of rows."""
        self._sample, self._parts, self._fitted = RowSample(0, None), [], None

    def _due(self, case: Case) -> bool:
        step = case.pace.steps
        # The steps are counted after the batch that was the last.
        ends = self._planned is not None and step + 1 >= self._planned
        if step < self._look_at and not ends:
            return False
        now = standing(case.history)
        if not ends and (not now.rests or now.good):
            self._look_at = math.ceil(1.25 * step)
            return False
        self._look_at = math.ceil(_GROWTH * step)
        if ends:
            # There is no later turn: whatever others have yet to do may take what was kept for this.
            self.kept = 0.0
        fits = self._fitted is None
        room = case.means.room(self) if ends or fits else case.budget.earned()
        # Before the first time by what training and validation take.
        scoring = self._scoring or case.means.forward_time(self._sample.rows // 2, self._sample.rows // (2 * _PARTS))
        self._fitting = min(_FITTING, room - scoring)
        cost = scoring + _USUAL * fits
        if cost > room and fits and self._target is None:
            case.history.lack(self.signals, too_dear(cost))
        return cost <= room

    def _compare(self, case: Case) -> None:
        if self._fitted is None:
            self._fit(case)
        assert self._fitted is not None
        began = case.budget.clock()
        rehearsal = Rehearsal(case.run.trainer, case.run.module)
        network = _scored(rehearsal, self._parts)
        fact = {**(self._target or {}), "step": case.run.step, "rows": sum(rows for _, rows in self._parts)}
        fact |= {"hidden": HIDDEN, "shallow_parameters": self._shallow_parameters}
        fact |= {"network": fmean(network), "constant": self._constant, "kinds": self._kinds}
        fact |= {"draws": rehearsal.drew, **self._of_rows}
        others = dict(self._fitted)
        if isinstance(self.reference, nn.Module):
            try:
                others["model"] = self._other(case)
            except Exception as error:
                if not others:
                    raise
                # The simple models are there all the same.
                fact["model_unread"] = why_not(error)
        for name, losses in others.items():
            differences = [mine - theirs for mine, theirs in zip(network, losses, strict=True)]
            fact[name] = fmean(losses)
            # Of the same rows: what is hard for one is hard for the other.
            fact[f"{name}_error"] = stdev(differences) / math.sqrt(len(differences))
        if not all(math.isfinite(value) for value in fact.values() if isinstance(value, float)):
            raise Unrehearsable("not every loss is finite")
        case.history.facts["reference"] = fact
        case.history.absent.pop("reference", None)
        self._scoring = case.budget.clock() - began

    def _fit(self, case: Case) -> None:
        try:
            self._fit_simple(case, find_task(case.history, self._sample))
        except Unrehearsable:
            baselines = case.history.get("baseline_loss").finite().values
            if not isinstance(self.reference, nn.Module) or self._sample.rows < _FEWEST or not baselines:
                raise
            # Another model can be scored where none can be fitted, on all rows as nothing was fitted to any.
            self._parts = self._sample.batches(math.ceil(self._sample.rows / _PARTS))
            if len(self._parts) < 2:
                raise
            self._fitted, self._constant = {}, baselines[-1]

    def _fit_simple(self, case: Case, simple: SimpleTask) -> None:
        whole, rows = self._sample.batches(self._sample.rows)[0]
        if rows < 2 * _FEWEST:
            raise Unrehearsable(f"{rows} rows are too few to fit a model to half of them")
        fitted, scored = torch.arange(0, rows, 2), torch.arange(1, rows, 2)
        if getattr(getattr(case.trainer.train_dataloader, "sampler", None), "replacement", False):
            # The same row may have been drawn for both halves.
            like = torch.unique(simple.rows(whole), dim=0, return_inverse=True)[1]
            scored = scored[~torch.isin(like[scored], like[fitted])]
            if len(scored) < _FEWEST:
                raise Unrehearsable(f"{len(scored)} rows are drawn once only: too few to score a fitted model on")
        half = take(whole, rows, fitted)
        encoded = simple.encoding(half)
        inputs, targets = simple.table(half, encoded)
        clock = case.budget.clock
        deadline = clock() + self._fitting
        models = References(simple.task, inputs, targets, lambda: clock() < deadline)
        # Of all rows that were not fitted, some from everywhere in each part.
        places = [scored[part::_PARTS] for part in range(_PARTS)]
        self._parts = [(take(whole, rows, index), len(index)) for index in places]
        tables = [simple.table(batch, encoded) for batch, _ in self._parts]
        self._fitted = {name: [float(models.losses(name, *table).mean()) for table in tables] for name in _NAMES}
        self._constant, self._kinds = fmean(self._fitted["constant"]), simple.kinds
        self._shallow_parameters = models.parameters("shallow")
        self._of_rows = {"fitted": models.fitted, "directions": models.directions}

    def _other(self, case: Case) -> list[float]:
        rehearsal = Rehearsal(case.run.trainer, self.reference)
        rehearsal.module.to(case.run.trainer.strategy.root_device)
        return _scored(rehearsal, self._parts)

    def _give_up(self, case: Case, reason: str) -> None:
        self._able, self.kept = False, 0.0
        if self._target is None:
            case.history.lack(self.signals, reason)


def _scored(rehearsal: Rehearsal, parts: Sequence[tuple[Any, int]]) -> list[float]:
    losses = [rehearsal.loss(batch, index, train=False) for index, (batch, _) in enumerate(parts)]
    if any(loss is None for loss in losses):
        raise Unrehearsable("the training step returned no loss")
    numbers = [float(loss) for loss in losses if loss is not None]
    if not all(map(math.isfinite, numbers)):
        raise Unrehearsable("not every loss is finite")
    return numbers


def _target(reference: Any) -> dict[str, Any] | None:
    """Returns the loss that a number or a log directory gives; None where there is none to begin with."""
    if reference is None or any(kind.__name__ == "LightningModule" for kind in type(reference).__mro__):
        return None
    if isinstance(reference, (int, float)) and not isinstance(reference, bool) and math.isfinite(reference):
        return {"target": float(reference), "target_of": "the target"}
    if isinstance(reference, (str, Path)):
        return {"target": _earlier(Path(reference)), "target_of": f"the run in {reference}"}
    raise ValueError(f"reference must be a loss, a log directory or a trained LightningModule, got {reference!r}")


def _earlier(folder: Path) -> float:
    """Returns the training loss at the end of a run that was logged."""
    try:
        run = find_runs(folder)[-1]
        history = read(run.files[0]).history if run.kind == "report" else read_run(run, {})[0]
        losses = history.get("train_loss").finite().values
    except (OSError, ValueError, IndexError, NothingToJudgeError) as error:
        raise ValueError(f"no run can be read in {folder}: {error}") from error
    if not losses:
        raise ValueError(f"the run in {folder} has no training loss")
    return median(losses[-max(1, len(losses) // 10) :])
