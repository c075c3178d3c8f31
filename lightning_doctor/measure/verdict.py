"""What kind of point some weights are, from products with the Hessian and losses around them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lightning_doctor.measure.descent import Escape, LossesAt, Slope, escape, slope
from lightning_doctor.measure.hessian import Curvature
from lightning_doctor.measure.lanczos import Ends, ends, random_start
from lightning_doctor.measure.sharpness import batch_sharpness

Kind = Literal["slope", "saddle", "minimum", "flat", "inconclusive"]

# A gradient whose line takes off at most this share of what the escape takes off the loss is a leftover.
_LEFTOVER = 0.25
# What the gradient may take off its own samples' loss, noise and all, where a minimum is said to be [share of it].
_UNSEEN = 0.05
# The change of a loss that counts as none where it should be flat [share of the loss].
_STILL = 1e-3
# Distances at which a flat point must be flat [length of the weights]; where these are zero, ten times as far [1].
_DISTANCES = (0.01, 0.03, 0.1)


@dataclass(frozen=True)
class CriticalPoint:
    """A verdict and all that it rests on.

    Attributes:
        kind: ``"slope"``: the gradient leads down. ``"saddle"``: it does not, but a direction of negative curvature
            does, on other samples too. ``"minimum"``: no curvature under ``-share`` of the spectral range, at 95 %.
            ``"flat"``: neither gradient nor curvature, nor the loss at finite distances. ``"inconclusive"``: none of
            these can be said.
        because: Why, as a clause.
        loss: Of the testing samples [unit of the loss]; NaN where it was not computed.
        share: Of the spectral range: curvature further under zero matters.
        ends: Both ends of the spectrum, on the choosing samples; None where they are unknown.
        slope: What the gradient promises; None where that is unknown.
        escape: The way down along the most negative curvature; None where there is none.
        near_zero: Whether the gradient is as good as zero; None where that is unknown.
        products: Products with the Hessian in all.
        held_out: Whether the testing samples are others than the choosing ones.
        samples: How many chose; None where nobody said.
        tested: How many tested; None where nobody said.
        cut_short: Whether time ran out before all that was to be tried had been.
    """

    kind: Kind
    because: str
    loss: float
    share: float
    ends: Ends | None
    slope: Slope | None
    escape: Escape | None
    near_zero: bool | None
    products: int
    held_out: bool
    samples: int | None = None
    tested: int | None = None
    cut_short: bool = False

    @property
    def failure(self) -> float:
        """The probability that curvature under ``-share`` of the spectral range was missed, by the bound, at most 1."""
        return 1.0 if self.ends is None else self.ends.failure(self.share)


class _NoTime(Exception):  # noqa: N818
    """There is no leave to go on."""


def judge(
    hessian: Curvature,
    choosing: LossesAt,
    testing: LossesAt,
    *,
    length: float,
    held_out: bool = True,
    share: float = 0.02,
    most: int = 100,
    may_go_on: Callable[[], bool] = lambda: True,
    resolution: float | None = None,
    seed: int = 0,
) -> CriticalPoint:
    """Says what kind of point the weights are.

    All products come first; then the graph is let go, if there is one, and losses are computed at other weights.
    Directions and distances are chosen on some samples and tested on others, sub-batch by sub-batch, with Student's
    test: a batch's own most negative curvature lowers that batch by construction.

    Args:
        hessian: Of the loss of the choosing samples.
        choosing: Losses of the choosing samples, of one or more sub-batches of equal size.
        testing: Losses of the testing samples, of several sub-batches of equal size; a single one counts as all the
            data there is, without an error of sampling.
        length: Of the weights.
        held_out: Whether the testing samples are others.
        share: Of the spectral range: curvature further under zero matters.
        most: The most products.
        may_go_on: Asked before each product and each evaluation of losses.
        resolution: The relative rounding of a loss; that of the gradient's dtype where not given.
        seed: Of random directions.
    """
    gradient = hessian.gradient
    rounding = 10 * torch.finfo(gradient.dtype).eps if resolution is None else resolution
    point = CriticalPoint("inconclusive", "", math.nan, share, None, None, None, None, 0, held_out)

    def asked(losses: LossesAt) -> LossesAt:
        def ask(offset: Tensor) -> Tensor:
            if not may_go_on():
                raise _NoTime
            return losses(offset)

        return ask

    choosing, testing = asked(choosing), asked(testing)
    try:
        sharpness = batch_sharpness(hessian)
        spectrum = ends(hessian, gradient, share=share, most=most, may_go_on=may_go_on, seed=seed)
    except ArithmeticError as error:
        return replace(point, because=str(error), products=hessian.products)
    finally:
        release = getattr(hessian, "release", None)
        if release is not None:
            release()
    point = replace(point, ends=spectrum, products=hessian.products)
    if spectrum is None:
        return replace(point, because="there are no parameters")
    try:
        start = testing(torch.zeros_like(gradient))
        point = replace(point, loss=float(start.double().mean()))
        if not math.isfinite(point.loss):
            return replace(point, because="the loss is not finite")
        point = replace(point, slope=slope(gradient, sharpness, choosing, testing, resolution=rounding))
        if _is_seen(spectrum.low + spectrum.low_residual, length, rounding * abs(point.loss)):
            way = escape(
                spectrum.low_vector,
                spectrum.low,
                spectrum.low_residual,
                choosing,
                testing,
                resolution=rounding,
            )
            point = replace(point, escape=way)
        point = replace(point, near_zero=_near_zero(point))
        return _saddle(point) or _flat(point, testing, start, length, seed) or _slope(point) or _minimum(point)
    except _NoTime:
        return _out_of_time(point)


def _is_seen(curvature: float, length: float, rounding: float) -> bool:
    """Whether negative curvature takes more than rounding off the loss within a distance of one or of the weights."""
    return -curvature * max(length, 1.0) ** 2 / 2 > rounding


def _near_zero(point: CriticalPoint) -> bool:
    line, way = point.slope, point.escape
    if line is None or not line.real or line.predicted_fall < line.curvature_fall:
        return True
    return way is not None and way.real and line.fall < _LEFTOVER * way.fall


def _saddle(point: CriticalPoint) -> CriticalPoint | None:
    spectrum, line, way = point.ends, point.slope, point.escape
    if not point.near_zero or spectrum is None or line is None or way is None or not way.real:
        return None
    # A slope lost in noise may still be one: at its highest it must promise less.
    if not line.real and line.highest_fall > way.fall:
        return None
    if spectrum.low + spectrum.low_residual >= -point.share * spectrum.span:
        return None
    others = "other samples" if point.held_out else "the same samples"
    return replace(
        point,
        kind="saddle",
        because=f"along a curvature of {spectrum.low:.3g}, beside a largest one of {spectrum.high:.3g}, the loss of "
        f"{others} goes down by {way.fall:.2g} ({way.share:.0%}) at distance {way.distance:.2g}, both sides averaged",
    )


def _slope(point: CriticalPoint) -> CriticalPoint | None:
    line = point.slope
    if line is None or not line.real:
        return None
    return replace(
        point,
        kind="slope",
        because=f"against the gradient the loss goes down by {line.fall:.2g} at distance {line.distance:.2g}",
    )


def _flat(point: CriticalPoint, losses: LossesAt, start: Tensor, length: float, seed: int) -> CriticalPoint | None:
    spectrum, line, level = point.ends, point.slope, abs(point.loss)
    if spectrum is None or line is None or (line.real and line.fall > _STILL * level):
        return None
    scale = length if length > 0 else 10.0
    reach = _DISTANCES[-1] * scale
    promised = line.norm * reach + max(abs(spectrum.low), abs(spectrum.high)) * reach**2 / 2
    if promised > _STILL * level:
        return None
    generator = torch.Generator().manual_seed(seed + 1)
    directions = [random_start(spectrum.low_vector, generator) for _ in range(4)]
    directions += [spectrum.low_vector, spectrum.high_vector]
    for distance in _DISTANCES:
        for direction in directions:
            for side in (distance * scale, -distance * scale):
                change = abs(float((losses(side * direction) - start).double().mean()))
                if not change <= _STILL * level:
                    return replace(
                        point,
                        because="gradient and curvature vanish, yet the loss changes by "
                        f"{_percent(change, level)} at distance {abs(side):.2g}",
                    )
    return replace(
        point,
        kind="flat",
        because=f"gradient and curvature vanish, and the loss changes by less than {_STILL:.1%} of itself in any "
        f"direction tried up to distance {reach:.2g}",
    )


def _percent(change: float, level: float) -> str:
    return f"{change / level:.2%}" if level > 0 else f"{change:.2g}"


def _minimum(point: CriticalPoint) -> CriticalPoint:
    spectrum, line = point.ends, point.slope
    if spectrum is None or line is None:
        return point
    if spectrum.stopped == "certain" and spectrum.high > 0:
        if line.chosen_fall > _UNSEEN * abs(point.loss):
            because = f"the gradient is lost in noise: it may take {line.chosen_fall:.2g} off the loss, or nothing"
            return replace(point, because=because)
        return replace(
            point,
            kind="minimum",
            because=f"the gradient leads down nowhere, and no curvature lies below −{point.share:.2g} of the spectral "
            f"range ({spectrum.low:.2g} … {spectrum.high:.2g}) at 95 %",
        )
    if spectrum.stopped == "negative":
        where = "other samples" if point.held_out else "these samples"
        because = (
            f"there is a curvature of {spectrum.low:.3g}, beside {spectrum.high:.3g}, but how the loss of {where} goes "
            "along it and along the gradient is lost in noise"
        )
    elif spectrum.stopped == "time":
        return _out_of_time(point)
    else:
        because = (
            f"after {spectrum.products} products curvature down to −{spectrum.least_share:.2g} of the spectral range "
            "cannot be excluded"
        )
    return replace(point, because=because)


def _out_of_time(point: CriticalPoint) -> CriticalPoint:
    return replace(point, because=f"the time ran out after {point.products} products", cut_short=True)
