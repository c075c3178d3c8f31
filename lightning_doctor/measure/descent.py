"""How far a direction leads down, chosen on some samples and tested on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_doctor.measure.evidence import Evidence, evidence
from lightning_doctor.measure.hessian import unflat

LossesAt = Callable[[Tensor], Tensor]
"""The losses of sub-batches of equal size ``[S]`` at the weights plus an offset ``[n]``."""

# Chances that are too small to be one: of a slope and of an escape. A slope taken for none would make a minimum of a
# point on the way down, and so less will do for it.
_SLOPE, _ESCAPE = 0.05, 0.01
# The shares of a chosen distance that are tested: samples that choose one like it longer than others do.
_SLOPE_SHARES, _ESCAPE_SHARES = (1.0, 0.5, 0.25, 0.125), (1.0, 0.5)
# How many standard errors over what was measured a fall may lie.
_HIGHEST = 2.0
# Doublings and halvings of a distance until it is given up.
_DOUBLINGS, _HALVINGS = 16, 8


@dataclass(frozen=True)
class Slope:
    """What the gradient promises, and what becomes of it along the line that it points down.

    Attributes:
        norm: ‖g‖ on the samples that chose the line [unit of the loss per unit of the weights].
        sharpness: gᵀHg/gᵀg on them; 0 without a gradient.
        chosen_fall: What was taken off the loss of the samples that chose the line: more than the truth, as their
            noise points down for them, too.
        distance: How far along −g other samples were tested; 0 where it leads down nowhere.
        predicted_fall: What the slope alone would take off the loss of the others there.
        fall: What was taken off it.
        error: The standard error of ``fall`` over sub-batches; None where there is a single one.
        highest_fall: What may be taken off it at any distance tested, two standard errors over what was measured.
        real: Whether ``fall`` is beyond chance and rounding.
    """

    norm: float
    sharpness: float
    chosen_fall: float
    distance: float
    predicted_fall: float
    fall: float
    error: float | None
    highest_fall: float
    real: bool

    @property
    def curvature_fall(self) -> float:
        """What was taken off the loss beyond what the slope predicted."""
        return self.fall - self.predicted_fall


@dataclass(frozen=True)
class Escape:
    """A way down along a direction of negative curvature.

    Attributes:
        direction: A unit vector ``[n]``, towards the lower side.
        curvature: Along it, on the samples that chose it [loss per squared unit of the weights].
        residual: An eigenvalue lies within this of ``curvature``.
        tested_curvature: Along it, on the others, from their losses at ``distance``: smaller where higher orders
            set in.
        distance: How far to go: about where the loss of the choosing samples is lowest, or half as far.
        fall: L(0) − ½[L(+d) + L(−d)] on the others: both sides, so that a leftover slope counts for nothing.
        share: The same as a share of their loss.
        error: Its standard error over sub-batches; None where there is a single one.
        real: Whether it is beyond chance and rounding.
    """

    direction: Tensor
    curvature: float
    residual: float
    tested_curvature: float
    distance: float
    fall: float
    share: float
    error: float | None
    real: bool

    def along(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Returns the direction as one tensor per parameter, of its shape and dtype.

        Args:
            parameters: All that require gradients, in the order of the module.
        """
        return [part.to(p.dtype) for part, p in zip(unflat(self.direction, parameters), parameters, strict=True)]


def slope(gradient: Tensor, sharpness: float, choosing: LossesAt, testing: LossesAt, *, resolution: float) -> Slope:
    """Follows the gradient down as far as it leads, then asks other samples.

    Args:
        gradient: ``[n]``, of the choosing samples, finite.
        sharpness: gᵀHg/gᵀg on them.
        choosing: Their losses.
        testing: Losses of others.
        resolution: The relative rounding of a loss.
    """
    norm = float(gradient.norm())
    loss = _mean(choosing, torch.zeros_like(gradient))
    # Where the quadratic along the line has its bottom; where a straight line would have taken off all of the loss.
    scales = [value for value in (_over(norm, abs(sharpness)), _over(abs(loss), norm)) if value > 0]
    if norm == 0 or not scales:
        return Slope(norm, sharpness, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    down = gradient * (-1 / norm)
    reach = _farthest(lambda distance: loss - _mean(choosing, distance * down), min(scales) / 8)
    if reach == 0:
        return Slope(norm, sharpness, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    chosen = loss - _mean(choosing, reach * down)
    before = testing(torch.zeros_like(gradient))
    tests = [(share * reach, evidence(before - testing(share * reach * down))) for share in _SLOPE_SHARES]
    distance, found, real = _surest(tests, _SLOPE, resolution * abs(float(before.mean())))
    # Both sides of a short step: what bends the line one way on one side bends it the other way on the other.
    short = reach / 16
    rise = float((testing(-short * down) - testing(short * down)).mean()) / (2 * short)
    highest = max(found.mean + _HIGHEST * (found.error or 0.0) for _, found in tests)
    return Slope(norm, sharpness, chosen, distance, rise * distance, found.mean, found.error, highest, real)


def escape(
    direction: Tensor,
    curvature: float,
    residual: float,
    choosing: LossesAt,
    testing: LossesAt,
    *,
    resolution: float,
) -> Escape | None:
    """Looks how far a direction of negative curvature leads down, then asks other samples.

    Args:
        direction: A unit vector ``[n]``.
        curvature: Along it, negative.
        residual: Of the two as an eigenpair.
        choosing: Losses of the samples that chose the direction; they choose the distance too.
        testing: Losses of others.
        resolution: The relative rounding of a loss.

    Returns:
        None where no distance lowers the loss of the choosing samples.
    """
    loss = _mean(choosing, torch.zeros_like(direction))

    def fall(distance: float) -> float:
        return loss - (_mean(choosing, distance * direction) + _mean(choosing, -distance * direction)) / 2

    # Where the quadratic would have taken off all of the loss.
    scale = math.sqrt(2 * abs(loss) / -curvature) or 1.0
    distance = _farthest(fall, scale / 16)
    if distance == 0:
        return None
    distance = max((distance / math.sqrt(2), distance, distance * math.sqrt(2)), key=fall)
    if _mean(choosing, -distance * direction) < _mean(choosing, distance * direction):
        direction = -direction
    before = testing(torch.zeros_like(direction))
    level = abs(float(before.mean()))
    tests = [(part * distance, _both_sides(before, direction, part * distance, testing)) for part in _ESCAPE_SHARES]
    distance, found, real = _surest(tests, _ESCAPE, resolution * level)
    return Escape(
        direction=direction,
        curvature=curvature,
        residual=residual,
        tested_curvature=-2 * found.mean / distance**2,
        distance=distance,
        fall=found.mean,
        share=_over(found.mean, level),
        error=found.error,
        real=real,
    )


def _surest(tests: list[tuple[float, Evidence]], chance: float, rounding: float) -> tuple[float, Evidence, bool]:
    """Returns the distance with the largest fall of those that are real, of all where none is, and whether it is."""
    # Each test has its own chance to look real.
    real = [(d, found) for d, found in tests if found.chance * len(tests) < chance and found.mean > rounding]
    distance, found = max(real or tests, key=lambda test: test[1].mean)
    return distance, found, bool(real)


def _both_sides(before: Tensor, direction: Tensor, distance: float, losses: LossesAt) -> Evidence:
    """Weighs L(0) − ½[L(+d) + L(−d)] over sub-batches."""
    return evidence(before - (losses(distance * direction) + losses(-distance * direction)) / 2)


def _farthest(fall: Callable[[float], float], start: float) -> float:
    """Returns the distance, by factors of two, up to which the fall grows; 0 where there is none."""
    best, most, distance = 0.0, 0.0, start
    for _ in range(_DOUBLINGS):
        found = fall(distance)
        if not found > most:
            break
        best, most = distance, found
        distance *= 2
    distance = start
    for _ in range(_HALVINGS):
        if best:
            break
        distance /= 2
        if fall(distance) > 0:
            best = distance
    return best


def _mean(losses: LossesAt, offset: Tensor) -> float:
    mean = float(losses(offset).double().mean())
    # What overflows has not fallen.
    return mean if math.isfinite(mean) else math.inf


def _over(one: float, other: float) -> float:
    return one / other if other > 0 else 0.0
