"""How much memory a probe may take: about that of two training steps, and no more than is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_doctor.callbacks.meeting import Meeting
from lightning_doctor.callbacks.point import Point
from lightning_doctor.callbacks.supply import FEWEST, Sample, Supply, cut, halved
from lightning_doctor.measure.rows import tensors

# Memory that nobody misses [bytes].
_SMALL = 1 << 25
# What a probe may take of the memory that is free.
_OF_FREE = 0.5
# What a product takes, its graph and what it leaves on its way, in activations of a forward pass that can be
# differentiated twice, about: measured as 3.2 for convolutions and 3.4 for attention.
_PRODUCT = 3.4
# Vectors over the weights that a probe holds beside those of its products: the copy's, a gradient, and the rows of a
# product on its way.
_VECTORS = 3
# Products with the Hessian, each of which keeps a vector; and how few will do where that keeps the limit.
_LEAST_PRODUCTS, _FEWEST_PRODUCTS, _MOST_PRODUCTS = 16, 10, 100


class TooLittleMemoryError(Exception):
    """So little is free that a probe might end the run."""


class Allowance:
    """Chooses the samples and products that fit into the memory of two training steps at the run's own batch size.

    What a batch's activations take is measured once for each shape of a batch, on a part of it. Where the vectors alone
    exceed two steps (many weights, and few samples a step) fewer samples do not help, and the graph has a step's own.

    Args:
        free: Returns how much memory is free [bytes]; None where that is unknown.
    """

    def __init__(self, free: Callable[[], int | None]) -> None:
        self._free = free
        self._known: dict[Any, tuple[float, float]] = {}

    def fit(self, point: Point, samples: Supply, own: Sample, rows: int | None, meeting: Meeting) -> tuple[Supply, int]:
        """Returns as many of the samples as fit, and how many products: 0 where too little memory is free for them.

        Args:
            point: A copy of the model.
            samples: All there are.
            own: A batch as the run trains on it.
            rows: Its samples; None where unknown.
            meeting: Where ranks meet: they measure together or not at all.

        Raises:
            TooLittleMemoryError: Where a rank has too little for a probe without a product as well.
        """
        (activations, twice), vector = self._activations(point, own, rows, meeting), point.weight_bytes()
        # Gradients come as activations go.
        step = max(activations, vector)
        limit = max(_SMALL, 2 * step)
        room = limit - (_VECTORS + _LEAST_PRODUCTS) * vector
        if room <= 0:
            room = step
        while (taken := _PRODUCT * twice * _batches(samples, rows)) > room:
            fewer = halved(samples)
            if fewer is None:
                break
            samples = fewer
        most = int((limit - taken) // vector) - _VECTORS
        least = _FEWEST_PRODUCTS if most >= _FEWEST_PRODUCTS else _LEAST_PRODUCTS
        wanted = max(least, min(_MOST_PRODUCTS, most))
        free = self._free()
        for products in (wanted, _FEWEST_PRODUCTS, 0):
            fits = free is None or taken + (_VECTORS + products) * vector <= _OF_FREE * free
            # The rank with the least of it decides.
            if meeting.number(float(fits), point.device) == 1:
                return samples, products
        raise TooLittleMemoryError

    def _activations(self, point: Point, own: Sample, rows: int | None, meeting: Meeting) -> tuple[float, float]:
        """Returns those of a step, and those of a forward pass that can be differentiated twice [bytes]."""
        shape = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors(own[0]))
        if meeting.number(float(shape in self._known), point.device) < 1:
            count = max(1, (rows or 0) // FEWEST)
            part = cut(own, rows, count)[0]
            once, twice = point.activation_bytes(part), point.activation_bytes(part, twice=True)
            self._known[shape] = count * once, count * twice
        return self._known[shape]


def _batches(samples: Supply, rows: int | None) -> float:
    """Returns how many of the run's own batches the choosing samples make."""
    return len(samples.choosing) if rows is None or samples.rows is None else samples.rows / rows
