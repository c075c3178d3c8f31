"""Whole numbers that stand for kinds, as words or categories, as columns that a linear model can weigh."""

from __future__ import annotations

import torch
from torch import Tensor


class Tokens:
    """Says of rows which kind is at a place, and how often each occurs anywhere.

    Of all such columns those that differ most between the rows given: no row differs in what all or none have.

    Args:
        rows: Whole numbers ``[N, …]``, as many at each row.
        most: How many columns, at most.

    Attributes:
        columns: How many there are.
    """

    def __init__(self, rows: Tensor, most: int) -> None:
        flat = rows.reshape(len(rows), -1)
        kinds, places = torch.unique(flat), flat.shape[1]
        index = torch.searchsorted(kinds, flat.contiguous())
        codes = index + len(kinds) * torch.arange(places, device=flat.device)
        here, counts = torch.unique(codes, return_counts=True)
        anywhere = torch.bincount(_once_a_row(index), minlength=len(kinds)) if places > 1 else counts.new_zeros(0)
        counts = torch.cat([counts, anywhere])
        uneven = counts * (len(rows) - counts)
        best = uneven.topk(min(most, int((uneven > 0).sum()))).indices
        self.columns = len(best)
        chosen = here[best[best < len(here)]]
        self._place, self._kind = chosen // len(kinds), kinds[chosen % len(kinds)]
        self._counted = kinds[(best[best >= len(here)] - len(here)).sort().values]

    def __call__(self, rows: Tensor) -> Tensor:
        """Returns the columns ``[N, C]`` of other rows of that shape."""
        flat = rows.reshape(len(rows), -1).contiguous()
        here: Tensor = (flat[:, self._place] == self._kind).float()
        if not len(self._counted):
            return here
        index = torch.searchsorted(self._counted, flat).clamp(max=len(self._counted) - 1)
        counts = here.new_zeros(len(rows), len(self._counted))
        counts.scatter_add_(1, index, (self._counted[index] == flat).float())
        return torch.cat([here, counts], dim=1)


def _once_a_row(index: Tensor) -> Tensor:
    """Returns each row's different kinds, those of all rows in one line."""
    ordered = index.sort(1).values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    chosen: Tensor = ordered[first]
    return chosen
