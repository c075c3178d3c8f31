"""LD501: the validation loss has turned and rises while the training loss still falls."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import combinations, pairwise
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.noise import levels, lucky, noise
from lightning_doctor.rule import rule

# A Kendall trend this many standard deviations from none is a trend: one in forty by chance.
_TREND = 2.0
# Trends are judged on at most so many levels: every pair is compared.
_LEVELS = 10
_METRIC = {"improves": "still improves: over-confidence", "holds": "holds", "falls": "gets worse too"}


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
) -> Finding | None:
    """The validation loss has turned and rises while the training loss still falls.

    What it looks at:
        ``val_loss``, one sample per validation pass, ``train_loss``, one per optimizer step [unit of your loss], and
        ``val_metric``, where there is one.

    Why it matters:
        From the best pass on the network learns what is true of the training samples only.

    Sick:
        Validation 0.69, 0.52, 0.46, 0.49, 0.56, 0.63, 0.71, 0.80, while training 0.70, 0.44, 0.31, 0.2, 0.12, 0.06

    Healthy:
        0.69, 0.52, 0.46, 0.44, 0.47, 0.43, 0.44, 0.43, over a training loss that is a steady 0.2 lower

    Remedy:
        What this run lacks of: early stopping, weight decay, dropout, a smaller network; else more data.

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

    Blind spots:
        Without a training loss it is only suspected: a run that diverges looks the same. How good the metric is, is
        not known: a small loss that doubles while 99 % stay right is a note.
    """
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
    start = losses[0]
    drop = 0.0
    if training is not None:
        steps = history["train_loss"].values
        start = max(start, steps[0])
        drop = training[0] - median(training[-patience:])
        if drop <= learned * noise(steps) or not _fell(training, best, patience):
            return None
    gain = start - lowest
    # What has risen may rest up there since, and is no better for it.
    rests = rise >= share * gain and min(levels(since[len(since) // 2 :], _LEVELS)) - lowest > 2 * needed
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
        lost = f", {rise / gain:.0%} of what it had gained,"
    confidence = Confidence.SUSPECTED
    if training is not None:
        train_now = median(training[-patience:])
        evidence |= {"train_then": training[best], "train_now": train_now}
        if train_now < lowest:
            confidence = Confidence.CONFIRMED
    metric = _metric(history, best_step, patience)
    # A loss back where it began no metric excuses: its probabilities are worthless.
    tolerated = {"improves": 1.0, "holds": held}.get(metric, share)
    memorised = training is None or confidence is Confidence.CONFIRMED
    severity = Severity.WARNING if memorised and rise >= tolerated * gain else Severity.NOTE
    summary = f"the validation loss rose from {lowest:.3g} to {now:.3g}{lost} since step {best_step}" + (
        "" if training is None else ", while the training loss fell"
    )
    if metric:
        name = str(history.fact("validation.metric", "the validation metric"))
        evidence |= {"metric": name, "metric_now": metric}
        summary += f"; {name} {_METRIC[metric]}"
    return Finding(
        severity=severity,
        summary=summary,
        evidence=evidence,
        remedy=_remedy(history, best_step, capacity, evidence),
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


def _remedy(history: History, best_step: int, capacity: float, evidence: dict[str, float | int | str]) -> str:
    """Names what this run is known to lack; more data, which every overfitted run lacks, comes last."""
    advice = []
    callbacks = history.fact("trainer.callbacks")
    if evidence.get("metric_now") == "improves":
        advice.append("judge by the metric, and soften the targets (label_smoothing=0.1) if the loss itself matters")
    elif isinstance(callbacks, list) and not any("EarlyStopping" in str(name) for name in callbacks):
        advice.append(f'add EarlyStopping(monitor="val_loss") and keep the checkpoint of step {best_step}')
    else:
        advice.append(f"keep the checkpoint of step {best_step}")
    parameters, samples = history.fact("model.parameters"), history.fact("data.train_samples")
    if isinstance(parameters, int) and isinstance(samples, int) and parameters > capacity * samples > 0:
        evidence |= {"parameters": parameters, "train_samples": samples}
        advice.append(f"make the network smaller ({parameters} parameters for {samples} samples)")
    decays = _weight_decays(history)
    if decays is not None and not any(decays):
        advice.append("set weight_decay (1e-2 with AdamW, 1e-3 with SGD)")
    layers = history.fact("model.layers")
    if isinstance(layers, dict) and layers and not any("Dropout" in str(name) for name in layers):
        advice.append("add Dropout(0.2) before the last layer")
    advice.append("train on more or augmented data")
    return "; ".join(advice)


def _weight_decays(history: History) -> list[float] | None:
    optimizers = history.fact("optimizers")
    try:
        decays = [float(group.get("weight_decay") or 0.0) for each in optimizers for group in each["groups"]]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return decays or None
