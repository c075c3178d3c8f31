"""Whether exact products with the Hessian are the derivative of the gradient, or drop some of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_doctor.measure.lanczos import random_start
from lightning_doctor.measure.landscape import Landscape, as_double

# Lengths of the offset, in lengths of the weights: both must agree before either is believed.
_STEPS = (1e-5, 1e-6)
# What they may differ by to be believed, and what products may then be off by [share of the curvature].
_BELIEVED, _OFF = 1e-3, 1e-2
# What rounding of a gradient in float64 may do to them [gradient per length of the weights].
_ROUNDING = 1e-7


@dataclass(frozen=True)
class CrossCheck:
    """Curvature by two ways.

    Attributes:
        agrees: None where it cannot be told.
        because: Why it does not, or cannot be told, as a clause; empty where it agrees.
        exact: vᵀHv by products, for each direction that was tried.
        differenced: The same by differences of gradients, with the shorter step.
    """

    agrees: bool | None
    because: str
    exact: tuple[float, ...]
    differenced: tuple[float, ...]


def cross_check(land: Landscape, batch: Any, *, directions: int = 3, seed: int = 0) -> CrossCheck:
    """Compares vᵀHv from double backward with differences of gradients, in a copy in float64.

    PyTorch's own operations differentiate twice rightly or raise. A custom ``autograd.Function`` that detaches what it
    saves does neither: its backward pass looks like a constant, and the curvature through it is gone.

    In float32 nothing is proven: a step long enough to beat rounding crosses kinks of ReLU and max-pooling, at which
    the gradient jumps. In float64 a step can be so short that it crosses next to none, and where two steps of
    different length disagree all the same nothing is said.

    Args:
        land: The loss around the weights.
        batch: Some samples, of any floating-point dtype.
        directions: How many are tried: the gradient and random ones.
        seed: Of random directions.
    """
    try:
        double, wide = land.doubled(), as_double(batch)
        hessian = double.hessian(wide)
        generator = torch.Generator().manual_seed(seed)
        tried = [hessian.gradient] * bool(hessian.gradient.any())
        tried += [random_start(hessian.gradient, generator) for _ in range(directions - len(tried))]
        units = [direction / direction.norm() for direction in tried]
        exact = [float(unit @ hessian(unit)) for unit in units]
        hessian.release()
        steps = [step * (float(double.weights.norm()) or 1.0) for step in _STEPS]
        by_step = [[_differenced(double, wide, unit, step) for unit in units] for step in steps]
    except Exception as error:  # noqa: BLE001
        # The user's own code, in a dtype that it was not made for.
        reason = f"the Hessian's products could not be checked in float64 ({type(error).__name__}: {error})"
        return CrossCheck(None, reason, (), ())
    longer, shorter = by_step
    slack = _ROUNDING * float(hessian.gradient.norm()) / (steps[-1] / _STEPS[-1])
    scales = [max(abs(a), abs(b)) for a, b in zip(exact, shorter, strict=True)]
    gaps = [abs(a - b) - slack for a, b in zip(longer, shorter, strict=True)]
    sure = [gap <= _BELIEVED * scale for gap, scale in zip(gaps, scales, strict=True)]
    misses = [abs(a - b) - slack for a, b in zip(exact, shorter, strict=True)]
    off = [miss > _OFF * scale for miss, scale in zip(misses, scales, strict=True)]
    found = (tuple(exact), tuple(shorter))
    if any(wrong and believed for wrong, believed in zip(off, sure, strict=True)):
        worst = max(range(len(units)), key=lambda i: misses[i] / (scales[i] or 1.0) * sure[i])
        reason = (
            "a custom autograd.Function drops curvature: along one direction products with the Hessian say "
            f"{exact[worst]:.3g}, differences of gradients {shorter[worst]:.3g}"
        )
        return CrossCheck(False, reason, *found)
    if any(off):
        return CrossCheck(None, "differences of gradients are too rough to check the Hessian's products by", *found)
    return CrossCheck(True, "", *found)


def _differenced(land: Landscape, batch: Any, unit: Tensor, step: float) -> float:
    difference = land.gradient(batch, step * unit) - land.gradient(batch, -step * unit)
    return float(unit @ difference) / (2 * step)
