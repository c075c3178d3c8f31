"""LD401: the run rests at a saddle: the gradient is near zero, and a way down exists."""

from __future__ import annotations

import math

from lightning_doctor.curvature import (
    Escape,
    Probe,
    does_badly,
    is_full_batch,
    known,
    resting_since,
    standing_probe,
    step_batch,
)
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.prescriptions import is_adaptive, momentum, optimizer, peak_rate
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

# Share of its highest value under which a learning rate moves nothing.
_GONE = 0.001


@rule(
    "LD401",
    needs={"train_loss": 8},
    reads=("curvature",),
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "stale_validation",
        "collapsed_output",
        "learning_rate_too_low",
    ),
)
def saddle_point(history: History, *, sigmas: float = 2.0) -> Finding | None:
    """The run rests at a saddle: the gradient is near zero, and a way down exists.

    What it looks at:
        The newest curvature probe: whether the gradient promises any fall, the most negative curvature against the
        largest, and the loss along that direction, to both sides, on samples that did not choose it.

    Why it matters:
        The loss looks as if training were over, and there is more to be had: plain gradient descent may need very long
        to leave a saddle, as it has next to no slope to go by.

    Sick:
        a curvature of −2 beside one of 2, and the loss down by 0.12 (9 %) at distance 0.4 along it

    Healthy:
        hundreds of curvatures of −0.001 beside one of 40 in a network that has converged; a saddle that the run is
        about to leave; one where a schedule had left no steps to leave it by

    Remedy:
        Momentum, smaller batches or an adaptive optimizer; or a step along the direction that leads down.

    Thresholds:
        sigmas: How far over nothing that fall must lie [standard errors].

    Blind spots:
        A saddle whose way down is no quadratic one, as that of a cube, is inconclusive. What lies beyond the saddle is
        not known: the next plateau may be near.
    """
    probe = standing_probe(history)
    if probe is None or probe.kind != "saddle" or probe.escape is None or probe.gradient.near_zero is False:
        return None
    way, now = probe.escape, standing(history)
    # `not … > …` so that a number that is not known does not pass.
    if not way.fall > 0 or way.fall < sigmas * way.standard_error:
        return None
    if now.good or now.improving or _stood_still(history, probe):
        return None
    harmed = does_badly(history)
    return Finding(
        severity=Severity.WARNING if harmed else Severity.NOTE,
        summary=f"a saddle since step {probe.step} at the latest: the gradient promises nothing, and along the most "
        f"negative curvature ({probe.low.value:.3g}, the largest is {probe.high.value:.3g}) the loss goes down by "
        f"{way.fall:.3g} ({_share(way, probe):.0%}) at distance {way.distance:.2g}",
        evidence=known(
            lowest_curvature=probe.low.value,
            residual=probe.low.residual,
            highest_curvature=probe.high.value,
            distance=way.distance,
            fall=way.fall,
            loss_below=probe.loss - way.fall,
            share=_share(way, probe),
            standard_error=way.standard_error,
            samples=way.samples,
            probed_at=probe.step,
        ),
        remedy=_remedy(history, way),
        confidence=Confidence.CONFIRMED if harmed else Confidence.SUSPECTED,
        onset=resting_since(history, probe),
        signals=("curvature/low", "curvature/high", "train_loss"),
    )


def _stood_still(history: History, probe: Probe) -> bool:
    """Whether no steps to speak of were made for half of the run, whatever the curvature is like there."""
    peak, rates = peak_rate(history), history.get("learning_rate")
    since = [*rates.until(probe.step // 2)[-1:], *rates.since(probe.step // 2 + 1)]
    return peak is not None and peak > 0 and bool(since) and max(since) <= _GONE * peak


def _share(way: Escape, probe: Probe) -> float:
    return way.fall / abs(probe.loss) if math.isnan(way.share) and probe.loss else way.share


def _remedy(history: History, way: Escape) -> str:
    rate = peak_rate(history)
    if is_adaptive(history):
        ways = ["raise lr" if rate is None else f"raise lr from {rate:.3g} to {3 * rate:.2g} until it has left"]
    elif momentum(history) == 0:
        ways = ["use momentum (0.9)", f"use Adam instead of {optimizer(history)}"]
    else:
        ways = [f"use Adam instead of {optimizer(history) or 'the optimizer'}"]
    batch = step_batch(history)
    if is_full_batch(history):
        ways.append("train on batches, whose noise leaves a saddle")
    elif batch is not None and batch >= 32:
        ways.append(f"use batches of {batch // 4} instead of {batch}")
    return f"{', or '.join(ways)}, or go {way.distance:.2g} along `lightning_doctor.measure.escape_direction`"
