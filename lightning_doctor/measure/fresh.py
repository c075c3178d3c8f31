"""Whether weights look as they were drawn: independent numbers of one distribution, as training leaves none."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

# Fewer numbers, or rows or columns, than these tell nothing of how they were drawn.
_ENOUGH, _LINES = 64, 8
# How far a statistic may be from what is expected [standard errors].
_SIGMAS = 4.0
# What weights are drawn from: the fourth moment over the squared variance, and by how much that varies, once, of
# numbers drawn from a uniform and from a normal distribution (the delta method on their moments).
_DRAWS = ((1.8, 1.32), (3.0, 24.0))


def is_as_drawn(weight: Tensor) -> bool | None:
    """Says whether a weight may be what an initialization drew, uniform or normal, within what chance allows.

    Training makes some rows and columns larger than others, as some units and inputs matter more, and the tails of
    their distribution heavier.

    Args:
        weight: ``[out, in, …]``, the weights of a layer or the rows of an embedding.

    Returns:
        None where nobody can tell: of vectors, of few numbers, and where a rank holds but a part.
    """
    if type(weight) is not nn.Parameter or weight.is_meta or weight.dim() < 2 or weight.numel() < _ENOUGH:
        return None
    rows = weight.detach().float().flatten(1)
    # That of padding is zero.
    rows = rows[rows.any(1)]
    count = rows.numel()
    if count < _ENOUGH:
        return None
    squares = rows.square()
    variance = squares.mean()
    shares = squares / variance
    kurtosis = shares.square().mean()
    centred = rows.mean().abs() < _SIGMAS * variance.sqrt() / sqrt(count)
    return any(
        bool(centred & ((kurtosis - expected).abs() < _SIGMAS * sqrt(spread / count)))
        and all(_are_alike(shares, dim, expected) for dim in (0, 1))
        for expected, spread in _DRAWS
    )


def _are_alike(shares: Tensor, dim: int, kurtosis: float) -> bool:
    """Whether the mean squares along a dimension differ by no more than those of independent numbers do."""
    means = shares.mean(dim)
    if len(means) < _LINES:
        return True
    excess = torch.var(means) * shares.shape[dim] / (kurtosis - 1)
    return bool(excess < 1 + _SIGMAS * sqrt(2 / len(means)))
