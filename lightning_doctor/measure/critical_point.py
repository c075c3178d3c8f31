"""What kind of point a module's weights are: slope, saddle, minimum, flat, or not to be said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from lightning_doctor.measure.cross_check import cross_check
from lightning_doctor.measure.descent import Escape
from lightning_doctor.measure.landscape import Landscape, Loss, parts, samples
from lightning_doctor.measure.verdict import CriticalPoint, judge

# With fewer samples than this they are not divided.
_FEW = 8
# Sub-batches of the testing samples: enough for a standard error, few enough to cost about as much as one batch.
_PARTS = 16


def classify_critical_point(
    module: nn.Module, batch: Any, loss: Loss, *, other: Any = None, share: float = 0.02, most: int = 100
) -> CriticalPoint:
    """Says what kind of point the weights of a module are, for the loss of some samples.

    A saddle must be one on samples that did not choose its way down; a minimum is one as far as k products with the
    Hessian can tell, by the bound of Kuczyński & Woźniakowski 1992; what can be told neither way is inconclusive.

    Example:
        ``classify_critical_point(net, (x, y), lambda net, batch: mse_loss(net(batch[0]), batch[1])).kind``

    Args:
        module: In the mode, train or eval, in which it is to be looked at. It is as before afterwards.
        batch: Tensors, or a nest of dicts, lists and tuples of them, whose first axis counts samples ``[N, …]``. The
            more samples, the surer the verdict.
        loss: ``loss(module, batch)``: the mean loss over the samples, a scalar.
        other: Samples to test on, of the same form. Without them the first half of ``batch`` chooses and the second
            tests; fewer than 8 samples are taken for all the data there is, and choose and test at once.
        share: Curvature further under zero than this share of the spectral range matters, in (0, 1).
        most: The most products with the Hessian, each of about two gradients.

    Raises:
        RuntimeError: Where an operation in the module cannot be differentiated twice.
    """
    land = Landscape(module, loss)
    chosen, tested, held_out = _divided(batch, other)
    hessian = land.hessian(chosen)
    point = judge(
        hessian,
        lambda offset: land.losses([chosen], offset),
        lambda offset: land.losses(tested, offset),
        length=float(land.weights.norm()),
        held_out=held_out,
        share=share,
        most=most,
    )
    point = replace(point, samples=samples(chosen), tested=_total(tested))
    if hessian.custom_functions and point.kind != "slope":
        check = cross_check(land, chosen)
        if not check.agrees:
            return replace(point, kind="inconclusive", because=check.because)
    return point


def escape_direction(
    module: nn.Module, batch: Any, loss: Loss, *, other: Any = None, share: float = 0.02, most: int = 100
) -> Escape | None:
    """Returns the way down along the most negative curvature, whatever kind of point the weights are.

    ``for p, d in zip(parameters, way.along(parameters)): p.data += way.distance * d`` goes there, for the parameters
    that require gradients.

    Args:
        module: As in :func:`classify_critical_point`, like all that follow.
        batch: Samples.
        loss: Their mean loss.
        other: Samples to test on.
        share: Of the spectral range that matters.
        most: The most products.

    Returns:
        None where no negative curvature was found, or the loss goes down along it nowhere.

    Raises:
        RuntimeError: Where an operation in the module cannot be differentiated twice.
    """
    return classify_critical_point(module, batch, loss, other=other, share=share, most=most).escape


def _divided(batch: Any, other: Any) -> tuple[Any, list[Any], bool]:
    """Returns the choosing samples, the testing sub-batches, and whether these are others."""
    if other is not None:
        count = samples(other) or 1
        return batch, parts(other, 0, count, min(_PARTS, count)) if count > 1 else [other], True
    count = samples(batch) or 1
    if count < _FEW:
        return batch, [batch], False
    half = count // 2
    return parts(batch, 0, half, 1)[0], parts(batch, half, count, min(_PARTS, count - half)), True


def _total(batches: list[Any]) -> int | None:
    counts = [samples(batch) for batch in batches]
    return None if None in counts else sum(count or 0 for count in counts)
