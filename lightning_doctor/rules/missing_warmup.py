"""LD110: the first steps of an adaptive optimizer are too long, later ones are not."""

from __future__ import annotations

from statistics import median

from lightning_doctor.curvature import late_values
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import gradient_ratios, measured
from lightning_doctor.prescriptions import is_adaptive, optimizer
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule
from lightning_doctor.step_sizes import ScannedStep, began_dead, median_change, scanned_steps, smallest_limit

# Steps that are the first ones of any run.
_FEW = 16
# How many times as long first steps that are too long may take to erase what the network tells.
_WHILE = 4
# Probes that tell what later steps do.
_PROBES = 3


@rule(
    "LD110",
    needs={"train_loss": 32, "learning_rate": 1},
    explains=(
        "vanishing_gradients",
        "diverging_loss",
        "exploding_gradients",
        "dead_units",
        "saturated_units",
        "collapsed_output",
        "loss_plateau",
        "loss_spike",
        "stuck_at_baseline",
        "undertrained",
    ),
)
def missing_warmup(
    history: History, *, opening: float = 0.1, rise: float = 1.2, share: float = 0.25, erased: float = 0.01
) -> Finding | None:
    """The first steps of an adaptive optimizer are too long, later ones are not.

    What it looks at:
        ``scan/…`` of the run's first steps and of its later half, ``train_loss`` in between, ``learning_rate``;
        ``output_spread`` and the gradients of the first and the last layer over the first steps. Where scans are
        missing, ``curvature/step_ratio``: a step is too long by as much as it is over 1.

    Why it matters:
        Adam's first steps are as long as its learning rate in every weight, whatever the gradient: what they break a
        smaller rate later does not mend.

    Sick:
        the first steps raise the loss, from 2.4 to 9.1, which a tenth of them would lower; later ones do not. Or
        after 16 steps outputs differ from sample to sample by 0.0003, where they differed by 0.1, and no gradient
        comes through to the first layer any more

    Healthy:
        steps that overshoot throughout are a rate that is too high; a run that does well needs no warm-up

    Remedy:
        Warm the learning rate up from under the limit of the first steps.

    Thresholds:
        opening: Share of the run that counts as its first steps [share].
        rise: How many times its first value the loss must reach there [ratio].
        share: Share of the later scanned steps that may overshoot at most, and of the first ones that must [share].
        erased: Share of their first size to which the differences between outputs, and the gradient of the first
            layer beside that of the last, must fall over the first steps to have been erased by them [share].

    Blind spots:
        Plain SGD, whose first steps are as long as the gradient says. A network whose units its first steps killed
        says nothing of later ones: that is a rate too high.
    """
    losses, rates = history["train_loss"], history["learning_rate"].values
    if not is_adaptive(history) or not standing(history).harmed or min(losses.values) < 0:
        return None
    if rates[0] < 0.5 * max(rates):
        return None
    end = losses.steps[0] + max(8.0, opening * (losses.steps[-1] - losses.steps[0]))
    scans = scanned_steps(history)
    later = [scan for scan in scans if scan.step > scans[-1].step / 2]
    if began_dead(history) or sum(scan.overshoots for scan in later) > max(1, share * len(later)):
        return None
    overshot = any(scan.overshoots for scan in scans if scan.step <= end)
    # Where the first steps were too long it takes a while until they have done their work.
    within = max(end, _FEW) * (_WHILE if overshot else 1)
    return _raised(history, end, rise, share, later) or _erased(history, within, erased)


def _raised(history: History, end: float, rise: float, share: float, later: list[ScannedStep]) -> Finding | None:
    """First steps that raised the loss, and later ones that do not."""
    losses, rate = history["train_loss"], history["learning_rate"].values[0]
    first = [scan for scan in scanned_steps(history) if scan.step <= end]
    over = [scan for scan in first if scan.overshoots]
    # One of many is luck, as it is later on.
    over = over if len(over) > share * len(first) else []
    limit = smallest_limit(over) or _limit_by_curvature(history, end)
    peak = max(value for step, value in zip(losses.steps, losses.values, strict=True) if step <= end)
    if limit is None or peak < rise * losses.values[0] or not (later or _gains_later(history)):
        return None
    if later and _is_dead(history, later[0].step):
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the first steps of {optimizer(history)} at lr {rate:.3g} raised the loss from "
        f"{losses.values[0]:.4g} to {peak:.4g}, where steps under {limit:.3g} would have lowered it; later ones do not",
        evidence={
            "rate": rate,
            "limit": limit,
            "start": losses.values[0],
            "peak": peak,
            "overshot_at_first": len(over),
            "scanned_at_first": len(first),
            **({"later_change": median(scan.change for scan in later)} if later else {}),
        },
        remedy=f"warm lr up to {rate:.3g} over the first {_warmup(history)} steps, from {limit / 2:.2g} or less",
        confidence=Confidence.SUSPECTED,
        onset=over[0].step if over else losses.steps[0],
        signals=("scan_limit", "train_loss", "learning_rate"),
    )


def _limit_by_curvature(history: History, end: float) -> float | None:
    """Returns the rate at which the second order of a first step would have taken back all that its first gains."""
    ratios = history.get("curvature/step_ratio").finite()
    first = [ratio for step, ratio in zip(ratios.steps, ratios.values, strict=True) if step <= end]
    return history["learning_rate"].values[0] / max(first) if max(first, default=0.0) > 1 else None


def _gains_later(history: History) -> bool:
    """Whether the second order of later steps leaves some of what their first gains."""
    ratios = late_values(history, "curvature/step_ratio")
    return len(ratios) >= _PROBES and all(0 < ratio < 1 for ratio in ratios)


def _erased(history: History, end: float, erased: float) -> Finding | None:
    """First steps after which the outputs are the same for every input, and the first layers without a gradient."""
    spreads = history.get("output_spread").finite()
    layers = measured(history, "grad_norm")
    if len(spreads) < 4 or len(layers) < 2 or not spreads.values[0] > 0:
        return None
    through = gradient_ratios(history, layers[0], layers[-1])
    at = _gone_since(list(zip(spreads.steps, spreads.values, strict=True)), erased)
    if at is None:
        # Predictions are looked at less often than gradients.
        at = _gone_since(through, erased**2)
    if at is None or not through or at > end:
        return None
    before, after = through[0][1], [ratio for step, ratio in through if step >= at]
    # A gradient of exactly nothing was cut off by dead units, as a rate that is too high leaves them.
    if not after or not 0 < median(after) <= erased * before:
        return None
    spread = [*spreads.since(at), spreads.values[-1]][0]
    rate = history["learning_rate"].values[0]
    return Finding(
        severity=Severity.WARNING,
        summary=f"the first {at + 1} steps of {optimizer(history)} at lr {rate:.3g} erased what the network tells of "
        f"its input: outputs differ by {spread:.2g}, at first by {spreads.values[0]:.2g}, and the gradient of "
        f"{layers[0]} fell to {median(after) / before:.1g} of what it was beside that of {layers[-1]}",
        evidence={
            "rate": rate,
            "erased_at": at,
            "first_spread": spreads.values[0],
            "spread": spread,
            "gradient_share": median(after) / before,
        },
        remedy=f"warm lr up to {rate:.3g} over the first {_warmup(history)} steps, or lower it to {rate / 10:.1g}",
        confidence=Confidence.SUSPECTED,
        onset=spreads.steps[0],
        signals=("output_spread", f"grad_norm/{layers[0]}", "learning_rate"),
    )


def _gone_since(values: list[tuple[int, float]], share: float) -> int | None:
    """Returns the first step at which a value was under a share of the first one, if it stayed there; else None."""
    index = next((i for i, (_, value) in enumerate(values) if value <= share * values[0][1]), None)
    if index is None or median([value for _, value in values[index:]][-3:]) > share * values[0][1]:
        return None
    return values[index][0]


def _is_dead(history: History, since: int) -> bool:
    """Whether no step does anything any more: then the later ones are no proof that the rate is fit for them."""
    far = median_change(history, 16.0, since)
    return far is None or abs(far) < 1e-3 or any(not norm for norm in history.get("grad_norm").since(since))


def _warmup(history: History) -> int:
    planned = history.fact("trainer.planned_steps")
    steps = planned if isinstance(planned, int) else history.last_step
    return max(10, round(0.05 * steps))
