"""Norms of many tensors at once, without a blocking read or a collective."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# By these a tensor is known of which a rank holds a part: of a DTensor, of FSDP1, of ZeRO-3.
_PARTS = ("full_tensor", "_fsdp_flattened", "ds_tensor")


def norms(tensors: Sequence[Tensor], alike: bool) -> Tensor:
    """Returns the Euclidean norm of each tensor ``[len(tensors)]``, on the device of the first.

    A norm is not finite where the tensor is not, or where its square overflows float32 (entries over about 1e19).

    Args:
        tensors: Dense or sparse, not sharded.
        alike: Whether :func:`are_alike` holds, which is much faster.
    """
    if alike:
        # Half precision would overflow at 65504 already.
        dtype = torch.float32 if tensors[0].dtype in (torch.float16, torch.bfloat16) else None
        return torch.stack(torch._foreach_norm(list(tensors), 2.0, dtype=dtype))
    return torch.stack([_norm(tensor).to(tensors[0].device) for tensor in tensors])


def are_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether all are dense, of one type and on one device. Walks over all of them: ask now and then."""
    first = tensors[0]
    return all(
        type(tensor) is torch.Tensor
        and tensor.device == first.device
        and tensor.dtype == first.dtype
        and tensor.layout == torch.strided
        for tensor in tensors
    )


def are_sharded(tensors: Sequence[Tensor]) -> bool:
    """Whether any holds only this rank's part, so that its norm is not the whole one's.

    Of FSDP1 and of DeepSpeed's ZeRO-3 only parameters show it: the first marks them, the second leaves them empty and
    hangs the part on them. A DTensor (FSDP2, tensor parallelism) is one whatever it holds.
    """
    return any(hasattr(tensor, mark) for tensor in tensors for mark in _PARTS)


def _norm(tensor: Tensor) -> Tensor:
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    norm: Tensor = torch.linalg.vector_norm(tensor.detach().float())
    return norm
