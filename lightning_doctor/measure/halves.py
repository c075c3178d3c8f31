"""Gradient norms of parts of a batch, from which the gradient noise scale follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_doctor import gradient_noise
from lightning_doctor.gradient_noise import NoiseScale
from lightning_doctor.measure.landscape import Landscape, Loss, parts, samples

# Of a batch: each gives a pair of norms, and the error is that of their mean.
_PAIRS = 8


def noise_scale(module: nn.Module, batch: Any, loss: Loss, *, pairs: int = _PAIRS) -> NoiseScale:
    """Estimates the batch size at which noise and signal of the gradient are equal, from halves of parts of a batch.

    The batch is cut into parts, each part into two halves: their gradients give its own. McCandlish et al. 2018
    (arXiv 1812.06162): much smaller batches than this waste steps, much larger ones waste samples.

    Args:
        module: In the mode, train or eval, in which it is to be looked at. It is as before afterwards.
        batch: Tensors, or a nest of dicts, lists and tuples of them, whose first axis counts samples ``[N, …]``.
        loss: ``loss(module, batch)``: the mean loss over the samples, a scalar.
        pairs: Parts, at least two; each must have two samples.

    Returns:
        With ``samples`` None, and the reason, where the gradient is lost in its noise: give it a larger batch.

    Raises:
        ValueError: Where the batch has too few samples for so many pairs, or no axis that counts them.
    """
    count = samples(batch)
    if count is None or count < 2 * pairs or pairs < 2:
        raise ValueError(f"batch must have at least {2 * max(pairs, 2)} samples in its first axis, got {count}")
    land = Landscape(module, loss)
    halves = parts(batch, 0, count, 2 * pairs)
    small, big = half_norms(land.gradient, halves)
    size = samples(halves[0]) or 1
    return gradient_noise.noise_scale(small, big, size, 2 * size)


def half_norms(gradient: Callable[[Any], Tensor], halves: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Returns the mean of the squared gradient norms of two halves, and that of both together, pair by pair.

    No more than two gradients are in memory at once.

    Args:
        gradient: Of the mean loss of some samples ``[n]``.
        halves: Equally large ones, an even number: two neighbours are a pair.
    """
    small, big = [], []
    for one, other in zip(halves[::2], halves[1::2], strict=True):
        first, second = gradient(one), gradient(other)
        squares = torch.stack([first @ first, second @ second, (first + second) @ (first + second)]).double().tolist()
        small.append((squares[0] + squares[1]) / 2)
        # Of the mean of two.
        big.append(squares[2] / 4)
    return small, big
