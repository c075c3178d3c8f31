"""Terms of a loss that are logarithms of probabilities, multiplied by targets or picked out by them."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from lightning_doctor.measure.head import Head, Path
from lightning_doctor.measure.loss_graph import (
    LIMITS,
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

_LOGARITHMS = frozenset(["Log", "Log1P", "LogSoftmax", "LogSigmoid"])
# Between a probability and its logarithm: kept off zero, or moved off it.
_GUARDS = VIEWS | LIMITS | {"Add"}


def times_logarithm(graph: Graph, edge: Edge, path: Path) -> Head | None:
    """Reads ``y * log(p)``: a whole cross-entropy, or half of a binary one."""
    constant, below = constant_times(graph, edge)
    if below is None or shape(edge) == ():
        return None
    size = prod(shape(edge))
    weight: Tensor | None = None
    inner, deeper = constant_times(graph, below)
    if deeper is not None and kind(through(deeper, VIEWS)) in _LOGARITHMS:
        # `cross_entropy` multiplies by class weights too, outside or inside.
        below = deeper
        constant, inner = (inner, constant) if _size(constant) < size == _size(inner) else (constant, inner)
        if not isinstance(inner, Tensor):
            return None
        weight = inner.reshape(-1)
    logarithm = through(below, VIEWS)
    if kind(logarithm) not in _LOGARITHMS or (constant is not None and not isinstance(constant, Tensor)):
        return None
    broadcast = size > prod(shape(logarithm))
    if constant is not None and constant.numel() != size and not (broadcast and constant.numel() > 1):
        return None
    head = _logarithm(graph, logarithm, path)
    head.loss, head.by_hand, head.broadcast = "cross_entropy", True, broadcast
    head.class_weight = weight
    if constant is not None and not broadcast:
        # The loss is to fall with the logarithm: any other sign belongs to the targets.
        head.path, sign = path.positive()
        head.target_shape = head.output_shape
        head.target = -sign * constant.reshape(shape(logarithm)).to(torch.get_default_dtype())
    return head


def _size(constant: Tensor | float | None) -> int:
    return constant.numel() if isinstance(constant, Tensor) else 0


def _logarithm(graph: Graph, logarithm: Edge, path: Path) -> Head:
    """Reads the logarithm of a probability and where that comes from."""
    name, below = kind(logarithm), alive(logarithm)[0]
    size = shape(logarithm)
    head = Head(loss="", source=below, path=path, output_shape=size, link="exp")
    head.class_dim = max(len(size) - 1, 0)
    if name == "LogSoftmax":
        head.class_dim = dimension(logarithm.node._saved_dim, len(size))
        head.prediction, head.sums_to_one = graph.saved(logarithm, "result"), True
        return head
    values = graph.saved(logarithm, "self")
    if name == "LogSigmoid":
        head.prediction = None if values is None else torch.nn.functional.logsigmoid(values)
        head.extras["logits"] = values
    elif values is not None:
        head.prediction = torch.log1p(values) if name == "Log1P" else values.log()
    origin = through(below, _GUARDS)
    turned = _is_turned(origin, name)
    if turned:
        head.source = origin = through(alive(origin)[0], _GUARDS)
    head.extras.update(origin=origin, turned=turned)
    return head


def _is_turned(edge: Edge, logarithm: str) -> bool:
    """Whether the logarithm is of one minus a probability."""
    if logarithm in ("Log1P", "LogSigmoid"):
        return kind(edge) == "Neg"
    return kind(edge) == "Rsub" or (kind(edge) == "Sub" and sources(edge)[0] is None)


def picked(graph: Graph, edge: Edge, path: Path) -> Head | None:
    """Reads ``log_softmax(x)[range(n), y]`` and ``log(p[range(n), y])``."""
    outer = kind(edge) in _LOGARITHMS
    chosen = through(alive(edge)[0], _GUARDS) if outer and alive(edge) else edge
    if kind(chosen) not in ("Gather", "Index") or not alive(chosen):
        return None
    below = through(alive(chosen)[0], VIEWS)
    size = shape(below)
    if len(size) != 2 or prod(shape(chosen)) != size[0]:
        return None
    if outer:
        values = graph.tensor(below)
        head = Head(loss="", source=below, path=path, output_shape=size, link="exp", class_dim=1)
        head.extras["origin"] = below
        head.prediction = None if values is None else values.log()
    elif kind(below) in _LOGARITHMS:
        head = _logarithm(graph, below, path)
    else:
        return None
    head.loss, head.by_hand, head.target_shape = "cross_entropy", True, (size[0],)
    # Positive where `nll_loss` is meant.
    head.path = path.times(-1.0)
    if kind(chosen) == "Gather" and dimension(chosen.node._saved_dim, 2) == 1:
        index = graph.saved(chosen, "index")
        head.target = None if index is None else index.reshape(-1)
    elif kind(chosen) == "Index" and len(indices := graph.saved_list(chosen, "indices")) == 2:
        rows, head.target = indices[0].reshape(-1), indices[1].reshape(-1)
        head.doubt = (rows - torch.arange(size[0], device=rows.device)).abs().max()
    return head


def divergence(graph: Graph, edge: Edge, path: Path) -> Head | None:
    """Reads ``kl_div``, which keeps the targets but not their own entropy."""
    ends = sources(edge)
    if kind(edge) == "Sub" and shape(edge) != () and len(ends) == 2 and ends[0] is None and ends[1] is not None:
        target, below = constant_times(graph, ends[1])
    else:
        target, below = constant_times(graph, edge)
        if below is None or kind(below) != "Sub" or sources(below)[:1] != [None] or len(alive(below)) != 1:
            return None
        below = alive(below)[0]
    if below is None or (target is not None and not isinstance(target, Tensor)):
        return None
    if target is not None and tuple(target.shape) != shape(below):
        return None
    logarithm = through(below, VIEWS)
    if kind(logarithm) not in _LOGARITHMS:
        if kind(logarithm) != "Softmax" or target is None:
            return None
        path = path.but("what it was given are not the logarithms of probabilities")
    head = Head(loss="kl_div", source=below, path=path, by_hand=True, link="exp", output_shape=shape(below))
    head.class_dim = len(shape(below)) - 1
    head.target, head.target_shape, head.prediction = target, shape(below), graph.tensor(below)
    if kind(logarithm) == "LogSoftmax":
        head.source, head.sums_to_one = alive(logarithm)[0], True
    elif kind(logarithm) == "Softmax" and target is not None:
        # Not every tensor less a product is a divergence: it takes targets that are shares.
        head.link = "identity"
        head.doubt = torch.maximum((target.sum(-1) - 1).abs().max(), -target.min())
    return head
