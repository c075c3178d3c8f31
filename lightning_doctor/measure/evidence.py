"""Whether a mean over sub-batches is over zero by more than chance and rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """A mean and how sure it is.

    Attributes:
        mean: Over sub-batches of equal size [unit of the values].
        error: Its standard error; None for a single sub-batch, which tells none.
        chance: The probability of such a mean, or a higher one, where the truth is zero: Student's one-sided test. With
            a single sub-batch 0 for a positive mean and 1 else: then it is all the data that there is.
    """

    mean: float
    error: float | None
    chance: float


def evidence(values: Tensor) -> Evidence:
    """Weighs values of sub-batches ``[S]`` against zero; what is not finite is no evidence."""
    numbers = values.detach().double().cpu()
    mean = float(numbers.mean())
    if not math.isfinite(mean):
        return Evidence(-math.inf, None, 1.0)
    if len(numbers) < 2:
        return Evidence(mean, None, 0.0 if mean > 0 else 1.0)
    error = float(numbers.std()) / math.sqrt(len(numbers))
    if error == 0:
        return Evidence(mean, 0.0, 0.0 if mean > 0 else 1.0)
    return Evidence(mean, error, student(mean / error, len(numbers) - 1))


def student(t: float, freedom: int) -> float:
    """Returns the probability that Student's t with so many degrees of freedom exceeds ``t``.

    The finite series of Abramowitz & Stegun 1964, equations 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for step in range(2 if odd else 1, freedom - 1, 2):
        term *= cosine**2 * step / (step + 1)
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    outside = max(0.0, (1 - inside) / 2)
    return outside if t >= 0 else 1 - outside
