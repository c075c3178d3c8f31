"""LD110: the first steps of an adaptive optimizer are too long, later ones are not."""

from __future__ import annotations

from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.prescriptions import is_adaptive, optimizer
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule
from lightning_doctor.step_sizes import began_dead, median_change, scanned_steps, smallest_limit


@rule(
    "LD110",
    needs={"scan/1": 6, "train_loss": 32, "learning_rate": 1},
    explains=(
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
def missing_warmup(history: History, *, opening: float = 0.1, rise: float = 1.2, share: float = 0.25) -> Finding | None:
    """The first steps of an adaptive optimizer are too long, later ones are not.

    What it looks at:
        ``scan/…`` of the run's first steps and of its later half, ``train_loss`` in between, ``learning_rate``.

    Why it matters:
        Adam's first steps are as long as its learning rate in every weight, whatever the gradient: what they break a
        smaller rate later does not mend.

    Sick:
        the first steps raise the loss, from 2.4 to 9.1, which a tenth of them would lower; later ones do not

    Healthy:
        steps that overshoot throughout are a rate that is too high; a run that does well needs no warm-up

    Remedy:
        Warm the learning rate up from under the limit of the first steps.

    Thresholds:
        opening: Share of the run that counts as its first steps [share].
        rise: How many times its first value the loss must reach there [ratio].
        share: Share of the later scanned steps that may overshoot at most [share].

    Blind spots:
        Plain SGD, whose first steps are as long as the gradient says; a run without scans. A network that its first
        steps killed says nothing of later ones: that is a rate too high.
    """
    losses, rates = history["train_loss"], history["learning_rate"]
    now = standing(history)
    if not is_adaptive(history) or not now.harmed or min(losses.values) < 0:
        return None
    end = losses.steps[0] + max(8.0, opening * (losses.steps[-1] - losses.steps[0]))
    scans = scanned_steps(history)
    first, later = [s for s in scans if s.step <= end], [s for s in scans if s.step > scans[-1].step / 2]
    over = [scan for scan in first if scan.overshoots]
    limit = smallest_limit(over)
    peak = max(value for step, value in zip(losses.steps, losses.values, strict=True) if step <= end)
    warmed = rates.values[0] < 0.5 * max(rates.values)
    if limit is None or warmed or peak < rise * losses.values[0] or not later:
        return None
    if (
        sum(scan.overshoots for scan in later) > share * len(later)
        or _is_dead(history, later[0].step)
        or began_dead(history)
    ):
        return None
    rate = rates.values[0]
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
            "later_change": median(scan.change for scan in later),
        },
        remedy=f"warm lr up to {rate:.3g} over the first {_warmup(history)} steps, from {limit / 2:.2g} or less",
        confidence=Confidence.SUSPECTED,
        onset=over[0].step,
        signals=("scan_limit", "train_loss", "learning_rate"),
    )


def _is_dead(history: History, since: int) -> bool:
    """Whether no step does anything any more: then the later ones are no proof that the rate is fit for them."""
    far = median_change(history, 16.0, since)
    return far is None or abs(far) < 1e-3 or any(not norm for norm in history.get("grad_norm").since(since))


def _warmup(history: History) -> int:
    planned = history.fact("trainer.planned_steps")
    steps = planned if isinstance(planned, int) else history.last_step
    return max(10, round(0.05 * steps))
