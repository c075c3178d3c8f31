"""What one loss head has shown so far, as facts and series."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_doctor.measure.head import BINARY
from lightning_doctor.measure.predictions import NUMBERS, by_element

if TYPE_CHECKING:
    from lightning_doctor.history import History
    from lightning_doctor.measure.head import Head

T = TypeVar("T")
# How many of the latest samples the predictions are counted over, or tags where rows may have several, and how many
# are enough to forget those made when the run was half as long.
_RECENT, _ENOUGH = 512, 64
# How near a number must be to a whole one: targets that are differences of other numbers carry their rounding.
_WHOLE = 1e-3
# How near the loss as it was understood must be to the loss itself: half precision has three digits.
_SAME = 0.02
_COMPARABLE = (
    *BINARY,
    *("mse", "rmse", "l1", "huber", "smooth_l1", "gaussian_nll", "poisson", "cross_entropy", "kl_div"),
)
_PRIVATE = ("unclear", "class_dim", "indexed", "readable", "has_baseline", "columns", "errors", "by_element")
_BESIDE = "it has terms of what layers put out beside them"
OF_ERRORS = ("worst_share", "worst_ratio", "typical_error")
# Losses of counts, of which few batches may hold any but zero and one.
_OF_COUNTS = ("poisson",)
_OF_TARGETS = ("skill", "train_accuracy", *OF_ERRORS)


def describe(head: Head) -> dict[str, Any]:
    """Returns the fact ``loss_head`` as far as the graph alone tells it."""
    return {
        "loss": head.loss,
        "written_by_hand": head.by_hand,
        "reduction": head.path.batch,
        "activation": head.activation,
        "scale": head.scale,
        "output_shape": list(head.output_shape),
        "target_shape": None if head.target_shape is None else list(head.target_shape),
        "broadcast": head.broadcast,
        "targets": None,
        "classes": None,
        "weighted": head.weighted,
        "class_weights": head.extras.get("class_weights"),
        "label_smoothing": head.smoothing > 0,
        "terms": head.terms,
        "regularisers": head.regularisers,
        "unclear": head.path.unclear or (_BESIDE if head.regularisers else None),
        "class_dim": head.class_dim,
        "indexed": head.indexed,
        "readable": head.target is not None and head.prediction is not None,
        "errors": None if head.prediction is None else list(head.prediction.shape),
        "columns": math.nan,
        "by_element": by_element(head),
    }


def signature(description: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what must stay for numbers of two steps to be about the same head."""
    shape, class_dim = description["output_shape"], description["class_dim"]
    columns = shape[class_dim] if class_dim is not None and shape else shape[1] if len(shape) == 2 else None
    alike = [description[key] for key in ("loss", "activation", "indexed", "readable", "broadcast", "weighted")]
    return (*alike, len(shape), columns)


def unrepeated(sizes: Sequence[int], gaps: Sequence[float]) -> list[int]:
    """Returns the shape that targets had before they were repeated to fit, along what they are all the same in.

    Args:
        sizes: Their shape now.
        gaps: How far they differ along each dimension, as a share of the largest.
    """
    kept = [size if gap > _WHOLE else 1 for size, gap in zip(sizes, gaps, strict=True)]
    return kept[1:] if kept[0] == 1 else kept


class HeadRecord:
    """Collects the numbers of one loss head.

    Args:
        signature: The head's, as :func:`signature` tells it.
    """

    def __init__(self, signature: tuple[Any, ...]) -> None:
        self.signature = signature
        self._least: dict[str, float] = {}
        self._most: dict[str, float] = {}
        self._count = self._sum = self._squares = 0.0
        self._labels: list[float] = []
        self._recent: deque[tuple[int, tuple[list[float], list[float], list[float]]]] = deque()
        self._tags: deque[tuple[int, tuple[float, float, float]]] = deque()
        self._verified = self._compared = False

    def receive(self, history: History, description: dict[str, Any], step: int, numbers: list[float]) -> None:
        """Takes the numbers of one step and renews what the history says of the head."""
        found = dict(zip(NUMBERS, numbers[: len(NUMBERS)], strict=True))
        counts = numbers[len(NUMBERS) :]
        known = description["readable"] and self._trusts(description, found)
        for name in ("output_spread", "output_level"):
            note(history, name, step, found[name])
        self._extend(found)
        fact = self._outputs(description, found)
        if known:
            self._take(found)
            fact |= self._targets(description, found)
            self._score(history, fact, step, found)
            if _is_class(fact) or (description["by_element"] and fact["targets"] == "binary"):
                self._count_classes(history, step, counts)
            elif fact["targets"] == "binary":
                self._count_tags(history, step, found)
            note(history, "baseline_loss", step, found["baseline"] if self._verified else math.nan)
            if fact["targets"] == "real" and self._labels:
                # What looked like classes so far are numbers.
                self._labels = []
                history.facts.pop("labels", None)
                history.facts.pop("predictions", None)
        history.facts["loss_head"] = {key: value for key, value in fact.items() if key not in _PRIVATE}
        history.absent.pop("loss_head", None)
        self._explain(history, description, fact, known)

    def _trusts(self, description: dict[str, Any], found: dict[str, float]) -> bool:
        """Whether the head is what it was taken for: the loss computed from it is the loss that the run has."""
        value, loss = found["value"], found["loss"]
        if found["doubt"] > _WHOLE:
            return False
        if not (math.isfinite(value) and math.isfinite(loss)):
            return True
        self._compared = True
        gap = value - loss if description["terms"] == 1 else max(0.0, value - loss)
        # Once is enough: the rounding of what is left of a loss near zero is no sign of anything.
        self._verified |= abs(gap) <= _SAME * max(abs(value), abs(loss))
        return self._verified or not description["written_by_hand"]

    def _extend(self, found: dict[str, float]) -> None:
        for name in ("output_min", "target_min"):
            if math.isfinite(found[name]):
                self._least[name] = min(found[name], self._least.get(name, math.inf))
        for name in ("output_max", "target_max", "target_fraction", "target_sum_error", "output_sum_error"):
            if not math.isnan(found[name]):
                self._most[name] = max(found[name], self._most.get(name, -math.inf))

    def _take(self, found: dict[str, float]) -> None:
        if math.isfinite(found["target_squares"]) and found["target_count"] > 0:
            self._count += found["target_count"]
            self._sum += found["target_sum"]
            self._squares += found["target_squares"]

    def _outputs(self, description: dict[str, Any], found: dict[str, float]) -> dict[str, Any]:
        fact = dict(description)
        fact["output_min"], fact["output_max"] = self._least.get("output_min"), self._most.get("output_max")
        shares = self._least.get("output_min", -1.0) >= 0 and self._most.get("output_sum_error", 1.0) < _WHOLE
        if description["activation"] is None and shares:
            fact["activation"] = "softmax"
        if description["reduction"] == "sum" and _is_mean(found):
            # A sum that is divided by the number of samples.
            fact["reduction"] = "mean"
        fact.update(target_min=None, target_max=None, target_mean=None, target_std=None)
        return fact

    def _targets(self, description: dict[str, Any], found: dict[str, float]) -> dict[str, Any]:
        facts: dict[str, Any] = {"columns": found["columns"]}
        facts["target_min"], facts["target_max"] = self._least.get("target_min"), self._most.get("target_max")
        if self._count:
            mean = self._sum / self._count
            facts["target_mean"] = mean
            facts["target_std"] = math.sqrt(max(0.0, self._squares / self._count - mean * mean))
        if description["target_shape"] is None and not math.isnan(found["target_gap_down"]):
            gaps = (found["target_gap_down"], found["target_gap_across"])
            facts["target_shape"] = unrepeated(description["errors"], gaps)
        facts["targets"] = self._kind(description, found)
        shape, dim = description["output_shape"], description["class_dim"]
        if facts["targets"] == "class_index":
            facts["classes"] = shape[dim]
        elif facts["targets"] == "one_hot":
            facts["classes"] = int(found["columns"])
        elif facts["targets"] == "binary" and found["columns"] == 1:
            facts["classes"] = 2
        return facts

    def _kind(self, description: dict[str, Any], found: dict[str, float]) -> str | None:
        if description["indexed"]:
            return "class_index"
        if "target_min" not in self._least:
            return None
        if description["loss"] in _OF_COUNTS:
            return "real"
        low, high = self._least["target_min"], self._most["target_max"]
        within = low >= -_WHOLE and high <= 1 + _WHOLE
        shared = found["columns"] > 1 and self._most.get("target_sum_error", 1.0) < _WHOLE
        binary = description["loss"] in BINARY
        # A squared distance from zero alone, or from one, is no answer to a question.
        if within and self._most.get("target_fraction", 1.0) < _WHOLE and (binary or high - low > 0.5):
            return "one_hot" if shared else "binary"
        return "probabilities" if within and (shared or binary) else "real"

    def _score(self, history: History, fact: dict[str, Any], step: int, found: dict[str, float]) -> None:
        # Of outputs that are not finite the largest means nothing.
        if _is_class(fact) and math.isfinite(found["output_level"]):
            if found["classified"] > 0:
                history.record("train_accuracy", step, found["right"] / found["classified"])
            if found["constant_missed"] > 0:
                history.record("skill", step, 1 - found["missed"] / found["constant_missed"])
        elif fact["loss"] in _COMPARABLE and not _is_class(fact) and found["constant_error"] > 0:
            note(history, "skill", step, 1 - found["error"] / found["constant_error"])
        # What is left of the loss is theirs where there are no penalties beside them, and was understood.
        alone = fact["terms"] == fact["regularisers"] + 1 and found["own_baseline"] > 0
        if alone and found["own_value"] <= (1 + _SAME) * found["loss"]:
            share = (found["loss"] - found["own_value"]) / found["own_baseline"]
            note(history, "regulariser_share", step, max(0.0, share))
        if fact["targets"] == "real":
            for name in OF_ERRORS:
                note(history, name, step, found[name])

    def _count_classes(self, history: History, step: int, counts: list[float]) -> None:
        size = len(counts) // 3
        if not size or math.isnan(sum(counts)):
            return
        seen, predicted, hits = counts[:size], counts[size : 2 * size], counts[2 * size :]
        self._labels = [old + new for old, new in zip(self._labels or [0.0] * size, seen, strict=True)]
        history.facts["labels"] = {"counts": _named(self._labels), "samples": round(sum(self._labels))}
        self._recent.append((step, (seen, predicted, hits)))
        _forget(self._recent, step, lambda part: sum(part[0]))
        parts = [part for _, part in self._recent]
        seen, predicted, hits = (
            [sum(column) for column in zip(*part, strict=True)] for part in zip(*parts, strict=True)
        )
        recall = {str(i): hit / number for i, (hit, number) in enumerate(zip(hits, seen, strict=True)) if number > 0}
        history.facts["predictions"] = {"counts": _named(predicted), "recall": recall, "samples": round(sum(seen))}

    def _count_tags(self, history: History, step: int, found: dict[str, float]) -> None:
        numbers = (found["tags"], found["tags_found"], found["target_count"])
        if not all(map(math.isfinite, numbers)):
            return
        self._tags.append((step, numbers))
        _forget(self._tags, step, lambda part: part[0])
        totals = (sum(column) for column in zip(*(part for _, part in self._tags), strict=True))
        names = ("tags", "found", "answers")
        history.facts["tags"] = {"step": step, **dict(zip(names, map(round, totals), strict=True))}

    def _explain(self, history: History, description: dict[str, Any], fact: dict[str, Any], known: bool) -> None:
        targets = [*_OF_TARGETS, "baseline_loss", "regulariser_share"]
        if not description["readable"]:
            history.lack(targets, "the targets cannot be read off the autograd graph")
            return
        if not known:
            history.lack(targets, "the loss is not what its graph was taken for")
            return
        if not description["regularisers"]:
            history.lack(["regulariser_share"], "the loss has no terms of what layers put out")
        if not description["has_baseline"]:
            history.lack(["baseline_loss"], f"the best constant under {fact['loss']} is not known")
        elif description["unclear"] is not None:
            history.lack(["baseline_loss"], f"the loss cannot be computed from its elements: {description['unclear']}")
        elif not self._compared:
            history.lack(["baseline_loss"], "the loss has not been finite")
        elif not self._verified:
            history.lack(["baseline_loss"], "the loss is not what its graph was taken for")
        else:
            history.lack(["baseline_loss"], "no constant is best under these targets")
        if fact["targets"] != "real":
            history.lack([*OF_ERRORS], "the targets are no real numbers")
        if not _is_class(fact):
            history.lack(["train_accuracy"], "the targets are not classes")
        history.lack(["skill"], "the targets have not varied")


def _forget(looks: deque[tuple[int, T]], step: int, size: Callable[[T], float]) -> None:
    """Drops the oldest looks, as long as the others are enough by their size."""
    while len(looks) > 1:
        rest = sum(size(part) for _, part in list(looks)[1:])
        if rest < (_ENOUGH if looks[0][0] < step / 2 else _RECENT):
            break
        looks.popleft()


def _is_class(fact: dict[str, Any]) -> bool:
    one_column = fact["targets"] == "binary" and fact["columns"] == 1
    return fact["targets"] in ("class_index", "one_hot") or one_column


def _is_mean(found: dict[str, float]) -> bool:
    """Whether a sum over rows is divided by their number, or by that of all elements."""
    columns = 1.0 if math.isnan(found["columns"]) else found["columns"]
    return found["rows"] > 1 and any(math.isclose(found["mass"], per, rel_tol=1e-3) for per in (1.0, columns))


def note(history: History, name: str, step: int, value: float) -> None:
    """Records a number, if it is one."""
    if math.isfinite(value):
        history.record(name, step, value)


def _named(counts: Iterable[float]) -> dict[str, int]:
    return {str(label): round(count) for label, count in enumerate(counts) if count > 0}
