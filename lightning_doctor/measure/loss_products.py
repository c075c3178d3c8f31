"""Products and quotients of two things that depend on the model, as parts of a loss."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from lightning_doctor.measure.head import Head, Path
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
    through,
)

_LIKELIHOODS = ("cross_entropy", "nll", "bce", "bce_with_logits")
# What may be done to a product of predictions and targets before it is divided.
_ADDED_UP = VIEWS | {"Sum", "Mul", "Add"}
# And what the sizes that it is divided by are made of.
_SIZES = VIEWS | LIMITS | {"Sum", "Mul", "Add", "Sub", "Pow"}
_MOST_NODES = 64
# Parts of what a layer puts out.
_PARTS = ("Select", "Slice")


def read_product(graph: Graph, edge: Edge, path: Path, read: Callable[[Edge, Path], Head | None]) -> Head | None:
    """Reads what is multiplied or divided by something that depends on the model too; None where it is not known.

    Args:
        graph: The graph.
        edge: A product or quotient of two such things.
        path: What the loss makes of it.
        read: Reads one of the two, with what the loss makes of it.
    """
    if len(alive(edge)) != 2:
        return None
    return _focal(edge, path, read) or _gaussian(graph, edge, path, read) or _overlap(graph, edge, path)


def _focal(edge: Edge, path: Path, read: Callable[[Edge, Path], Head | None]) -> Head | None:
    """Reads a likelihood whose elements are weighted by how well they are predicted (Lin et al. 2017, eq. 4)."""
    both = alive(edge)
    if kind(edge) != "Mul":
        return None
    path = path.but("its elements are weighted by how well they are predicted")
    for errors, weight in (both, both[::-1]):
        head = read(errors, path)
        if head is None or head.loss not in _LIKELIHOODS:
            continue
        # Of a logarithm that is kept off zero the weight may be made of what it was before.
        if _is_made_of(weight, head.extras.get("origin") or head.source):
            head.reweighted = True
            return head
    return None


def _gaussian(graph: Graph, edge: Edge, path: Path, read: Callable[[Edge, Path], Head | None]) -> Head | None:
    """Reads squared errors over a variance that is predicted too (Nix & Weigend 1994, eq. 3), or times its inverse."""
    both = alive(edge)
    path = path.but("its errors are divided by a variance that is predicted too")
    for errors, other in (both,) if kind(edge) == "Div" else (both, both[::-1]):
        head = read(errors, path)
        inverse = kind(edge) == "Div" or kind(_bare(graph, other)) == "Exp"
        if inverse and head is not None and head.loss == "mse" and not _is_made_of(other, head.source):
            head.loss, head.extras["variance"] = "gaussian_nll", other
            return head
    return None


def _overlap(graph: Graph, edge: Edge, path: Path) -> Head | None:
    """Reads the overlap of predictions and targets over their sizes: Dice's (Milletari et al. 2016) or Jaccard's."""
    if kind(edge) != "Div":
        return None
    common, sizes = alive(edge)
    for _ in range(_MOST_NODES):
        target, source = constant_times(graph, common)
        if source is not None and isinstance(target, Tensor) and target.numel() == prod(shape(common)) > 1:
            break
        below = alive(common)
        if len(below) != 1 or kind(common) not in _ADDED_UP:
            return None
        common = below[0]
    else:
        return None
    if shape(source) != shape(common) or not _is_made_of(sizes, source, _SIZES):
        return None
    head = Head(loss="dice", source=source, path=path.but("it is an overlap, and no sum of errors"), by_hand=True)
    head.output_shape = head.target_shape = shape(source)
    head.prediction, head.target = graph.tensor(source), target.reshape(shape(source))
    # What overlaps is there or not; and how sure it is does not matter as it does to a squared error.
    head.doubt, head.reweighted = (head.target - head.target.clamp(0, 1)).abs().max(), True
    return head


def is_logarithm_of(edge: Edge, variance: Edge) -> bool:
    """Whether a term is made of what a variance is made of, as its logarithm is."""
    return not _way_down(edge).isdisjoint(_way_down(variance))


def _way_down(edge: Edge) -> set[Any]:
    """Returns what a value is made of, down to the output of a layer, or the part of one: which part, of what."""
    way: set[Any] = {edge}
    while len(below := alive(edge)) == 1 and len(way) < _MOST_NODES:
        if kind(edge) in _PARTS:
            saved = (getattr(edge.node, f"_saved_{name}", None) for name in ("dim", "index", "start", "end", "step"))
            # Taken twice it is made twice.
            return way | {(kind(edge), *saved, below[0])}
        edge = below[0]
        way.add(edge)
    return way


def _bare(graph: Graph, edge: Edge) -> Edge:
    """Returns what a value is a multiple of, by numbers of the program."""
    for _ in range(_MOST_NODES):
        edge = through(edge, VIEWS | MOVES)
        constant, below = constant_times(graph, edge)
        if below is None or (isinstance(constant, Tensor) and constant.numel() > 1):
            break
        edge = below
    return edge


def _is_made_of(edge: Edge, source: Edge, kinds: frozenset[str] | None = None) -> bool:
    """Whether a value depends on one other alone, and on no weights but by that; made by some kinds of operations."""
    waiting, seen, found = [edge], {edge}, False
    while waiting and len(seen) < _MOST_NODES:
        edge = waiting.pop()
        if edge == source:
            found = True
            continue
        below = alive(edge)
        if not below or (kinds is not None and kind(edge) not in kinds):
            return False
        new = [each for each in below if each not in seen]
        waiting.extend(new)
        seen.update(new)
    return found and not waiting
