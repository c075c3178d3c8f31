"""LD602: the targets of a regression are far from the scale of the outputs, and the run suffers."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import of_kind
from lightning_doctor.loss_head import SQUARED, LossHead, loss_head
from lightning_doctor.noise import stretch
from lightning_doctor.progress import LITTLE, standing
from lightning_doctor.rule import rule

# Values after which a loss far over its first one is no start that passes.
_SETTLED = 8
# Where the farthest target lies when it is no outlier [standard deviations].
_OUTLYING = 6.0


@rule(
    "LD602",
    reads=("loss_head",),
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
def unscaled_targets(history: History, *, far: float = 10.0) -> Finding | None:
    """The targets of a regression are far from the scale of the outputs, and the run suffers.

    What it looks at:
        Mean and standard deviation of the targets; the root mean square of the first outputs; what is learned.

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

    Blind spots:
        It is said only of runs that learn next to nothing: one that does better has come near the targets, and what
        it lacks may be due to their noise. That the scale is why is inferred. Targets that are faint are judged only
        where the run stays worse than a constant: what is learned of them is as good in any unit.
    """
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


def _is_made_by_outliers(head: LossHead) -> bool:
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
