"""LD502: validation rows come from another distribution than training rows."""

from __future__ import annotations

import math
from statistics import median, stdev

from lightning_doctor.error_bars import told
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.loss_levels import typical
from lightning_doctor.progress import GOOD, standing
from lightning_doctor.rule import rule
from lightning_doctor.scores import (
    Scores,
    Unlike,
    constants,
    ever_learned,
    gap,
    kept_apart,
    known_bars,
    learned_at_first,
    scores,
    scoring_step,
    sureness,
    unlike,
    when_new,
)

# Passes over validation rows that must all have been at chance, and the share of the constant's loss that is.
_PASSES, _CHANCE = 3, 0.02
# The share of what new training rows showed to be learned that validation rows lack, and between which shares of the
# first epoch they were scored for that.
_LACKS, _FROM, _TO = 0.75, 0.75, 1.25
# Steps whose losses tell what training costs.
_STEPS = 32
# The share of training rows that may be like another one.
_AGAIN = 0.1


@rule(
    "LD502",
    needs={"eval_loss/train": 1, "eval_loss/validation": 1},
    explains=("overfitting", "stale_validation", "uninformative_labels", "uncertain_validation"),
)
def distribution_mismatch(
    history: History, *, sigmas: float = 4.0, learned: float = 0.5, lost: float = 0.15, share: float = 0.5
) -> Finding | None:
    """Validation rows come from another distribution than training rows.

    What it looks at:
        ``eval_loss/train``, ``eval_loss/validation`` and, with ``Doctor(holdout=…)``, ``eval_loss/holdout``: what a
        copy of the model scores on fixed rows in eval mode [unit of your loss] by its ``training_step``, or by its
        ``validation_step`` where that cannot be; a two-sample test of the inputs and
        of the targets as the loaders serve them, with whatever augmentation training rows have; without a difference
        between them, whether ``train_loss`` came under the constant's, or far under what validation rows cost then,
        while all samples were new.

    Why it matters:
        Overfitting and mismatch look alike in the curves and need opposite cures: more data of the kind that is
        trained on does not help against mismatch.

    Sick:
        Training 0.11, held-out training rows 0.13, validation 1.72; or a column of mean 0.3 in training and 82.1 in
        validation

    Healthy:
        Training 0.02, held-out training rows 0.61, validation 0.63, which is overfitting; or inputs that differ
        while validation does well

    Remedy:
        Prepare both sides alike; split anew by chance; train on data like that of validation.

    Thresholds:
        sigmas: How surely validation must do worse [standard errors].
        learned: How much of the constant predictor's errors training rows must avoid, once the run has come to rest;
            before that four fifths [share].
        lost: How much more of them validation must make, twice as much where rows differ moderately and none were
            held out; of the constant's loss, where predictions are unknown [share].
        share: How much of the gap to training rows must open beyond held-out rows, where there are any [share].

    Blind spots:
        Without held-out rows it is a suspicion but for differences that no draw makes: a network may overfit as well.
        Augmentation of training rows makes them differ. Of many columns only some are compared, and of text its ids.
        Windows that overlap, and augmented copies, are not all new in the first epoch.
    """
    train, validation = scores(history, "train"), scores(history, "validation")
    if train is None or validation is None:
        return None
    kept = kept_apart(history)
    distance, error = gap(kept or train, validation)
    whole, _ = gap(train, validation)
    # Of the gap to training rows what opens beyond held-out ones.
    part = min(1.0, distance / whole) if kept is not None and whole > 0 else 1.0
    parts = unlike(history)
    if not distance > sigmas * error or _learned(history, train) < (learned if standing(history).rests else GOOD):
        return None
    if _has_closed(history, validation.steps[-1]):
        return None
    if kept is None and not parts:
        return _never_learned(history, train, validation) or _missed_at_first(history, train, validation, sigmas)
    # A moderate difference of a few rows may be harmless, and the gap another's doing.
    needed = lost if kept is not None or any(part.far for part in parts) else 2 * lost
    if part * _harm(history, train, validation) < needed or part < share:
        return None
    augmented = history.fact("comparison.augmentation")
    sure = kept is not None or (any(part.far for part in parts) and not augmented)
    return Finding(
        # Where validation does well there is little to gain.
        severity=Severity.NOTE if max(validation.skills[-1:], default=0.0) >= GOOD else Severity.WARNING,
        summary=_summary(train, kept, validation, parts),
        evidence={
            "train": train.losses[-1],
            **({} if kept is None else {"holdout": kept.losses[-1]}),
            "validation": validation.losses[-1],
            **({"error": error} if math.isfinite(error) else {}),
            **known_bars(train=train.bar, validation=validation.bar, **({} if kept is None else {"holdout": kept.bar})),
            **{name: value for part in reversed(parts) for name, value in part.evidence.items()},
            **({"augmentation": str(augmented)} if augmented else {}),
            "scored_by": scoring_step(history),
        },
        remedy=_remedy(parts, bool(augmented)),
        confidence=Confidence.CONFIRMED if sure else Confidence.SUSPECTED,
        onset=validation.steps[0],
        signals=("train_loss", "val_loss"),
    )


def _beaten_when_new(history: History) -> float | None:
    """Returns what a constant scores, if training rows did better in the first epoch, when all were new; else None."""
    baselines = constants(history)
    # Rows that come again are not new.
    if not baselines or number(history.fact("overlap.repeated"), 0.0) > _AGAIN:
        return None
    baseline = median(baselines[-3:])
    return baseline if learned_at_first(history, baseline, _CHANCE) else None


def _never_learned(history: History, train: Scores, validation: Scores) -> Finding | None:
    """Training rows that nobody had seen, in the first epoch, were predicted, and no validation row ever was."""
    baseline = _beaten_when_new(history)
    if baseline is None or baseline <= 0 or min(*train.losses, *validation.losses) < 0:
        return None
    # Of those of the run's own that were not scored too the loss alone tells.
    passes = history.get("val_loss").finite().values
    if len(validation.losses) < _PASSES and (len(passes) < _PASSES or min(passes) < (1 - _CHANCE) * baseline):
        return None
    if ever_learned(validation, baseline, _CHANCE):
        return None
    bar = validation.bar_of_best
    best, sure = told(min(validation.losses), bar), sureness(bar, looked_at=len(validation.losses))
    return Finding(
        severity=Severity.WARNING,
        summary=f"validation rows were never predicted better than by a constant, {baseline:.3g}: {best} at best{sure}"
        ", while training rows were in the first epoch, when all of them were new",
        evidence={
            "train": train.losses[-1],
            "validation": validation.losses[-1],
            "best": min(validation.losses),
            "baseline": baseline,
            **known_bars(best=bar),
        },
        remedy=_remedy([], bool(history.fact("comparison.augmentation"))),
        confidence=Confidence.SUSPECTED,
        onset=validation.steps[0],
        signals=("train_loss", "val_loss", "baseline_loss"),
    )


def _missed_at_first(history: History, train: Scores, validation: Scores, sigmas: float) -> Finding | None:
    """Of what rows that nobody had seen showed at the end of the first epoch validation rows had next to nothing."""
    baseline, new = _beaten_when_new(history), when_new(history)
    if baseline is None or not (train.skills and validation.skills):
        return None
    # Windows of one sequence that overlap are not new, nor are copies that are augmented.
    if history.fact("loss_head.classes") is None:
        return None
    sizes = history.fact("loss_head.target_shape")
    if not isinstance(sizes, list) or len(sizes) > 1 or history.fact("comparison.augmentation"):
        return None
    epoch = int(history.fact("trainer.steps_per_epoch"))
    at = next((i for i, step in enumerate(validation.steps) if _FROM * epoch <= step + 1 <= _TO * epoch), None)
    if at is None or validation.steps[at] not in train.steps:
        return None
    level, there = typical(new), validation.losses[at]
    error = math.hypot(stdev(new) / math.sqrt(len(new)), validation.errors[at])
    own = train.losses[train.steps.index(validation.steps[at])]
    # Rows that were trained on do as well in eval mode, and all through the epoch: it is not that, nor their order.
    if not there - level > max(sigmas * error, _LACKS * (baseline - level)) or own - level > 0.5 * (there - level):
        return None
    then, keeps = train.skill_at(validation.steps[at]), validation.skill_at(validation.steps[at])
    if not keeps <= (1 - _LACKS) * then or not max(validation.skills) <= (1 - _LACKS) * train.skills[-1]:
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"at the end of the first epoch validation rows cost {told(there, validation.bars[at])}"
        f"{sureness(validation.bars[at])} and training rows, as they came for the first time, {level:.3g}: of a "
        f"constant's errors {max(0.0, keeps):.0%} were avoided and {then:.0%}",
        evidence={
            "validation": there,
            "new_rows": level,
            "error": error,
            "baseline": baseline,
            "validation_skill": keeps,
            "train_skill": then,
            "scored_at": validation.steps[at],
            **known_bars(validation=validation.bars[at]),
        },
        remedy="find what sets validation rows apart (source, time, preparation, vocabulary); where training rows "
        "overlap, or are copies of a few, they were not new, and this is overfitting",
        confidence=Confidence.SUSPECTED,
        onset=validation.steps[at],
        signals=("train_loss", "val_loss", "baseline_loss"),
    )


def _has_closed(history: History, scored: int) -> bool:
    """Whether the gap of the run's own losses has come down to less than half since the rows were scored last."""
    validation, train = history.get("val_loss").finite(), history.get("train_loss").finite()
    then, now = validation.until(scored)[-_PASSES:], validation.since(scored + 1)[-_PASSES:]
    before, after = train.until(scored)[-_STEPS:], train.since(scored + 1)[-_STEPS:]
    if not (then and now and before and after):
        return False
    gap_then, gap_now = median(then) - median(before), median(now) - median(after)
    return gap_now < 0.5 * gap_then


def _learned(history: History, train: Scores) -> float:
    """Returns what of a constant's errors, or of its loss where no predictions are known, training rows avoid."""
    if train.skills:
        return train.skills[-1]
    baselines = constants(history)
    start = baselines[-1] if baselines else train.losses[0]
    return 1 - train.losses[-1] / start if start > 0 else 0.0


def _harm(history: History, train: Scores, validation: Scores) -> float:
    """Returns how much less validation avoids of a constant's errors, or of its loss where no predictions are known."""
    if train.skills and validation.skills:
        # Probabilities may be far off where classes are right: that is another matter.
        return min(1.0, train.skills[-1]) - min(1.0, validation.skills[-1])
    baselines = constants(history)
    if baselines and baselines[-1] > 0:
        return (validation.losses[-1] - train.losses[-1]) / baselines[-1]
    return math.inf


def _summary(train: Scores, kept: Scores | None, validation: Scores, parts: list[Unlike]) -> str:
    words = f"validation rows score {validation} and training rows {train}"
    if kept is not None:
        words += f", held-out training rows {kept}"
    words += sureness(train.bar, validation.bar, *([] if kept is None else [kept.bar]))
    if kept is not None:
        words += ": more training data will not help"
    for part in parts:
        words += f"; their {part.part} differ (p ≤ {part.p_value:.2g}; {part.names})"
    return words


def _remedy(parts: list[Unlike], augmented: bool) -> str:
    advice = []
    kinds = {part.part: part for part in parts}
    if "inputs" in kinds:
        far = kinds["inputs"].far
        advice.append(
            "prepare both sides alike: the same scaling, with the training set's own numbers, and the same order and "
            "orientation"
            if far
            else "find what sets the validation inputs apart (another source, time or preparation)"
        )
    if "targets" in kinds:
        advice.append("split by chance within each class, so that both sides have the same labels")
    if not parts:
        advice.append(
            "find what sets validation rows apart (source, time, preparation); their inputs alone do not show it"
        )
    advice.append(
        "split anew by chance if it is to measure what was trained, or train on rows like those of validation"
    )
    if augmented:
        advice.append("compare again with augmentation off")
    return "; ".join(advice)
