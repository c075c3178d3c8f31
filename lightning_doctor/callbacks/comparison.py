"""Training rows against validation rows: where they differ, which are in both, and how the model scores on either."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lightning_doctor.budget import too_dear
from lightning_doctor.callbacks.hand_step import hand_obstacle
from lightning_doctor.callbacks.loaders import first, loader_size
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.rehearsal import Rehearsal, Step, alone, obstacle, why_not
from lightning_doctor.callbacks.scoring import Score, Scorer
from lightning_doctor.callbacks.scoring_plan import PARTS, ScoringPlan
from lightning_doctor.measure.batches import Path, at, dense, key, leaves, roles_by_structure
from lightning_doctor.measure.held_out_rows import ROWS, Prints, RowSample, different_found, share_found, share_repeated
from lightning_doctor.measure.rows import take
from lightning_doctor.measure.side_by_side import side_by_side

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

_CAPACITY = 256
# Rows a side that are told apart by their fingerprints.
_PRINTED = 1 << 16
# The rows that a batch of them must have.
_FEWEST = 8
# What fingerprints may take of a run's first look [seconds].
_FIRST_PRINTS = 0.15

SAMPLES = ("train", "validation", "holdout")
_SCORES = ("eval_loss", "eval_error", "eval_bar", "eval_accuracy", "eval_skill")
_CLASSES = ("class_index", "one_hot", "binary")


class ComparisonProbe(Monitor):
    """Compares the training rows with the validation rows, as the loaders serve them.

    Rows are taken evenly from the first epoch and the first validation pass, training rows with whatever augmentation
    they come with. The fact ``comparison`` holds a two-sample test of their inputs and one of their targets, the fact
    ``overlap`` how many validation rows were found among the training rows, by fingerprint.

    Now and then a copy of the model scores both samples with its own ``training_step`` in eval mode, so that neither
    dropout nor augmentation nor the lag of an epoch's mean poses as a gap. Where that cannot be, as it steps
    several optimizers by hand, fails on some of these rows or has no loss for them, ``validation_step`` scores all of
    them, if it returns a loss; with several ranks only in the first of these cases. The fact ``scored.step`` says
    which. The series are ``eval_loss/train``, its standard error ``eval_error/train``, its error bar by the bootstrap
    ``eval_bar/train``, ``eval_accuracy/train``, ``eval_skill/train``, and the same of ``validation``.
    """

    signals = (*(f"{name}/{sample}" for name in _SCORES for sample in SAMPLES[:2]), "comparison", "overlap")

    def begin(self, case: Case) -> None:
        """Nothing is known yet."""
        trainer = case.run.trainer
        self._train = case.training_rows
        self._validation = RowSample(ROWS, _validation_batches(trainer))
        self._train_prints = Prints(_PRINTED)
        self._validation_prints: Prints | None = None
        self._printing = 0.0
        self._inputs: Path | None = None
        self._loaders = (loader_size(trainer.train_dataloader), loader_size(first(trainer.val_dataloaders)))
        self._epoch = trainer.current_epoch
        self._passes = 0
        self._compared = False
        self._plan = ScoringPlan(ROWS, case.run.step)
        self.kept = self._plan.kept
        self._steps: tuple[Step, ...] = ("training_step", "validation_step")
        self._by_hand = hand_obstacle(trainer, case.run.module)
        if self._by_hand is not None:
            self._steps = ("validation_step",)
        elif case.together:
            # Where one rank alone fails, the others would go on with another step than it.
            self._steps = ("training_step",)
        earlier = case.history.fact("scored.step")
        if earlier in self._steps:
            # Of the same series, which another step's losses would break.
            self._steps = (earlier,)
        reason = obstacle(trainer, case.run.module, steps=False)
        self._able = reason is None
        case.history.lack(self.signals, "there was no validation pass")
        if reason is not None:
            self._lack(case, reason)

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Takes training rows, in the first epoch."""
        if case.trainer.current_epoch == self._epoch:
            with torch.no_grad():
                self._train.take(batch, batch_idx, *self._loaders[0])
                self._print(case, batch, self._train_prints)

    def awaits(self, case: Case) -> int | None:
        """Wants the batches of the first epoch that it takes rows of, and all of them while fingerprints are cheap."""
        if case.trainer.current_epoch != self._epoch:
            return None
        if not self._train_prints.full and self._printing <= _FIRST_PRINTS:
            return 0
        return self._train.passes(case.batch_idx + 1)

    def before_validation_batch(self, case: Case, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """Takes validation rows, in the first pass, of the first loader."""
        if self._passes == 0 and dataloader_idx == 0:
            if self._validation_prints is None:
                self._validation_prints = Prints(_PRINTED, like=self._train_prints)
            with torch.no_grad():
                self._validation.take(batch, batch_idx, *self._loaders[1])
                self._print(case, batch, self._validation_prints)

    def after_validation(self, case: Case) -> None:
        """Compares the rows once, and scores them when it is time."""
        self._passes += 1
        if not self._train.rows or not self._validation.rows:
            reason = self._train.reason or self._validation.reason or "no rows were seen"
            case.history.lack(self.signals, reason)
            return
        if not self._compared and case.means.room(self) > 0 and self._ripe(case):
            self._compared = True
            self._compare(case)
        if not self._able:
            return
        held_out = 0 if case.held_out is None else min(ROWS, case.history.fact("holdout.rows", 0))
        sizes = [self._train.rows_of(PARTS), self._validation.rows_of(PARTS), held_out]
        if self._plan.due(case, sizes, case.means.room(self)):
            began = case.budget.clock()
            self._score(case)
            self._plan.spent(case.budget.clock() - began)
            self.kept = self._plan.kept
        elif self._plan.missed:
            self._lack(case, too_dear(self._plan.missed))

    def end(self, case: Case) -> None:
        """Lets go of rows."""
        self._train, self._validation = RowSample(0, None), RowSample(0, None)
        self._train_prints, self._validation_prints = Prints(0), None

    # --- comparing -----------------------------------------------------------------------------------------------

    def _print(self, case: Case, batch: Any, prints: Prints) -> None:
        if prints.full or (self._printing > _FIRST_PRINTS and not case.budget.has_earned(0.01)):
            return
        began = case.budget.clock()
        found = dense(leaves(batch))
        if self._inputs is None:
            self._inputs = roles_by_structure(found).inputs
        values = at(found, self._inputs)
        if values is not None:
            prints.add(values)
        self._printing += case.budget.clock() - began

    def _ripe(self, case: Case) -> bool:
        """Whether training rows from all of an epoch are there; of a run of one epoch half of them have to do."""
        trainer = case.trainer
        over = trainer.current_epoch > self._epoch or trainer.is_last_batch
        return self._train.full or over or self._passes > 1

    def _compare(self, case: Case) -> None:
        history = case.history
        train, validation = (_whole(sample) for sample in (self._train, self._validation))
        found = [dense(leaves(batch)) for batch in (train, validation)]
        roles = roles_by_structure(found[0])
        compared: dict[str, Any] = {"step": case.run.step}
        augmented = history.fact("data.augmentation")
        if augmented:
            compared["augmentation"] = augmented
        for part, path in (("inputs", roles.inputs), ("targets", roles.targets)):
            first, second = (at(leaf, path) for leaf in found)
            named = "" if path is None else key(path)
            compared[part] = side_by_side(first, second, named, classes=part == "targets")
        if "p_value" not in compared["inputs"] and "p_value" not in compared["targets"]:
            history.lack(["comparison"], compared["inputs"]["reason"])
        else:
            history.facts["comparison"] = compared
            history.absent.pop("comparison", None)
        self._overlap(case)

    def _overlap(self, case: Case) -> None:
        train, validation = self._train_prints, self._validation_prints
        if validation is None or not validation.rows or not train.rows:
            case.history.lack(["overlap"], "which part of the batch is the input cannot be told")
            return
        if getattr(case.trainer, "overfit_batches", 0):
            case.history.lack(["overlap"], "overfit_batches is set: the same few batches serve for both on purpose")
            return
        case.history.facts["overlap"] = {
            "train_rows": train.rows,
            "validation_rows": validation.rows,
            "exact": share_found(validation.exact(), train.exact()),
            "different": different_found(validation.exact(), train.exact()),
            "rounded": share_found(validation.rounded(), train.rounded()),
            "repeated": share_repeated(train.rounded()),
            "repeated_validation": share_repeated(validation.rounded()),
        }
        case.history.absent.pop("overlap", None)
        self._train_prints, self._validation_prints = Prints(0), None

    # --- scoring -------------------------------------------------------------------------------------------------

    def _score(self, case: Case) -> None:
        scores: list[Score] = [Score() for _ in SAMPLES]
        reasons = [] if self._by_hand is None else [self._by_hand]
        for step in self._steps:
            try:
                scores = self._scored_by(case, step)
            except Exception as error:  # noqa: BLE001, PERF203
                reasons.append(why_not(error, step))
            else:
                # For the rest of the run, so that its figures compare.
                self._steps = (step,)
                break
        else:
            self._give_up(case, ", and ".join(dict.fromkeys(reasons)))
        numbers = [number for score in scores for number in score.numbers()]
        case.window.put(case.run.step, torch.tensor(numbers, dtype=torch.float64), partial(_receive, case))

    def _scored_by(self, case: Case, step: Step) -> list[Score]:
        """Scores all samples by a step of a fresh copy."""
        clock = case.budget.clock
        deadline = clock() + case.budget.left() - case.pace.left_for_rules / 2
        rehearsal = Rehearsal(case.run.trainer, case.run.module, steps=False)
        classes = case.history.fact("loss_head.targets") in _CLASSES
        scorer = Scorer(rehearsal, step=step, classes=classes, may_go_on=lambda: case.together or clock() < deadline)
        samples = (self._train, self._validation)
        held_out = _held_out(case, rehearsal, math.ceil(self._plan.rows / PARTS))
        batches = [sample.batches(self._part_rows(case, sample))[:PARTS] for sample in samples]
        scores = [scorer.score(each) for each in (*batches, held_out)]
        scored = {name: score.rows for name, score in zip(SAMPLES, scores, strict=True) if score.rows}
        # Of what time did not suffice for now the earlier score is the newest.
        case.history.facts["scored"] = {**case.history.fact("scored", {}), "step": step, **scored}
        for name, score, each in zip(SAMPLES, scores, (*batches, held_out), strict=True):
            if each and not score.rows:
                case.history.lack(_names(name), "the time sufficed for one batch of these rows")
        return scores

    def _part_rows(self, case: Case, sample: RowSample) -> int:
        """Returns the rows of a batch to score."""
        rows = min(sample.rows, self._plan.rows)
        if case.history.fact("loss_head.reduction") != "mean":
            # As many on either side: a loss that adds up has no other unit.
            rows = min(rows, self._train.rows, self._validation.rows)
        return max(min(_FEWEST, rows), math.ceil(rows / PARTS))

    def _give_up(self, case: Case, reason: str) -> None:
        self._able = False
        self._lack(case, reason)

    def _lack(self, case: Case, reason: str) -> None:
        for sample in SAMPLES if case.held_out is not None else SAMPLES[:2]:
            case.history.lack(_names(sample), reason)


def _receive(case: Case, step: int, numbers: list[float]) -> None:
    for sample, index in zip(SAMPLES, range(0, len(numbers), len(_SCORES)), strict=True):
        if case.history.fact(f"scored.{sample}") and not math.isfinite(numbers[index]):
            case.history.lack(_names(sample), "these rows have no finite loss")
        for name, value in zip(_SCORES, numbers[index : index + len(_SCORES)], strict=True):
            if math.isfinite(value):
                case.history.record(f"{name}/{sample}", step, value, capacity=_CAPACITY)
            elif math.isfinite(numbers[index]):
                reason = "the predictions or the targets of these rows cannot be read"
                if name == "eval_error":
                    reason = "these rows make one batch only"
                case.history.lack([f"{name}/{sample}"], reason)


def _names(sample: str) -> list[str]:
    return [f"{name}/{sample}" for name in _SCORES]


def _held_out(case: Case, rehearsal: Rehearsal, most: int) -> list[tuple[Any, int]]:
    """Returns batches of the rows that were held out, of so many rows at most, on the device; none where none were."""
    if case.held_out is None:
        return []
    device = case.run.trainer.strategy.root_device
    try:
        with alone(device):
            read = [
                (take(batch, rows, torch.arange(most)), most) if rows > most else (batch, rows)
                for batch, rows in case.held_out.batches()
            ]
            return [(rehearsal.module._apply_batch_transfer_handler(batch, device, 0), rows) for batch, rows in read]
    except Exception as error:  # noqa: BLE001
        # The data set is read here apart from its workers; the rows that the loaders served are there all the same.
        reason = f"the held-out rows cannot be read ({type(error).__name__}: {error})"
        case.history.lack(_names("holdout"), reason)
        case.held_out = None
        return []


def _validation_batches(trainer: Any) -> int | None:
    batches = next(iter(trainer.num_val_batches), None) if trainer.num_val_batches else None
    return int(batches) if batches is not None and math.isfinite(batches) else None


def _whole(sample: RowSample) -> Any:
    return sample.batches(sample.rows)[0][0]
