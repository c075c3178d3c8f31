"""What a run has shown so far: named series of plain numbers, facts about the run, and events. No tensors."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from lightning_doctor.jsonable import MalformedError, from_jsonable, to_jsonable

T = TypeVar("T")

SERIES_CAPACITY = 2048
EVENT_CAPACITY = 64


class Series:
    """One signal: values with the steps they belong to, oldest first.

    A full series thins its older half to half as many points, evenly spread over its steps: of a long run the newest
    points are all there, and before them one of every so many steps. The first point, the first smallest and largest,
    the first that is not finite and, unless they are many, all that are not finite stay, so that a peak is never lost.

    Args:
        capacity: The number of points above which the older half is thinned.
    """

    __slots__ = ("_finite", "capacity", "steps", "values")

    def __init__(self, capacity: int = SERIES_CAPACITY) -> None:
        self.capacity = capacity
        self.steps: list[int] = []
        self.values: list[float] = []
        self._finite = 0

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Series):
            return NotImplemented
        return self.steps == other.steps and list(map(repr, self.values)) == list(map(repr, other.values))

    def __repr__(self) -> str:
        return f"Series({len(self)} points, steps {self.steps[:1]}..{self.steps[-1:]})"

    def append(self, step: int, value: float) -> None:
        """Adds a point; of several at one step each is kept."""
        self.steps.append(step)
        self.values.append(value)
        if len(self.values) > self.capacity:
            self._thin()

    def since(self, step: int) -> list[float]:
        """Returns the values at ``step`` and later."""
        return self.values[bisect_left(self.steps, step) :]

    def until(self, step: int) -> list[float]:
        """Returns the values at ``step`` and before."""
        return self.values[: bisect_right(self.steps, step)]

    def broken_at(self) -> int | None:
        """Returns the index of the first value that is NaN or infinite; None where all are finite."""
        # Every rule asks this at every look: only what is new since the last time is looked at.
        while self._finite < len(self.values) and math.isfinite(self.values[self._finite]):
            self._finite += 1
        return self._finite if self._finite < len(self.values) else None

    def finite(self) -> Series:
        """Returns the part before the first value that is NaN or infinite; itself where all are finite."""
        end = self.broken_at()
        if end is None:
            return self
        part = Series(self.capacity)
        part.steps, part.values = self.steps[:end], self.values[:end]
        return part

    def _thin(self) -> None:
        keep = thinned(self.steps, self.values)
        self.steps = [self.steps[i] for i in keep]
        self.values = [self.values[i] for i in keep]
        self._finite = 0


def thinned(steps: Sequence[int], values: Sequence[float]) -> list[int]:
    """Returns the places of what stays when the older half of a series is thinned, as :class:`Series` says."""
    half = len(values) // 2
    older = values[:half]
    finite = [i for i, value in enumerate(older) if math.isfinite(value)]
    others = [i for i, value in enumerate(older) if not math.isfinite(value)]
    extremes = {min(finite, key=older.__getitem__), max(finite, key=older.__getitem__)} if finite else set()
    # All of a series of nothing but NaN, kept, would grow for ever.
    broken = others if len(others) <= half // 4 else others[:1]
    # At least one point goes, and of the rest those in between go first.
    dear = list(dict.fromkeys([0, *sorted(extremes), *broken]))[: max(1, half - 1)]
    between = sorted({*_spread(steps[:half])} - {*dear})
    return [*sorted([*dear, *between[: max(0, half - 1 - len(dear))]]), *range(half, len(values))]


def _spread(steps: Sequence[int]) -> list[int]:
    """Returns the places of half of the points, or less, evenly spread over the steps.

    Every second point each time would leave of a long run's beginning nothing: what is old has been thinned before.
    """
    count = len(steps)
    cells = [(step - steps[0]) * (count // 2) // max(1, steps[-1] - steps[0] + 1) for step in steps]
    found = [i for i in range(count) if i == 0 or cells[i] != cells[i - 1]]
    # Steps that went back, or stood still, have no even spread.
    return found if count // 8 <= len(found) <= count // 2 else list(range(0, count, 2))


class History:
    """Everything a rule may look at.

    Attributes:
        facts: A JSON description of the model, the optimizers, the trainer and the data.
        absent: For a series that this run cannot have, the reason, as a clause: ``"no validation loader"``.
        events: Single happenings, oldest first, each a dict with at least ``name`` and ``step``.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.absent: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self._series: dict[str, Series] = {}
        self._kept: dict[str, Any] | None = None

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Within this nothing is recorded, so that what is worked out :meth:`once` need not be worked out again."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def once(self, name: str, work_out: Callable[[], T]) -> T:
        """Returns what ``work_out`` does; while the history is at rest what it returned before under this name."""
        if self._kept is None:
            return work_out()
        if name not in self._kept:
            self._kept[name] = work_out()
        found: T = self._kept[name]
        return found

    def record(self, name: str, step: int, value: float, *, capacity: int = SERIES_CAPACITY) -> None:
        """Appends one value to the series ``name``, which begins, with this capacity, at its first value."""
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = Series(capacity)
            self.absent.pop(name, None)
        series.append(int(step), float(value))

    def lack(self, names: Iterable[str], reason: str) -> None:
        """Notes why series were not recorded; those that were are left alone."""
        self.absent.update({name: reason for name in names if name not in self._series})

    def forget(self, names: Iterable[str]) -> None:
        """Takes back series that were recorded by mistake."""
        for name in names:
            self._series.pop(name, None)

    def happened(self, name: str, step: int, **details: Any) -> None:
        """Notes an event; the first ones are kept when there are too many."""
        if len(self.events) < EVENT_CAPACITY:
            self.events.append({"name": name, "step": int(step), **details})

    def event(self, name: str) -> dict[str, Any] | None:
        """Returns the first event of that name, or None."""
        return next((event for event in self.events if event["name"] == name), None)

    def __contains__(self, name: object) -> bool:
        return name in self._series

    def __getitem__(self, name: str) -> Series:
        return self._series[name]

    def get(self, name: str) -> Series:
        """Returns the series, an empty one where nothing was recorded."""
        return self._series.get(name) or Series()

    def names(self, prefix: str = "") -> list[str]:
        """Returns the names of the recorded series that begin with ``prefix``, in order of their first value."""
        return [name for name in self._series if name.startswith(prefix)]

    def family(self, name: str) -> list[str]:
        """Returns the recorded names among ``name``, ``name/0``, ``name/1`` …, in order of their first value."""
        return [member for member in self._series if member == name or member.startswith(f"{name}/")]

    @property
    def last_step(self) -> int:
        """The newest step of any series; 0 before the first."""
        return max((series.steps[-1] for series in self._series.values()), default=0)

    def fact(self, path: str, default: Any = None) -> Any:
        """Looks a fact up by its dotted path: ``fact("trainer.gradient_clip_val")``."""
        node: Any = self.facts
        for key in path.split("."):
            if not isinstance(node, Mapping) or key not in node:
                return default
            node = node[key]
        return default if node is None else node

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, History):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins that :meth:`from_dict` reads back, fit for strict JSON and for a checkpoint."""
        return {
            "facts": to_jsonable(self.facts),
            "absent": dict(self.absent),
            "events": to_jsonable(self.events),
            "series": {
                name: {
                    "capacity": series.capacity,
                    "steps": list(series.steps),
                    "values": to_jsonable(series.values),
                }
                for name, series in self._series.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Any) -> History:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            MalformedError: Where ``data`` is anything else; the message names the place.
        """
        history = cls()
        table = _mapping(data, "history")
        history.facts = dict(_mapping(from_jsonable(table.get("facts", {})), "history.facts"))
        history.absent = {str(k): str(v) for k, v in _mapping(table.get("absent", {}), "history.absent").items()}
        for event in _sequence(table.get("events", []), "history.events"):
            details = dict(_mapping(from_jsonable(event), "an event"))
            name, step = details.pop("name", None), details.pop("step", None)
            if not isinstance(name, str) or isinstance(step, bool) or not isinstance(step, int):
                raise MalformedError("an event must have a name and a whole step")
            # Not through `happened`: a detail may be called anything, "self" too.
            history.events.append({"name": name, "step": step, **details})
        del history.events[EVENT_CAPACITY:]
        for name, points in _mapping(table.get("series", {}), "history.series").items():
            place = f"series {name!r}"
            points = _mapping(points, place)
            steps = _sequence(points.get("steps"), f"the steps of {place}")
            values = _sequence(from_jsonable(points.get("values")), f"the values of {place}")
            if len(steps) != len(values):
                raise MalformedError(f"{place} has {len(steps)} steps and {len(values)} values; they must be as many")
            capacity = points.get("capacity", SERIES_CAPACITY)
            if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 4:
                raise MalformedError(f"the capacity of {place} must be a whole number of at least 4, got {capacity!r}")
            for step, value in zip(steps, values, strict=True):
                if isinstance(step, bool) or not isinstance(step, int) or not isinstance(value, (int, float)):
                    raise MalformedError(f"{place} must hold numbers, got {step!r}: {value!r}")
                try:
                    history.record(str(name), step, value, capacity=capacity)
                except OverflowError as error:
                    raise MalformedError(f"{place} holds a number that no float holds") from error
        return history


def _mapping(value: Any, place: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise MalformedError(f"{place} must be an object, got {type(value).__name__}")
    return value


def _sequence(value: Any, place: str) -> list[Any]:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
        raise MalformedError(f"{place} must be a list, got {type(value).__name__}")
    return list(value)
