"""Terms of a loss that compare nothing with data: penalties on weights, and regularisers of what layers put out."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import Tensor

from lightning_doctor.measure.loss_graph import (
    LIMITS,
    MOVES,
    VIEWS,
    Edge,
    Graph,
    alive,
    constant_times,
    kind,
    shape,
)

# What a penalty on weights is made of: nothing in it has more elements than the weights themselves.
_PENALTY = VIEWS | frozenset(
    ["Pow", "Abs", "Mul", "Div", "Neg", "Add", "Sub", "Sum", "Mean", "Sqrt", "Norm", "LinalgVectorNorm", "Cat", "Stack"]
)
# What is made of layers' outputs by a divergence or a call for sparse ones.
_REGULARISER = (
    _PENALTY
    | MOVES
    | LIMITS
    | frozenset(["Exp", "Log", "Log1P", "Expm1", "Rsub", "Softplus", "Split", "SplitWithSizes", "Unbind"])
)
_MOST_NODES = 64


def is_penalty(graph: Graph, edge: Edge) -> bool:
    """Whether a term leads to weights and nowhere else; a sum of such terms is not one itself."""

    def fits(here: Edge, below: list[Edge]) -> bool:
        grows = prod(shape(here)) > sum(prod(shape(source)) for source in below)
        return kind(here) in _PENALTY and here not in graph.outputs and not grows

    if shape(edge) != () or (kind(edge) in ("Add", "Sub") and len(alive(edge)) > 1):
        return False
    return _made_of(edge, _is_weight, fits)


def is_regulariser(graph: Graph, edge: Edge) -> bool:
    """Whether a term is made of layers' outputs and numbers alone."""
    return _made_of(
        edge,
        lambda here: _is_weight(here) or here in graph.outputs,
        lambda here, below: kind(here) in _REGULARISER and not _may_hold_data(graph, here, below),
    )


def _made_of(edge: Edge, ends: Callable[[Edge], bool], fits: Callable[[Edge, list[Edge]], bool]) -> bool:
    """Whether all ways down from a value lead to such ends, over operations that fit."""
    waiting, seen = [edge], 0
    while waiting:
        here = waiting.pop()
        seen += 1
        if ends(here):
            continue
        below = alive(here)
        if seen > _MOST_NODES or not below or not fits(here, below):
            return False
        waiting.extend(below)
    return True


def _is_weight(edge: Edge) -> bool:
    return kind(edge) == "AccumulateGrad"


def _may_hold_data(graph: Graph, edge: Edge, below: list[Edge]) -> bool:
    """Whether what an operation takes beside what depends on the model may be more than a number."""
    name, alone = kind(edge), len(below) == 1
    if name in ("Mul", "Div") and alone:
        constant = constant_times(graph, edge)[0]
        return constant is None or (isinstance(constant, Tensor) and constant.numel() != 1)
    exponent = getattr(edge.node, "_saved_exponent", None)
    bounds = [getattr(edge.node, f"_saved_{end}", None) for end in ("min", "max")]
    if any(isinstance(value, Tensor) for value in (exponent, *bounds)):
        return True
    # A number that is added to something has no factor.
    return (name == "Sub" and alone) or (name == "Add" and getattr(edge.node, "_saved_alpha", 1) != 1)
