"""LD404: the curvature hovers at the largest that the optimizer's steps bear."""

from __future__ import annotations

from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.prescriptions import optimizer
from lightning_doctor.rule import Undecided, rule
from lightning_doctor.sharpness import gauge, stability
from lightning_doctor.step_sizes import rate_at


@rule("LD404", needs={"learning_rate": 1, "curvature/sharpness": 3})
def edge_of_stability(history: History, *, near: float = 1.25, least: int = 3) -> Finding | None:
    """The curvature hovers at the largest that the optimizer's steps bear.

    What it looks at:
        ``curvature/high`` of full-batch gradient descent, ``curvature/sharpness`` (the curvature along a batch's own
        gradient) of SGD, ``curvature/preconditioned`` of full-batch Adam, against the limit of the optimizer at its
        learning rate: 2/lr for plain gradient descent.

    Why it matters:
        It is what training at a constant rate comes to by itself: the curvature rises to the limit and stays there
        (Cohen et al. 2021), while the loss goes down in small waves. It tells that a larger rate would mean flatter
        regions rather than longer strides.

    Sick:
        20.4, 19.6, 20.3 at lr 0.1, whose limit is 20: no illness, and nothing to be done

    Healthy:
        0.5, 2.1, 6.3 at lr 0.1

    Remedy:
        None is needed; lower the learning rate only where the loss becomes unstable.

    Thresholds:
        near: Within which factor of the limit the curvature must lie in the last probes [ratio].
        least: How many of them there must be [probes].

    Blind spots:
        SGD with momentum on small batches has two limits far apart, and mini-batch Adam has none that is known: between
        the two, and where there is none, the rule is unassessed.
    """
    bounds = stability(history, history["curvature/sharpness"].steps[-1])
    if bounds is None or bounds.low is None or bounds.high is None:
        raise Undecided(f"no limit of {optimizer(history) or 'this optimizer'} on its batches is known")
    if not bounds.low > 0:
        return None
    if bounds.low != bounds.high:
        _refuse_gap(history, bounds.low, bounds.high)
        return None
    name = gauge(history, bounds.gauge, least)
    series = history.get(name).finite()
    shares = []
    for step, value in list(zip(series.steps, series.values, strict=True))[-least:]:
        there = stability(history, step)
        if there is None or there.low is None or not there.low > 0:
            return None
        shares.append(value / there.low)
    if len(shares) < least or not all(1 / near <= share <= near for share in shares):
        return None
    rate = rate_at(history, series.steps[-1])
    return Finding(
        severity=Severity.NOTE,
        summary=f"the curvature hovers at {median(shares):.2g} of {bounds.low:.3g}, the largest that "
        f"{optimizer(history)} bears at lr {rate:.3g}: the edge of stability, where training goes by itself",
        evidence={
            "curvature": series.values[-1],
            "limit": bounds.low,
            "share": median(shares),
            "rate": rate if rate is not None else 0.0,
            "source": bounds.source,
        },
        remedy="none is needed; lower lr only where the loss becomes unstable",
        confidence=Confidence.CONFIRMED,
        onset=series.steps[-least],
        signals=(name, "learning_rate", "train_loss"),
    )


def _refuse_gap(history: History, low: float, high: float) -> None:
    latest = history["curvature/sharpness"].values[-1]
    if low <= latest <= high:
        raise Undecided(
            f"the sharpness, {latest:.3g}, lies between {low:.3g} and {high:.3g}, where theory does not tell what "
            "momentum bears on batches"
        )
