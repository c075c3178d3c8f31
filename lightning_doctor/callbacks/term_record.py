"""What each term of a loss that is a sum of several has shown so far, as the fact ``loss_terms``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.head_record import describe, signature
from lightning_doctor.measure.predictions import NUMBERS, Tally

if TYPE_CHECKING:
    from lightning_doctor.history import History
    from lightning_doctor.measure.head import Head

_TAKEN = ("value", "loss", "baseline", "target_count", "target_sum", "target_squares", "output_level")
_PLACES = [NUMBERS.index(name) for name in _TAKEN]
# Of how many looks back the median is taken, and how many terms are followed at most.
_RECENT, _MOST = 8, 8


class TermRecord:
    """Follows terms that compare predictions with targets, each beside what the best constant prediction scores.

    Args:
        heads: The terms, as they were read the first time.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.signature = signature_of(heads)
        self._tallies = [Tally(head) for head in heads]
        self._terms = [_Term(head.loss) for head in heads]

    def measure(self, heads: Sequence[Head], loss: Tensor) -> Tensor:
        """Returns the numbers of this step, for :meth:`receive`."""
        pairs = zip(self._tallies, heads, strict=True)
        return torch.cat([tally.measure(head, loss)[_PLACES] for tally, head in pairs])

    def receive(self, history: History, step: int, numbers: Sequence[float]) -> None:
        """Takes the numbers of a step and renews the fact."""
        size = len(_TAKEN)
        for index, term in enumerate(self._terms):
            term.take(dict(zip(_TAKEN, numbers[index * size : (index + 1) * size], strict=True)))
        history.facts["loss_terms"] = {"step": step, "terms": [term.fact() for term in self._terms]}


class _Term:
    def __init__(self, loss: str) -> None:
        self._loss = loss
        self._first: dict[str, float] = {}
        self._count = self._sum = self._squares = 0.0
        self._learned: list[float] = []

    def take(self, found: dict[str, float]) -> None:
        self._first = self._first or found
        if found["target_count"] > 0 and math.isfinite(found["target_squares"]):
            self._count += found["target_count"]
            self._sum += found["target_sum"]
            self._squares += found["target_squares"]
        if found["baseline"] > 0 and math.isfinite(found["value"]):
            self._learned = [*self._learned[1 - _RECENT :], 1 - found["value"] / found["baseline"]]

    def fact(self) -> dict[str, Any]:
        mean = self._sum / self._count if self._count else math.nan
        value, loss = self._first["value"], self._first["loss"]
        return {
            "loss": self._loss,
            "first_share": value / loss if loss > 0 else math.nan,
            "first_output": self._first["output_level"],
            "target_mean": mean,
            "target_std": math.sqrt(max(0.0, self._squares / self._count - mean * mean)) if self._count else math.nan,
            "learned": median(self._learned) if self._learned else math.nan,
            "looks": len(self._learned),
        }


def signature_of(heads: Sequence[Head]) -> tuple[Any, ...]:
    """Returns what must stay for numbers of two steps to be about the same terms."""
    return tuple(signature(describe(head)) for head in heads)


def may_be_followed(heads: Sequence[Head]) -> bool:
    """Whether these are several, all of them with predictions and targets that are known, each for each."""
    known = all(head.prediction is not None and head.target is not None and not head.broadcast for head in heads)
    return 1 < len(heads) <= _MOST and known
