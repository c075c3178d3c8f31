"""What is in a batch: its tensors, however they are packed, and which of them is the input and which the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

# A list of ten thousand strings, or an object that reaches a whole data set, must not cost a step.
_MOST_LEAVES = 64
_MOST_VISITS = 256
_DEEPEST = 6

_INPUT_NAMES = frozenset(
    ("x", "input", "inputs", "input_ids", "image", "images", "img", "feature", "features", "data", "pixel_values")
)
_TARGET_NAMES = frozenset(("y", "label", "labels", "target", "targets"))
_MAY_BE_NAN = frozenset(
    (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
)
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_PLAIN = (str, bytes, int, float, complex, type(None))

Path = tuple[str, ...]


class Leaf(NamedTuple):
    """One tensor of a batch.

    Attributes:
        path: How to reach it: ``("[0]",)``, ``("['image']",)``, ``(".x",)``; empty for a batch that is a tensor.
        tensor: The tensor.
    """

    path: Path
    tensor: Tensor


class Roles(NamedTuple):
    """The paths of the input and of the target; None where that cannot be told."""

    inputs: Path | None = None
    targets: Path | None = None


def leaves(batch: Any) -> list[Leaf]:
    """Returns the tensors of a batch of any make, 64 at most, in the order in which it holds them.

    Lists, tuples, mappings, dataclasses, and objects with attributes are opened; what raises on the way is left out.
    """
    found: list[Leaf] = []
    pending: list[tuple[Path, Any, bool]] = [((), batch, False)]
    visits = 0
    while pending and visits < _MOST_VISITS and len(found) < _MOST_LEAVES:
        visits += 1
        path, value, in_object = pending.pop()
        if isinstance(value, Tensor):
            found.append(Leaf(path, value))
        elif not isinstance(value, _PLAIN) and len(path) < _DEEPEST:
            try:
                children, opened = _open(value, in_object)
            except Exception:  # noqa: BLE001
                continue
            pending.extend(((*path, part), child, opened) for part, child in reversed(children))
    return found


def at(found: Iterable[Leaf], path: Path | None) -> Tensor | None:
    """Returns the tensor at this path; None where there is none."""
    return next((leaf.tensor for leaf in found if leaf.path == path), None)


def key(path: Path) -> str:
    """Returns the path as one would write it: ``"[0]['image']"``; ``"batch"`` for the batch itself."""
    return "".join(path) or "batch"


def is_dense(tensor: Tensor) -> bool:
    """Whether its elements lie in memory as numbers, all of them on this rank."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_nested
        and not tensor.is_quantized
        # Sharded, ragged or packed: what wraps other tensors dispatches by itself.
        and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def dense(found: Iterable[Leaf]) -> list[Leaf]:
    """Returns the dense leaves as plain tensors, those that are on the device of the first of them."""
    # Metadata may stay behind on the CPU.
    return _together([Leaf(path, _plain(tensor)) for path, tensor in found if is_dense(tensor)])


def floats(found: Sequence[Leaf], of_these_dense: Sequence[Leaf]) -> list[Leaf]:
    """Returns the leaves that could hold NaN, of sparse ones their values; ``of_these_dense`` is :func:`dense`."""
    values = [leaf for leaf in of_these_dense if leaf.tensor.dtype in _MAY_BE_NAN]
    if len(of_these_dense) < len(found):
        sparse = [Leaf(path, _values(tensor)) for path, tensor in found if tensor.layout in _SPARSE]
        values += [leaf for leaf in dense(sparse) if leaf.tensor.dtype in _MAY_BE_NAN]
    return [leaf for leaf in values if leaf.tensor.numel()]


def describe(found: Iterable[Leaf], roles: Roles) -> dict[str, Any]:
    """Returns the leaves and their roles as plain JSON."""
    return {
        "leaves": [
            {
                "key": key(path),
                # The sizes of a ragged tensor are no numbers.
                "shape": None if tensor.is_nested else list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
            }
            for path, tensor in found
        ],
        "inputs": None if roles.inputs is None else key(roles.inputs),
        "targets": None if roles.targets is None else key(roles.targets),
    }


def roles_by_structure(found: Sequence[Leaf]) -> Roles:
    """Says what names and places tell: usual names first, else the two sides of a pair, else a lone tensor."""
    named = Roles(_only_named(found, _INPUT_NAMES), _only_named(found, _TARGET_NAMES))
    if named != Roles():
        others = [path for path, _ in found if path not in named]
        if named.inputs is None and len(others) == 1:
            # What is not the target is the input, but what is not the input may be an index or a mask.
            return Roles(others[0], named.targets)
        return named
    if len(found) == 1:
        return Roles(inputs=found[0].path)
    sides = list(dict.fromkeys(path[0] for path, _ in found if path))
    if len(sides) == 2 and all(side[1:-1].isdigit() for side in sides):
        first, second = ([path for path, _ in found if path[0] == side] for side in sides)
        return Roles(first[0] if len(first) == 1 else None, second[0] if len(second) == 1 else None)
    return Roles()


def fed_by(tensor: Tensor, found: Iterable[Leaf], *, exact: bool) -> Path | None:
    """Says which leaf a layer was fed with: the one whose memory ``tensor`` shares, else the only one of its size.

    Args:
        tensor: What the layer got.
        found: The leaves.
        exact: Only shared memory counts.
    """
    if not is_dense(tensor) or not tensor.numel():
        return None
    candidates = [leaf for leaf in found if is_dense(leaf.tensor) and leaf.tensor.numel()]
    address = tensor.untyped_storage().data_ptr()
    alike = [leaf for leaf in candidates if address and leaf.tensor.untyped_storage().data_ptr() == address]
    if not alike and not exact:
        alike = [leaf for leaf in candidates if leaf.tensor.shape[:1] == tensor.shape[:1]]
        alike = [leaf for leaf in alike if leaf.tensor.numel() == tensor.numel()]
    # Input and target may be two views of one tensor: words, and the words that follow them.
    for trait in (Tensor.data_ptr, _shape, Tensor.numel):
        narrower = [leaf for leaf in alike if trait(leaf.tensor) == trait(tensor)]
        alike = narrower or alike
    return alike[0].path if len(alike) == 1 else None


def rows(found: Iterable[Leaf], roles: Roles) -> int | None:
    """Returns the number of samples: of rows of the targets, else of the input, else of all leaves alike."""
    sizes = {path: leaf.shape[0] for path, leaf in found if is_dense(leaf) and leaf.ndim}
    for path in (roles.targets, roles.inputs):
        if path in sizes:
            return sizes[path]
    return next(iter(sizes.values())) if len(set(sizes.values())) == 1 else None


def _open(value: Any, in_object: bool) -> tuple[list[tuple[str, Any]], bool]:
    if isinstance(value, Mapping):
        return [(f"[{name!r}]", child) for name, child in islice(value.items(), _MOST_LEAVES)], in_object
    if isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", None)
        if names is not None:
            return [(f".{name}", child) for name, child in zip(names, value, strict=True)], in_object
        return [(f"[{i}]", child) for i, child in enumerate(value[:_MOST_LEAVES])], in_object
    if isinstance(value, (type, torch.nn.Module)):
        return [], in_object
    if dataclasses.is_dataclass(value):
        return [(f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value)], in_object
    names = getattr(value, "keys", None)
    if names is not None and hasattr(value, "__getitem__"):
        # Graphs and tensor dictionaries: mappings in all but name, whose tensors are attributes too.
        return [(f".{name}", value[name]) for name in islice(names() if callable(names) else names, 64)], in_object
    # Objects inside objects lead away from the batch, to loaders and tokenizers.
    if in_object or not hasattr(value, "__dict__"):
        return [], in_object
    return [(f".{name}", child) for name, child in vars(value).items() if not name.startswith("_")][:64], True


def _shape(tensor: Tensor) -> torch.Size:
    return tensor.shape


def _together(found: list[Leaf]) -> list[Leaf]:
    return [leaf for leaf in found if leaf.tensor.device == found[0].tensor.device]


def _plain(tensor: Tensor) -> Tensor:
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def _values(tensor: Tensor) -> Tensor:
    return tensor._values() if tensor.layout == torch.sparse_coo else tensor.values()


def _only_named(found: Iterable[Leaf], names: frozenset[str]) -> Path | None:
    # `{"inputs": {"ids": …}}`: the innermost name says most, an outer one something.
    for innermost in (True, False):
        named = [path for path, _ in found if any(_name(part) in names for part in (path[-1:] if innermost else path))]
        if named:
            return named[0] if len(named) == 1 else None
    return None


def _name(part: str) -> str:
    return part.strip("[]'\".").lower()
