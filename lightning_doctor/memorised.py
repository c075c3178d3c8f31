"""How much of what a network has learned holds for its training rows alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_doctor.history import History
from lightning_doctor.noise import levels
from lightning_doctor.progress import GOOD, is_like_now, standing
from lightning_doctor.rule import is_recent
from lightning_doctor.scores import Scores, constants, gap, kept_apart, scores, unlike

# How sure the gap must be, and how far the skill of few rows may be from the truth [standard errors].
_SIGMAS, _LIKELY = 3.0, 2.0
# The share of the run before which rows that were not trained on may yet be learned, and how much of it a validation
# loss that rests may lose over the second half of its passes.
_EARLY, _TRIFLE = 0.25, 0.05
_LEVELS = 10


@dataclass(frozen=True)
class Memorised:
    """Training rows that are predicted well, and others that are not, at rest.

    Attributes:
        train: What the training rows scored.
        other: What rows scored that were not trained on.
        sample: Which those are, ``"holdout"`` or ``"validation"``.
        share: How much of what is learned of the training rows does not hold for the others, at the least that their
            number leaves likely [share of its skill].
    """

    train: Scores
    other: Scores
    sample: str
    share: float


def memorised(history: History) -> Memorised | None:
    """Returns the gap of a run whose training rows are learned and whose validation rests; None where there is none.

    Skills are compared, of either sample beside its own best constant. Validation rows of another kind tell nothing.
    """
    train, other, sample = scores(history, "train"), kept_apart(history), "holdout"
    if other is None:
        other, sample = scores(history, "validation"), "validation"
        if unlike(history):
            return None
    # Without the constant's loss in their unit these may be losses of which nobody knows what there is to gain.
    if train is None or other is None or not (train.skills and other.skills and constants(history)):
        return None
    if not is_recent(history, train.steps[-1]) and not is_like_now(history, train.steps[-1]):
        return None
    learned, error_of_skill = train.skills[-1], other.skill_error
    holds = max(0.0, other.skills[-1] + (_LIKELY * error_of_skill if math.isfinite(error_of_skill) else 0.0))
    distance, error = gap(train, other)
    if learned < GOOD or not distance > _SIGMAS * error or not _rests(history):
        return None
    return Memorised(train, other, sample, 1 - holds / learned)


def _rests(history: History) -> bool:
    share, losses = standing(history).share, history["val_loss"].finite().values
    late = levels(losses[len(losses) // 2 :], _LEVELS)
    return (share is None or share >= _EARLY) and late[0] - late[-1] <= _TRIFLE * abs(late[0])
