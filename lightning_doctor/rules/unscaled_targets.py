"""LD602: the targets of a regression are far from the scale of the outputs, and the run suffers."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.layers import of_kind
from lightning_doctor.loss_head import SQUARED, LossHead, LossTerm, loss_head, loss_terms
from lightning_doctor.noise import stretch
from lightning_doctor.progress import LITTLE, standing
from lightning_doctor.rule import Undecided, is_recent, rule, unread

# Values after which a loss far over its first one is no start that passes.
_SETTLED = 8
# Of a sum of terms: how many looks at a term are enough, and after what share of the planned steps, or how many, one
# of which next to nothing is learned is no longer waited for; and the share of a constant's score that is something.
_LOOKS, _HALF, _TIME_TO_LEARN, _SOMETHING = 3, 0.5, 500, 0.05
# Where the farthest target lies when it is no outlier [standard deviations].
_OUTLYING = 6.0


@rule(
    "LD602",
    needs={"train_loss/*": 1},
    explains=(
        "learning_rate_too_high",
        "learning_rate_too_low",
        "missing_warmup",
        "exploding_gradients",
        "non_finite_gradients",
        "non_finite_loss",
        "diverging_loss",
        "always_clipped",
        "dead_units",
        "loss_spike",
        "loss_plateau",
        "stuck_at_baseline",
        "collapsed_output",
        "undertrained",
        "noise_floor",
        "flat_region",
        "poor_minimum",
        "stale_validation",
        "saddle_point",
        "ill_conditioned",
    ),
    non_finite=True,
)
def unscaled_targets(history: History, *, far: float = 10.0, drowns: float = 0.99) -> Finding | None:
    """The targets of a regression are far from the scale of the outputs, and the run suffers.

    What it looks at:
        Mean and standard deviation of the targets; the root mean square of the first outputs; what is learned. Of a
        loss that is a sum of several terms the same of each, with its share of the loss at first and of late.

    Why it matters:
        A fresh network puts out numbers about one. To reach targets in the hundreds its weights have to grow by as
        much, which takes Adam thousands of steps; under SGD the first gradients are as large as the targets.

    Sick:
        Targets of mean 152 and standard deviation 77, first outputs of 0.3, and a loss of NaN

    Healthy:
        Targets of mean 0 and standard deviation 1; or of any scale where the run does well

    Remedy:
        Standardise the targets, and undo it in the predictions.

    Thresholds:
        far: How many times one, and the first outputs, the targets' root mean square must be [ratio].
        drowns: Share of the loss that one of several terms must be, at first and of late, to drown the others [share].

    Blind spots:
        It is said only of runs that learn next to nothing: one that does better has come near the targets, and what
        it lacks may be due to their noise. That the scale is why is inferred. Targets that are faint are judged only
        where the run stays worse than a constant: what is learned of them is as good in any unit.
    """
    if not history.fact("loss_head"):
        return _beside_others(history, far, drowns)
    head = loss_head(history)
    if head.targets != "real" or head.loss not in SQUARED:
        return None
    size = math.hypot(head.target_mean, head.target_std)
    first = next(iter(history.get("output_level").finite().values), 1.0)
    how = standing(history)
    # Drowned by the first outputs, which the run has not got rid of.
    faint = 0 < far * size <= min(1.0, first) and how.most is not None and how.most < 0
    if not faint and (not size >= far * max(1.0, first) or _is_made_by_outliers(head)):
        return None
    if (how.most is not None and how.most >= LITTLE) or not (how.harmed or _lost(history)):
        return None
    if _lost(history) and not _is_deep(history):
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the targets have mean {head.target_mean:.3g} and std {head.target_std:.3g}, "
        f"where the outputs began at about {first:.2g}",
        evidence={
            "target_mean": head.target_mean,
            "target_std": head.target_std,
            "first_output": first,
            **({} if how.reached is None else {"learned": how.reached}),
        },
        remedy=f"standardise the targets: (y − {head.target_mean:.4g}) / {head.target_std:.4g}, and undo it in the "
        "predictions",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss",),
    )


def _beside_others(history: History, far: float, drowns: float) -> Finding | None:
    """A squared error in such a unit that other terms of the loss count for nothing, and are not learned."""
    terms = loss_terms(history)
    if not terms:
        raise unread(history)
    step = int(number(history.fact("loss_terms.step"), 0.0))
    if not is_recent(history, step):
        raise Undecided(f"the newest look at the terms of the loss is of step {step}: too old to tell of now")
    loud = next((term for term in terms if term.loss in SQUARED and term.first_share >= drowns), None)
    if loud is None or not loud.share >= drowns or _is_made_by_outliers(loud):
        return None
    if not math.hypot(loud.target_mean, loud.target_std) >= far * max(1.0, loud.first_output):
        return None
    how = standing(history)
    if not (history.last_step >= _TIME_TO_LEARN if how.share is None else how.share >= _HALF):
        raise Undecided("the other terms of the loss are given time until half of the run is over")
    learned = _learned_of_what_is_all(history, loud)
    if learned < 0 and (how.ended or not how.improving):
        return _drowning(terms, loud, f"of it {learned:.1%} of what a constant costs is learned", learned=learned)
    others = [term for term in terms if term is not loud]
    if not any(term.looks >= _LOOKS and math.isfinite(term.learned_error) for term in others):
        raise Undecided(f"no other term of the loss was looked at {_LOOKS} times of late beside a constant prediction")
    # Far from what is worth the name, but for the noise of these batches.
    drowned = [term for term in others if term.looks >= _LOOKS and term.learned + 2 * term.learned_error < _SOMETHING]
    if not drowned:
        return None
    least = min(drowned, key=lambda term: term.learned)
    what = f"of another, {least.loss}, {least.learned:.1%} ± {2 * least.learned_error:.1%} of what a constant costs is "
    return _drowning(terms, loud, f"{what}learned", learned=least.learned, learned_error=least.learned_error)


def _drowning(terms: list[LossTerm], loud: LossTerm, consequence: str, **learned: float) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        summary=f"one of {len(terms)} terms of the loss, {loud.loss}, has targets of mean {loud.target_mean:.3g} "
        f"and std {loud.target_std:.3g} and is {loud.share:.4%} of the loss; {consequence}",
        evidence={
            "target_mean": loud.target_mean,
            "target_std": loud.target_std,
            "first_output": loud.first_output,
            "first_share": loud.first_share,
            "share": loud.share,
            **learned,
        },
        remedy=f"standardise these targets: (y − {loud.target_mean:.4g}) / {loud.target_std:.4g}, and undo it in "
        "the predictions; or weigh the terms so that they begin about as large",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss",),
    )


def _learned_of_what_is_all(history: History, loud: LossTerm) -> float:
    """Returns the share of a constant's cost that is learned of a term which is all of the loss.

    By the loss alone, whatever its weight: the first outputs are next to nothing beside the targets, and cost their
    square in the mean; NaN for other errors. A run may be quick to leave them.
    """
    losses = history["train_loss"].finite()
    first, late = losses.values[:_SETTLED], stretch(losses, 0.8) or losses.values[-1:]
    if loud.loss != "mse" or not first or not max(first) > 0 or not loud.target_std > 0:
        return math.nan
    return 1 - median(late) / max(first) * (1 + (loud.target_mean / loud.target_std) ** 2)


def _is_made_by_outliers(head: LossHead | LossTerm) -> bool:
    """Whether a few targets, far out, make the standard deviation: most of them have another scale."""
    low, high = head.target_range
    farthest = max(high - head.target_mean, head.target_mean - low)
    return farthest > _OUTLYING * head.target_std > 2 * _OUTLYING * abs(head.target_mean)


def _is_deep(history: History) -> bool:
    """Whether there may be a hidden layer: how long a step of a linear model may be does not depend on its targets."""
    return len(of_kind(history, "linear")) != 1


def _lost(history: History) -> bool:
    """Whether the loss has grown beyond numbers, or stays far over where it began."""
    losses = history.get("train_loss")
    finite = losses.finite()
    if len(losses) < _SETTLED and len(finite) == len(losses):
        return False
    recent = stretch(finite, 0.8) if len(finite) == len(losses) else finite.values[-1:]
    return bool(recent) and median(recent) > 3 * finite.values[0]
