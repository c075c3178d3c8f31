"""A fixed random sample of the elements of many tensors: what a copy would tell, at a fraction of its size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST_PER_TENSOR = 1024


class Sketch:
    """The same elements of the same tensors, each time it is asked.

    A tensor with more than ``limit`` elements is cut into ``limit`` equal parts, and one element is drawn from each,
    so that a sum over the sample, times what each element stands for, is unbiased. With independent elements the
    standard error of a cosine is about ``1/sqrt(limit)`` for one large tensor, 0.03 with 1024, and less for several;
    tensors with no more elements are taken whole, without error.

    Args:
        tensors: Dense and whole, each with at least one element. They lend their shapes; they are not kept.
        limit: The most elements of one tensor.
        seed: Of a generator of its own: equal on every rank, and no other is touched.
    """

    def __init__(self, tensors: Sequence[Tensor], *, limit: int = MOST_PER_TENSOR, seed: int = 0) -> None:
        self._device = tensors[0].device
        self._one_device = all(tensor.device == self._device for tensor in tensors)
        self._complex = any(tensor.is_complex() for tensor in tensors)
        generator = torch.Generator().manual_seed(seed)
        sizes = [tensor.numel() * (2 if tensor.is_complex() else 1) for tensor in tensors]
        self._indices = [
            _draw(size, limit, generator).to(tensor.device) if size > limit else None
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
        self.counts = [min(size, limit) for size in sizes]
        """The number of elements sampled from each tensor."""
        self.weights = [size / count for size, count in zip(sizes, self.counts, strict=True)]
        """The number of elements that each sampled one stands for, by tensor."""
        self._weights = torch.cat([torch.full((n,), w) for n, w in zip(self.counts, self.weights, strict=True)])
        self._weights = self._weights.to(self._device)
        self._by_tensor = torch.tensor(self.weights).to(self._device)
        numbers = [torch.full((n,), i, dtype=torch.long) for i, n in enumerate(self.counts)]
        self._numbers = torch.cat(numbers).to(self._device)

    @torch.no_grad()
    def take(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns a copy of the sampled elements of all tensors ``[sum(counts)]``; zeros for a tensor that is None.

        Half precision becomes float32; complex elements count as two.
        """
        if self._complex:
            tensors = [torch.view_as_real(t) if t is not None and t.is_complex() else t for t in tensors]
        parts = [
            self._weights.new_zeros(count)
            if tensor is None
            else (tensor.reshape(-1) if index is None else tensor.take(index))
            for tensor, index, count in zip(tensors, self._indices, self.counts, strict=True)
        ]
        sample = torch.cat(parts if self._one_device else [part.to(self._device) for part in parts])
        return sample.float() if sample.dtype in (torch.float16, torch.bfloat16) else sample

    def norms(self, sample: Tensor) -> Tensor:
        """Returns the estimated Euclidean norm of each tensor ``[len(counts)]``."""
        return (self._sums(sample.square()) * self._by_tensor).sqrt()

    def zeros(self, sample: Tensor) -> Tensor:
        """Returns how many sampled elements of each tensor are exactly zero ``[len(counts)]``."""
        return self._sums((sample == 0).float())

    def differ(self, one: Tensor, other: Tensor) -> Tensor:
        """Returns for each tensor whether any sampled element differs ``[len(counts)]``; NaN differs from itself."""
        return self._sums((one != other).float()) > 0

    def cosine(self, one: Tensor, other: Tensor) -> Tensor:
        """Returns the estimated cosine between two wholes, as a scalar; NaN where one is zero or not finite."""
        # A cosine has no scale, and so the squares neither overflow nor underflow.
        one, other = one / one.abs().max(), other / other.abs().max()
        weighted = one * self._weights
        cosine: Tensor = (weighted @ other) / ((weighted @ one) * ((other * self._weights) @ other)).sqrt()
        return cosine

    def _sums(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self.counts)).index_add_(0, self._numbers, values)


@torch.no_grad()
def any_nonzero(tensors: Sequence[Tensor]) -> Tensor:
    """Returns for each tensor, all of it, whether an element is not zero ``[len(tensors)]``, as a NaN is not.

    Args:
        tensors: Dense or sparse, not sharded, each with at least one element.
    """
    first = tensors[0]
    if all(t.layout == torch.strided and (t.device, t.dtype) == (first.device, first.dtype) for t in tensors):
        return torch.stack(torch._foreach_norm(list(tensors), math.inf)) != 0
    return torch.stack([_peak(tensor).to(first.device) != 0 for tensor in tensors])


def _peak(tensor: Tensor) -> Tensor:
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return tensor.abs().max() if tensor.numel() else tensor.new_zeros(()).abs()


def _draw(size: int, count: int, generator: torch.Generator) -> Tensor:
    # float32 could not tell the elements of a large tensor apart.
    places = torch.arange(count, dtype=torch.float64) + torch.rand(count, dtype=torch.float64, generator=generator)
    return (places * (size / count)).long().clamp_(max=size - 1)
