"""Reads the loss head off the autograd graph of a training loss."""

from __future__ import annotations

from functools import partial
from math import prod

import torch
from torch import Tensor

from lightning_doctor.measure.head import Head, Path
from lightning_doctor.measure.loss_graph import (
    CHOICES,
    LIMITS,
    MOVES,
    VIEWS,
    Edge,
    Graph,
    alive,
    constant_times,
    dimension,
    is_custom,
    kind,
    shape,
    sources,
    through,
)
from lightning_doctor.measure.loss_joins import halves, one_question
from lightning_doctor.measure.loss_parts import part
from lightning_doctor.measure.loss_products import is_logarithm_of, read_product
from lightning_doctor.measure.loss_terms import is_penalty, is_regulariser

_ACTIVATIONS = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "Elu": "elu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Softplus": "softplus",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Mish": "mish",
    "LogSigmoid": "log_sigmoid",
    "Exp": "exp",
}
# Losses that are all there is to them, even where they are written by hand.
_WHOLE = ("mse", "rmse", "l1", "bce", "bce_with_logits")
# Of those what has two ends, and has them multiplied by a number too; and the losses of numbers that need not be.
_BOUNDED = ("sigmoid", "tanh")
_DISTANCES = ("mse", "l1", "huber", "smooth_l1")
_MOST_TERMS = 512
_PASSING = 64


class UnreadError(Exception):
    """This loss head cannot be read; the message is the reason, as a clause.

    Attributes:
        heads: Those of single terms, as far as they could be read.
        whole: Whether they are all that the loss is made of.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.heads: list[Head] = []
        self.whole = False


def read_head(graph: Graph, root: Edge) -> Head:
    """Returns the loss head under the node of a loss.

    Raises:
        UnreadError: Where it is none that is known, or more than one.
    """
    heads: list[Head] = []
    reasons: list[str] = []
    beside: list[tuple[Edge, str]] = []
    penalties = 0
    waiting = [(root, Path(), False)]
    while waiting:
        edge, path, summand = waiting.pop()
        if summand and is_penalty(graph, edge):
            penalties += 1
            continue
        if len(heads) + len(reasons) + len(beside) + len(waiting) > _MOST_TERMS:
            raise UnreadError(f"the loss is a sum of more than {_MOST_TERMS} terms")
        found = _descend(graph, edge, path)
        if isinstance(found, Head):
            heads.append(found)
        elif isinstance(found, str):
            if summand and is_regulariser(graph, edge):
                beside.append((edge, found))
            else:
                reasons.append(found)
        else:
            waiting.extend((below, way, True) for below, way in found)
    # Beside nothing else they are the loss.
    try:
        head = _only(heads, reasons if heads else [*reasons, *(reason for _, reason in beside)])
    except UnreadError as error:
        error.heads, error.whole = heads, not (reasons or beside or penalties)
        for each in heads if error.whole else ():
            _finish(graph, each)
        raise
    # Of a likelihood by hand they may be the other half.
    if beside and head.by_hand and head.loss not in (*_WHOLE, "gaussian_nll"):
        raise UnreadError(f"the loss is a sum of {1 + len(beside)} terms")
    if head.loss == "gaussian_nll":
        # The logarithm of the variance is the other half of the likelihood.
        others = [term for term in beside if not is_logarithm_of(term[0], head.extras["variance"])]
        if len(others) == len(beside):
            raise UnreadError("the loss cannot be read: its errors are weighted by something that depends on the model")
        beside = others
    head.regularisers = len(beside)
    head.terms += penalties + head.regularisers
    _finish(graph, head)
    return head


def _descend(
    graph: Graph, edge: Edge, path: Path, *, factor_of_one: bool = False
) -> Head | str | list[tuple[Edge, Path]]:
    """Follows one term down to a head, a reason, or the terms that it is a sum of.

    Args:
        graph: The graph.
        edge: Where the term is.
        path: What the loss makes of it.
        factor_of_one: Whether it is a factor of a product already, in which no other is looked for.
    """
    trail: tuple[str, ...] = ()
    for _ in range(_PASSING):
        head = _smoothed(graph, edge, path) or part(graph, edge, path)
        if head is not None:
            head.by_hand = head.by_hand and trail[-3:] != ("Div", "Neg", "Sum")
            return head
        name, below, size = kind(edge), alive(edge), shape(edge)
        if is_custom(edge):
            return _unknown(edge)
        if not below:
            return "it does not depend on the predictions"
        trail = (*trail, name)
        if name in ("Add", "Sub", "Stack", "Cat"):
            if name in ("Add", "Sub") and getattr(edge.node, "_saved_alpha", 1) != 1:
                return "its terms are added with a factor"
            if len(below) > 1:
                signs = [-1.0 if name == "Sub" and index == 1 else 1.0 for index in range(len(below))]
                return [(term, path.times(sign)) for term, sign in zip(below, signs, strict=True)]
            if name == "Sub" and sources(edge)[0] is None:
                path = path.times(-1.0)
        elif name in ("Mul", "Div"):
            constant, factor = constant_times(graph, edge)
            if factor is None:
                known = None if factor_of_one else read_product(graph, edge, path, partial(_factor, graph))
                return known or "it is a product of things that depend on the model"
            path = path.scaled(constant, size)
            below = [factor]
        elif name in ("Sum", "Mean"):
            path = _reduced(edge, path, "sum" if name == "Sum" else "mean")
        elif name == "Neg" or (name == "Rsub" and len(below) == 1):
            path = path.times(-1.0)
        elif name == "Sqrt":
            path = path.rooted(size)
        elif name in ("Index", "MaskedSelect"):
            chosen = graph.chosen(edge)
            if chosen is None:
                path = path.but("only some of its elements count")
            else:
                path = path.scaled(chosen, tuple(chosen.shape))
        elif name not in VIEWS and name not in MOVES:
            return _unknown(edge)
        edge = below[0]
    return "it is computed in too many steps"


def _factor(graph: Graph, edge: Edge, path: Path) -> Head | None:
    head = _descend(graph, edge, path, factor_of_one=True)
    return head if isinstance(head, Head) else None


def _unknown(edge: Edge) -> str:
    if kind(edge) == "AccumulateGrad":
        return "it depends on the weights alone"
    if kind(edge) == "CompiledFunction":
        return "it is computed in a compiled graph"
    if is_custom(edge):
        return f"it is computed by a custom autograd Function ({kind(edge)})"
    return f"{kind(edge)} is not a step of a loss that is known here"


def _reduced(edge: Edge, path: Path, how: str) -> Path:
    (below,) = alive(edge)
    before, after = shape(below), shape(edge)
    dims = getattr(edge.node, "_saved_dim", None)
    over_rows = dims is None or any(dimension(d, len(before)) == 0 for d in dims)
    return path.reduced(how, over_rows, prod(before) // max(prod(after), 1))


def _smoothed(graph: Graph, edge: Edge, path: Path) -> Head | None:
    """Reads ``cross_entropy`` with label smoothing: a likelihood, and the mean over all classes beside it."""
    if kind(edge) != "Add" or len(alive(edge)) != 2:
        return None
    likely, even = alive(edge)
    share, below = constant_times(graph, likely)
    below = None if below is None else through(below, VIEWS)
    if below is None or kind(below) not in ("NllLoss", "NllLoss2D") or not isinstance(share, float):
        return None
    head = part(graph, below, path)
    logarithm = through(alive(below)[0], VIEWS)
    for _ in range(_PASSING):
        if even == logarithm and head is not None and head.loss == "cross_entropy":
            head.smoothing = 1 - share
            return head
        following = alive(even)
        if not following:
            return None
        even = following[0]
    return None


def _only(heads: list[Head], reasons: list[str]) -> Head:
    terms = len(heads) + len(reasons)
    if len(heads) > 1 and not reasons and (joined := halves(heads) or one_question(heads)) is not None:
        return joined
    if terms > 1:
        raise UnreadError(f"the loss is a sum of {terms} terms")
    if reasons:
        raise UnreadError(f"the loss cannot be read: {reasons[0]}")
    if not heads:
        raise UnreadError("the loss depends on the weights alone")
    return heads[0]


def _finish(graph: Graph, head: Head) -> None:
    if head.loss == "mse" and (head.path.root is not None or head.path.row_root):
        head.loss = "rmse"
    inside = "origin" in head.extras or head.loss == "bce"
    found, head.activation, normalised, head.scale = _activation(graph, head.source, inside=inside)
    if head.scale != 1 and (head.activation not in _BOUNDED or head.loss not in _DISTANCES):
        head.activation, head.scale = None, 1.0
    head.outputs = graph.tensor(head.source if head.activation is None else found)
    if head.outputs is not None and head.scale != 1:
        head.outputs = head.scale * head.outputs
    if head.outputs is None and head.loss not in ("cross_entropy", "nll", "kl_div"):
        head.outputs = head.prediction
    head.sums_to_one = head.sums_to_one or (inside and (normalised or head.activation == "softmax"))


def _activation(graph: Graph, edge: Edge, *, inside: bool) -> tuple[Edge, str | None, bool, float]:
    """Returns the last activation before an edge; without one, the first thing that is not a mere view.

    And whether it is divided by its sum, and by which number of the program, over 0, it is multiplied.

    Args:
        graph: The graph.
        edge: Where predictions enter the loss.
        inside: Whether they are probabilities whose logarithm is taken, so that guards against zero are passed too.
    """
    normalised, scale = False, 1.0
    for _ in range(_PASSING):
        name, below = kind(edge), alive(edge)
        if name in _ACTIVATIONS:
            return edge, _ACTIVATIONS[name], normalised, scale
        if len(below) == 2 and name == "Div" and inside and _is_sum_of(below[1], below[0]):
            normalised = True
        elif name in ("Mul", "Div") and not inside and (factor := _number(graph, edge)) is not None:
            scale *= factor
        elif not (len(below) == 1 and (name in VIEWS | MOVES | LIMITS | CHOICES or (inside and name == "Add"))):
            break
        edge = below[0]
    return edge, None, normalised, 1.0


def _number(graph: Graph, edge: Edge) -> float | None:
    """Returns the number of the program, over 0, that values are multiplied by; None for what is none."""
    constant, _ = constant_times(graph, edge)
    if isinstance(constant, Tensor):
        # Autograd keeps a number as a tensor of more precision than any that a model computes with.
        is_number = constant.ndim == 0 and constant.is_cpu and constant.dtype in (torch.float64, torch.int64)
        constant = float(constant) if is_number else None
    return float(constant) if constant is not None and constant > 0 else None


def _is_sum_of(edge: Edge, summands: Edge) -> bool:
    edge = through(edge, VIEWS | LIMITS | {"Add"})
    return kind(edge) == "Sum" and alive(edge)[0] == summands
