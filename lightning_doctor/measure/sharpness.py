"""Curvature as an optimizer meets it: along its steps, and through its preconditioner."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_doctor.measure.hessian import Curvature
from lightning_doctor.measure.lanczos import Product


def rayleigh(product: Product, direction: Tensor) -> float:
    """Returns the curvature along a direction ``[n]``, vᵀHv/vᵀv; 0 along nothing.

    Raises:
        ArithmeticError: Where it is not finite.
    """
    peak = float(direction.abs().max()) if direction.numel() else 0.0
    if peak == 0:
        return 0.0
    # Squares of its elements may be too small, or too large, for the dtype.
    unit = direction / peak
    unit = unit / unit.norm()
    # Rayleigh quotient: ‖Hv‖ would lose the sign.
    value = float(unit @ product(unit))
    if not math.isfinite(value):
        raise ArithmeticError("the gradient or a product with the Hessian is not finite")
    return value


def batch_sharpness(hessian: Curvature) -> float:
    """Returns gᵀHg/gᵀg with a batch's own gradient and Hessian (Andreyev & Beneventano 2024, arXiv 2412.20553).

    Mini-batch SGD settles where its mean over batches is 2/lr: :func:`lightning_doctor.stability.limits`.

    Raises:
        ArithmeticError: Where it is not finite.
    """
    return rayleigh(hessian, hessian.gradient)


def step_ratio(hessian: Curvature, update: Tensor) -> float | None:
    """Returns uᵀHu/(−2gᵀu) of an update u ``[n]``: over 1 the second order says that it raises the loss.

    Returns:
        None for an update that does not lead down at first.

    Raises:
        ArithmeticError: Where it is not finite.
    """
    slope = float(hessian.gradient @ update)
    if not slope < 0:
        return None
    return rayleigh(hessian, update) * float(update @ update) / (-2 * slope)


def preconditioned(product: Product, root: Tensor, decay: float = 0.0) -> Product:
    """Returns products with P^½(H + d)P^½: symmetric, with the eigenvalues of P(H + d).

    Those are what stability is about where steps are −lr·P·m (Cohen et al. 2022, arXiv 2207.14484).

    Args:
        product: With H.
        root: The diagonal of P^½ ``[n]``, not negative.
        decay: d, a coupled weight decay.
    """

    def through(vector: Tensor) -> Tensor:
        scaled = root * vector
        return root * (product(scaled) + decay * scaled if decay else product(scaled))

    return through
