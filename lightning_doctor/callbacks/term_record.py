"""What each term of a loss that is a sum has shown so far, as the facts ``loss_terms`` and ``subtracted``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.head_record import OF_ERRORS, describe, note, signature
from lightning_doctor.measure.head import BINARY
from lightning_doctor.measure.loss_joins import origin
from lightning_doctor.measure.predictions import NUMBERS, Tally

if TYPE_CHECKING:
    from lightning_doctor.history import History
    from lightning_doctor.measure.head import Head

_TAKEN = (
    "value",
    "loss",
    "baseline",
    "target_count",
    "target_sum",
    "target_squares",
    "target_min",
    "target_max",
    "output_min",
    "output_max",
    "output_level",
    "classified",
    "target_fraction",
    *OF_ERRORS,
)
_PLACES = [NUMBERS.index(name) for name in _TAKEN]
# Of how many looks back something is told, none of them from the first half of the steps so far, and how many terms
# are followed at most.
_RECENT, _MOST = 8, 8
# How near the sum of the terms, as they were understood, must be to the loss; and how many samples a class takes for
# the best constant prediction to be known.
_SAME, _PER_CLASS = 0.02, 10
# Losses that the best prediction of all brings to zero: always, or where targets are classes and no shares of them,
# which are so far from whole numbers at the most.
_DISTANCES, _LIKELIHOODS = ("mse", "rmse", "l1", "huber", "smooth_l1", "kl_div"), ("cross_entropy", "nll", *BINARY)
_WHOLE = 1e-3
# The share of the loss from which on a squared error among its terms is as good as the loss.
_ALL_BUT = 0.9


class TermRecord:
    """Follows the terms of a loss, each of which compares predictions with targets, beside the best constant's score.

    Args:
        heads: The terms, as they were read the first time.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.signature = signature_of(heads)
        self._of_one = len({origin(head.source) for head in heads}) == 1
        # What no prediction can bring under zero.
        self._bounded = all(head.loss in (*_DISTANCES, *_LIKELIHOODS) for head in heads)
        self._tallies = [Tally(head) for head in heads]
        self._terms = [_Term(head, tally.classes) for head, tally in zip(heads, self._tallies, strict=True)]

    def measure(self, heads: Sequence[Head], loss: Tensor) -> Tensor:
        """Returns the numbers of this step, for :meth:`receive`."""
        pairs = zip(self._tallies, heads, strict=True)
        return torch.cat([tally.measure(head, loss)[_PLACES] for tally, head in pairs])

    def receive(self, history: History, step: int, numbers: Sequence[float]) -> None:
        """Takes the numbers of a step and renews the fact, if the terms add up to the loss."""
        size = len(_TAKEN)
        found = [
            dict(zip(_TAKEN, numbers[at : at + size], strict=True)) for at in range(0, size * len(self._terms), size)
        ]
        loss, values = found[0]["loss"], [term["value"] for term in found]
        understood = abs(sum(values) - loss) <= _SAME * sum(map(abs, values))
        if understood and self._of_one and self._bounded:
            self._note_subtracted(history, step, found)
        if not (understood and loss > 0 and min(values) >= 0):
            history.facts.pop("loss_terms", None)
            return
        for term, numbers_of in zip(self._terms, found, strict=True):
            term.take(step, numbers_of)
            if term.is_all_but_the_loss:
                for name in OF_ERRORS:
                    note(history, name, step, numbers_of[name])
        history.facts["loss_terms"] = {"step": step, "terms": [term.fact() for term in self._terms]}

    def _note_subtracted(self, history: History, step: int, found: Sequence[dict[str, float]]) -> None:
        """Notes the lowest likelihood with a weight under zero, where there is one."""
        pairs = zip(self._terms, found, strict=True)
        under = [(numbers["value"], term.loss) for term, numbers in pairs if term.is_subtracted(numbers)]
        if not under:
            return
        kept = history.facts.setdefault("subtracted", {"looks": 0, "value": 0.0})
        kept["looks"] += 1
        if min(under)[0] < kept["value"]:
            kept["value"], kept["loss"] = min(under)


class _Term:
    def __init__(self, head: Head, classes: int) -> None:
        self.loss, self._classes = head.loss, classes
        self._activation, self._scale = head.activation, head.scale
        self._to_zero = head.loss in _DISTANCES or (head.loss in _LIKELIHOODS and not head.smoothing)
        self._likelihood = head.loss in _LIKELIHOODS
        self._shares = self._likelihood and not head.indexed
        self._first: dict[str, float] = {}
        self._count = self._sum = self._squares = self._classified = 0.0
        self._low, self._high = math.inf, -math.inf
        self._lowest, self._highest = math.inf, -math.inf
        # The step, the share of the loss, and that of the best constant's score which it is under.
        self._looks: list[tuple[int, float, float]] = []

    def take(self, step: int, found: dict[str, float]) -> None:
        self._first = self._first or found
        if found["target_count"] > 0 and math.isfinite(found["target_squares"]):
            self._count += found["target_count"]
            self._sum += found["target_sum"]
            self._squares += found["target_squares"]
            self._low, self._high = min(self._low, found["target_min"]), max(self._high, found["target_max"])
        if self._shares and not found["target_fraction"] < _WHOLE:
            # What is left is the entropy of the targets.
            self._to_zero = False
        if math.isfinite(found["output_min"]) and math.isfinite(found["output_max"]):
            self._lowest = min(self._lowest, found["output_min"])
            self._highest = max(self._highest, found["output_max"])
        if found["classified"] > 0:
            self._classified += found["classified"]
        learned = 1 - found["value"] / found["baseline"] if found["baseline"] > 0 else math.nan
        if self._classes and self._classified < _PER_CLASS * self._classes:
            learned = math.nan
        late = [look for look in self._looks if 2 * look[0] >= step]
        self._looks = [*late[1 - _RECENT :], (step, found["value"] / found["loss"], learned)]

    def is_subtracted(self, found: dict[str, float]) -> bool:
        """Whether it is a likelihood of answers that there can be, and under zero all the same."""
        answers = not self._shares or (found["target_min"] >= 0 and found["target_max"] <= 1)
        return self._likelihood and answers and found["value"] < 0

    @property
    def is_all_but_the_loss(self) -> bool:
        """Whether it is a squared error of amounts, and nearly all of the loss as a rule."""
        within = self._low >= -_WHOLE and self._high <= 1 + _WHOLE
        return self.loss in ("mse", "rmse") and not within and self._share >= _ALL_BUT

    @property
    def _share(self) -> float:
        return median(share for _, share, _ in self._looks)

    def fact(self) -> dict[str, Any]:
        mean = self._sum / self._count if self._count else math.nan
        variance = max(0.0, self._squares / self._count - mean * mean) if self._count else math.nan
        known = [learned for _, _, learned in self._looks if math.isfinite(learned)]
        return {
            "loss": self.loss,
            "activation": self._activation,
            "scale": self._scale,
            "output_min": self._lowest,
            "output_max": self._highest,
            "first_share": self._first["value"] / self._first["loss"],
            "share": self._share,
            "first_output": self._first["output_level"],
            "target_mean": mean,
            "target_std": math.sqrt(variance),
            "target_min": self._low,
            "target_max": self._high,
            "learned": fmean(known) if known else math.nan,
            "learned_error": stdev(known) / math.sqrt(len(known)) if len(known) > 1 else math.nan,
            "looks": len(known),
            "to_zero": self._to_zero,
        }


def signature_of(heads: Sequence[Head]) -> tuple[Any, ...]:
    """Returns what must stay for numbers of two steps to be about the same terms."""
    return tuple(signature(describe(head)) for head in heads)


def may_be_followed(heads: Sequence[Head]) -> bool:
    """Whether these are several, and each compares predictions with targets, sample by sample, in a way that is known.

    What weighs samples or elements may weigh them by what was done before, as an advantage does.
    """
    return 1 < len(heads) <= _MOST and all(
        head.prediction is not None
        and head.target is not None
        and head.doubt is None
        and not head.broadcast
        and not head.path.weights
        and head.path.unclear is None
        for head in heads
    )
