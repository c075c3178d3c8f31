"""LD103: the steps overshoot: smaller ones would lower the loss that these raise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from lightning_doctor.curvature import late_values
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.lost_ground import YOUNG, climbed, climbed_back, is_finite, recent, swings, unlearned
from lightning_doctor.noise import stretch
from lightning_doctor.prescriptions import lower_rate
from lightning_doctor.progress import LITTLE, is_like_now, standing
from lightning_doctor.rule import Undecided, rule
from lightning_doctor.step_sizes import ScannedStep, began_dead, began_saturated, scanned_steps, smallest_limit

# Scanned steps fewer than which show nothing.
_FEWEST = 2
# The scans of a run's first steps, by which it may be lost already.
_OPENING = 4
# The share of the loss that a step hardly changes it by; and the shortest step that is tried, in steps that were made.
_HARDLY, _SHORTEST = 0.05, 1 / 64
# The share of the scanned steps that must overshoot where successive gradients point against each other.
_BOUNCED = 0.1
# The share of the scanned steps that lowered the loss, from which on their length is not what a run is lost by.
_LOWERED = 0.8


@rule(
    "LD103",
    needs={"train_loss": 1},
    explains=(
        "diverging_loss",
        "non_finite_loss",
        "non_finite_gradients",
        "exploding_gradients",
        "missing_warmup",
        "noise_floor",
        "vanishing_gradients",
        "always_clipped",
        "dead_units",
        "saturated_units",
        "collapsed_output",
        "loss_plateau",
        "loss_spike",
        "stuck_at_baseline",
        "undertrained",
        "overfitting",
        "stale_validation",
    ),
    # Of first weights for which alone the rate is too high.
    after=("LD208",),
    non_finite=True,
)
def learning_rate_too_high(
    history: History, *, share: float = 0.5, least: int = 3, opposed: float = 0.3, rise: float = 3.0, jump: float = 10.0
) -> Finding | None:
    """The steps overshoot: smaller ones would lower the loss that these raise.

    What it looks at:
        ``scan/…``: the loss along the steps that were made, on samples that did not make them; ``gradient_cosine``:
        whether successive gradients point against each other; ``skill`` and ``train_loss``: whether that does harm;
        ``val_loss``, where it leaps from pass to pass.
        Where fewer scanned steps overshoot, ``curvature/step_ratio``: over 1 the second order of a step outweighs what
        its first order gains.

    Why it matters:
        A step beyond the smallest that raises the loss undoes what it gains; the run bounces or is lost.

    Sick:
        steps of lr 0.1 change the loss by +6300 %, steps a sixteenth as long by −81 %

    Healthy:
        now and then a step raises the loss of other samples, while the run goes down

    Remedy:
        Lower the learning rate to half the smallest limit that a scan found, or decay it.

    Thresholds:
        share: Share of the scanned steps that overshoot, in the run's first steps or its later half [share].
        least: How many of them there must be [steps].
        opposed: How far below zero the median cosine of successive gradients counts as well [1].
        rise: How many times its start, and what a constant prediction costs, the loss must have surged to in a run
            that learned nothing [ratio].
        jump: How many times its start the loss must reach to be lost while it is young [ratio].

    Blind spots:
        A run that does well, or still improves, is left alone at any rate; one whose schedule has begun to lower the
        rate gets a note until half of it is over. Where a step steps several optimizers itself, and where a rank holds
        only a part of the model, no step is scanned: only a loss that surged, or that climbed back, tells.
    """
    scans = scanned_steps(history)
    lost = _is_lost(history, jump)
    spared = not lost and (not _does_badly(history) or began_dead(history) or began_saturated(history))
    if len(scans) < _FEWEST:
        return _by_losses(history, rise, spared)
    if spared:
        return None
    most = standing(history).most
    # Where an unread loss came down far and climbed back, its first steps tell nothing of how.
    opening = [] if not lost and most is None and _came_far(history) else scans[:_OPENING]
    late = [scan for scan in scans if scan.step >= scans[-1].step / 2]
    if len(late) < least and not any(scan.overshoots for scan in late):
        # Where there was no time for more those tell as much at which loss and rate were what they are now.
        late = [scan for scan in scans[len(opening) :] if scan in late or _is_like_now(history, scan, scans[-1])]
    cosines = stretch(history.get("gradient_cosine"), 0.5)
    bounces = len(cosines) >= least and median(cosines) < -opposed
    # First steps that went far over tell it all the same: what was learned since is little in a run that does badly.
    told = (late,) if not lost and _came_down(history, most) else (late, opening)
    seen = next((part for part in told if _overshoots(part, share, least)), None)
    ratio = _second_order(history, least)
    if seen is None and ratio is not None and _overshoots(late, share / 2, least):
        # Noise hides some of them, and the curvature along the steps tells the same.
        seen = late
    early = [scan for scan in opening if (scan.overshoots and _far_over(scan)) or _wrecks(scan, jump)]
    over = [scan for scan in seen or early or late if scan.overshoots or _wrecks(scan, jump)]
    bounces = bounces and len(over) >= _BOUNCED * len(scans)
    shown = seen is not None or (early and _rose(history, early[0].step)) or bounces
    if not shown or not over:
        # A loss may be lost for other reasons: then steps lower it as they should, or something is learned.
        lowered = sum(scan.change < 0 for scan in scans)
        if lost and ((most is not None and most >= LITTLE) or lowered >= _LOWERED * len(scans)):
            return None
        return climbed(history, rise) or (unlearned(history) or swings(history) if is_finite(history) else None)
    limit = smallest_limit(over)
    rate = over[0].rate
    evidence: dict[str, float | int | str] = {
        "scanned": len(seen or scans),
        "overshot": len(over),
        "change": median(scan.change for scan in over),
        "change_of_smaller_steps": median(scan.smaller for scan in over),
    }
    if rate is not None:
        evidence["rate"] = rate
    if ratio is not None:
        evidence["step_ratio"] = ratio
    if cosines:
        evidence["gradient_cosine"] = median(cosines)
    if limit is not None:
        evidence |= {"limit": limit, "recommended": limit / 2}
    at = "" if rate is None else f" at lr {rate:.3g}"
    summary = f"{len(over)} of {len(seen or scans)} scanned steps{at} raised the loss of other samples, which smaller "
    summary += "steps lowered"
    if not any(scan.overshoots for scan in over):
        summary = f"a step{at} took the loss of other samples to {1 + over[0].change:.3g} times what it was, and the "
        summary += f"mildest of the shorter ones to {1 + over[0].smaller:.3g} times"
    if bounces and seen is None:
        summary = f"successive gradients point against each other (median cosine {median(cosines):.2g}), and {summary}"
    if not is_finite(history):
        severity = Severity.ERROR
    else:
        severity = Severity.NOTE if not lost and _is_decaying(history) else Severity.WARNING
    return Finding(
        severity=severity,
        summary=summary,
        evidence=evidence,
        remedy=lower_rate(history) if limit is None else _remedy(rate, limit),
        # That a smaller step would have done better is proven; that it would have been enough, where the run is lost.
        confidence=Confidence.CONFIRMED if lost and seen is not None else Confidence.SUSPECTED,
        onset=_first_of(scans, over[0]),
        signals=("scan_limit", "scan/1", "learning_rate", "train_loss"),
    )


def _by_losses(history: History, rise: float, spared: bool) -> Finding | None:
    """Goes by the losses alone, of a run whose steps are not scanned: what they do not show may be all the same."""
    shown = len(history["train_loss"]) >= YOUNG and not spared
    found = climbed(history, rise, scanned=False) if shown else None
    if shown and found is None and is_finite(history):
        found = unlearned(history) or swings(history)
    if found is None:
        raise Undecided(history.absent.get("scan/1", f"fewer than {_FEWEST} steps have been scanned"))
    return found


def _first_of(scans: Sequence[ScannedStep], proof: ScannedStep) -> int:
    """Returns the first step that overshot at such a rate, before those that prove it."""
    alike = (s for s in scans if s.overshoots and (not s.rate or not proof.rate or s.rate >= 0.5 * proof.rate))
    return min(next(alike, proof).step, proof.step)


def _second_order(history: History, least: int) -> float | None:
    """Returns how many times what steps gain by their first order the second takes back, if that is more than all."""
    ratios = late_values(history, "curvature/step_ratio")
    return median(ratios) if len(ratios) >= least and median(ratios) > 1 else None


def _is_decaying(history: History) -> bool:
    """Whether a schedule has begun to lower the rate, and has the better part of the run to go on with it."""
    rates, now = history.get("learning_rate").values, standing(history)
    under_way = not now.ended and now.share is not None and now.share < 0.5
    return under_way and bool(rates) and bool(history.fact("schedulers")) and rates[-1] < max(rates)


def _is_lost(history: History, jump: float) -> bool:
    """Whether the loss is not finite any more, or rose far over its start and stays there."""
    losses = history.get("train_loss")
    if not losses.values or losses.broken_at() is not None:
        return True
    if min(losses.values) < 0:
        return False
    # Of a young run single losses are all there is, and noisy.
    young = len(losses) < YOUNG
    newest = losses.values[-1:] if young else recent(losses)
    return median(newest) > (jump if young else 1.2) * max(losses.values[: 1 if young else 8])


def _came_down(history: History, most: float | None) -> bool:
    """Whether the run has learned something since its first steps, and so is not lost by them."""
    losses = history["train_loss"]
    return most is not None and most >= LITTLE and median(recent(losses)) < losses.values[0]


def _came_far(history: History) -> bool:
    losses = history["train_loss"]
    return median(recent(losses)) <= 0.5 * losses.values[0]


def _does_badly(history: History) -> bool:
    """Whether the run is going nowhere, by its predictions or, where they are unknown, by its loss."""
    now, losses = standing(history), history["train_loss"]
    if len(losses) < YOUNG:
        return False
    if now.reached is not None:
        return now.harmed
    late = now.ended or now.share is None or now.share >= 0.25
    return late and not now.improving and losses.values[0] > 0 and (not _came_far(history) or climbed_back(history))


def _overshoots(scans: Sequence[ScannedStep], share: float, least: int) -> bool:
    over = [scan for scan in scans if scan.overshoots]
    return len(over) >= min(least, max(2, len(scans))) and len(over) >= share * len(scans)


def _far_over(scan: ScannedStep) -> bool:
    """Whether a step was several times as long as the longest that would have lowered the loss."""
    return scan.limit is not None and scan.rate is not None and 4 * scan.limit < scan.rate


def _is_like_now(history: History, scan: ScannedStep, newest: ScannedStep) -> bool:
    then, now = scan.rate, newest.rate
    alike = then is None or now is None or max(then, now) <= 2 * min(then, now)
    return alike and is_like_now(history, scan.step)


def _wrecks(scan: ScannedStep, jump: float) -> bool:
    """Whether a step took the loss far up, and that by its length: a shorter one would hardly have changed it.

    Or by far less than in proportion, as of a step that is too long by orders of magnitude: not of a wrong direction.
    """
    return 1 + scan.change > jump and scan.smaller < max(_HARDLY, _SHORTEST**1.5 * scan.change)


def _rose(history: History, step: int) -> bool:
    """Whether the run's own loss rose over its start about then."""
    losses = history.get("train_loss")
    after = losses.since(step + 1)[:8]
    return bool(after) and (not math.isfinite(sum(after)) or max(after) > 1.5 * abs(losses.values[0]))


def _remedy(rate: float | None, limit: float) -> str:
    was = "" if rate is None else f"from {rate:.3g} "
    return f"lower lr {was}to about {limit / 2:.2g}: the largest step that still lowered the loss was {limit:.3g}"
