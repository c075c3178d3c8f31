"""Norms of many tensors at once, without a blocking read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Norms = Callable[[Sequence[Tensor]], Tensor]


def choose_norms(tensors: Sequence[Tensor]) -> Norms:
    """Returns the function that suits tensors like these: the fast one where all are dense, alike and on one device.

    The choice walks over all tensors, so make it now and then and keep it.
    """
    first = tensors[0]
    alike = all(
        type(tensor) is torch.Tensor
        and tensor.device == first.device
        and tensor.dtype == first.dtype
        and tensor.layout == torch.strided
        for tensor in tensors
    )
    return dense_norms if alike else mixed_norms


def dense_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the Euclidean norm of each tensor ``[len(tensors)]``.

    A norm is not finite where the tensor is not, or where its square overflows float32 (entries over about 1e19).
    """
    # Half precision would overflow at 65504 already.
    dtype = torch.float32 if tensors[0].dtype in (torch.float16, torch.bfloat16) else None
    return torch.stack(torch._foreach_norm(list(tensors), 2.0, dtype=dtype))


def mixed_norms(tensors: Sequence[Tensor]) -> Tensor:
    """The same for tensors that are sparse, of several types or devices, or sharded over ranks (a collective)."""
    device = tensors[0].device
    return torch.stack([_norm(tensor).to(device) for tensor in tensors])


def _norm(tensor: Tensor) -> Tensor:
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    norm: Tensor = torch.linalg.vector_norm(tensor.detach().float())
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    return norm
