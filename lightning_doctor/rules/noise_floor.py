"""LD112: at a constant learning rate the noise of the gradients holds the loss up."""

from __future__ import annotations

import math
from statistics import fmean, median, stdev

from lightning_doctor.curvature import is_full_batch, known, noise_bounds, step_batch
from lightning_doctor.error_bars import standard_error, student_quantile
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import shift, stretch
from lightning_doctor.prescriptions import is_adaptive, momentum
from lightning_doctor.progress import is_like_now, standing
from lightning_doctor.rule import Undecided, rule

# Scans that tell a mean with its error; standard errors that make it sure.
_SCANS, _SURE = 6, 2.0
# Share of its start, or of what a constant scores, that the loss must be under to be on a floor and not still on its
# first plateau.
_PROGRESS = 0.05
# How often a bound of the noise scale may err at most, and how many of them together.
_ERRS, _SELDOM = 0.1, 0.05
# How seldom scans may be so low by luck, to count against a loss that rests.
_UNLIKELY = 0.001


@rule(
    "LD112",
    needs={"train_loss": 64, "learning_rate": 1, "curvature/gradient_noise": 2},
    explains=("loss_plateau", "loss_spike", "stale_validation"),
)
def noise_floor(
    history: History, *, dominance: float = 4.0, gain: float = 0.1, sigmas: float = 3.0, moved: float = 0.05
) -> Finding | None:
    """At a constant learning rate the noise of the gradients holds the loss up.

    What it looks at:
        ``curvature/gradient_noise``, the variance of one sample's gradient: over the batch it is that of a step, and a
        quarter of the learning rate times that is by how much it holds the loss up (Mandt, Hoffman and Blei 2017);
        ``curvature/noise_scale``, or the least that it may be by all probes of the rest, against the batch of a step;
        ``train_loss`` and ``learning_rate``, which no longer fall; ``scan/…`` where there are any.

    Why it matters:
        Every step undoes on average what the last ones gained. A smaller learning rate or a larger batch would go on.

    Sick:
        a loss that rests at 0.9 of a start of 2, of which 0.3 is noise: lr 0.1, batches of 2, a variance of 24

    Healthy:
        a rate that decays, a run that does well, a loss that rests because nothing is left to gain

    Remedy:
        Decay the learning rate, or use larger batches.

    Thresholds:
        dominance: How many batches the noise scale must exceed [ratio].
        gain: Share of the loss that the noise must account for [share].
        sigmas: How sure a fall must be for the loss to be still falling [standard errors].
        moved: Share of the loss that such a fall must take off within half of the run [share].

    Blind spots:
        How far noise holds the loss up is known for SGD only, with or without momentum, and where steep directions
        carry it: where that would be twice the loss it is no valley. For other optimizers the scans must show that
        shorter steps do better.
    """
    losses, now, batch = history["train_loss"], standing(history), step_batch(history)
    if now.good or is_full_batch(history) or batch is None or min(losses.values) < 0:
        return None
    if not _is_constant(history, now.ended):
        return None
    late = stretch(losses, 0.5)
    half = len(late) // 2
    start, level, change = median(losses.values[:8]), median(late), shift(late[:half], late[half:])
    falls = change.sigmas < -sigmas and -change.change > moved * level
    rises = change.sigmas > sigmas and change.change > moved * level
    if half < 16 or falls or rises or not (level < (1 - _PROGRESS) * start or (now.learned or 0) > _PROGRESS):
        return None
    least = _least_scale(history)
    if least < dominance * batch:
        return None
    held_up = _held_up(history, batch, level) if level > 0 else None
    longer, made = _longer_is_worse(history), _late_scans(history, "scan/1")
    # Of a loss that surely rests only what is no luck at all counts.
    rests = not now.improving and change.sigmas > -_SURE
    if made and fmean(made) < -standard_error(made) * (_beyond_luck(len(made)) if rests else _SURE):
        # On other samples the steps still go down, whatever the losses say: they may be of a kind that changes.
        return None
    if held_up is None and not longer:
        return None
    if held_up is not None and not held_up >= gain * level:
        return None
    rate = history["learning_rate"].values[-1]
    by = ""
    if held_up is not None:
        by = f", which holds it up by about {min(held_up, level):.2g} ({min(1.0, held_up / level):.0%})"
    return Finding(
        severity=now.if_harmed(Severity.WARNING),
        summary=f"the training loss rests at {level:.3g} at a constant lr of {rate:.3g}, in the noise of batches of "
        f"{batch} (it takes {least:.2g} samples or more for a gradient that is as much signal){by}",
        evidence={
            "now": level,
            "rate": rate,
            "batch": batch,
            **known(least_noise_scale=least, held_up=math.nan if held_up is None else held_up),
            **(known(scanned_change=fmean(made)) if made else {}),
        },
        remedy=f"decay lr from {rate:.3g} towards zero over the rest of the run (`CosineAnnealingLR`), or use batches "
        f"of {4 * batch} or more (`accumulate_grad_batches`)",
        confidence=Confidence.CONFIRMED if held_up is not None and longer else Confidence.SUSPECTED,
        onset=losses.steps[len(losses) - len(late)],
        signals=("train_loss", "learning_rate", "curvature/gradient_noise"),
    )


def _is_constant(history: History, ended: bool) -> bool:
    """Whether the learning rate has not come down, and is not about to by a schedule."""
    rates = [rate for rate in history["learning_rate"].values if math.isfinite(rate)]
    if not rates or not rates[-1] > 0 or rates[-1] < 0.8 * max(rates):
        return False
    return ended or not history.fact("schedulers")


def _like_now(history: History, name: str) -> list[float]:
    series = history.get(name).finite()
    return [value for step, value in zip(series.steps, series.values, strict=True) if is_like_now(history, step)]


def _least_scale(history: History) -> float:
    """Returns what the noise scale is surely over, by the probes at a loss like that of now [samples].

    Raises:
        Undecided: Where there are none.
    """
    bounds = noise_bounds(history)
    if bounds is not None and math.isfinite(bounds[1]):
        return bounds[0]
    found = sorted(_like_now(history, "curvature/least_noise_scale"), reverse=True)
    if not found:
        raise Undecided("no noise of a gradient was measured at a loss like that of now")
    # The largest that as many as reach it do not err together.
    return next((bound for place, bound in enumerate(found, 1) if _seldom_err(place, len(found))), found[-1])


def _seldom_err(least: int, count: int) -> bool:
    """Whether so many of the bounds, or more, hardly ever err together: a binomial tail."""
    chances = (math.comb(count, n) * _ERRS**n * (1 - _ERRS) ** (count - n) for n in range(least, count + 1))
    return sum(chances) <= _SELDOM


def _held_up(history: History, batch: int, level: float) -> float | None:
    """Returns how far over its minimum the noise holds the loss; None where there is no theory of it.

    For steps of rate η and gradients of covariance Σ the excess is at least ½·Σᵢ η·σᵢ²/(2 − η·λᵢ) ≥ η·tr(Σ)/4 (Mandt,
    Hoffman & Blei 2017, eq. 13); a heavy ball of momentum β makes η / (1 − β) of η.
    """
    beta = momentum(history)
    if is_adaptive(history) is not False or beta is None or not 0 <= beta < 1:
        return None
    noises = _like_now(history, "curvature/gradient_noise")
    held_up = history["learning_rate"].values[-1] / (1 - beta) / 4 * median(noises) / batch if noises else math.inf
    # Of an estimate for the whole loss: by more than that this is no valley such as the theory has.
    return held_up if held_up <= 2 * level else None


def _beyond_luck(count: int) -> float:
    """Returns how far under zero the mean of so many scans hardly ever is by luck [standard errors]."""
    return student_quantile(1 - _UNLIKELY, count - 1)


def _late_scans(history: History, name: str) -> list[float]:
    """Returns what the later scans changed; nothing where they are too few."""
    values = [max(-1e6, min(1e6, value)) for value in stretch(history.get(name).finite(), 0.5)]
    return values if len(values) >= _SCANS else []


def _longer_is_worse(history: History) -> bool:
    """Whether steps a quarter as long would surely have left the loss of other samples lower."""
    made, shorter = (dict(zip(s.steps, s.values, strict=True)) for s in map(history.get, ("scan/1", "scan/0.25")))
    since = history.last_step / 2
    gaps = [made[step] - shorter[step] for step in made if step >= since and step in shorter]
    gaps = [max(-1e6, min(1e6, gap)) for gap in gaps if math.isfinite(gap)]
    return len(gaps) >= _SCANS and fmean(gaps) > _SURE * stdev(gaps) / math.sqrt(len(gaps))
