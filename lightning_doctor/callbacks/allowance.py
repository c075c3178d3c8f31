"""How much memory a probe may take: about that of two training steps."""

from __future__ import annotations

from typing import Any

from lightning_doctor.callbacks.meeting import Meeting
from lightning_doctor.callbacks.point import Point
from lightning_doctor.callbacks.supply import FEWEST, Sample, Supply, cut, halved
from lightning_doctor.measure.rows import tensors

# Memory that nobody misses [bytes].
_SMALL = 1 << 25
# What a product takes, its graph and what it leaves on its way, in activations of a forward pass, about.
_PRODUCT = 3.2
# Vectors over the weights that a probe holds beside those of its products: the copy's, flat and not, a gradient in
# its graph and flat, a preconditioner, and what a product and its orthogonalisation leave on their way.
_VECTORS = 12
# Products with the Hessian, each of which keeps a vector.
_LEAST_PRODUCTS, _MOST_PRODUCTS = 16, 100


class Allowance:
    """Chooses the samples and products that fit into the memory of two training steps at the run's own batch size.

    What a batch's activations take is measured once for each shape of a batch, on a part of it. Where the vectors alone
    exceed two steps (many weights, and few samples a step) fewer samples do not help, and the graph has a step's own.
    """

    def __init__(self) -> None:
        self._known: dict[Any, float] = {}

    def fit(self, point: Point, samples: Supply, own: Sample, rows: int | None, meeting: Meeting) -> tuple[Supply, int]:
        """Returns as many of the samples as fit, and how many products.

        Args:
            point: A copy of the model.
            samples: All there are.
            own: A batch as the run trains on it.
            rows: Its samples; None where unknown.
            meeting: Where ranks meet: they measure together or not at all.
        """
        activations, vector = self._activations(point, own, rows, meeting), point.weight_bytes()
        # Gradients come as activations go.
        step = max(activations, vector)
        limit = max(_SMALL, 2 * step)
        room = limit - (_VECTORS + _LEAST_PRODUCTS) * vector
        if room <= 0:
            room = step
        while (taken := _PRODUCT * activations * _batches(samples, rows)) > room:
            fewer = halved(samples)
            if fewer is None:
                break
            samples = fewer
        most = int((limit - taken) // vector) - _VECTORS
        return samples, max(_LEAST_PRODUCTS, min(_MOST_PRODUCTS, most))

    def _activations(self, point: Point, own: Sample, rows: int | None, meeting: Meeting) -> float:
        shape = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors(own[0]))
        if meeting.number(float(shape in self._known), point.device) < 1:
            count = max(1, (rows or 0) // FEWEST)
            self._known[shape] = count * point.activation_bytes(cut(own, rows, count)[0])
        return self._known[shape]


def _batches(samples: Supply, rows: int | None) -> float:
    """Returns how many of the run's own batches the choosing samples make."""
    return len(samples.choosing) if rows is None or samples.rows is None else samples.rows / rows
