"""LD605: the same batch is served again and again."""

from __future__ import annotations

from statistics import median

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.loss_levels import typical
from lightning_doctor.noise import stretch
from lightning_doctor.progress import GOOD, POOR, standing
from lightning_doctor.rule import rule
from lightning_doctor.scores import gap, scores, scoring_step
from lightning_doctor.validation import held_out

# Losses that tell where a run started, and how sure a gap between training and validation rows must be [standard
# errors].
_FIRST, _SURELY = 8, 3.0


@rule(
    "LD605",
    needs={"batch_repeat": 24},
    explains=(
        "overfitting",
        "stale_validation",
        "distribution_mismatch",
        "uninformative_labels",
        "constant_labels",
        "learning_rate_too_low",
        "imbalanced_classes",
        "collapsed_output",
        "loss_plateau",
        "undertrained",
        "model_bias",
    ),
)
def repeated_batches(
    history: History, *, share: float = 0.4, always: float = 0.97, alike: float = 0.5
) -> Finding | None:
    """The same batch is served again and again.

    What it looks at:
        ``batch_repeat``, 1 for a batch that equals one of the four before it in its epoch; ``duplicate_share``, the
        share of rows that another row of their batch equals; how many rows of the first epoch equal another;
        what validation shows to be learned, or where that is not known what training and validation rows scored,
        beside the loss at the start; and whether ``val_loss`` still falls.

    Why it matters:
        The network sees a fraction of the data, learns it by heart and fails on the rest; or an epoch takes several
        times as long as it has to.

    Sick:
        1, 1, 1, 1, 1, 1, 1, 1

    Healthy:
        0, 0, 0, 0, 0, 0, 0, 0

    Remedy:
        Mend the sampler or the index of the data set; split an iterable data set between its workers.

    Thresholds:
        share: Share of the batches that must be repeats [share].
        always: Share above which it is one batch that comes, rather than each a few times; and share of the rows of the
            first epoch that must have a twin [share].
        alike: Share of the rows of a batch that must have a twin, in a run that does well on them and badly on others
            [share].

    Blind spots:
        Batches of the same rows in another order are not seen as the same, nor a repeat after more than four batches.
    """
    repeats = stretch(history["batch_repeat"], 0.5) or history["batch_repeat"].values
    usual = sum(value > 0.5 for value in repeats) / len(repeats)
    if usual < share:
        return _duplicates(history, alike, always)
    workers = history.fact("data.workers")
    evidence: dict[str, float | int | str] = {"repeated_share": usual}
    if isinstance(workers, int):
        evidence["workers"] = workers
    if usual >= always:
        held = held_out(history)
        severity = Severity.ERROR
        if held is not None:
            # On its own few rows such a run does well: only other data can acquit it.
            evidence["learned"] = held
            severity = Severity.NOTE if held >= GOOD else Severity.ERROR if held < POOR else Severity.WARNING
        summary = f"{usual:.0%} of the batches equal one of the four before them: one batch comes again and again"
        remedy = "use the index that `__getitem__` is given, and the loader's own sampler; a batch kept for debugging "
        remedy += "has no place in `train_dataloader`"
    else:
        severity = standing(history).if_harmed(Severity.WARNING)
        times = 1 / (1 - usual)
        summary = f"each batch comes about {times:.1f} times in a row"
        remedy = f"serve each batch once: as it is, an epoch takes {times:.1f} times as long"
        if isinstance(workers, int) and workers > 1:
            remedy = f"split the data set between its {workers} workers (`get_worker_info`): each serves all of it"
    return Finding(
        severity=severity,
        summary=summary,
        evidence=evidence,
        remedy=remedy,
        onset=history["batch_repeat"].steps[0],
        signals=("batch_repeat", "train_loss"),
    )


def _duplicates(history: History, alike: float, always: float) -> Finding | None:
    """Rows that come many times over: harmless where they are all there is to learn, as validation shows."""
    twins = stretch(history.get("duplicate_share").finite(), 0.5)
    repeated = number(history.fact("overlap.repeated"), 0.0)
    in_batch = len(twins) >= 3 and median(twins) >= alike
    if not (in_batch or repeated >= always):
        return None
    how, held = standing(history), held_out(history)
    good = how.good
    if how.reached is None and held is None:
        good, held = _since_the_start(history, alike)
    if held is None or held >= POOR or not good:
        return None
    passes = history.get("val_loss").finite().values
    if len(passes) > 1 and passes[-1] < min(passes[:-1]) and not how.ended:
        # Others are learned with them, only later.
        return None
    usual, limit, of = (median(twins), alike, "a batch") if in_batch else (repeated, always, "an epoch")
    return Finding(
        severity=Severity.WARNING,
        summary=f"{usual:.0%} of the rows of {of} equal another row of it, and what is learned of them does not "
        "hold for others",
        evidence={"duplicate_share": usual, "limit": limit, "learned": held},
        remedy="count the different rows of the training data: a sampler with replacement, copies, or an index that "
        "is cut short serve the same few",
        onset=history["duplicate_share"].steps[0] if in_batch else 0,
        signals=("duplicate_share", "val_loss"),
    )


def _since_the_start(history: History, alike: float) -> tuple[bool, float | None]:
    """Returns whether training rows are learned, and how much validation rows are, None where unknown.

    By what was scored of either, in shares of the loss at the start, where nobody knows what a constant costs. Of data
    that has few different rows by nature validation rows have twins too, or are among the training rows.
    """
    train, other = scores(history, "train"), scores(history, "validation")
    first = history.get("train_loss").finite().values[:_FIRST]
    if train is None or other is None or not first or min(*train.losses, *other.losses, *first) < 0:
        return False, None
    if scoring_step(history) != "training_step":
        # Whose loss may be another one than training's.
        return False, None
    natural = max(number(history.fact(f"overlap.{name}"), 1.0) for name in ("repeated_validation", "exact"))
    distance, error = gap(train, other)
    start = typical(first)
    if natural >= alike or not distance > _SURELY * error or not start > 0:
        return False, None
    return train.losses[-1] <= (1 - GOOD) * start, 1 - other.losses[-1] / start
