"""Single terms of a loss, as autograd shows them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import Tensor

from lightning_doctor.measure.head import Head, Path
from lightning_doctor.measure.loss_graph import (
    LIMITS,
    VIEWS,
    Edge,
    Graph,
    alive,
    constant_times,
    kind,
    shape,
    sources,
    through,
)
from lightning_doctor.measure.loss_logarithms import divergence, picked, times_logarithm

_PAIRED = {
    "MseLoss": "mse",
    "HuberLoss": "huber",
    "SmoothL1Loss": "smooth_l1",
    "BinaryCrossEntropy": "bce",
    "BinaryCrossEntropyWithLogits": "bce_with_logits",
    "SoftMarginLoss": "soft_margin",
    "MultiMarginLoss": "multi_margin",
    "MultilabelMarginLoss": "multilabel_margin",
}
_LINKS = {"bce_with_logits": "sigmoid", "poisson": "exp"}


def part(graph: Graph, edge: Edge, path: Path) -> Head | None:
    """Reads one term of a loss, if this is where its elements are; None where it is not known as one."""
    for read in (_nll, _fused, _squared, _absolute, _norm, times_logarithm, picked, _poisson, _pinball, divergence):
        head = read(graph, edge, path)
        if head is not None:
            return head
    return None


def _nll(graph: Graph, edge: Edge, path: Path) -> Head | None:
    if kind(edge) not in ("NllLoss", "NllLoss2D"):
        return None
    node, (below,) = edge.node, alive(edge)
    target = graph.saved(edge, "target")
    head = Head(loss="nll", source=below, path=path, output_shape=shape(below), link="exp", class_dim=0)
    logarithm = through(below, VIEWS)
    if kind(logarithm) == "LogSoftmax":
        head.loss, head.source = "cross_entropy", alive(logarithm)[0]
        head.output_shape, head.sums_to_one = shape(logarithm), True
    elif kind(logarithm := through(below, VIEWS | LIMITS)) == "Log":
        head.source = alive(logarithm)[0]
        head.extras["origin"] = head.source
    else:
        head.path = path.but("what it was given are not the logarithms of probabilities")
    head.class_dim = 1 if len(head.output_shape) > 1 else 0
    head.target_shape = tuple(size for d, size in enumerate(head.output_shape) if d != head.class_dim)
    logs = graph.saved(edge, "self")
    head.prediction = None if logs is None else logs.reshape(head.output_shape)
    head.target = None if target is None else target.reshape(head.target_shape)
    head.class_weight = graph.saved(edge, "weight")
    head.ignored = _signed(node._saved_ignore_index)
    how = {1: "mean", 2: "sum"}.get(node._saved_reduction)
    if how is not None:
        head.path, head.normalised = replace(head.path, batch=how), how == "mean"
    return head


def _fused(graph: Graph, edge: Edge, path: Path) -> Head | None:
    loss = _PAIRED.get(kind(edge))
    if loss is None:
        return None
    one, other = (*sources(edge), None)[:2]
    prediction, target = graph.saved(edge, "self"), graph.saved(edge, "target")
    if one is None and other is not None:
        prediction, target = target, prediction
    elif one is not None and other is not None:
        prediction = target = None
    source = one or other
    if source is None:
        return None
    head = Head(loss=loss, source=source, path=path, prediction=prediction, target=target, link=_link(loss))
    head.class_weight = graph.saved(edge, "weight")
    head.pos_weight = graph.saved(edge, "pos_weight")
    head.bend = float(getattr(edge.node, "_saved_delta", getattr(edge.node, "_saved_beta", 1.0)))
    _measure_shapes(head, shape(source))
    how = {1: "mean", 2: "sum"}.get(edge.node._saved_reduction)
    if how is not None:
        head.path = path.reduced(how, True, prod(shape(source)))
    if loss == "multi_margin":
        head.class_dim = len(head.output_shape) - 1
    if target is not None:
        head.target_shape = _unexpanded(target)
        head.target = target
    return head


def _squared(graph: Graph, edge: Edge, path: Path) -> Head | None:
    name, below = kind(edge), alive(edge)
    exponent = getattr(edge.node, "_saved_exponent", None)
    if name == "Pow" and not isinstance(exponent, Tensor) and exponent == 2 and len(below) == 1:
        return _difference(graph, below[0], path, "mse", graph.saved(edge, "self"))
    if name != "Mul" or len(below) != 2 or {kind(factor) for factor in below} != {"Sub"}:
        return None
    one, other = graph.saved(edge, "self"), graph.saved(edge, "other")
    if below[0] != below[1] and sources(below[0]) != sources(below[1]):
        return None
    head = _difference(graph, below[0], path, "mse", one)
    if head is not None and below[0] != below[1] and one is not None and other is not None:
        # Written out twice: the targets may be others.
        head.doubt = (one - other).abs().max()
    return head


def _absolute(graph: Graph, edge: Edge, path: Path) -> Head | None:
    if kind(edge) != "Abs":
        return None
    return _difference(graph, alive(edge)[0], path, "l1", graph.saved(edge, "self"))


def _norm(graph: Graph, edge: Edge, path: Path) -> Head | None:
    name, node = kind(edge), edge.node
    if name not in ("LinalgVectorNorm", "Norm"):
        return None
    order = getattr(node, "_saved_ord", getattr(node, "_saved_p", None))
    below, size = alive(edge)[0], shape(edge)
    if order not in (1, 2):
        return None
    path = path.rooted(size) if order == 2 else path
    path = path.reduced("sum", size == (), 1)
    return _difference(graph, below, path, "rmse" if order == 2 else "l1", graph.saved(edge, "self"))


def _difference(graph: Graph, edge: Edge, path: Path, loss: str, values: Tensor | None) -> Head | None:
    edge = through(edge, VIEWS)
    ends = sources(edge)
    if kind(edge) != "Sub" or len(ends) != 2 or getattr(edge.node, "_saved_alpha", 1) != 1:
        return None
    source = ends[0] or ends[1]
    if source is None:
        return None
    head = Head(loss=loss, source=source, path=path, by_hand=True)
    _measure_shapes(head, shape(edge))
    if ends[0] is not None and ends[1] is not None:
        # What is compared are two outputs: neither is a target.
        head.extras["outputs_alone"] = True
        return head
    prediction = graph.tensor(source)
    if prediction is not None and values is not None:
        values = values.reshape(shape(edge))
        head.prediction = prediction.expand(shape(edge))
        # The difference is all that is kept.
        head.target = prediction - values if ends[1] is None else prediction + values
        head.target_shape = None if head.broadcast else tuple(head.target.shape)
        head.extras["rebuilt"] = True
    return head


def _poisson(graph: Graph, edge: Edge, path: Path) -> Head | None:
    if kind(edge) != "Sub" or len(both := alive(edge)) != 2 or kind(both[0]) != "Exp":
        return None
    target, below = constant_times(graph, both[1])
    if below is None or alive(both[0])[0] != below:
        return None
    head = Head(loss="poisson", source=below, path=path, by_hand=True, link="exp")
    _measure_shapes(head, shape(edge))
    rates = graph.saved(both[0], "result")
    head.prediction = None if rates is None else rates.log()
    if isinstance(target, Tensor) and tuple(target.shape) == shape(edge):
        head.target, head.target_shape = target, tuple(target.shape)
    return head


def _pinball(graph: Graph, edge: Edge, path: Path) -> Head | None:
    """Reads the loss of a quantile: the larger of ``q * error`` and ``(q - 1) * error`` (Koenker & Bassett 1978)."""
    if kind(edge) not in ("Maximum", "Where") or len(both := alive(edge)) != 2:
        return None
    (share, error), (_, other) = (constant_times(graph, side) for side in both)
    if error is None or error != other:
        return None
    head = _difference(graph, error, path, "pinball", None)
    side = graph.saved(edge, "self") if kind(edge) == "Maximum" else None
    if head is None or not head.broadcast or side is None or not (level := _level(share)):
        return head
    # Their targets alone tell what they are compared with: a quantile is no mean that errors could be measured by.
    return _difference(graph, error, path, "pinball", side / level)


def _level(share: Tensor | float | None) -> float | None:
    """Returns a number of the program, which autograd may keep as a tensor."""
    if isinstance(share, Tensor):
        return float(share) if share.ndim == 0 and share.is_cpu else None
    return share


def _measure_shapes(head: Head, errors: tuple[int, ...]) -> None:
    """Notes the predictions' own shape, and whether it is smaller than that of the errors."""
    source = head.source
    if kind(source) == "Expand":
        source = alive(source)[0]
    head.source, head.output_shape = source, shape(source)
    head.broadcast = prod(errors) > prod(head.output_shape)


def _unexpanded(target: Tensor) -> tuple[int, ...]:
    """Returns the shape that a target had before it was expanded, which leaves steps of zero."""
    sizes = [1 if step == 0 else size for size, step in zip(target.shape, target.stride(), strict=True)]
    if sizes != list(target.shape):
        while sizes and sizes[0] == 1:
            sizes.pop(0)
    return tuple(sizes)


def _link(loss: str) -> str:
    return _LINKS.get(loss, "identity")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
