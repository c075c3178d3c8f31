"""LD506: validation rows are found in the training set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.rule import rule
from lightning_doctor.scores import gap, known_bars, scores, scoring_step, sureness, unlike

# The share of the rows found that must be different ones.
_VARIOUS = 0.1


@rule("LD506", needs={"val_loss": 1}, reads=("overlap",))
def leaked_validation(
    history: History,
    *,
    share: float = 0.01,
    sigmas: float = 4.0,
    least: int = 3,
    factor: float = 2.0,
    rare: float = 0.1,
) -> Finding | None:
    """Validation rows are found in the training set.

    What it looks at:
        Fingerprints of the inputs of the validation rows and of the training rows of the first epoch, exact and
        rounded; how often rows of either side come twice within it, as rows that hold little do, and how often
        different rows share a number. Where none are found, ``eval_loss/train`` and ``eval_loss/validation``, what a
        copy of the model scores on fixed rows of either side in eval mode [unit of your loss].

    Why it matters:
        What was trained on is no test: the validation loss is too good, and early stopping and model choice go wrong.

    Sick:
        97 of 397 validation rows are among the 1,400 training rows, none of which comes twice

    Healthy:
        31 of 400 rows of three yes-or-no answers are, where most training rows are like another too; or validation
        under the training loss where training rows are augmented

    Remedy:
        Split anew, after duplicates are removed and with what belongs together on one side.

    Thresholds:
        share: Share of the validation rows from which more than a note is due [share].
        sigmas: How surely more must be found than come twice on either side [standard errors].
        least: How many must be found [rows].
        rare: How many different rows may have the same number as another in the usual column, for rows that come
            twice to be copies and no coincidence [share].
        factor: How many times the loss of validation rows that of training rows must be, by twice as many standard
            errors, for a note where no row is found [ratio].

    Blind spots:
        Augmented or differently prepared copies are not found. Rows beyond the first some ten thousands, or those for
        whose fingerprints there was no time, are not looked at. Sampling with replacement looks like duplicates,
        and duplicates in data of few values look like coincidence.
        Validation rows that are merely easier, or whose labels alone are clean, do better too: that is but a note.
    """
    fact: Any = history.fact("overlap")
    if not isinstance(fact, Mapping):
        return None
    count, train_rows = number(fact.get("validation_rows")), number(fact.get("train_rows"))
    exact, rounded = number(fact.get("exact")), number(fact.get("rounded"))
    usual = max(number(fact.get("repeated")), number(fact.get("repeated_validation")))
    # Of numbers that never meet by chance whole rows that do are copies, made before the split.
    # One row found again and again, such as a blank one, is no copy of another.
    various = number(fact.get("different"), 0.0) >= max(least, _VARIOUS * exact * count)
    copied = various and number(history.fact("comparison.inputs.coinciding"), 1.0) <= rare
    found, chance = (exact, 0.0) if copied else (max(exact, rounded), usual)
    if not (count > 0 and train_rows > 0 and 0 <= found <= 1 and 0 <= usual <= 1):
        return None
    error = math.sqrt(max(chance * (1 - chance), 1 / count) / count)
    if round(found * count) < least or found - chance <= sigmas * error:
        return _too_good(history, factor, 2 * sigmas)
    samples = history.fact("data.train_samples")
    # Each of them was found among the training rows that were looked at only.
    seen = min(1.0, train_rows / samples) if isinstance(samples, int) and samples > 0 else 1.0
    likely = min(1.0, (found - chance) / seen)
    return Finding(
        severity=Severity.WARNING if likely >= share else Severity.NOTE,
        summary=f"{round(found * count)} of {count:.0f} validation rows ({found:.1%}) are among {train_rows:.0f} "
        f"training rows{'' if exact >= found else ' but for rounding'}"
        + (f", and {usual:.1%} of the rows of a side come twice" if usual else "")
        + (", which are copies: other rows hardly ever share a number" if usual > chance else ""),
        evidence={
            "found": round(found * count),
            "validation_rows": round(count),
            "train_rows": round(train_rows),
            "exact_share": exact,
            "rounded_share": rounded,
            "repeated_share": usual,
            "likely_share": likely,
        },
        remedy="the training set itself serves for validation: split off rows that are not trained on"
        if found > 0.95
        else "remove duplicates and split anew, with what belongs together (one patient, one video) on one side; "
        "augment and oversample after the split",
        confidence=Confidence.CONFIRMED,
        onset=0,
        signals=("val_loss",),
    )


def _too_good(history: History, factor: float, sigmas: float) -> Finding | None:
    """Notes a loss on validation rows that is far under the one on training rows, in the same mode."""
    train, validation = scores(history, "train"), scores(history, "validation")
    if train is None or validation is None or history.fact("data.augmentation") or unlike(history):
        return None
    above, error = gap(validation, train)
    if not 0 <= factor * validation.losses[-1] < train.losses[-1] or not above > sigmas * error:
        return None
    return Finding(
        severity=Severity.NOTE,
        summary=f"validation rows score {validation} and training rows {train}, both in eval mode"
        f"{sureness(train.bar, validation.bar)}: rows that were trained on should do better",
        evidence={
            "train": train.losses[-1],
            "validation": validation.losses[-1],
            "error": error,
            "scored_by": scoring_step(history),
            **known_bars(train=train.bar, validation=validation.bar),
        },
        remedy="look for what tells the answer in validation rows only; unless they are easier on purpose, or their "
        "labels alone were cleaned",
        confidence=Confidence.SUSPECTED,
        onset=validation.steps[-1],
        signals=("val_loss", "train_loss"),
    )
