"""The autograd graph of a loss: what its nodes are, where they lead, and the tensors that can be had from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_doctor.measure.saved import saved_tensor, saved_tensors

# Outputs of the last layers of a forward pass, among which the prediction is.
_KEPT = 64

VIEWS = frozenset(
    ["View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Alias", "Clone", "ToCopy", "_DDPSink", "Expand"]
)
MOVES = frozenset(["T", "Transpose", "Permute", "Select", "Slice"])
# Some of the rows or elements, each as it was.
CHOICES = frozenset(["Index", "MaskedSelect", "IndexSelect"])
LIMITS = frozenset(["Clamp", "ClampMin", "ClampMax", "NanToNum"])

# Those whose node saves what it returned.
_KEEP_RESULT = frozenset(["Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Relu", "Exp", "Sqrt"])

_SUFFIX = re.compile(r"(Backward\d*|Backward)$")


class Edge(NamedTuple):
    """A value in the graph: the node that made it, and which of the node's outputs it is."""

    node: Any
    number: int


def edge_of(tensor: Tensor) -> Edge | None:
    """Returns where a tensor comes from; None for one that needs no gradient or is a leaf."""
    return None if tensor.grad_fn is None else Edge(tensor.grad_fn, tensor.output_nr)


def kind(edge: Edge) -> str:
    """The name of the operation: ``"Mul"`` for ``MulBackward0``."""
    return _kind(edge.node.name())


@lru_cache(maxsize=512)
def _kind(name: str) -> str:
    return _SUFFIX.sub("", name.rpartition("::")[2])


def is_custom(edge: Edge) -> bool:
    """Whether the operation is an autograd Function of somebody's own."""
    return isinstance(edge.node, torch.autograd.function.BackwardCFunction) and kind(edge) not in VIEWS


def sources(edge: Edge) -> list[Edge | None]:
    """What the operation took, None in the place of what needs no gradient; constants at the end may be missing."""
    return [None if node is None else Edge(node, number) for node, number in edge.node.next_functions]


def alive(edge: Edge) -> list[Edge]:
    """What the operation took and a gradient flows to."""
    return [source for source in sources(edge) if source is not None]


def shape(edge: Edge) -> tuple[int, ...]:
    """The shape of the value."""
    return tuple(int(size) for size in edge.node._input_metadata[edge.number].shape)


def through(edge: Edge, kinds: frozenset[str]) -> Edge:
    """Follows the graph down while it only passes a value on."""
    while kind(edge) in kinds and len(below := alive(edge)) == 1:
        edge = below[0]
    return edge


def dimension(value: int, size: int) -> int:
    """Reads a saved dimension, which autograd gives without its sign."""
    return (value - 2**64 if value >= 2**63 else value) % max(size, 1)


class LayerOutputs:
    """What the last layers of a forward pass put out, by where it stands in the graph."""

    def __init__(self) -> None:
        self._kept: dict[Edge, tuple[Tensor, int]] = {}

    def keep(self, output: Any) -> None:
        """Keeps a layer's output, or each of several, if it is a tensor that a gradient flows through."""
        if isinstance(output, (tuple, list)):
            for part in output[:_KEPT]:
                self.keep(part)
            return
        if not isinstance(output, Tensor) or not is_plain(output) or output.is_inference():
            return
        edge = edge_of(output)
        if edge is None:
            return
        self._kept.pop(edge, None)
        self._kept[edge] = output.detach(), output._version
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def get(self, edge: Edge) -> Tensor | None:
        """Returns the output, unless it was changed in place since."""
        tensor, version = self._kept.get(edge, (None, 0))
        return tensor if tensor is not None and tensor._version == version else None

    def __contains__(self, edge: Edge) -> bool:
        return edge in self._kept

    def __len__(self) -> int:
        return len(self._kept)


class Graph:
    """Reads tensors off a graph.

    Args:
        outputs: What the layers put out in the same forward pass.
        reads: Whether to read what nodes have saved. Not before a first backward pass has gone well: see
            :func:`~lightning_doctor.measure.saved.saved_tensor`.
    """

    def __init__(self, outputs: LayerOutputs, *, reads: bool) -> None:
        self.outputs = outputs
        self._reads = reads

    def saved(self, edge: Edge, name: str) -> Tensor | None:
        """Returns what the node has saved under this name; None where it cannot be read."""
        tensor = saved_tensor(edge.node, name) if self._reads else None
        return tensor if tensor is not None and is_plain(tensor) else None

    def saved_list(self, edge: Edge, name: str) -> list[Tensor]:
        """Returns the tensors that the node has saved as a list; empty where they cannot be read."""
        return saved_tensors(edge.node, name) if self._reads else []

    def chosen(self, edge: Edge) -> Tensor | None:
        """Returns which elements a mask has chosen, in their shape; None where it was no mask, or cannot be read."""
        if kind(edge) == "MaskedSelect":
            mask = self.saved(edge, "mask")
        else:
            indices = self.saved_list(edge, "indices")
            mask = indices[0] if len(indices) == 1 else None
        size = shape(alive(edge)[0])
        if mask is None or mask.dtype != torch.bool or mask.ndim > len(size):
            return None
        if kind(edge) == "Index":
            mask = mask.reshape(*mask.shape, *[1] * (len(size) - mask.ndim))
        try:
            return mask.expand(size)
        except RuntimeError:
            # It was larger than what it was laid upon.
            return None

    def tensor(self, edge: Edge) -> Tensor | None:
        """Returns the value itself, where a layer put it out, its node saved it, or it is a view of such a one."""
        found = self.outputs.get(edge)
        if found is not None:
            return found
        name = kind(edge)
        if name in _KEEP_RESULT:
            return self.saved(edge, "result")
        replay = _REPLAYS.get(name)
        below: Sequence[Edge | None] = sources(edge) if name in _JOINS else alive(edge)
        if replay is None or (len(below) != 1 and name not in _JOINS):
            return None
        parts = [part for each in below if each is not None and (part := self.tensor(each)) is not None]
        if len(parts) < len(below):
            return None
        value = replay(parts, edge)
        return value if tuple(value.shape) == shape(edge) else None


def constant_times(graph: Graph, edge: Edge) -> tuple[Tensor | float | None, Edge | None]:
    """Returns the constant of a product or quotient with one, and the other side; None for what there is not.

    A divisor is returned as what one multiplies by instead.
    """
    name, ends = kind(edge), sources(edge)
    if name not in ("Mul", "Div") or len(below := alive(edge)) != 1 or (name == "Div" and ends[0] is None):
        return None, None
    value = getattr(edge.node, "_saved_other", None) if len(ends) == 1 else None
    if not isinstance(value, (int, float)):
        value = graph.saved(edge, "self" if name == "Mul" and ends[0] is None else "other")
    if name == "Div" and value is not None:
        value = 1 / value
    return value, below[0]


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, real and whole, so that it can be measured without asking other ranks."""
    whole = not hasattr(tensor, "full_tensor")
    return whole and tensor.layout == torch.strided and not tensor.is_complex() and not tensor.is_quantized


def _transposed(parts: list[Tensor], edge: Edge) -> Tensor:
    node, source = edge.node, parts[0]
    dims = (dimension(node._saved_dim0, source.ndim), dimension(node._saved_dim1, source.ndim))
    return source.transpose(*dims)


def _permuted(parts: list[Tensor], edge: Edge) -> Tensor:
    return parts[0].permute(*(dimension(dim, parts[0].ndim) for dim in edge.node._saved_dims))


def _selected(parts: list[Tensor], edge: Edge) -> Tensor:
    dim = _dim(parts, edge)
    return parts[0].select(dim, dimension(edge.node._saved_index, parts[0].shape[dim]))


def _sliced(parts: list[Tensor], edge: Edge) -> Tensor:
    dim, source = _dim(parts, edge), parts[0]
    start = dimension(edge.node._saved_start, source.shape[dim])
    part = source.narrow(dim, start, source.shape[dim] - start)
    keep = [slice(None)] * dim + [slice(None, None, int(edge.node._saved_step))]
    return part[tuple(keep)].narrow(dim, 0, shape(edge)[dim])


def _split(parts: list[Tensor], edge: Edge) -> Tensor:
    dim = _dim(parts, edge)
    lengths = [int(output.shape[dim]) for output in edge.node._input_metadata[: edge.number + 1]]
    return parts[0].narrow(dim, sum(lengths[:-1]), lengths[-1])


def _dim(parts: list[Tensor], edge: Edge) -> int:
    return dimension(edge.node._saved_dim, parts[0].ndim)


# Those that take several.
_JOINS = frozenset(["Cat"])
# What a node returned, from what it took.
_REPLAYS: dict[str, Callable[[list[Tensor], Edge], Tensor]] = {
    **dict.fromkeys(VIEWS - {"Expand"}, lambda parts, edge: parts[0].reshape(shape(edge))),
    "Expand": lambda parts, edge: parts[0].expand(shape(edge)),
    "T": lambda parts, _: parts[0].t(),
    "Transpose": _transposed,
    "Permute": _permuted,
    "Select": _selected,
    "Slice": _sliced,
    "Split": _split,
    "SplitWithSizes": _split,
    "Unbind": lambda parts, edge: parts[0].select(_dim(parts, edge), edge.number),
    "Cat": lambda parts, edge: torch.cat(parts, _dim(parts, edge)),
}
