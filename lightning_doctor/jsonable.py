"""Plain builtins in and out: strict JSON has no NaN, and a checkpoint holds only lists, dicts, numbers and strings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MalformedError(ValueError):
    """Saved data that this version cannot read; the message says what is wrong with it."""


def to_jsonable(value: Any) -> Any:
    """Returns ``value`` as dicts, lists, strings, booleans, None and finite numbers.

    NaN and the infinities become ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; anything that JSON does not know
    becomes its ``str``.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_jsonable(item) for item in value]
    return str(value)


def number(value: Any, default: float = math.nan) -> float:
    """Returns a finite number as a float, and ``default`` for anything else, booleans among it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return default
    try:
        return float(value) if math.isfinite(value) else default
    except OverflowError:
        return default


def from_jsonable(value: Any) -> Any:
    """Undoes :func:`to_jsonable` for numbers: the three names become floats again."""
    if isinstance(value, str):
        return _NAMES.get(value, value)
    if isinstance(value, Mapping):
        return {key: from_jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_jsonable(item) for item in value]
    return value
