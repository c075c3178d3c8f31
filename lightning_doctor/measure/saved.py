"""What an autograd node has saved for its backward pass, read without disturbing that pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_READ = "lightning_doctor.read"


def saved_tensor(node: Any, name: str) -> Tensor | None:
    """Returns the tensor that a node keeps as ``name`` ("result", "self", "target" …), detached.

    None where it keeps none, has let go of it, or keeps it behind hooks of somebody else's: a checkpointed block would
    be computed again, and its own backward pass would then fail.

    Autograd refuses to use what was changed in place after it was saved. Of a change made before this call it does not
    learn once this function has read the tensor, so read only where it did not refuse before: not in the very first
    backward pass of a run.
    """
    try:
        read = node.metadata.setdefault(_READ, set())
        if name not in read:
            # Refused where hooks are there already, or nothing is saved: the only question that is safe to ask.
            getattr(node, f"_raw_saved_{name}").register_hooks(_pack, _unpack)
            read.add(name)
        with torch.no_grad():
            value = getattr(node, f"_saved_{name}")
    except (AttributeError, RuntimeError):
        return None
    return value.detach() if isinstance(value, Tensor) else None


def saved_tensors(node: Any, name: str) -> list[Tensor]:
    """Returns the tensors of a list that a node keeps, as :func:`saved_tensor` does one; none where any is missing."""
    try:
        read = node.metadata.setdefault(_READ, set())
        if name not in read:
            for kept in getattr(node, f"_raw_saved_{name}"):
                kept.register_hooks(_pack, _unpack)
            read.add(name)
        with torch.no_grad():
            return [value.detach() for value in getattr(node, f"_saved_{name}")]
    except (AttributeError, RuntimeError, TypeError):
        return []


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
