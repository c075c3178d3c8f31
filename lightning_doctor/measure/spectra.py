"""The spectrum of the Hessian of a module's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_doctor.measure.density import Density, Trace, density, trace
from lightning_doctor.measure.lanczos import Ends, ends
from lightning_doctor.measure.landscape import Landscape, Loss, samples
from lightning_doctor.measure.sharpness import batch_sharpness


@dataclass(frozen=True)
class Spectrum:
    """What products with the Hessian tell of its eigenvalues [loss per squared unit of the weights].

    Attributes:
        ends: The smallest and the largest, with residuals and how sure they are.
        density: How they are spread.
        trace: Their sum.
        sharpness: gᵀHg/gᵀg, the curvature along the gradient.
        products: How many were made.
        samples: How many samples the loss was that of; None where the batch does not tell.
    """

    ends: Ends
    density: Density
    trace: Trace
    sharpness: float
    products: int
    samples: int | None


def spectrum(
    module: nn.Module,
    batch: Any,
    loss: Loss,
    *,
    share: float = 0.02,
    most: int = 100,
    runs: int = 4,
    steps: int = 40,
    seed: int = 0,
) -> Spectrum:
    """Computes both ends of the Hessian's spectrum, its density and its trace, without forming it.

    Args:
        module: In the mode, train or eval, in which it is to be looked at. It is as before afterwards.
        batch: Whatever ``loss`` takes.
        loss: ``loss(module, batch)``: a scalar with its graph.
        share: Of the spectral range: curvature further under zero matters, and the ends must be as sure as that.
        most: The most products for the ends.
        runs: Random vectors for the density.
        steps: Products for each of them.
        seed: Of random vectors.

    Raises:
        ValueError: Where no parameter requires gradients.
        RuntimeError: Where an operation in the module cannot be differentiated twice.
        ArithmeticError: Where the gradient or a product is not finite.
    """
    hessian = Landscape(module, loss).hessian(batch)
    try:
        sharpness = batch_sharpness(hessian)
        found = ends(hessian, hessian.gradient, share=share, most=most, seed=seed)
        spread = density(hessian, hessian.gradient, runs=runs, steps=steps, seed=seed + 1)
        total = trace(hessian, hessian.gradient, seed=seed + 2)
    finally:
        hessian.release()
    if found is None:
        raise ValueError("the parameters of the module have no elements")
    return Spectrum(found, spread, total, sharpness, hessian.products, samples(batch))
