"""LD405: steep directions bound the step of plain gradient descent, and along shallow ones it hardly moves."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.curvature import is_full_batch, known, late_values, newest_probe, noise_bounds, step_batch
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import shift, stretch
from lightning_doctor.prescriptions import is_adaptive, momentum, optimizer
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule
from lightning_doctor.step_sizes import rate_at


@rule(
    "LD405",
    needs={"train_loss": 64, "learning_rate": 1, "curvature/high": 1},
    reads=("curvature",),
    recent=("curvature/high",),
    explains=("undertrained", "loss_plateau", "stuck_at_baseline", "learning_rate_too_low", "stale_validation"),
)
def ill_conditioned(
    history: History, *, spread: float = 300.0, room: float = 5.0, left: float = 0.2, sigmas: float = 4.0
) -> Finding | None:
    """Steep directions bound the step of plain gradient descent, and along shallow ones it hardly moves.

    What it looks at:
        ``curvature/high``, the steepest curvature, which bounds the learning rate to two over it; ``train_loss``: its
        pace, from which the curvature of the directions follows along which it still falls: along a curvature λ the
        loss comes down by e^(−2·lr·λ) a step.

    Why it matters:
        No learning rate is right: one that the steep directions bear leaves the shallow ones where they are.

    Sick:
        a steepest curvature of 900 at lr 0.002, and a loss that after 2000 steps still falls by 0.01 % a step with
        most of it left

    Healthy:
        the same curvature in a run that does well, or under Adam; a learning rate that could be ten times larger

    Remedy:
        Standardise the inputs or normalise between the layers; momentum or an adaptive optimizer.

    Thresholds:
        spread: How many times as steep as the directions along which the loss falls the steepest one must be [ratio].
        room: How far the learning rate may lie under what the steepest direction bears [ratio].
        left: Share of the loss that is still to come down at its pace [share].
        sigmas: How sure the fall within the second half of the run must be [standard errors].

    Blind spots:
        A loss that does not fall any more tells no pace. Only plain SGD, without momentum.
    """
    losses, now, probe = history["train_loss"], standing(history), newest_probe(history)
    if is_adaptive(history) is not False or momentum(history) != 0 or now.good or min(losses.values) < 0:
        return None
    if probe is None or probe.kind in ("saddle", "flat") or _noise_dominates(history):
        return None
    steepest = late_values(history, "curvature/high")
    steep, rate = (median(steepest) if steepest else 0.0), rate_at(history, history["curvature/high"].steps[-1])
    third, fourth = stretch(losses, 0.5, 0.75), stretch(losses, 0.75)
    if rate is None or not rate > 0 or not math.isfinite(rate) or not 2 / room <= rate * steep < math.inf:
        return None
    if len(third) < 16 or len(fourth) < 16 or _is_decayed(history):
        return None
    fall = shift(third, fourth)
    before = shift(stretch(losses, 0.25, 0.5), third)
    if fall.sigmas > -sigmas or not before.change < 0:
        return None
    level, remaining = median(fourth), _remaining(-before.change, -fall.change, median(fourth))
    if not remaining > left * level > 0:
        return None
    pace = -fall.change / max(1.0, (losses.steps[-1] - losses.steps[0]) / 4)
    shallow = pace / (2 * rate * remaining)
    if not shallow > 0 or steep < spread * shallow:
        return None
    return Finding(
        severity=now.if_harmed(Severity.WARNING),
        summary=f"the steepest direction (curvature {steep:.3g}) bounds lr to {2 / steep:.2g}, and the loss still "
        f"falls along directions {steep / shallow:.2g} times as shallow: by {pace / level:.1g} of it a step",
        evidence=known(
            highest_curvature=steep,
            shallow_curvature=shallow,
            ratio=steep / shallow,
            rate=rate,
            largest_rate=2 / steep,
            fall_per_step=pace,
            share_a_step=pace / level,
            now=level,
        ),
        remedy=f"standardise the inputs or normalise between layers; else use momentum (0.9) or Adam instead of plain "
        f"{optimizer(history)}",
        confidence=Confidence.SUSPECTED,
        onset=losses.steps[0],
        signals=("curvature/high", "train_loss", "learning_rate"),
    )


def _noise_dominates(history: History) -> bool:
    """Whether it is rather the noise of small batches that keeps the loss from falling."""
    bounds, batch = noise_bounds(history), step_batch(history)
    return bounds is not None and batch is not None and not is_full_batch(history) and bounds[0] > 4 * batch


def _is_decayed(history: History) -> bool:
    """Whether the learning rate fell by half or more: a pace that follows the schedule tells no curvature."""
    rates = [rate for rate in stretch(history["learning_rate"], 0.25) if math.isfinite(rate)]
    return bool(rates) and rates[-1] <= 0.5 * max(rates)


def _remaining(before: float, fall: float, level: float) -> float:
    """Returns how much is left to come down, if every quarter's fall is the same share of the one before it."""
    slowing = fall / before
    return level if slowing >= 1 else min(level, fall * slowing / (1 - slowing))
