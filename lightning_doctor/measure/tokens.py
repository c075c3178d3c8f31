"""Whole numbers that stand for kinds, as words or categories, as columns that a linear model can weigh."""

from __future__ import annotations

import torch
from torch import Tensor

# Of longer rows evenly spread places are looked at.
_PLACES = 2048


class Tokens:
    """Says of rows which kind is at a place, and how often each occurs anywhere.

    Of either sort of columns those that differ most between the rows given, as many of each where there are enough.

    Args:
        rows: Whole numbers ``[N, …]``, as many at each row.
        most: How many columns, at most.

    Attributes:
        columns: How many there are.
    """

    def __init__(self, rows: Tensor, most: int) -> None:
        flat = _flat(rows)
        count, places = flat.shape
        kinds, index = torch.unique(flat, return_inverse=True)
        codes, here = torch.unique(index + len(kinds) * torch.arange(places), return_counts=True)
        # The variance of what is there or not; that of how often it occurs.
        there = _best(here * (count - here), most if places == 1 else most // 2)
        self._place, self._kind = codes[there] // len(kinds), kinds[codes[there] % len(kinds)]
        often = torch.zeros(0, dtype=torch.long)
        if places > 1:
            often = _best(_spread(index, len(kinds)), most - len(there)).sort().values
        self._counted = kinds[often]
        self.columns = len(there) + len(often)

    def __call__(self, rows: Tensor) -> Tensor:
        """Returns the columns ``[N, C]`` of other rows of that shape."""
        flat = _flat(rows)
        here: Tensor = (flat[:, self._place] == self._kind).float()
        if not len(self._counted):
            return here
        index = torch.searchsorted(self._counted, flat).clamp(max=len(self._counted) - 1)
        counts = here.new_zeros(len(rows), len(self._counted))
        counts.scatter_add_(1, index, (self._counted[index] == flat).float())
        return torch.cat([here, counts], dim=1)


def _flat(rows: Tensor) -> Tensor:
    flat = rows.reshape(len(rows), -1).long()
    return flat[:, :: max(1, -(-flat.shape[1] // _PLACES))].contiguous()


def _best(values: Tensor, most: int) -> Tensor:
    """Returns where the largest are, of those over zero."""
    return values.topk(min(most, int((values > 0).sum()))).indices


def _spread(index: Tensor, kinds: int) -> Tensor:
    """Returns how far the number of each kind's occurrences varies between rows ``[kinds]``."""
    rows = len(index)
    pairs, often = torch.unique(index + kinds * torch.arange(rows)[:, None], return_counts=True)
    often = often.double()
    total, squares = (torch.bincount(pairs % kinds, power, minlength=kinds) for power in (often, often.square()))
    return (squares / rows - (total / rows).square()).clamp(min=0.0)
