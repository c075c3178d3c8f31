"""How well a run does by its own measure: what a fault does to it, and whether it does anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from lightning_doctor.findings import Severity
from lightning_doctor.history import History, Series
from lightning_doctor.loss_head import LossTerm, loss_terms
from lightning_doctor.loss_levels import loss_left, typical
from lightning_doctor.noise import shift, stretch
from lightning_doctor.reference import read_reference
from lightning_doctor.validation import held_out, validated_pace

# Shares of what there is to learn, above which a run does well and under which it does badly.
GOOD, POOR = 0.8, 0.5
# Under which a run has learned next to nothing; what noise there is in the data may keep it from learning more.
LITTLE = 0.2
# The last share of the run that tells how it stands.
_RECENT = 0.8
# Share of the run before which predictions say nothing of how it stands now, and before which a loss that does not
# move may only be slow to start.
_STALE = 0.5
# To which share of what a simple model gains a difference must be known to be called none.
_KNOWN = 0.2
# Gradients of exactly zero in the second half of a run that show it to have stopped.
_STOPPED = 8
# Losses that tell where a run is, and the share of the loss whose change makes it another run than was looked at.
_AROUND, _ANOTHER = 32, 0.2
# Examined batches that tell how a run at rest does, where fewer were looked at of late.
_SEVERAL = 8
# Rows fewer than which tell no share of errors.
_ROWS = 16
# Looks at the terms of a sum fewer than which tell nothing of them, and how much more of one may be learned than they
# show [standard errors].
_FEW, _PERHAPS = 3, 2.0
# Share of the loss that must go within as many steps again for a run to be improving.
_WORTH = 0.05
# Share of the loss over which a run that nothing else tells of has hardly moved.
_LEFT = 0.75
# And at which much is left of one that was still falling.
MUCH = 0.25
# How sure that change must be [standard errors].
_SURELY = 3.0
# Losses that are meant to be indifferent to samples far off.
ROBUST = ("l1", "huber", "smooth_l1", "gaussian_nll")


@dataclass(frozen=True)
class Standing:
    """Where a run is between a constant prediction and a perfect one.

    Attributes:
        skill: The share of the constant predictor's errors that the recent predictions avoid, 1 for all; under a
            robust loss that of the median error where it is larger. None where predictions or targets cannot be read.
        learned: The share of the constant predictor's loss that the recent training loss is under; None where either
            is unknown, the loss may be negative, or its least value is not zero.
        improving: Whether the training loss still falls beyond noise, at a pace that would take at least a twentieth
            off it within as many steps again; or the validation loss has begun to, which is the mean of more rows.
        share: How much of the planned steps the run has had; None where no end is planned.
        ended: Whether the run is over.
        matched: Whether the network scores as well as the best simple model, within the error of the rows that they
            are compared by, and that does far better than a constant: of noisy targets that may be all there is to
            learn.
        validated: The share of what there is to learn that the validation shows to be learned; None where unknown.
        best_term: Where the loss is a sum, how much may be learned at the most of the term that is learned most; None
            unless all terms are known. It may be of no weight: a run that is not poor by it need not be good.
    """

    skill: float | None
    learned: float | None
    improving: bool
    share: float | None
    ended: bool
    matched: bool = False
    validated: float | None = None
    best_term: float | None = None

    @property
    def reached(self) -> float | None:
        """The skill, and where there is none the share of the loss; None where neither is known."""
        return self.learned if self.skill is None else self.skill

    @property
    def good(self) -> bool:
        """Whether what there was to learn is learned: no fault has done harm."""
        return self.reached is not None and self.reached >= GOOD

    @property
    def most(self) -> float | None:
        """The most favourable of skill, share of the loss or a term, and, where one is known, what validation shows.

        Each alone misleads: predictions by the luck of small batches, a loss by what it adds to its errors, or by
        what dropout and augmentation make harder.
        """
        own = _larger(self.skill, self.learned, self.best_term)
        return own if own is None else _larger(own, self.validated)

    @property
    def poor(self) -> bool:
        """Whether most of what there was to learn is not learned, by predictions and by loss as far as known."""
        return self.most is not None and self.most < POOR and not self.matched

    @property
    def harmed(self) -> bool:
        """Whether it is late enough to say that this run does badly: poor, and over or hardly moving."""
        late = self.share is None or self.share >= 0.25
        return self.poor and (self.ended or (late and not self.improving))

    @property
    def rests(self) -> bool:
        """Whether the loss has come to rest: the run is over, or hardly moves in its second half."""
        return self.ended or (not self.improving and (self.share is None or self.share >= _STALE))

    def unless_good(self, severity: Severity) -> Severity:
        """Returns the severity of a fault that is certain: a note in a run that does well all the same."""
        return Severity.NOTE if self.good else severity

    def if_harmed(self, severity: Severity) -> Severity:
        """Returns the severity of a fault that many runs live with: a note unless this run does badly."""
        return severity if self.harmed else Severity.NOTE

    def if_poor(self, severity: Severity, *, attainable: float = 1.0) -> Severity:
        """Returns the severity of a fault that is certain but many runs live with: a note while a run is young or well.

        Args:
            severity: Where the run is poor, moving or not, or nothing tells how it stands.
            attainable: The share of the constant predictor's loss that the fault leaves to be learned, in (0, 1].
        """
        most = _larger(self.skill, None if self.learned is None else self.learned / attainable)
        late = self.ended or self.share is None or self.share >= 0.4
        return severity if late and (most is None or most < POOR) else Severity.NOTE


def _larger(*shares: float | None) -> float | None:
    return max((share for share in shares if share is not None), default=None)


def standing(history: History) -> Standing:
    """Reads off how far the run has come; half of all rules ask."""
    return history.once("standing", lambda: _standing(history))


def _standing(history: History) -> Standing:
    losses = history.get("train_loss").finite()
    planned = history.fact("trainer.planned_steps")
    share = (history.last_step + 1) / planned if isinstance(planned, int) and planned > 0 else None
    return Standing(
        skill=_skill(history),
        learned=_learned(history),
        improving=_improving(losses.values, stretch(losses, 0.5)) or _falls_of_late(history),
        share=share,
        ended=history.fact("run.ended") is not None,
        matched=_matched(history),
        validated=held_out(history),
        best_term=_best_term(history),
    )


def _matched(history: History) -> bool:
    compared = read_reference(history)
    if compared is None or not compared.rivals:
        return False
    if compared.step < _RECENT * history.last_step and _has_risen(history, compared.step):
        return False
    best = min(compared.rivals.values(), key=lambda rival: rival.loss)
    gained = compared.constant - best.loss
    # One that learned next to nothing itself tells nothing of what can be learned.
    if gained < LITTLE * compared.constant:
        return False
    return best.gap <= (best.error if best.error <= _KNOWN * gained else 0.0)


def _skill(history: History) -> float | None:
    skills = history.get("skill").finite()
    # What other terms of the loss ask for may limit it by right.
    if not skills.values or history.fact("loss_head.regularisers"):
        return None
    if _is_of_few_rows(history, skills):
        return None
    skill = _recently(history, skills)
    errors = history.get("typical_error").finite()
    if errors.values and history.fact("loss_head.loss") in ROBUST:
        skill = max(skill, 1 - _recently(history, errors) ** 2)
    # What was not learned when predictions were looked at last may be by the time that training rows were scored.
    scored = history.get("eval_skill/train").finite()
    since = scored and scored.steps[-1] > skills.steps[-1] and scored.steps[-1] >= _RECENT * history.last_step
    if since and scored.values[-1] >= POOR:
        skill = max(skill, scored.values[-1])
    if skills.steps[-1] >= _STALE * history.last_step:
        return skill
    # Where the time for examinations ran out the last ones are old: what was learned by then is still known as long as
    # the loss has not risen, what was not may be by now; and where the loss tells more it is more.
    if skill < POOR or _has_risen(history, skills.steps[-1]):
        return None
    learned = _learned(history)
    return skill if learned is None or learned < skill or is_like_now(history, skills.steps[-1]) else None


def _is_of_few_rows(history: History, skills: Series) -> bool:
    """Whether the latest predictions are a handful, where the loss tells more; each pixel of an image is an answer."""
    size, shape = history.fact("data.batch_size"), history.fact("loss_head.output_shape")
    if not isinstance(size, int) or (isinstance(shape, list) and len(shape) > 2):
        return False
    few = size * len(_latest(history, skills)) < _ROWS
    return few and _learned(history) is not None


def _recently(history: History, series: Series) -> float:
    return median(_latest(history, series))


def _latest(history: History, series: Series) -> list[float]:
    recent = stretch(series, _RECENT)
    if len(recent) >= 3:
        return recent
    # Several, as a few small batches are luck, but of the run as it is now: while it improves only the latest, and
    # none from the first half of the steps up to the last one.
    losses = history.get("train_loss").finite()
    improves = _improving(losses.values, stretch(losses, 0.5))
    count, since = (3, (series.steps[-1] + 1) // 2) if improves else (_SEVERAL, 0)
    latest = list(zip(series.steps, series.values, strict=True))[-count:]
    return [value for step, value in latest if step >= since and is_like_now(history, step)] or series.values[-1:]


def is_like_now(history: History, step: int) -> bool:
    """Whether the training loss was at a step about what it is now: what was measured then still tells of the run."""
    losses = history.get("train_loss").finite()
    before, after = losses.until(step)[-_AROUND:] or losses.values[:1], losses.values[-_AROUND:]
    if not before:
        return False
    change = shift(before, after)
    return abs(change.change) <= _ANOTHER * abs(median(before)) or abs(change.sigmas) < _SURELY


def _has_risen(history: History, since: int) -> bool:
    losses = history.get("train_loss").finite()
    before, after = losses.until(since)[-_AROUND:], stretch(losses, _RECENT)
    return not before or not after or median(after) > median(before)


def _learned(history: History) -> float | None:
    baselines, losses = history.get("baseline_loss").finite().values, history.get("train_loss").finite()
    recent = stretch(losses, _RECENT)
    if not baselines or not recent or min(losses.values) < 0:
        return None
    # The cross-entropy of a target that is itself a probability never comes to zero.
    if history.fact("loss_head.targets") == "probabilities" or history.fact("loss_head.label_smoothing"):
        return None
    # That of a sum over the last batch of an epoch, which may be small, is small too.
    baseline = median(baselines[-3:])
    return 1 - typical(recent) / baseline if baseline > 0 else None


def _best_term(history: History) -> float | None:
    terms, step = loss_terms(history), history.fact("loss_terms.step")
    if not terms or not isinstance(step, int) or not (step >= _STALE * history.last_step or is_like_now(history, step)):
        return None
    most = [_at_most(term) for term in terms]
    return max(most) if all(map(math.isfinite, most)) else None


def _at_most(term: LossTerm) -> float:
    """Returns how much of a term may be learned at the most, NaN where it cannot be told.

    One that grows as errors do counts as its square, as predictions are judged by elsewhere.
    """
    if term.looks < _FEW or not term.to_zero:
        return math.nan
    left = 1 - term.learned - _PERHAPS * term.learned_error
    return 1 - (left * left if term.loss in (*ROBUST, "rmse") and left > 0 else left)


def _improving(losses: list[float], late: list[float]) -> bool:
    half = len(late) // 2
    if half < 4:
        return len(losses) >= 2 and losses[-1] < losses[0]
    fall = shift(late[:half], late[half:])
    # The two medians lie a quarter of the run apart.
    return fall.sigmas < -3 and -4 * fall.change > _WORTH * abs(median(late[half:]))


def hardly_fell(history: History, most: float = _LEFT) -> bool:
    """Whether a run is over with most of its loss left, and neither predictions nor validation tell how it did.

    For faults that are certain: alone it says little, as a loss need not be able to come near zero.

    Args:
        history: Of the run.
        most: The share of the loss that is still most of it.
    """
    left, now = loss_left(history), standing(history)
    return left is not None and left > most and now.ended and now.reached is None and now.validated is None


def came_far(history: History, share: float) -> bool:
    """Whether validation rows show that a run does well, or its loss has lost this share of its start."""
    left = loss_left(history)
    return (standing(history).validated or 0.0) >= GOOD or (left is not None and left < 1 - share)


def _falls_of_late(history: History) -> bool:
    return validated_pace(history) * history.last_step > _WORTH


def stopped_at(history: History) -> int | None:
    """Returns the step from which on every measured gradient was exactly zero; None where those of late are not."""
    norms = history.get("grad_norm")
    late = stretch(norms, 0.5)
    if len(late) < _STOPPED or any(late):
        return None
    last = next((i for i in range(len(norms) - 1, -1, -1) if norms.values[i] != 0), -1)
    return norms.steps[last + 1]
