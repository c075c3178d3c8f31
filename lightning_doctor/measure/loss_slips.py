"""Slips that the graph of a loss shows where the loss as a whole is none that is known."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lightning_doctor.measure.loss_graph import (
    VIEWS,
    Edge,
    Graph,
    alive,
    constant_times,
    dimension,
    kind,
    shape,
    through,
)

_MOST_NODES = 1024


@dataclass
class Slips:
    """What was found.

    Attributes:
        classes: Over how many classes a softmax is given to another one; 0 where none is.
        rows: What columns of numbers that depend on the model, one for each of some rows, are multiplied by, all with
            all: as many numbers that do not, ``[N]`` each. They may be of the batch, or the same for all.
    """

    classes: int = 0
    rows: list[Tensor] = field(default_factory=list)


def find_slips(graph: Graph, root: Edge) -> Slips:
    """Looks at every operation between a loss and what the layers put out."""
    slips, waiting, seen = Slips(), [root], {root}
    while waiting and len(seen) < _MOST_NODES:
        edge = waiting.pop()
        slips.classes = slips.classes or _softmax_twice(edge)
        row = _row_by_column(graph, edge)
        if row is not None:
            slips.rows.append(row)
        if edge not in graph.outputs:
            below = [source for source in alive(edge) if source not in seen]
            seen.update(below)
            waiting.extend(below)
    return slips


def _softmax_twice(edge: Edge) -> int:
    name = kind(edge)
    if name not in ("LogSoftmax", "Softmax", "Logsumexp") or len(below := alive(edge)) != 1:
        return 0
    source, size = through(below[0], VIEWS), shape(below[0])
    if kind(source) != "Softmax" or shape(source) != size:
        return 0
    dims = edge.node._saved_dim
    axes = {dimension(dim, len(size)) for dim in (dims if isinstance(dims, (tuple, list)) else [dims])}
    axis = dimension(source.node._saved_dim, len(size))
    return size[axis] if axes == {axis} else 0


def _row_by_column(graph: Graph, edge: Edge) -> Tensor | None:
    if kind(edge) != "Mul" or len(whole := shape(edge)) != 2 or whole[0] != whole[1] or whole[0] < 2:
        return None
    constant, source = constant_times(graph, edge)
    if not isinstance(constant, Tensor) or source is None or shape(source) != (whole[0], 1):
        return None
    return constant if tuple(constant.shape) == whole[:1] else None
