"""The layers of a run in the order in which they work on an input, and what was measured of them."""

from __future__ import annotations

import re
from statistics import median
from typing import Any

from lightning_doctor.history import History


def entries(history: History) -> list[dict[str, Any]]:
    """Returns what the fact ``activations`` says of each layer that ran, input first."""
    listed = history.fact("activations", [])
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def of_kind(history: History, *kinds: str) -> list[dict[str, Any]]:
    """Returns the entries of the layers of these kinds, input first."""
    return [entry for entry in entries(history) if entry.get("kind") in kinds]


def places(history: History) -> dict[str, int]:
    """Returns where each layer comes in the forward pass, or where that is unknown in order of registration."""
    names = [entry.get("layer") for entry in entries(history)] or history.fact("model.layer_names", [])
    names = names if isinstance(names, list) else []
    return {str(name): place for place, name in reversed(list(enumerate(names)))}


def measured(history: History, signal: str) -> list[str]:
    """Returns the layers with a series ``signal/<layer>``, input first as far as that is known."""
    there = [name.removeprefix(f"{signal}/") for name in history.names(f"{signal}/")]
    place = places(history)
    if place:
        return sorted((name for name in there if name in place), key=place.__getitem__)
    return [name for name in there if not re.fullmatch(r"optimizer\d+", name)]


def late_level(history: History, name: str) -> float | None:
    """Returns the median of the newer half of a series' finite part; None where it is empty."""
    values = history.get(name).finite().values
    return median(values[len(values) // 2 :]) if values else None


def gradient_ratios(history: History, layer: str, behind: str) -> list[tuple[int, float]]:
    """Returns the steps at which the gradients of both layers are known, and the first over the second there."""
    norms, others = (history.get(f"grad_norm/{name}").finite() for name in (layer, behind))
    below = dict(zip(others.steps, others.values, strict=True))
    pairs = zip(norms.steps, norms.values, strict=True)
    return [(step, norm / below[step]) for step, norm in pairs if below.get(step, 0) > 0]


def listed(names: list[str], most: int = 4) -> str:
    """Writes names in a row: ``"a, b, c"``, or ``"a, b … z (12 in all)"`` where they are many."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} … {names[-1]} ({len(names)} in all)"


def is_linear(history: History) -> bool:
    """Whether every layer that was seen is linear, or does nothing to what passes but drop some of it."""
    kinds = {entry.get("kind") for entry in entries(history)}
    return bool(kinds) and kinds <= {"linear", "dropout"}
