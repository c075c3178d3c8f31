"""LD501: what the network learns holds for its training samples only."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import combinations, pairwise
from statistics import median

from lightning_doctor.error_bars import known_to
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.memorised import memorised
from lightning_doctor.noise import levels, lucky, noise
from lightning_doctor.prescriptions import regularise
from lightning_doctor.progress import GOOD, is_like_now, standing
from lightning_doctor.reference import reaches_target
from lightning_doctor.rule import is_recent, rule
from lightning_doctor.scores import gap, kept_apart, known_bars, scores, sureness
from lightning_doctor.validation import held_out

# A Kendall trend this many standard deviations from none is a trend: one in forty by chance.
_TREND = 2.0
# Trends are judged on at most so many levels: every pair is compared.
_LEVELS = 10
_METRIC = {"improves": "still improves: over-confidence", "holds": "holds", "falls": "gets worse too"}
# A training loss under this share of its start is good without any other reference.
_LOW = 0.1
# Standard errors of a pass that a rise over passes of the same rows must exceed: two, of what half its variance leaves.
_PAIRED = 1.4


@rule("LD501", needs={"val_loss": 7}, explains=("stale_validation",))
def overfitting(
    history: History,
    *,
    patience: int = 5,
    sigmas: float = 3.0,
    learned: float = 3.0,
    trifle: float = 0.05,
    share: float = 0.3,
    held: float = 0.75,
    capacity: float = 10.0,
    apart: float = 0.5,
) -> Finding | None:
    """The validation loss has turned and rises while the training loss falls, or stays far over a good training loss.

    What it looks at:
        ``val_loss``, one sample per validation pass, ``train_loss``, one per optimizer step [unit of your loss], and
        ``val_metric``; where there is none, how many of the validation rows that a copy of the model scored it got
        right, and the standard error of what it scored. Where training rows were held out, they must have become
        worse than trained ones too. Of a validation loss that rests, the skill of predictions on either kind of rows.

    Why it matters:
        From the best pass on the network learns what is true of the training samples only.

    Sick:
        Validation 0.69, 0.52, 0.46, 0.49, 0.56, 0.63, 0.71, 0.80, while training 0.70, 0.44, 0.31, 0.2, 0.12, 0.06

    Healthy:
        0.69, 0.52, 0.46, 0.44, 0.47, 0.43, 0.44, 0.43, over a training loss that is a steady 0.2 lower

    Remedy:
        What this run lacks of: early stopping, a smaller network, shared parameters, weight decay, dropout; else more
        data.

    Thresholds:
        patience: Passes since the best one before anything is said [validation passes].
        sigmas: How far over the best the latest passes must lie, beyond what the luckiest of so many passes would
            be under them anyway [noise of a pass].
        learned: How far the training loss must have fallen in all: what memorised nothing has not overfitted [noise
            of a training step].
        trifle: How much of what either loss had gained must be lost again to be mentioned [share].
        share: How much of what the validation loss had gained must be lost again to be more than a note [share].
        held: The same where the metric holds; where it still improves all of the gain must be lost [share].
        capacity: From how many parameters a training sample on the network is called large for its data [ratio].
        apart: How much of the training rows' skill others must lack where the validation loss rests [share].

    Blind spots:
        It is confirmed once the training loss is good, by a loss that was given, by what the predictions avoid of a
        constant's errors or by how far it has come; without a training loss it is only suspected: a run that diverges
        looks the same. Without held-out training rows a validation set of another kind looks the same: see
        distribution_mismatch. A gap at rest is suspected where there are none.
    """
    turned = _turned(history, patience, sigmas, learned, trifle, share, held, capacity)
    if turned is not None and turned.severity is not Severity.NOTE:
        return turned
    return _apart(history, apart, capacity) or turned


def _apart(history: History, least: float, capacity: float) -> Finding | None:
    """Finds a validation loss that rests far over a good training loss."""
    found = memorised(history)
    if found is None or found.share < least:
        return None
    train, other = found.train.skills[-1], found.other.skills[-1]
    where = "held-out" if found.sample == "holdout" else found.sample
    evidence: dict[str, float | int | str] = {
        "train": found.train.losses[-1],
        "other": found.other.losses[-1],
        "sample": where,
        "train_skill": train,
        "other_skill": other,
        "share_lost": found.share,
        **known_bars(train=found.train.bar, other=found.other.bar),
    }
    sure = sureness(found.train.bar, found.other.bar)
    return Finding(
        severity=Severity.WARNING,
        summary=f"training rows score {found.train} and {where} rows {found.other}{sure}, at rest: of the errors of a "
        f"constant the network avoids {train:.0%} where it was trained and {max(0.0, other):.0%} elsewhere",
        evidence=evidence,
        remedy=regularise(history, None, capacity, evidence),
        # Validation rows that differ in what the inputs mean look the same.
        confidence=Confidence.CONFIRMED if found.sample == "holdout" else Confidence.SUSPECTED,
        onset=found.other.steps[0],
        signals=("val_loss", "train_loss"),
    )


def _turned(
    history: History,
    patience: int,
    sigmas: float,
    learned: float,
    trifle: float,
    share: float,
    held: float,
    capacity: float,
) -> Finding | None:
    """Finds a validation loss that has turned and rises while the training loss falls."""
    series = history["val_loss"]
    losses = series.values
    smooth = [median(losses[max(0, i - 1) : i + 2]) for i in range(len(losses))]
    lowest = min(smooth)
    best = smooth.index(lowest)
    # The level is that of three passes, so that none is best by luck; the pass is the best of the three.
    best = min(range(max(0, best - 1), min(best + 2, len(losses))), key=losses.__getitem__)
    since = losses[best + 1 :]
    if len(since) < patience:
        return None
    now = median(since[-patience:])
    rise = now - lowest
    blur = noise(losses[max(0, best - 3) :])
    needed = (sigmas + lucky(len(losses))) * blur
    if rise <= needed:
        return None
    training = _per_pass(history, series)
    # What a constant scores is what there was to gain: a run may begin at less, or be seen late.
    start = max([losses[0], *history.get("baseline_loss").finite().values[-1:]])
    drop = 0.0
    if training is not None:
        steps = history["train_loss"].values
        start = max(start, steps[0])
        drop = training[0] - median(training[-patience:])
        if drop <= learned * noise(steps) or not _fell(training, best, patience):
            return None
    gain = start - lowest
    # What has risen may rest up there since, and is no better for it.
    rests = rise >= share * gain and min(levels(since[len(since) // 2 :], _LEVELS)) - lowest > needed
    if not rests and not _rises([lowest, *levels(since, _LEVELS)]):
        return None
    if rise < trifle * max(gain, drop):
        return None
    best_step = series.steps[best]
    evidence: dict[str, float | int | str] = {
        "best": lowest,
        "best_step": best_step,
        "now": now,
        "rise": rise,
        "noise": blur,
        "passes_since": len(since),
        "start": start,
    }
    lost = ""
    if gain > blur:
        evidence["share_lost"] = rise / gain
        lost = f", {rise / gain:.0%} of what it had gained," if rise <= gain else ", more than all it had gained,"
    confidence, memorised = Confidence.SUSPECTED, True
    if training is not None:
        train_now = median(training[-patience:])
        evidence |= {"train_then": training[best], "train_now": train_now}
        memorised = train_now < lowest
        if memorised and _is_good(history, train_now, start):
            confidence = Confidence.CONFIRMED
    if _gap_is_elsewhere(history):
        return None
    metric = _metric(history, best_step, patience) or _predictions(history, best_step)
    # A loss back where it began no metric excuses: its probabilities are worthless. Good predictions do.
    tolerated = {"improves": 1.0, "holds": held}.get(metric, share)
    excused = metric in ("improves", "holds") and _validates_well(history)
    error = _error(history)
    if error is not None:
        evidence["error"] = error
        # Another validation set of this size may well have said something else. The passes are over the same rows:
        # their difference is surer than either.
        excused = excused or rise < _PAIRED * error
    severity = Severity.WARNING if memorised and rise >= tolerated * gain and not excused else Severity.NOTE
    summary = f"the validation loss rose from {lowest:.3g} to {now:.3g}{lost} since step {best_step}" + (
        "" if training is None else ", while the training loss fell"
    )
    if metric:
        name = str(history.fact("validation.metric", "the validation metric"))
        if "val_metric" not in history:
            name = "the accuracy on validation rows" if "eval_accuracy/validation" in history else "skill"
        evidence |= {"metric": name, "metric_now": metric}
        summary += f"; {name} {_METRIC[metric]}"
    bars, known = known_to(history, len(losses))
    evidence |= known
    summary += bars
    return Finding(
        severity=severity,
        summary=summary,
        evidence=evidence,
        remedy=regularise(history, best_step, capacity, evidence),
        confidence=confidence,
        onset=best_step,
        signals=("val_loss", "train_loss"),
    )


def _rises(values: Sequence[float]) -> bool:
    """Mann and Kendall's test: whether later values are larger than earlier ones more often than by chance."""
    n = len(values)
    score = sum((b > a) - (b < a) for a, b in combinations(values, 2))
    return score - 1 > _TREND * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)


def _per_pass(history: History, passes: Series) -> list[float] | None:
    """Returns the mean training loss of the steps before each pass; None where there is none to go by."""
    losses = history.get("train_loss")
    if not losses or len(losses.finite()) < len(losses):
        return None
    means: list[float] = []
    ends = [bisect_right(losses.steps, at) for at in passes.steps]
    for begin, end in pairwise([0, *ends]):
        if end <= begin and not means:
            return None
        means.append(_mean(losses.values[begin:end]) if end > begin else means[-1])
    return means


def _mean(values: Sequence[float]) -> float:
    # Not fmean: it raises where the sum overflows, as the last losses of a diverging run in float64 do.
    return sum(value / len(values) for value in values)


def _fell(training: Sequence[float], best: int, patience: int) -> bool:
    drop = _mean(training[max(0, best - 1) : best + 2]) - median(training[-patience:])
    return drop > noise(training)


def _is_good(history: History, now: float, start: float) -> bool:
    """Whether the training loss is good: by what was asked of it, its predictions, a constant, or how far it came."""
    if reaches_target(history):
        return True
    train, stands = scores(history, "train"), standing(history)
    known = [*(train.skills[-1:] if train else []), *([] if stands.most is None else [stands.most])]
    return max(known, default=0.0) >= GOOD or 0 <= now <= _LOW * start


def _gap_is_elsewhere(history: History) -> bool:
    """Whether rows that were not trained on do as well as those that were, in eval mode: no sample is learned by heart.

    Of held-out training rows where there are any: validation rows may be of another kind. Of so few that noise could
    hide a gap, where they do not open the better part of it.
    """
    train, validation, kept = scores(history, "train"), scores(history, "validation"), kept_apart(history)
    others = kept or validation
    if train is None or others is None:
        return False
    # Scored long ago, when the training loss was another, a gap may have opened since.
    if not is_recent(history, train.steps[-1]) and not is_like_now(history, train.steps[-1]):
        return False
    distance, error = gap(train, others)
    whole = distance if validation is None else gap(train, validation)[0]
    return distance <= 2 * error and (kept is None or 2 * distance <= whole)


def _validates_well(history: History) -> bool:
    """Whether most of what there is to learn is right on validation rows."""
    validation, held = scores(history, "validation"), held_out(history)
    skills = validation.skills[-1:] if validation is not None else []
    by_accuracy = "acc" in str(history.fact("validation.metric", "")).lower() and "val_metric" in history
    return max([*skills, *([held] if by_accuracy and held is not None else [])], default=0.0) >= GOOD


def _error(history: History) -> float | None:
    """Returns the standard error of the validation loss for its few rows; None where it is unknown."""
    errors = history.get("eval_error/validation").finite().values
    return errors[-1] if errors else None


def _predictions(history: History, since: int) -> str:
    """Says of the validation rows that a copy of the model scored what :func:`_metric` says of a metric."""
    validation = scores(history, "validation")
    if validation is None or not validation.skills or len([s for s in validation.skill_steps if s >= since]) < 2:
        return ""
    error = validation.skill_error
    if not math.isfinite(error):
        # Of numbers the loss itself tells how good they are.
        return ""
    change = validation.skills[-1] - validation.skill_at(since)
    # The same rows each time: they differ by less than two samples would.
    return "improves" if change > error else "falls" if change < -error else "holds"


def _metric(history: History, since: int, patience: int) -> str:
    """Says whether the metric ``improves``, ``holds`` or ``falls`` since the best pass; empty where there is none."""
    series = history.get("val_metric").finite()
    sign = -1.0 if history.fact("validation.mode") == "min" else 1.0
    values = [sign * value for step, value in zip(series.steps, series.values, strict=True) if step >= since]
    if len(values) < patience:
        return ""
    half = values[len(values) // 2 :]
    # Late, too: what improved at first and has stopped since does not improve.
    if _rises(levels(values, _LEVELS)) and median(half[len(half) // 2 :]) > median(half[: (len(half) + 1) // 2]):
        return "improves"
    then, now = median(values[:3]), median(values[-patience:])
    # An accuracy moves in whole samples: two standard errors of a share, less than half of them for the same samples.
    samples = history.fact("data.val_samples", 0)
    known = isinstance(samples, int) and samples > 0 and 0 <= sign * then <= 1
    error = math.sqrt(abs(then) * (1 - abs(then)) / samples) if known else 0.0
    return "falls" if then - now > max(2 * error, 2 * noise(values)) else "holds"
