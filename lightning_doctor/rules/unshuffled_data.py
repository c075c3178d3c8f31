"""LD604: training data come sorted by label, or in the same order in every epoch."""

from __future__ import annotations

from statistics import median

from lightning_doctor.batch import batch_leaf
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.loss_head import loss_head
from lightning_doctor.noise import stretch
from lightning_doctor.progress import GOOD, LITTLE, POOR, is_like_now, standing
from lightning_doctor.rule import rule
from lightning_doctor.scores import scores, scoring_step
from lightning_doctor.validation import held_out

# Share of the run after which numbers in their order must have been learned.
_LATE = 0.25
# The gap between train and eval mode from which the mode may be why rows score badly.
_ANOTHER_MODE = -0.2


@rule(
    "LD604",
    needs={"label_run": 4, "label_drift": 4, "batch_size": 4},
    explains=(
        "loss_spike",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "diverging_loss",
        "exploding_gradients",
        "missing_warmup",
        "overfitting",
        "stale_validation",
        "distribution_mismatch",
        "uninformative_labels",
        "train_eval_discrepancy",
        "imbalanced_classes",
        "collapsed_output",
        "dead_units",
        "saturated_units",
        "vanishing_gradients",
        "stuck_at_baseline",
        "loss_plateau",
        "undertrained",
        "noisy_batches",
        "model_bias",
    ),
)
def unshuffled_data(history: History, *, concentration: float = 0.3, same: float = 0.95) -> Finding | None:
    """Training data come sorted by label, or in the same order in every epoch.

    What it looks at:
        ``label_drift``, how unlike those of the other batches a batch's labels or targets are, for the size of the
        batch; ``label_run``, how much more alike neighbours are than shuffled ones would be; ``order_repeat``; what
        was learned by the validation's metric or loss, and by ``eval_skill/validation``; ``eval_skill/train``, or
        ``eval_loss/train`` beside the losses of the batches as they come.

    Why it matters:
        The network learns the class that it sees and forgets the others: whatever it scores on the present batch,
        on all of the data it is poor.

    Sick:
        Labels 0 0 0 0, 0 0 0 1, 1 1 1 1, 1 2 2 2

    Healthy:
        Labels 0 2 1 0, 2 1 1 0, 1 0 2 2, 0 1 2 2

    Remedy:
        Shuffle: ``DataLoader(shuffle=True)``, or a shuffle buffer that is larger than a class.

    Thresholds:
        concentration: How much of the way from shuffled batches to batches of a single class they must be [share].
        same: Share of the batches that must come at the same place as in the epoch before, for a note [share].

    Blind spots:
        The order of numbers may be meant, as in a time series: it is said only where next to nothing is learned in it.
        Batches of one sample are not judged.
    """
    sizes = history["batch_size"].values
    size = median(sizes)
    drifts, runs = history["label_drift"], history["label_run"]
    drift, run = median(stretch(drifts, 0.5) or drifts.values), median(stretch(runs, 0.5) or runs.values)
    repeats = [value > 0.5 for value in history.get("order_repeat").finite().values]
    repeated = sum(repeats) / len(repeats) if len(repeats) >= 4 else 0.0
    fixed = history.fact("data.sampler") == "SequentialSampler" or repeated >= same
    # 1 when shuffled, and as much as the size of the batch when each holds one class.
    sorted_by = (drift - 1) / (size - 1) if size > 1 else 0.0
    evidence: dict[str, float | int | str] = {"label_drift": drift, "label_run": run, "concentration": sorted_by}
    if sorted_by >= concentration:
        evidence["limit"] = 1 + concentration * (size - 1)
        severity = _severity(history, fixed, evidence)
        if severity is None:
            return None
        return Finding(
            severity=severity,
            summary=f"the batches are far from mixed: their targets differ {drift:.3g} times as much as shuffled ones "
            f"would, and neighbours are {run:.0%} of the way to being the same",
            evidence=evidence,
            remedy=_remedy(history),
            confidence=Confidence.CONFIRMED if fixed else Confidence.SUSPECTED,
            onset=0,
            signals=("label_drift", "label_run", "train_loss"),
        )
    if repeated < same or standing(history).good or _are_numbers(history):
        return None
    return Finding(
        severity=Severity.NOTE,
        summary="the batches are the same ones in the same order in every epoch",
        evidence={**evidence, "order_repeat": repeated},
        remedy=_remedy(history),
        onset=0,
        signals=("order_repeat",),
    )


def _severity(history: History, fixed: bool, evidence: dict[str, float | int | str]) -> Severity | None:
    """Judges by other data, or by the mean loss: on a batch of the class just learned any network looks good."""
    gain, how = held_out(history), standing(history)
    others = [] if gain is None else [gain]
    losses, baselines = history.get("train_loss").finite(), history.get("baseline_loss").finite().values
    if gain is None and len(losses) and baselines and baselines[-1] > 0 and min(losses.values) >= 0:
        gain = 1 - _mean(losses) / baselines[-1]
    validated = scores(history, "validation")
    if (
        gain is not None
        and validated is not None
        and validated.skills
        and is_like_now(history, validated.skill_steps[-1])
    ):
        # The constant's loss is read off batches that are all alike here: scored rows may tell of more.
        gain = max(gain, validated.skills[-1])
        others.append(validated.skills[-1])
    lost = _forgotten(history)
    if lost is not None and max(others, default=0.0) < POOR:
        gain = lost
    if gain is not None:
        evidence["learned"] = gain
    if _are_numbers(history):
        # A series in time comes in its order on purpose, as long as it is learned.
        late = how.ended or how.share is None or how.share >= _LATE
        little = _costs_far_more(history) if gain is None else gain < LITTLE
        return Severity.WARNING if fixed and late and little else None
    if gain is not None and gain >= GOOD:
        return Severity.NOTE
    # Batches that are drawn by class, anew each time, are often meant.
    return Severity.WARNING if fixed else how.if_harmed(Severity.WARNING)


def _forgotten(history: History) -> float | None:
    """Returns the skill on training rows from all of an epoch where that is surely none, and batches hide it.

    Each is learned as it comes and forgotten again: the loss of the steps is less than half of what the rows score.
    """
    scored, losses = scores(history, "train"), history.get("train_loss").finite()
    if scored is None or not scored.skills or not _are_comparable(history, losses):
        return None
    skill, loss, error = scored.skills[-1], scored.losses[-1], scored.errors[-1]
    if skill >= 0 or not is_like_now(history, scored.skill_steps[-1]) or 2 * _mean(losses) >= loss:
        return None
    constant = loss / (1 - skill)
    return skill if loss - 2 * error > constant else None


def _costs_far_more(history: History) -> bool:
    """Whether training rows from all of an epoch cost twice what the batches cost as they come."""
    scored, losses = scores(history, "train"), history.get("train_loss").finite()
    if scored is None or not _are_comparable(history, losses) or min(losses.values) < 0:
        return False
    recent = is_like_now(history, scored.steps[-1])
    return recent and 2 * _mean(losses) < scored.losses[-1] - 2 * scored.errors[-1]


def _are_comparable(history: History, losses: Series) -> bool:
    """Whether rows would be scored like the batches, if they were these."""
    gaps = history.get("mode_gap").finite().values
    if not losses or scoring_step(history) != "training_step" or loss_head(history).reduction != "mean":
        return False
    return not gaps or median(gaps) >= _ANOTHER_MODE


def _mean(losses: Series) -> float:
    recent = stretch(losses, 0.8) or losses.values
    # A sum of shares, which does not overflow.
    return sum(loss / len(recent) for loss in recent)


def _are_numbers(history: History) -> bool:
    kind = history.fact("loss_head.targets")
    if kind is not None:
        return kind not in ("class_index", "one_hot", "binary")
    # Of a loss that cannot be read: whole numbers are classes.
    return "int" not in str(batch_leaf(history, "targets").get("dtype"))


def _remedy(history: History) -> str:
    sampler = history.fact("data.sampler")
    if sampler == "SequentialSampler":
        return "set `shuffle=True` in the training DataLoader"
    if sampler == "_InfiniteConstantSampler":
        return "shuffle in the iterable data set, with a buffer that is larger than a class"
    return f"shuffle the training data: {sampler} does not" if sampler else "shuffle the training data"
