"""Whether a loss has a slope along any trained parameter, read off its autograd graph."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor

# Steps of a graph whose derivative is zero wherever there is one.
_FLAT = frozenset({"Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn", "Heaviside"})

# A function that somebody has written, with a derivative of his own, has no number.
_NUMBERED = re.compile(r"Backward\d+$")


def without_slope(loss: Tensor, trained: Collection[Tensor]) -> str | None:
    """Returns what keeps a loss from having a gradient; None where there is one to be had.

    Args:
        loss: A scalar with its autograd graph; nothing of it is unpacked.
        trained: The parameters that are to have a gradient.

    Returns:
        ``""`` where no trained parameter is in the graph, else the operation that every way to one leads through and
        whose derivative is zero: ``"round"``.
    """
    flat: dict[str, None] = {}
    if any(leaf in trained for leaf in leaves(loss, flat)):
        return None
    if any(leaf in trained for leaf in leaves(loss)):
        return next(iter(flat))
    return ""


def leaves(loss: Tensor, flat: dict[str, None] | None = None) -> Iterator[Tensor]:
    """Yields the leaves of a loss's graph, each once.

    Args:
        loss: With its graph; nothing of it is unpacked.
        flat: Takes the names of steps without a slope, where they end the way; without it none does.
    """
    todo = [] if loss.grad_fn is None else [loss.grad_fn]
    seen = set(todo)
    while todo:
        node: Any = todo.pop()
        name = node.name()
        if name == "torch::autograd::AccumulateGrad":
            yield node.variable
        if flat is not None and (kind := _NUMBERED.sub("", name)) in _FLAT:
            flat[kind.lower()] = None
            continue
        for source, _ in node.next_functions:
            if source is not None and source not in seen:
                seen.add(source)
                todo.append(source)
