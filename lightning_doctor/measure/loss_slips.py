"""Slips that the graph of a loss shows where the loss as a whole is none that is known."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lightning_doctor.measure.loss_graph import (
    CHOICES,
    MOVES,
    VIEWS,
    Edge,
    Graph,
    alive,
    constant_times,
    dimension,
    kind,
    shape,
    sources,
    through,
)

_MOST_NODES = 1024
# What takes a sigmoid of what it is given.
_OF_LOGITS = ("Sigmoid", "LogSigmoid", "BinaryCrossEntropyWithLogits")
# What makes a number of a number, whatever stands beside it.
_POINTWISE = frozenset(
    [
        *("Abs", "Pow", "Log", "Log1P", "Sqrt", "Neg", "Cosh", "Sinh", "Tanh", "Sigmoid", "LogSigmoid", "Softplus"),
        *("Relu", "LeakyRelu", "Elu", "Clamp", "ClampMin", "ClampMax", "Where", "Maximum", "Minimum"),
        *("Mul", "Div", "Add", "Sub", "Rsub"),
    ]
)


@dataclass
class Slips:
    """What was found.

    Attributes:
        classes: Over how many classes a softmax is given to another one; 0 where none is.
        sigmoids: Whether a sigmoid is given to another one.
        rows: What numbers that depend on the model, one for each of some rows, are multiplied by, all with all: as many
            numbers that do not, ``[N]``, or ``[N, 1]`` where those of the model are the row. They may be of the batch,
            or the same for all.
        compared: How many numbers that depend on the model, ``[N, 1]``, are compared with as many, ``[N]``, in pairs.
    """

    classes: int = 0
    sigmoids: bool = False
    rows: list[Tensor] = field(default_factory=list)
    compared: int = 0


def find_slips(graph: Graph, root: Edge) -> Slips:
    """Looks at every operation between a loss and what the layers put out."""
    slips, waiting, seen, meant = Slips(), [root], {root}, False
    while waiting and len(seen) < _MOST_NODES:
        edge = waiting.pop()
        slips.classes = slips.classes or _softmax_twice(edge)
        slips.sigmoids = slips.sigmoids or _sigmoid_twice(edge)
        row = _row_by_column(graph, edge)
        if row is not None:
            slips.rows.append(row)
        slips.compared = slips.compared or _compares_all_with_all(edge)
        meant = meant or _is_of_outputs_alone(edge)
        if edge not in graph.outputs:
            below = [source for source in alive(edge) if source not in seen]
            seen.update(below)
            waiting.extend(below)
    if meant:
        slips.compared = 0
    return slips


def _softmax_twice(edge: Edge) -> int:
    name = kind(edge)
    if name not in ("LogSoftmax", "Softmax", "Logsumexp") or len(below := alive(edge)) != 1:
        return 0
    source, size = through(below[0], VIEWS | CHOICES), shape(below[0])
    if kind(source) != "Softmax" or shape(source)[1:] != size[1:] or len(shape(source)) != len(size):
        return 0
    dims = edge.node._saved_dim
    axes = {dimension(dim, len(size)) for dim in (dims if isinstance(dims, (tuple, list)) else [dims])}
    axis = dimension(source.node._saved_dim, len(size))
    return size[axis] if axes == {axis} else 0


def _sigmoid_twice(edge: Edge) -> bool:
    # Targets may be a sigmoid by right.
    logits = sources(edge)[0] if kind(edge) in _OF_LOGITS else None
    return logits is not None and kind(through(logits, VIEWS | MOVES | CHOICES | {"Neg"})) == "Sigmoid"


def _row_by_column(graph: Graph, edge: Edge) -> Tensor | None:
    if kind(edge) != "Mul" or len(whole := shape(edge)) != 2 or whole[0] != whole[1] or whole[0] < 2:
        return None
    constant, source = constant_times(graph, edge)
    if not isinstance(constant, Tensor) or source is None:
        return None
    sizes = {whole[:1], (whole[0], 1)}
    return constant if {tuple(constant.shape), shape(source)} == sizes else None


def _compares_all_with_all(edge: Edge) -> int:
    """Returns how many outputs a column holds that is compared with a row of as many numbers, each pair for itself.

    Whoever means to compare all with all looks for the nearest, or weighs pairs against each other.
    """
    below = alive(edge)
    if kind(edge) not in ("Mean", "Sum") or shape(edge) != () or len(below) != 1:
        return 0
    whole, found = shape(below[0]), False
    if len(whole) != 2 or whole[0] != whole[1] or whole[0] < 2:
        return 0
    waiting, seen = [below[0]], {below[0]}
    while waiting:
        here = waiting.pop()
        if _is_column_less_row(here):
            found = True
            continue
        if shape(here) != whole or kind(here) not in _POINTWISE or len(seen) > _MOST_NODES:
            return 0
        new = [source for source in alive(here) if source not in seen]
        seen.update(new)
        waiting.extend(new)
    return whole[0] if found else 0


def _is_of_outputs_alone(edge: Edge) -> bool:
    """Whether outputs are compared with each other, all with all, as samples may be meant to be then too."""
    below = alive(edge) if kind(edge) == "Sub" else []
    return len(below) == 2 and all(shape(end) != shape(edge) for end in below)


def _is_column_less_row(edge: Edge) -> bool:
    if kind(edge) != "Sub" or len(sources(edge)) != 2:
        return False
    return [shape(end) for end in alive(edge)] == [(shape(edge)[0], 1)]
