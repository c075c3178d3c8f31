"""Batches: what is in them, their scale and order, what is not finite, and how long the run waits for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.measure.batch_order import BatchOrder
from lightning_doctor.measure.batches import (
    Leaf,
    Roles,
    at,
    dense,
    describe,
    floats,
    key,
    leaves,
    roles_by_structure,
    rows,
)
from lightning_doctor.measure.features import summary
from lightning_doctor.measure.fingerprints import Fingerprinter, count_non_finite, duplicate_share
from lightning_doctor.measure.input_layer import InputReader
from lightning_doctor.measure.label_order import LabelKind, LabelTally
from lightning_doctor.measure.target_order import NumberTally
from lightning_doctor.measure.waiting import Waiting

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

_MOST_LABELS = 128
_FACTS = ("batch", "inputs")
_ABSENT = {
    "batch": "the batch holds no tensor",
    "inputs": "no batch was examined",
    "batch_size": "which dimension of the batch counts samples cannot be told",
    "batch_non_finite": "the batch holds no floating-point tensor",
    "data_wait": "no two batches followed each other between two windows",
    "data_wait_seconds": "no two batches followed each other between two windows",
    "label_run": "which part of the batch is the target cannot be told",
    "label_drift": "which part of the batch is the target cannot be told",
    "batch_repeat": "no two successive batches of an epoch were seen",
    "order_repeat": "no second epoch was seen",
    "duplicate_share": "no batch of two rows or more was examined",
}
_WAITS = ("data_wait", "data_wait_seconds")
_LABELS = ("label_run", "label_drift")
_REPEATS = ("batch_repeat", "order_repeat")
_WITHOUT_TENSORS = ("inputs", "batch_size", *_LABELS, *_REPEATS, "duplicate_share")


class BatchMonitor(Monitor):
    """Records what the loader serves, one value a micro-batch on measured steps.

    ``batch_size`` is the number of rows, ``batch_non_finite`` that of NaN and infinite elements in all tensors.
    ``label_run`` says how much more often neighbouring rows have the same class, or how much more alike their targets
    are, than shuffled ones would be (0 shuffled, 1 sorted), ``label_drift`` how unlike those of the other batches the
    classes or targets of a batch are (about 1 when shuffled).
    ``batch_repeat`` is 1 for a batch equal to one of the four before it in its epoch, ``order_repeat`` for one equal to
    the batch at its place in the previous epoch, both counting inputs and targets in their order;
    ``duplicate_share`` is the share of rows that another row of the batch equals, on examined steps.

    ``data_wait`` is the share of the time that goes by between a batch and the arrival of the next, and
    ``data_wait_seconds`` the mean of that time, by the host's clock. It holds the loader and the copy to the device,
    but also Lightning's own loop and what other callbacks do when a batch ends or starts. Left out are the first batch
    of an epoch, the doctor's windows and examined steps, and whatever closes a window: validation and checkpoints.

    Over several ranks each number is the mean of theirs.

    The facts ``batch`` and ``inputs`` describe the leaves, and the features as the first layer with parameters gets
    them, or as they are in the batch where that layer gets something else.
    """

    signals = tuple(name for name in _ABSENT if name not in _FACTS)

    def begin(self, case: Case) -> None:
        """Starts anew: what an earlier fit saw of the data is not kept."""
        self._roles = Roles()
        self._reader = InputReader()
        self._examined: list[Leaf] = []
        self._step = self._examined_step = -1
        self._printer: Fingerprinter | None = None
        self._order: BatchOrder | None = BatchOrder()
        self._kind, self._tally, self._numbers = LabelKind(), LabelTally(), NumberTally()
        self._labels: list[tuple[int, Tensor]] = []
        self._counts: list[tuple[int, dict[str, int | str], Tensor]] = []
        self._flagged = case.history.event("non_finite_batch") is not None
        self._waiting = Waiting()
        self._described = False
        for name, why in _ABSENT.items():
            case.history.lack([name], why)
        reason = _why_no_order(case)
        if reason is not None:
            self._order = None
            case.history.lack((*_LABELS, *_REPEATS), reason)

    def end(self, case: Case) -> None:
        """Lets go of tensors."""
        self._reader, self._tally, self._numbers = InputReader(), LabelTally(), NumberTally()
        self._printer = self._order = None
        self._examined, self._labels, self._counts = [], [], []

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Measures the batch, without reading anything from the device."""
        self._waiting.arrives(first=batch_idx == 0)
        self._step = case.run.step
        epoch = case.trainer.current_epoch
        measured = case.sampling or case.examining
        compared = self._order is not None and self._order.arrives(epoch, batch_idx)
        if measured or compared:
            with torch.no_grad():
                found = leaves(batch)
                solid = dense(found)
                if compared or (measured and self._order is not None):
                    self._fingerprint(solid, batch_idx, measured)
                if measured and found:
                    self._measure(case, found, solid, epoch, batch_idx)
                elif measured:
                    case.history.lack(_WITHOUT_TENSORS, _ABSENT["batch"])
        self._waiting.starts(counts=not case.examining)

    def layer_ran(self, case: Case, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Follows the batch into the network."""
        if self._examined:
            self._reader.ran(layer, module, inputs)

    def probe(self, case: Case) -> None:
        """Stops the clock: what others probe is no work on the batch, and no wait for the next."""
        self._waiting.ends()

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Concludes what an examined batch has shown."""
        self._waiting.ends()
        if self._examined:
            with torch.no_grad():
                self._conclude(case, self._examined)
            self._examined = []
        self._waiting.leaves()

    def after_validation(self, case: Case) -> None:
        """The time of a validation pass is no wait."""
        self._waiting.interrupt()

    def before_close(self, case: Case) -> None:
        """Hands over what was gathered, still on its device."""
        self._waiting.interrupt()
        with torch.no_grad():
            self._hand_over_waiting(case)
            self._hand_over_counts(case)
            steps, equal = ([], None) if self._order is None else self._order.take()
            if equal is not None:
                case.window.put(self._step, equal, partial(_receive, case, _REPEATS, steps))
            if self._labels:
                taken, self._labels = self._labels, []
                tally = self._numbers if self._kind.form == "number" else self._tally
                compared = tally.compare([labels for _, labels in taken])
                case.window.put(self._step, compared, partial(_receive, case, _LABELS, [step for step, _ in taken]))

    # --- every measured step -------------------------------------------------------------------------------------

    def _fingerprint(self, solid: list[Leaf], batch_idx: int, measured: bool) -> None:
        tensors = [leaf.tensor for leaf in solid if leaf.tensor.numel()]
        if tensors and self._order is not None:
            self._order.add(self._step, batch_idx, self._prints(tensors[0]).of_batch(tensors), measured=measured)

    def _measure(self, case: Case, found: list[Leaf], solid: list[Leaf], epoch: int, batch_idx: int) -> None:
        if not self._described:
            self._settle(case, found, roles_by_structure(found))
        size = rows(found, self._roles)
        if size is not None:
            case.history.record("batch_size", self._step, size)
        for path, values in floats(found, solid):
            place: dict[str, int | str] = {"key": key(path), "batch_idx": batch_idx, "epoch": epoch}
            self._counts.append((self._step, place, count_non_finite(values)))
        targets = at(solid, self._roles.targets)
        if targets is not None and self._order is not None and len(self._labels) < _MOST_LABELS:
            labels = self._kind.labels(targets)
            if labels is not None and len(labels):
                self._labels.append((self._step, labels))
        if case.examining and self._step != self._examined_step:
            self._examined, self._examined_step = found, self._step
            self._reader.start(found, self._roles)
            self._look_for_duplicates(case, solid, size)

    def _prints(self, like: Tensor) -> Fingerprinter:
        if self._printer is None or self._printer.device != like.device:
            self._printer = Fingerprinter(like.device)
        return self._printer

    # --- examined steps ------------------------------------------------------------------------------------------

    def _look_for_duplicates(self, case: Case, solid: list[Leaf], size: int | None) -> None:
        known = [path for path in self._roles if path is not None]
        alike = [leaf for leaf in solid if leaf.tensor.shape[:1] == (size,) and leaf.tensor.numel()]
        tensors = [leaf.tensor for leaf in alike if not known or leaf.path in known]
        if tensors:
            # A batch of one row says NaN: other ranks may have more.
            share = duplicate_share(self._prints(tensors[0]).of_rows(tensors))
            case.window.put(self._step, share, partial(_receive, case, ("duplicate_share",), [self._step]))

    def _conclude(self, case: Case, found: list[Leaf]) -> None:
        reader = self._reader
        roles = reader.finish()
        if roles != self._roles:
            self._settle(case, found, roles)
        where = {} if reader.layer is None else {"layer": reader.layer[0], "layer_class": reader.layer[1]}
        if reader.why_not is not None and "inputs" not in case.history.facts:
            case.history.lack(["inputs"], reader.why_not)
        elif reader.integers:
            _state(case, "inputs", {"integers": True, **where})
        elif reader.passes & (reader.passes - 1) == 0:
            # At each power of two: thousands of features take a while to sum up.
            case.window.put(self._step, reader.moments.packed(), partial(_receive_features, case, where))
        targets = at(found, roles.targets)
        if targets is not None and self._kind.open:
            evidence = self._kind.look(targets)
            if evidence is not None:
                case.window.put(self._step, evidence, partial(self._receive_kind, case))
            self._lack_labels(case)

    def _settle(self, case: Case, found: list[Leaf], roles: Roles) -> None:
        if roles.targets != self._roles.targets:
            self._kind, self._tally, self._numbers, self._labels = LabelKind(), LabelTally(), NumberTally(), []
        self._roles, self._described = roles, True
        _state(case, "batch", describe(found, roles))

    def _lack_labels(self, case: Case) -> None:
        if self._order is not None:
            unsettled = "too few targets were seen to tell whether they are classes"
            too_little = "no batch had two rows side by side once two classes were known"
            case.history.lack(_LABELS, self._kind.why_not or (too_little if self._kind.form else unsettled))

    # --- when the window closes ----------------------------------------------------------------------------------

    def _hand_over_waiting(self, case: Case) -> None:
        device = case.trainer.strategy.root_device
        rest = _finish_work(device) if self._waiting.waited else 0.0
        share, seconds = self._waiting.take(rest) or (math.nan, math.nan)
        case.window.put(
            self._step, torch.tensor([share, seconds], device=device), partial(_receive, case, _WAITS, [self._step])
        )

    def _hand_over_counts(self, case: Case) -> None:
        counts, self._counts = self._counts, []
        if counts:
            device = counts[-1][2].device
            packed = torch.stack([count.to(device) for _, _, count in counts])
            places = [(step, place) for step, place, _ in counts]
            case.window.put(self._step, packed, partial(self._receive_counts, case, places))

    def _receive_counts(
        self, case: Case, places: list[tuple[int, dict[str, int | str]]], _: int, numbers: list[float]
    ) -> None:
        totals: dict[tuple[int, int | str], float] = {}
        for (step, place), number in zip(places, numbers, strict=True):
            batch = (step, place["batch_idx"])
            totals[batch] = totals.get(batch, 0.0) + number
            if number > 0 and not self._flagged:
                self._flagged = True
                case.history.happened("non_finite_batch", step, **place)
        for (step, _idx), total in totals.items():
            case.history.record("batch_non_finite", step, total)

    def _receive_kind(self, case: Case, _: int, numbers: list[float]) -> None:
        self._kind.learn(numbers)
        self._lack_labels(case)


def _receive(case: Case, names: tuple[str, ...], steps: Sequence[int], _: int, numbers: list[float]) -> None:
    """Records as many values of each series as there are steps, but for what is undefined."""
    for i, number in enumerate(numbers):
        if math.isfinite(number):
            case.history.record(names[i // len(steps)], steps[i % len(steps)], number)


def _receive_features(case: Case, where: dict[str, str], _: int, numbers: list[float]) -> None:
    facts = summary(numbers)
    if facts is not None:
        _state(case, "inputs", {**facts, "integers": False, **where})


def _state(case: Case, fact: str, value: dict[str, Any]) -> None:
    case.history.facts[fact] = value
    case.history.absent.pop(fact, None)


def _why_no_order(case: Case) -> str | None:
    if case.trainer.num_training_batches == 1:
        return "the whole data is one batch"
    if getattr(case.trainer, "overfit_batches", 0):
        return "overfit_batches is set: the same few batches come again on purpose"
    return None


def _finish_work(device: torch.device) -> float:
    """Waits for the device, which is about to be read from; returns how long that took [seconds]."""
    accelerator = None if device.type == "cpu" else torch.accelerator.current_accelerator()
    began = perf_counter()
    if accelerator is not None and accelerator.type == device.type:
        torch.accelerator.synchronize(device)
    return perf_counter() - began
