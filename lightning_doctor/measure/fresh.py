"""Whether weights look as they were drawn: independent numbers of one distribution, as training leaves none."""

from __future__ import annotations

from math import ceil, sqrt

import torch
from torch import Tensor, nn

# Fewer numbers, or rows or columns, than these tell nothing of how they were drawn.
_ENOUGH, _LINES = 64, 2
# How many rows and columns are looked at.
_SIDE = 256
# How far a statistic may be from what is expected [standard errors].
_SIGMAS = 4.0
# What weights are drawn from, a uniform and a normal distribution: the fourth moment over the squared variance, by how
# much that varies, once, of numbers drawn so (the delta method on their moments), and the excess kurtosis of a square.
_DRAWS = ((1.8, 1.32, -0.86), (3.0, 24.0, 12.0))


def is_as_drawn(weight: Tensor) -> bool | None:
    """Says whether a weight may be what an initialization drew, uniform or normal, within what chance allows.

    Training makes some rows and columns larger than others, as some units and inputs matter more, and the tails of
    their distribution heavier.

    Args:
        weight: ``[out, in, …]``, the weights of a layer or the rows of an embedding.

    Returns:
        None where nobody can tell: of vectors, of few numbers, of what are no real numbers or held in another way, and
        where a rank holds but a part.
    """
    plain = type(weight) is nn.Parameter and weight.layout is torch.strided and weight.is_floating_point()
    if not plain or weight.is_meta or weight.dim() < 2 or weight.numel() < _ENOUGH:
        return None
    rows = weight.detach()[:: ceil(weight.shape[0] / _SIDE)].flatten(1)
    rows = rows[:, :: ceil(rows.shape[1] / _SIDE)].float()
    # That of padding is zero.
    rows = rows[rows.any(1)]
    count = rows.numel()
    if count < _ENOUGH or min(rows.shape) < _LINES or bool(rows.std() == 0):
        return None
    shares = rows.square()
    variance = shares.mean()
    shares = shares / variance
    kurtosis = shares.square().mean()
    centred = rows.mean().abs() < _SIGMAS * variance.sqrt() / sqrt(count)
    fits = [
        centred
        & ((kurtosis - expected).abs() < _SIGMAS * sqrt(spread / count))
        & _are_alike(shares, 0, expected, excess)
        & _are_alike(shares, 1, expected, excess)
        for expected, spread, excess in _DRAWS
    ]
    return bool(fits[0] | fits[1])


def _are_alike(shares: Tensor, dim: int, kurtosis: float, excess: float) -> Tensor:
    """Whether the mean squares along a dimension differ by no more than those of independent numbers do."""
    means, averaged = shares.mean(dim), shares.shape[dim]
    varies = torch.var(means) * averaged / (kurtosis - 1)
    return varies < 1 + _SIGMAS * sqrt((2 + excess / averaged) / len(means))
