"""What a run comes to when it is compared with others: the levels its losses ended at, and its size."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

from lightning_doctor.error_bars import metric_span, validation_error
from lightning_doctor.findings import Severity
from lightning_doctor.history import History, Series
from lightning_doctor.jsonable import MalformedError, from_jsonable, to_jsonable
from lightning_doctor.noise import noise, stretch
from lightning_doctor.report import Report
from lightning_doctor.scores import scoring_step

# The standard error of a median over that of a mean, for normal noise: √(π/2).
_MEDIAN_ERROR = 1.2533
# The last share of a run whose median is its level, and the least points that takes.
_END, _FEW = 0.9, 3
# Modules with weights that a depth counts; normalization and embeddings add none.
_WEIGHTED = re.compile(r"Linear|Conv|LSTM|GRU|RNN|Bilinear")


@dataclass(frozen=True)
class Level:
    """Where a curve lies.

    Attributes:
        value: A median of its values [unit of the curve].
        error: Its standard error from the noise of the curve; NaN where too few values tell of that.
    """

    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The figures of one run.

    Attributes:
        name: What it is called in the table.
        place: Where it was read.
        parameters: How many the model has; None where the log does not tell.
        depth: How many layers with weights it has; None likewise.
        steps: The last step of the training loss.
        losses: The training loss.
        train: The level that it ended at; None where there is none.
        evaluated: The training loss in eval mode on a fixed sample, where that was scored at the end.
        train_start: The first training loss.
        broken_at: The step from which on the training loss is not finite; None where it is.
        val: The level that the validation loss ended at; None where there is none.
        val_start: The first validation loss.
        best_val: The lowest level of three passes.
        metric: The last validation metric; None where there is none.
        metric_name: Its name in the log.
        metric_mode: ``"max"`` or ``"min"``: which is better.
        metric_span: How far apart one sample's smallest and largest metric are; 0 where that is not known.
        val_error: The standard error of the validation loss by the scatter of its samples; None where it is not known.
        val_samples: Samples of the validation set; None where the log does not tell.
        train_samples: Samples of the training set; None likewise.
        loss: The kind of loss and its reduction; empty where not known.
        dropout: Whether the model has dropout.
        overfits: Why its own curves say that it overfits; empty where they do not.
        finding: The first root cause of its own report that is more than a note; empty where there is none.
    """

    name: str
    place: str = ""
    parameters: int | None = None
    depth: int | None = None
    steps: int = 0
    losses: Series = field(default_factory=Series, repr=False)
    train: Level | None = None
    evaluated: Level | None = None
    train_start: float | None = None
    broken_at: int | None = None
    val: Level | None = None
    val_start: float | None = None
    best_val: Level | None = None
    metric: float | None = None
    metric_name: str = ""
    metric_mode: str = "max"
    metric_span: float = 0.0
    val_error: float | None = None
    val_samples: int | None = None
    train_samples: int | None = None
    loss: str = ""
    dropout: bool = False
    overfits: str = ""
    finding: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins that :meth:`from_dict` reads back, without name, place and curve."""
        table = asdict(self)
        for key in ("name", "place", "losses"):
            del table[key]
        plain: dict[str, Any] = to_jsonable(table)
        return plain

    @classmethod
    def from_dict(cls, data: Any, name: str, losses: Series) -> RunSummary:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            MalformedError: Where ``data`` is anything else.
        """
        if not isinstance(data, Mapping):
            raise MalformedError(f"the figures of {name} must be an object, got {type(data).__name__}")
        try:
            table = {f.name: from_jsonable(data[f.name]) for f in fields(cls) if f.name in data}
            for key in ("train", "evaluated", "val", "best_val"):
                if table.get(key) is not None:
                    table[key] = Level(float(table[key]["value"]), float(table[key]["error"]))
            return cls(**{**table, "name": name, "losses": losses})
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise MalformedError(f"the figures of {name} cannot be read: {error}") from error


def summarized(report: Report, place: Path, name: str) -> RunSummary:
    """Reads the figures off a report."""
    history = report.history
    losses, validation = history.get("train_loss"), history.get("val_loss").finite()
    broken = losses.broken_at()
    finite = losses.finite()
    ill = [f for f in report.findings if f.severity is not Severity.NOTE]
    own = next((f.summary for f in ill if f.name == "overfitting"), "")
    root = next((f for f in ill if f.explained_by is None), None)
    metric = history.get("val_metric").finite().values
    samples = _whole(history.fact("data.val_samples"))
    return RunSummary(
        name=name,
        place=str(place),
        parameters=_whole(history.fact("model.parameters")),
        depth=depth(history.fact("model.layers")),
        steps=finite.steps[-1] if finite.steps else 0,
        losses=finite,
        train=at_step(finite, finite.steps[-1]) if finite.steps else None,
        evaluated=_evaluated(history),
        train_start=finite.values[0] if finite.values else None,
        broken_at=None if broken is None else losses.steps[broken],
        val=_last(validation.values),
        val_start=validation.values[0] if validation.values else None,
        best_val=_lowest(validation.values),
        metric=metric[-1] if metric else None,
        metric_name=str(history.fact("validation.metric", "")),
        metric_mode=str(history.fact("validation.mode", "max")),
        metric_span=metric_span(str(history.fact("validation.metric", "")), metric),
        val_error=None if samples is None else validation_error(history, samples),
        val_samples=samples,
        train_samples=_whole(history.fact("data.train_samples")),
        loss=_loss(history),
        dropout=any(rate for rate in _numbers(history.fact("model.dropout"))),
        overfits=own,
        finding="" if root is None else f"{root.code} {root.name}",
    )


def at_step(losses: Series, step: int) -> Level:
    """Returns the level of a curve that is not empty at a step: the median of the tenth of its steps before it."""
    part = Series(losses.capacity)
    end = max(1, bisect_right(losses.steps, step))
    part.steps, part.values = losses.steps[:end], losses.values[:end]
    late = stretch(part, _END)
    late = late if len(late) >= _FEW else part.values[-_FEW:]
    return _level(late, part.values[len(part.values) // 2 :])


def apart(one: Level, other: Level, sigmas: float) -> bool | None:
    """Whether two levels differ by more than so many standard errors; None where their noise is not known."""
    error = math.hypot(one.error, other.error)
    return None if math.isnan(error) else abs(one.value - other.value) > sigmas * error


def depth(layers: object) -> int | None:
    """Returns how many layers with weights a fact ``model.layers`` counts; None where it counts none."""
    if not isinstance(layers, Mapping):
        return _whole(layers)
    return sum(_whole(count) or 0 for name, count in layers.items() if _WEIGHTED.search(str(name))) or None


def _level(values: list[float], around: list[float]) -> Level:
    # A second difference takes three values; fewer tell nothing of the noise.
    error = _MEDIAN_ERROR * noise(around) / math.sqrt(len(values)) if len(around) >= _FEW else math.nan
    return Level(median(values), error)


def _last(values: list[float]) -> Level | None:
    return _level(values[-_FEW:], values[len(values) // 2 :]) if values else None


def _lowest(values: list[float]) -> Level | None:
    """The lowest level of three passes: the lowest single one was also lucky."""
    if len(values) <= _FEW:
        return Level(min(values), math.nan) if values else None
    levels = [_level(values[i - 1 : i + 2], values[max(0, i - 3) : i + 4]) for i in range(1, len(values) - 1)]
    return min(levels, key=lambda level: level.value)


def _evaluated(history: History) -> Level | None:
    if scoring_step(history) != "training_step":
        # Its loss may be another one than that of the other runs.
        return None
    losses, errors = history.get("eval_loss/train").finite(), history.get("eval_error/train").finite()
    if not losses or not errors or losses.steps[-1] < _END * history.last_step:
        return None
    return Level(losses.values[-1], errors.values[-1])


def _loss(history: History) -> str:
    kind, reduction = history.fact("loss_head.loss"), history.fact("loss_head.reduction")
    return f"{kind} {reduction or ''}".strip() if isinstance(kind, str) else ""


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _numbers(table: object) -> list[float]:
    return [v for v in table.values() if isinstance(v, (int, float))] if isinstance(table, Mapping) else []
