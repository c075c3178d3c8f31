"""Both ends of a symmetric operator's spectrum, from products with it, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
# Vectors of the basis that are kept in one block: growth copies nothing, and no more than a block lies idle.
_BLOCK = 4
# Rounding of a product and of taking it apart, in units of the dtype's resolution and of the spectral range.
_ROUNDING = 10.0


class Krylov:
    """An orthonormal basis of the space of v, Hv, H²v, …, in which the operator is tridiagonal.

    Lanczos 1950 with full reorthogonalisation: without it rounding lets vectors already found come back, and
    eigenvalues with them (Golub & Van Loan 2013, section 10.3). The basis takes as many vectors of memory as products.

    Args:
        product: A symmetric operator on vectors ``[n]``.
        start: ``[n]``, not zero; lends dtype and device.
        most: How many products there will be at most, so that no more memory is taken than they need; None for any.
    """

    def __init__(self, product: Product, start: Tensor, *, most: int | None = None) -> None:
        self._product = product
        self._most = most
        self._next = start / start.norm()
        self._blocks: list[Tensor] = []
        self._resolution = float(torch.finfo(start.dtype).eps)
        self._largest = 0.0
        self.diagonal: list[float] = []
        self.beyond: list[float] = []
        """What couples each vector of the basis to the next one, which is not in it yet after the last."""

    def __len__(self) -> int:
        return len(self.diagonal)

    @property
    def is_invariant(self) -> bool:
        """Whether the operator leads out of the basis nowhere: its eigenvalues are all that the start can see."""
        if not self.beyond:
            return False
        return len(self) >= self._next.numel() or self.beyond[-1] <= _ROUNDING * self._resolution * self._largest

    def extend(self) -> None:
        """Adds a vector to the basis, by one product.

        Raises:
            ArithmeticError: Where the product is not finite.
        """
        count = len(self)
        # Large vectors: no more of them at once than must be, in a product above all.
        vector = self._next = self._kept(self._next, count)
        image = self._product(vector)
        size = float(image.norm())
        if not math.isfinite(size):
            raise ArithmeticError("a product with the Hessian is not finite")
        self._largest = max(self._largest, size)
        own = float(vector @ image)
        rest = torch.sub(image, vector, alpha=own)
        del image
        if count:
            rest.sub_(self._basis_vector(count - 1), alpha=self.beyond[-1])
        before = float(rest.norm())
        rest, length = self._orthogonal(rest, count + 1)
        # Once is enough unless most of it was rounding (Parlett 1998, section 6.9: twice is enough).
        if length < 0.7 * before:
            rest, length = self._orthogonal(rest, count + 1)
        self.diagonal.append(own)
        self.beyond.append(length)
        self._next = rest.div_(length) if length > 0 else rest

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Returns the eigenvalues ``[k]``, rising, and eigenvectors ``[k, k]`` of the tridiagonal, in float64."""
        inner = torch.tensor(self.beyond[:-1], dtype=torch.float64)
        diagonal = torch.tensor(self.diagonal, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(torch.diag(diagonal) + torch.diag(inner, 1) + torch.diag(inner, -1))
        return values, vectors

    def residual(self, coefficients: Tensor) -> float:
        """Returns ‖Hx − θx‖ of the Ritz vector with these coefficients ``[k]``: an eigenvalue lies so near to θ."""
        rounding = _ROUNDING * self._resolution * self._largest
        return math.hypot(self.beyond[-1] * float(coefficients[-1]), rounding)

    def vector(self, coefficients: Tensor) -> Tensor:
        """Returns the unit vector ``[n]`` with these coefficients ``[k]`` in the basis."""
        mixed = torch.zeros_like(self._next)
        for block, part in zip(self._blocks, torch.split(coefficients.to(self._next), _BLOCK), strict=True):
            mixed.addmv_(block[: len(part)].T, part)
        return mixed.div_(mixed.norm())

    def _kept(self, vector: Tensor, count: int) -> Tensor:
        """Adds a vector to the basis of so many; returns it where it is kept."""
        if count % _BLOCK == 0:
            room = _BLOCK if self._most is None else max(1, min(_BLOCK, self._most - count))
            self._blocks.append(vector.new_empty(room, vector.numel()))
        kept = self._blocks[-1][count % _BLOCK]
        return kept.copy_(vector)

    def _basis_vector(self, index: int) -> Tensor:
        return self._blocks[index // _BLOCK][index % _BLOCK]

    def _orthogonal(self, vector: Tensor, count: int) -> tuple[Tensor, float]:
        """Takes what lies in the basis off a vector, in place; returns it, and its length."""
        for start, block in enumerate(self._blocks):
            filled = block[: min(_BLOCK, count - start * _BLOCK)]
            vector.addmv_(filled.T, filled @ vector, alpha=-1)
        return vector, float(vector.norm())


@dataclass(frozen=True)
class Ends:
    """The smallest and the largest eigenvalue of an operator, as far as they are known.

    Attributes:
        low: The smallest Ritz value: the smallest eigenvalue is no larger.
        high: The largest: the largest eigenvalue is no smaller.
        low_residual: An eigenvalue lies within this of ``low``; whether it is the smallest a residual does not say.
        high_residual: Likewise of ``high``.
        low_vector: The unit vector ``[n]`` whose Rayleigh quotient ``low`` is.
        high_vector: Likewise for ``high``.
        missed: The share of the spectral range by which the smallest eigenvalue may lie under ``low``, at the
            confidence asked for; the largest over ``high`` likewise.
        exact: Whether the basis was exhausted: then nothing is missed but by rounding.
        converged: Whether both residuals are within the tolerance.
        stopped: ``"certain"``: no curvature under the share asked for. ``"negative"``: there is, by its residual.
            ``"products"``: the most products allowed were used. ``"time"``: there was no leave to go on.
        products: How many were used.
        size: n.
        points: All Ritz values, rising.
        weights: Which share of the spectrum each stands for, as far as one random start can tell: the first step of
            :func:`lightning_doctor.measure.density.density`.
    """

    low: float
    high: float
    low_residual: float
    high_residual: float
    low_vector: Tensor
    high_vector: Tensor
    missed: float
    exact: bool
    converged: bool
    stopped: Literal["certain", "negative", "products", "time"]
    products: int
    size: int
    points: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def span(self) -> float:
        """From the smallest to the largest Ritz value, zero included."""
        return max(self.high, 0.0) - min(self.low, 0.0)

    @property
    def negative_share(self) -> float:
        """How far ``low`` lies under zero, as a share of :attr:`span`, in [0, 1]."""
        return max(-self.low, 0.0) / self.span if self.span > 0 else 0.0

    @property
    def least_share(self) -> float:
        """No curvature lies further under zero than this share of the spectral range, at the confidence asked for."""
        return min(1.0, self.negative_share + self.missed)

    def failure(self, share: float) -> float:
        """Returns the probability that there is curvature under ``-share`` of the range all the same, at most 1."""
        if self.negative_share > share:
            return 1.0
        return 0.0 if self.exact else failure(self.products, self.size, share - self.negative_share)


def ends(
    product: Product,
    like: Tensor,
    *,
    share: float = 0.02,
    tolerance: float = 0.01,
    confidence: float = 0.95,
    most: int = 100,
    may_go_on: Callable[[], bool] = lambda: True,
    seed: int = 0,
) -> Ends | None:
    """Finds both ends of the spectrum, and stops when it is sure whether there is negative curvature that matters.

    It is sure that there is when a Ritz value lies under ``-share`` of the range by more than its residual, and that
    there is none by Kuczyński & Woźniakowski 1992, theorem 4.2: from a start uniform on the sphere k products miss the
    end of the spectrum by more than a share ε of its range with probability at most 1.648·√n·exp(−√ε(2k − 1)).
    In either case not before both ends have converged.

    Args:
        product: A symmetric operator on vectors ``[n]``.
        like: Any vector ``[n]``: it lends size, dtype and device.
        share: Of the spectral range: curvature further under zero matters, in (0, 1).
        tolerance: Of the spectral range: residuals within it are converged.
        confidence: With which "no negative curvature" is said, in (0, 1).
        most: The most products.
        may_go_on: Asked before each product but the first.
        seed: Of the random start; a generator of its own.

    Returns:
        None for vectors without elements.

    Raises:
        ArithmeticError: Where a product is not finite.
    """
    if like.numel() == 0:
        return None
    space = Krylov(product, random_start(like, torch.Generator().manual_seed(seed)), most=most)
    while True:
        space.extend()
        values, vectors = space.ritz()
        low, high = float(values[0]), float(values[-1])
        residuals = space.residual(vectors[:, 0]), space.residual(vectors[:, -1])
        span = max(high, 0.0) - min(low, 0.0)
        missed = 0.0 if space.is_invariant else missed_share(len(space), like.numel(), confidence)
        negative = max(-low, 0.0) + missed * span
        stopped: Literal["certain", "negative", "products", "time"] | None = None
        if max(residuals) <= tolerance * span:
            if low + residuals[0] < -share * span:
                stopped = "negative"
            elif negative <= share * span:
                stopped = "certain"
        if stopped is None:
            if len(space) >= most or space.is_invariant:
                stopped = "products"
            elif not may_go_on():
                stopped = "time"
        if stopped is not None:
            return Ends(
                low=low,
                high=high,
                low_residual=residuals[0],
                high_residual=residuals[1],
                low_vector=space.vector(vectors[:, 0]),
                high_vector=space.vector(vectors[:, -1]),
                missed=missed,
                exact=space.is_invariant,
                converged=max(residuals) <= tolerance * span,
                stopped=stopped,
                products=len(space),
                size=like.numel(),
                points=tuple(values.tolist()),
                weights=tuple(vectors[0].square().tolist()),
            )


def missed_share(products: int, size: int, confidence: float = 0.95) -> float:
    """Returns the ε of Kuczyński & Woźniakowski 1992 after k products: their bound solved for it, at most 1.

    Args:
        products: k, at least one.
        size: n.
        confidence: One less the probability that an end is missed by more than ε of the spectral range.
    """
    return min(1.0, (math.log(1.648 * math.sqrt(size) / (1 - confidence)) / (2 * products - 1)) ** 2)


def failure(products: int, size: int, share: float) -> float:
    """Returns their bound itself: the probability of missing an end by more than ``share`` of the range, at most 1."""
    return min(1.0, 1.648 * math.sqrt(size) * math.exp(-math.sqrt(share) * (2 * products - 1)))


def random_start(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a unit vector uniform on the sphere ``[n]``, the same on every device."""
    start = torch.randn(like.numel(), generator=generator, dtype=torch.float64)
    unit: Tensor = (start / start.norm()).to(like)
    return unit
