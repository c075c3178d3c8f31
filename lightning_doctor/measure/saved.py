"""What an autograd node has saved for its backward pass, read without disturbing that pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

_READ = "lightning_doctor.read"


def saved_tensor(node: Any, name: str) -> Tensor | None:
    """Returns the tensor that a node keeps as ``name`` ("result", "self", "target" …), detached.

    None where it keeps none, has let go of it, or keeps it behind hooks of somebody else's: a checkpointed block would
    be computed again, and its own backward pass would then fail. None, too, under somebody's dispatch mode, which may
    fail half-way through setting the hooks and leave the node without its tensor.

    Autograd refuses to use what was changed in place after it was saved. Of a change made before this call it does not
    learn once this function has read the tensor, so read only where it did not refuse before: not in the very first
    backward pass of a run.
    """
    found = _read(node, name, lambda raw: [raw], lambda value: [value])
    return found[0] if found else None


def saved_tensors(node: Any, name: str) -> list[Tensor]:
    """Returns the tensors of a list that a node keeps, as :func:`saved_tensor` does one; none where any is missing."""
    return _read(node, name, list, list)


def _read(node: Any, name: str, hooked: Callable[[Any], list[Any]], values: Callable[[Any], list[Any]]) -> list[Tensor]:
    if _get_current_dispatch_mode() is not None:
        return []
    try:
        read = node.metadata.setdefault(_READ, set())
        if name not in read:
            for kept in hooked(getattr(node, f"_raw_saved_{name}")):
                # Refused where hooks are there already, or nothing is saved: the only question that is safe to ask.
                kept.register_hooks(_pack, _unpack)
            read.add(name)
        with torch.no_grad():
            found = values(getattr(node, f"_saved_{name}"))
    except (AttributeError, RuntimeError, TypeError):
        return []
    return [value.detach() for value in found] if all(isinstance(value, Tensor) for value in found) else []


def _pack(tensor: Tensor) -> tuple[Tensor, int]:
    return tensor, tensor._version


def _unpack(packed: tuple[Tensor, int]) -> Tensor:
    # Autograd counts versions only where there are no hooks.
    tensor, version = packed
    if tensor._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"it is at version {tensor._version}; expected version {version} instead"
        )
    return tensor
