"""LD106: the network does no better than the best constant prediction."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.error_bars import standard_error
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.layers import is_linear
from lightning_doctor.loss_head import loss_head
from lightning_doctor.noise import levels, noise, shift, stretch
from lightning_doctor.progress import ROBUST, standing
from lightning_doctor.reference import has_hidden_layer
from lightning_doctor.rule import Undecided, is_recent, lacking, rule
from lightning_doctor.scores import lucky_skill, scores

# Of a run, whose medians tell when it had learned something, or how sure its level is.
_PARTS = 12
# What share of what would count as learned a fall must be for the run not to rest yet.
_MOVED = 0.2
# How many times what a constant scores is worse than it.
_OVER = 1.1
# Losses of the best constant without which it is not known.
_FEWEST = 2
_REMEDY = (
    "overfit one batch first; if that fails, change lr tenfold either way and check input scale and dead units; if it "
    "works, check that inputs and labels belong together"
)


@rule(
    "LD106",
    needs={"train_loss": 32},
    explains=("loss_plateau", "undertrained", "stale_validation", "collapsed_output"),
)
def stuck_at_baseline(
    history: History, *, learned: float = 0.05, sigmas: float = 3.0, patience: float = 0.35, least: int = 100
) -> Finding | None:
    """The network does no better than the best constant prediction.

    What it looks at:
        ``train_loss`` against ``baseline_loss``, what the best constant prediction scores in the units of the run's
        own loss; ``skill``, the share of the constant predictor's errors that the predictions avoid. Where the former
        is not known, ``eval_skill/train``, the skill on training rows in eval mode at the end. Where that on validation
        rows, of numbers, is beyond luck it is a note: what is left of the loss may be noise in the data.

    Why it matters:
        Nothing has been learned from the inputs: whatever the curve looks like, it is that of a guess.

    Sick:
        2.303, 2.302, 2.301, 2.302 for ten classes, all as frequent: the logarithm of ten

    Healthy:
        2.303, 2.290, 2.214, 1.731, 1.042, 0.614

    Remedy:
        Overfit one batch first. If that fails: input scale, learning rate, dead units, the loss. If it works: labels.

    Thresholds:
        learned: Share of the baseline's loss that must be gone for something to be learned, or three times that of its
            errors, eight times in the last batch looked at [share].
        sigmas: How surely the loss must be over that [standard errors].
        patience: Share of the planned run before which it may just be slow to start [share].
        least: Steps before which nothing is said, where no end is planned four times as many [steps].

    Blind spots:
        A network whose loss has no readable baseline. Data without any signal looks the same, and is the same. Of a
        network without a hidden layer so does a signal so weak that as many weights fit as much of pure noise (Wilks
        1938: p of them take p / 2n off the mean log-likelihood of n samples).
    """
    losses, baselines = history["train_loss"], history.get("baseline_loss").values
    lack = lacking(history, "baseline_loss", _FEWEST)
    if lack is not None:
        if len(baselines) < _FEWEST:
            return _scored_like_one(history, learned, lack)
        raise Undecided(lack)
    baseline = baselines[-1]
    now = standing(history)
    spent = losses.steps[-1] - losses.steps[0] + 1
    waited = now.ended or (spent >= least and (4 * least <= spent if now.share is None else now.share >= patience))
    if not waited or now.improving or baseline <= 0 or min(losses.values) < 0:
        return None
    late = stretch(losses, 0.6) or losses.values[-1:]
    level = median(late)
    chance = _by_chance(history, baseline, sigmas)
    if level - sigmas * _error(late) < baseline - max(learned * baseline, chance) or _is_skilled(
        history, learned, by_chance=chance > 0
    ):
        return None
    evidence: dict[str, float | int | str] = {"loss": level, "baseline": baseline, "steps": spent}
    if now.skill is not None:
        evidence["skill"] = now.skill
    aside = ": a constant would do better" if level > _OVER * baseline else ""
    if level < (1 - learned) * baseline:
        evidence["by_chance"] = chance
        aside = f": as many weights would take {chance:.2g} off it by chance"
    little = None if level > _OVER * baseline else _surely_avoided(history, sigmas)
    if little is not None:
        aside += f"; of its errors on validation rows {little:.1%} are avoided, which is no luck"
        evidence["surely_avoided"] = little
    return Finding(
        # What is left may be noise in the data.
        severity=Severity.WARNING if little is None else Severity.NOTE,
        summary=f"the training loss is {level:.4g} after {spent} steps, and the best constant prediction scores "
        f"{baseline:.4g}{aside}",
        evidence=evidence,
        remedy=_REMEDY,
        confidence=Confidence.CONFIRMED,
        onset=_since(losses, baseline - max(learned * baseline, chance), _MOVED * learned * baseline, sigmas),
        signals=("train_loss", "baseline_loss", "skill"),
    )


def _scored_like_one(history: History, learned: float, lack: str) -> Finding | None:
    """Goes by the skill on rows that were scored, of a run that is over and whose constant's loss is not known."""
    rows = [scores(history, sample) for sample in ("train", "validation")]
    skills = [each.skills[-1] for each in rows if each is not None and each.skills]
    train, now = rows[0], standing(history)
    head = loss_head(history)
    if head.loss in ROBUST:
        raise Undecided("squares of errors tell little of a loss that is indifferent to outliers")
    if head.weighted:
        raise Undecided("a loss that weighs its samples may ask for more errors than a constant makes")
    if train is None or not train.skills or not now.ended or not is_recent(history, train.skill_steps[-1]):
        raise Undecided(lack)
    if now.improving or max(skills) > learned:
        return None
    return Finding(
        severity=Severity.WARNING,
        summary="training rows are predicted no better than by a constant: of its errors "
        f"{max(0.0, skills[0]):.1%} are avoided",
        evidence={"skill": skills[0], "train": train.losses[-1], "steps": history.last_step + 1},
        remedy=_REMEDY,
        # Of squared errors, whatever the loss makes of them.
        confidence=Confidence.SUSPECTED,
        onset=history["train_loss"].steps[0],
        signals=("train_loss", "skill"),
    )


def _surely_avoided(history: History, sigmas: float) -> float | None:
    """Returns what share of a constant's squared errors is avoided on validation rows, if no luck; else None."""
    scored = scores(history, "validation")
    # Of classes more than that comes by a head for the frequent ones.
    if scored is None or not scored.skills or math.isfinite(scored.skill_error):
        return None
    now = is_recent(history, scored.skill_steps[-1])
    return scored.skills[-1] if now and scored.skills[-1] > lucky_skill(scored, sigmas) else None


def _error(losses: list[float]) -> float:
    """Returns the standard error of their level, from how blocks of them scatter.

    The batches of an epoch make up for one another, and where successive losses are alike there are fewer than that.
    """
    parts = levels(losses, _PARTS)
    largest = max(parts)
    if len(parts) < 2 or not largest > 0:
        return 0.0
    # Divided first: squares of huge losses would overflow.
    return largest * standard_error([part / largest for part in parts])


def _is_skilled(history: History, learned: float, *, by_chance: bool) -> bool:
    """Whether predictions are right, of late or in the last batch looked at.

    Where a part of what is learned is chance they must be better than their own scatter explains.
    """
    skill, skills = standing(history).skill, history.get("skill").finite().values
    if skill is None:
        return False
    scatter = noise(skills) if by_chance else 0.0
    error = 1.25 * scatter / math.sqrt(max(3, len(skills) // 5))
    return skill - error > 3 * learned or skills[-1] - 2 * scatter > 8 * learned


def _by_chance(history: History, baseline: float, sigmas: float) -> float:
    """Returns what the weights of a network without a hidden layer may take off the loss by fitting pure noise.

    Twice the gain in log-likelihood is distributed like χ² with a degree of freedom for each weight (Wilks 1938).
    """
    samples, weights = history.fact("data.train_samples"), history.fact("model.trainable")
    head = loss_head(history)
    if (
        not is_linear(history)
        or has_hidden_layer(history)
        or head.reduction != "mean"
        or head.weighted
        or len(head.shape) > 2
    ):
        return 0.0
    if not isinstance(samples, int) or not isinstance(weights, int):
        return 0.0
    free = float(weights)
    if head.loss in ("cross_entropy", "nll"):
        # Adding the same to the weights of every class changes nothing.
        free *= 1 - 1 / head.columns
    elif head.loss not in ("bce", "bce_with_logits", "mse") or head.columns > 1:
        return 0.0
    if not 0 < 2 * free < samples:
        return 0.0
    gain = (free + sigmas * math.sqrt(2 * free)) / (2 * samples)
    # Of a squared error, whose likelihood is that of its logarithm.
    return 2 * gain * baseline if head.loss == "mse" else gain


def _since(losses: Series, learned: float, moved: float, sigmas: float) -> int:
    """Returns the step since which nothing is learned: where what had been learned was lost, or the loss came to rest.

    Args:
        losses: The training losses.
        learned: Under which something was learned.
        moved: How far the loss must have fallen since for a part of the run not to be at rest.
        sigmas: How surely [standard errors].
    """
    parts = [part for i in range(_PARTS) if (part := stretch(losses, i / _PARTS, (i + 1) / _PARTS))]
    lost = max((index for index, part in enumerate(parts, 1) if median(part) < learned), default=0)
    late = stretch(losses, 0.6) or parts[-1]
    falls = [shift(part, late) for part in parts]
    fell = next((i for i, fall in enumerate(falls) if fall.sigmas > -sigmas or -fall.change < moved), 0)
    return losses.steps[0] + max(lost, fell) * (losses.steps[-1] - losses.steps[0]) // len(parts)
