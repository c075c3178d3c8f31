"""LD309: a few samples carry most of a squared loss."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import pairwise
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.loss_head import loss_head
from lightning_doctor.noise import stretch
from lightning_doctor.progress import GOOD, standing
from lightning_doctor.rule import rule

# How many times the usual loss that of the batch after one with a sample far out may be.
_NEXT = 2.0


@rule(
    "LD309",
    needs={"worst_share": 5, "worst_ratio": 5, "train_loss": 5},
    explains=(
        "loss_spike",
        "loss_plateau",
        "stuck_at_baseline",
        "always_clipped",
        "exploding_gradients",
        "diverging_loss",
        "missing_warmup",
        "overfitting",
        "noise_floor",
        "unscaled_targets",
        "stale_validation",
        "learning_rate_too_high",
    ),
)
def outlier_targets(
    history: History, *, share: float = 0.7, ratio: float = 20.0, usual: float = 0.5, batch: int = 5
) -> Finding | None:
    """A few samples carry most of a squared loss.

    What it looks at:
        ``worst_share``, the share of a batch's squared error that its worst twentieth carries, and ``worst_ratio``,
        its largest error over its median one, over all batches looked at, each weighted with its loss; the losses of
        those not looked at, where single ones stand out as one sample far off makes them;
        ``typical_error``, the median error over what predicting the median of the targets would make it.

    Why it matters:
        The network is pulled after a handful of samples, often wrong ones, and fits the rest badly.

    Sick:
        One target in 50 is 60 deviations off: it carries 0.99 of the loss, and the usual error stays at 0.7 of that
        of a constant

    Healthy:
        Normal errors, whose worst twentieth carries 0.3; a heavy tail, while the usual error falls to 0.2

    Remedy:
        A Huber loss, and a look at those samples.

    Thresholds:
        share: Share of the squared error that the worst twentieth must carry [share].
        ratio: How many times the median error of its batch the largest must be [ratio].
        usual: How large the usual error must be to be a warning [share of that of a constant].
        batch: Samples a batch must have: of fewer the worst is always a large part [samples].

    Blind spots:
        Outliers so frequent that a batch's median error is one of theirs are not seen, nor those that the network has
        learned by heart.
    """
    head = loss_head(history)
    sizes = history.get("batch_size").values
    # Of a sum of terms errors are known where a squared one is nearly all of it.
    if head.loss not in ("mse", "rmse", "") or (sizes and max(sizes) < batch):
        return None
    shares, ratios = history["worst_share"], history["worst_ratio"]
    losses = dict(zip(history["train_loss"].steps, history["train_loss"].values, strict=True))
    seen = [
        (losses.get(step, 0.0), carried, apart)
        for step, carried, apart in zip(shares.steps, shares.values, ratios.values, strict=False)
    ]
    total = sum(loss for loss, _, _ in seen)
    if not 0 < total < math.inf or min(loss for loss, _, _ in seen) < 0:
        return None
    far = [(loss / total, part) for loss, part, times in seen if times >= ratio]
    # A batch with many of them has a worst twentieth that carries less.
    carried = sum(part for part, _ in far) * median([part for _, part in far] or [0.0])
    apart = sum(loss / total * times for loss, _, times in seen)
    batches, looked_into = len(seen), True
    summary = (
        f"the worst twentieth of the samples carries {carried:.0%} of the squared error; the largest error is "
        f"{apart:.3g} times the median one"
    )
    if carried < share or apart < ratio or not _recurs(losses.values(), [loss for loss, _, t in seen if t >= ratio]):
        looked_at = max(loss for loss, _, _ in seen)
        unseen = _in_other_batches(history["train_loss"], looked_at, max(sizes, default=math.inf), ratio)
        if unseen is None or unseen[0] < share:
            return None
        (carried, apart, batches), looked_into = unseen, False
        summary = (
            f"{batches} of {len(losses)} batches, none of them looked into, carry {carried:.0%} of the squared error, "
            f"as one error of {apart:.3g} times the usual one in each would, or a harder batch"
        )
    state = standing(history)
    usually = history.get("typical_error").finite()
    errors = stretch(usually, 0.7)
    evidence: dict[str, float | int | str] = {
        **({"worst_share": carried} if looked_into else {"batches_share": carried}),
        "share_allowed": share,
        "worst_ratio": apart,
        "ratio_allowed": ratio,
        "batches": batches,
    }
    if head.target_std > 0:
        farthest = max(head.target_range[1] - head.target_mean, head.target_mean - head.target_range[0])
        evidence |= {"target_std": head.target_std, "farthest_target": farthest}
    harmed = state.harmed
    if errors:
        evidence |= {"typical_error": median(errors), "error_allowed": usual}
        # What outliers do to the mean error hides how the usual sample does; a heavy tail takes its time to be learned.
        fresh = state.ended and usually.steps[-1] >= 0.7 * history.last_step
        settled = not state.improving and (state.share is None or state.share >= 0.4)
        # Where no errors were seen of late, a loss that is nearly gone has none to speak of.
        reached = state.skill if fresh or not state.ended else state.reached
        well = reached is not None and reached >= GOOD
        harmed = (fresh or settled) and median(errors) >= usual and not well
    return Finding(
        severity=Severity.WARNING if harmed else Severity.NOTE,
        summary=summary,
        evidence=evidence,
        remedy="look at the samples with the largest errors, and use `huber_loss` with delta at the usual error, or "
        "clip the targets",
        confidence=Confidence.CONFIRMED if harmed and looked_into else Confidence.SUSPECTED,
        onset=0,
        signals=("worst_share", "worst_ratio", "typical_error", "train_loss"),
    )


def _in_other_batches(losses: Series, looked_at: float, batch: float, ratio: float) -> tuple[float, float, int] | None:
    """Returns what the batches of which one sample must be that far out carry, how far it is, and how many there are.

    One error of r times the usual one adds r² / N of it to the mean of N squares. None where they do not come all
    along the run, are no minority, where one of them was looked into, or where the steps after them are worse than
    usual too, as after a step that was too long.
    """
    parts = [stretch(losses, quarter / 4, (quarter + 1) / 4) for quarter in range(4)]
    far: list[float] = []
    after, apart = [], []
    for part in parts:
        usual = median(part) if part else 0.0
        least = usual * (1 + ratio * ratio / batch)
        worst = [loss for loss in part if loss >= least]
        if not usual > 0 or not worst or 2 * len(worst) > len(part) or looked_at >= min(worst):
            return None
        far += worst
        after += [new / usual for old, new in pairwise(part) if old >= least > new]
        apart += [math.sqrt((loss / usual - 1) * batch) for loss in worst]
    if median(after or [math.inf]) > _NEXT:
        return None
    return sum(far) / sum(sum(part) for part in parts), median(apart), len(far)


def _recurs(losses: Collection[float], worst: list[float]) -> bool:
    """Whether more than one batch is like the worst that were looked into: one may be an accident.

    Few batches are looked into; of the others a loss nearly as large tells.
    """
    return len(worst) > 1 or sum(loss >= min(worst, default=math.inf) / 4 for loss in losses) > 2
