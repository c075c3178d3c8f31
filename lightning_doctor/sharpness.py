"""How near the curvature is to what the optimizer bears at its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from lightning_doctor.curvature import is_full_batch, late_values
from lightning_doctor.history import History
from lightning_doctor.prescriptions import optimizer
from lightning_doctor.stability import Limits, limits
from lightning_doctor.step_sizes import rate_at


def stability(history: History, step: int) -> Limits | None:
    """Returns the limits of the optimizer at the learning rate of a step; None where no theory covers it."""
    optimizers = history.fact("optimizers")
    first = optimizers[0] if isinstance(optimizers, list) and optimizers else None
    groups = first.get("groups") if isinstance(first, Mapping) else None
    rate = rate_at(history, step)
    # Groups of their own rates, or a momentum that is scheduled, have more than one limit.
    scheduled = len(set(history.get("momentum").values)) > 1
    if not isinstance(groups, list) or len(groups) != 1 or scheduled or rate is None:
        return None
    if not isinstance(groups[0], Mapping) or not 0 < rate < math.inf:
        return None
    found = limits(optimizer(history), {**groups[0], "lr": rate}, "full" if is_full_batch(history) else "mini")
    # The probe's preconditioned curvature is without the decay.
    return None if found is None or found.decay else found


def gauge(history: History, kind: str, least: int) -> str:
    """Returns the series of what is compared with a limit of this kind: the largest curvature, or that along batches.

    Where the largest curvature is known at fewer than ``least`` steps, it is the one along the gradient of the whole
    batch, which it is never under.
    """
    if kind == "preconditioned":
        return "curvature/preconditioned"
    known = len(history.get("curvature/high").finite()) >= least
    return "curvature/high" if kind == "curvature" and known else "curvature/sharpness"


def largest_rate(history: History) -> float | None:
    """Returns the largest learning rate that is surely stable where the run is; None where that is not known."""
    sharpness = history.get("curvature/sharpness").finite()
    bounds = stability(history, sharpness.steps[-1]) if sharpness.steps else None
    if bounds is None or bounds.low is None:
        return None
    rate = rate_at(history, sharpness.steps[-1])
    # Of one batch it may be that of a strange one.
    values = late_values(history, gauge(history, bounds.gauge, 1))
    steep = median(values) if values else 0.0
    return rate * bounds.low / steep if rate is not None and steep > 0 and bounds.low > 0 else None
