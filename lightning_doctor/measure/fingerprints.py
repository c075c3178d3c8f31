"""Fingerprints of batches and rows, and what is not finite in them: integers on the device, compared exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, prod

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Nothing is promoted with these.
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_MOST_TENSORS = 8
_MOST_ELEMENTS = 4096
_MOST_ROWS = 4096
_MOST_IN_ROWS = 2**18


def count_non_finite(values: Tensor) -> Tensor:
    """Returns the number of NaN and infinite elements of a dense tensor of floats, on its device."""
    # x − x is +0 where x is finite and NaN where not. Counting bits is several times faster than `isfinite`.
    zeros = values - values
    return torch.count_nonzero(zeros if values.is_complex() else _bits(zeros))


def thin(values: Tensor, most: int, keep: int | None = None) -> Tensor:
    """Returns a view of about ``most`` elements, evenly spread over every dimension but ``keep``."""
    return values if values.numel() <= most else values[_slices(values.shape, most, keep)]


class Fingerprinter:
    """Turns tensors into 64-bit numbers: equal for equal bits, and otherwise different but for chance.

    Each is the sum, modulo 2⁶⁴, of the elements' bits times random odd weights, which are the same in every run:
    exact on every device and in any order of summation, as a sum of floats is not.

    Args:
        device: Of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        generator = torch.Generator("cpu").manual_seed(0)
        drawn = torch.randint(-(2**62), 2**62, (_MOST_TENSORS * _MOST_ELEMENTS,), generator=generator, device="cpu")
        self._weights = (2 * drawn + 1).to(device)

    def of_batch(self, tensors: Sequence[Tensor]) -> Tensor:
        """Returns one number for the first 8 dense tensors, from 4,096 elements of each; no dimension."""
        parts = [_bits(thin(tensor, _MOST_ELEMENTS)).reshape(-1) for tensor in tensors[:_MOST_TENSORS]]
        together = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (together * self._weights[: len(together)]).sum()

    def of_rows(self, tensors: Sequence[Tensor]) -> Tensor:
        """Returns a number for each row ``[N]``, of 4,096 rows at most; the tensors have N rows each."""
        tensors = [tensor[:_MOST_ROWS] for tensor in tensors[:_MOST_TENSORS]]
        most = min(_MOST_IN_ROWS, _MOST_ELEMENTS * len(tensors[0]))
        parts = [_bits(thin(tensor, most, keep=0)).reshape(len(tensor), -1) for tensor in tensors]
        together = torch.cat(parts, dim=1)
        return (together * self._weights[: together.shape[1]]).sum(dim=1)


def duplicate_share(fingerprints: Tensor) -> Tensor:
    """Returns the share of rows ``[N]`` whose fingerprint another row has too; NaN for less than two rows."""
    ordered = fingerprints.sort().values
    same = ordered[1:] == ordered[:-1]
    one = same.new_zeros(1)
    share = (torch.cat([same, one]) | torch.cat([one, same])).to(torch.float32).mean()
    return share if len(same) else torch.full_like(share, math.nan)


def _bits(values: Tensor) -> Tensor:
    if values.is_neg():
        values = values.resolve_neg()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    size = values.element_size()
    if not values.is_floating_point():
        return values.view(_INTEGERS[size]) if values.dtype in _UNSIGNED else values
    bits = values.view(_INTEGERS[size])
    # A float64 like 1.0 has nothing but zeros in its lower half, which a product modulo 2⁶⁴ would never mix in.
    return bits ^ (bits >> 32) if size == 8 else bits


@lru_cache(maxsize=1024)
def _slices(shape: torch.Size, most: int, keep: int | None) -> tuple[slice, ...]:
    kept = None if keep is None else keep % len(shape)
    sizes, strides = list(shape), [1] * len(shape)
    free = [i for i in range(len(shape)) if i != kept]
    while free and prod(sizes) > most:
        longest = max(free, key=sizes.__getitem__)
        if sizes[longest] == 1:
            break
        strides[longest] *= 2
        sizes[longest] = ceil(shape[longest] / strides[longest])
    return tuple(slice(None, None, stride) for stride in strides)
