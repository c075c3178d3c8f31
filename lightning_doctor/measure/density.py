"""How the eigenvalues of a symmetric operator are spread, and their sum, from products with random vectors."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lightning_doctor.measure.lanczos import Krylov, Product, random_start


@dataclass(frozen=True)
class Density:
    """The spectrum as points with weights that sum to one.

    Attributes:
        points: Where [unit of an eigenvalue], rising.
        weights: Which share of the eigenvalues is there, about.
        runs: How many random vectors it is averaged over.
        products: How many products that took.
    """

    points: tuple[float, ...]
    weights: tuple[float, ...]
    runs: int
    products: int

    @property
    def mean(self) -> float:
        """The mean eigenvalue: the trace over n."""
        return math.fsum(point * weight for point, weight in zip(self.points, self.weights, strict=True))

    def share(self, below: float) -> float:
        """Returns the share of the eigenvalues under a value, about, in [0, 1]."""
        return min(1.0, math.fsum(self.weights[: bisect_left(self.points, below)]))

    def histogram(self, edges: Sequence[float]) -> list[float]:
        """Returns the weight between neighbouring edges ``[len(edges) - 1]``, each bin with its lower edge.

        Args:
            edges: Rising.
        """
        sums = [0.0, *accumulate(self.weights)]
        at = [sums[bisect_left(self.points, edge)] for edge in edges]
        return [high - low for low, high in pairwise(at)]

    def curve(self, grid: Sequence[float], width: float) -> list[float]:
        """Returns the density on a grid [per unit of an eigenvalue], each point a normal curve of this width."""
        scale = 1 / (width * math.sqrt(2 * math.pi))
        return [
            scale
            * math.fsum(
                weight * math.exp(-(((place - point) / width) ** 2) / 2)
                for point, weight in zip(self.points, self.weights, strict=True)
            )
            for place in grid
        ]


def density(
    product: Product,
    like: Tensor,
    *,
    runs: int = 4,
    steps: int = 40,
    may_go_on: Callable[[], bool] = lambda: True,
    seed: int = 0,
) -> Density:
    """Estimates the spectral density by stochastic Lanczos quadrature.

    From a random unit vector v the Ritz values, weighted by the squares of the first components of their eigenvectors,
    are the Gauss quadrature of the measure that v sees: it is right for polynomials up to degree 2k − 1, and its
    mean over v is the spectrum's (Golub & Welsch 1969; Ubaru, Chen & Saad 2017; Ghorbani, Krishnan & Xiao 2019).

    Args:
        product: A symmetric operator on vectors ``[n]``.
        like: Any vector ``[n]``, not empty: it lends size, dtype and device.
        runs: Random vectors; the error falls with their square root.
        steps: Products for each.
        may_go_on: Asked before each product but the first; what is there when it says no is used.
        seed: Of the random vectors; a generator of its own.

    Raises:
        ArithmeticError: Where a product is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[float, float]] = []
    products = done = 0
    while done < runs and (not done or may_go_on()):
        space = Krylov(product, random_start(like, generator), most=steps)
        space.extend()
        while len(space) < steps and not space.is_invariant and may_go_on():
            space.extend()
        values, vectors = space.ritz()
        found += zip(values.tolist(), vectors[0].square().tolist(), strict=True)
        products += len(space)
        done += 1
    found.sort()
    return Density(tuple(p for p, _ in found), tuple(w / done for _, w in found), done, products)


@dataclass(frozen=True)
class Trace:
    """The sum of the eigenvalues.

    Attributes:
        value: The estimate.
        error: Its standard error; None from a single product.
        products: How many it took.
    """

    value: float
    error: float | None
    products: int


def trace(
    product: Product,
    like: Tensor,
    *,
    most: int = 20,
    may_go_on: Callable[[], bool] = lambda: True,
    seed: int = 0,
) -> Trace:
    """Estimates the trace: the mean of vᵀHv over random signs v (Hutchinson 1989).

    Args:
        product: A symmetric operator on vectors ``[n]``.
        like: Any vector ``[n]``: it lends size, dtype and device.
        most: How many products.
        may_go_on: Asked before each but the first.
        seed: Of the random signs; a generator of its own.

    Raises:
        ArithmeticError: Where a product is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    values: list[float] = []
    while len(values) < most and (not values or may_go_on()):
        signs = torch.randint(0, 2, (like.numel(),), generator=generator).to(like) * 2 - 1
        values.append(float(signs @ product(signs)))
    if not all(map(math.isfinite, values)):
        raise ArithmeticError("a product with the Hessian is not finite")
    mean, count = math.fsum(values) / len(values), len(values)
    if count < 2:
        return Trace(mean, None, count)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Trace(mean, spread / math.sqrt(count), count)
