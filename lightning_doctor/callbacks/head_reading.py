"""What is measured of loss heads, batch by batch: of one alone, and of the terms of a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_doctor.callbacks.head_record import SAME, HeadRecord, describe, signature
from lightning_doctor.measure.predictions import NUMBERS, Found, Tally, describe_outputs, pack

if TYPE_CHECKING:
    from lightning_doctor.history import History
    from lightning_doctor.measure.head import Head

# Takes what was measured, once it is read: the history, the step, and the numbers.
Receive = Callable[["History", int, list[float]], None]
# How many terms of a sum are measured.
_TERMS = 4
_VALUE, _LOSS = NUMBERS.index("value"), NUMBERS.index("loss")


class HeadReading:
    """Measures one loss head on one batch after another; a head of another kind begins anew."""

    def __init__(self) -> None:
        self._tally: Tally | None = None
        self._record: HeadRecord | None = None

    def measure(self, head: Head, loss: Tensor) -> tuple[Tensor, Receive]:
        """Returns the numbers, still on their device, and who takes them.

        Args:
            head: The head of a batch.
            loss: The loss that it belongs to, in the units of the training loss.
        """
        description = describe(head)
        if self._record is None or self._record.signature != signature(description):
            self._tally = Tally(head) if description["readable"] else None
            self._record = HeadRecord(signature(description))
        with torch.no_grad():
            if self._tally is None:
                found: Found = {}
                describe_outputs(head, found)
                numbers = pack(found, loss)
            else:
                numbers = self._tally.measure(head, loss)
                description["has_baseline"] = self._tally.has_baseline
        record = self._record
        return numbers, lambda history, step, values: record.receive(history, description, step, values)


class Summands:
    """The terms of a sum, of which one may be all there is to it: then that one is the loss head.

    Whether one is cannot be known before the numbers are read; once none is, or another, it is no more asked.

    Attributes:
        is_open: Whether it may still be one.
    """

    def __init__(self) -> None:
        self.is_open = True
        self._readings: list[HeadReading] = []
        self._chosen: int | None = None

    def measure(
        self, terms: Sequence[tuple[Head, Tensor]], refuse: Callable[[], None]
    ) -> tuple[Tensor, Callable[[History, int, list[float]], None]]:
        """Returns the numbers of all terms, still on their device, and who takes them.

        Args:
            terms: The terms that could be read, each with the whole loss.
            refuse: Called where none is the loss head.
        """
        terms = terms[:_TERMS]
        self._readings += [HeadReading() for _ in terms[len(self._readings) :]]
        measured = [reading.measure(*term) for reading, term in zip(self._readings, terms, strict=False)]

        def receive(history: History, step: int, values: list[float]) -> None:
            parts = []
            for numbers, take in measured:
                parts.append((values[: len(numbers)], take))
                values = values[len(numbers) :]
            if not math.isfinite(parts[0][0][_LOSS]) or not self.is_open:
                return
            whole = [index for index, (part, _) in enumerate(parts) if _is_whole(part)]
            if len(whole) == 1 and self._chosen in (None, whole[0]):
                self._chosen = whole[0]
                part, take = parts[self._chosen]
                take(history, step, part)
                return
            # What could not be computed this time may be the next.
            self.is_open = self._chosen is None and not all(math.isfinite(part[_VALUE]) for part, _ in parts)
            refuse()

        return torch.cat([numbers for numbers, _ in measured]), receive


def _is_whole(numbers: Sequence[float]) -> bool:
    """Whether a term alone is the loss, as nearly as one that is computed anew comes to it."""
    value, loss = numbers[_VALUE], numbers[_LOSS]
    return math.isfinite(value) and abs(value - loss) <= SAME * max(abs(value), abs(loss))
