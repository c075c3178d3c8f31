"""LD607: every training label is the same."""

from __future__ import annotations

from math import prod

from lightning_doctor.batch import batch_leaf
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.labels import label_counts
from lightning_doctor.rule import rule


@rule(
    "LD607",
    needs={"batch_size": 1},
    reads=("labels", "batch"),
    explains=(
        "overfitting",
        "stale_validation",
        "distribution_mismatch",
        "uninformative_labels",
        "collapsed_output",
        "imbalanced_classes",
        "stuck_at_baseline",
        "loss_plateau",
        "learning_rate_too_low",
        "bad_initialization",
        "dead_units",
        "saturated_units",
        "vanishing_gradients",
        "train_eval_discrepancy",
    ),
)
def constant_labels(history: History, *, least: int = 64, share: float = 0.5) -> Finding | None:
    """Every training label is the same.

    What it looks at:
        The class labels that reached the loss, how many were seen, and the batches' own labels.

    Why it matters:
        The network learns to say that label whatever it sees; its training loss and accuracy look perfect.

    Sick:
        Labels {0: 1400}

    Healthy:
        Labels {0: 1389, 1: 11}: rare, but there

    Remedy:
        Print the labels where they are made: a division of integers, a wrong column or a default value loses them.

    Thresholds:
        least: Labels that must have been seen [samples].
        share: Share of the training samples that must have been seen, where there are two classes and one may be
            rare; with more, a whole epoch [share].

    Blind spots:
        Labels that the training step makes itself, as contrastive losses do, are not judged.
    """
    present = [label for label, count in label_counts(history).items() if count]
    if len(present) != 1 or not _in_batch(history) or "label_run" in history:
        # The order of labels that are all the same is not defined.
        return None
    seen = max(int(history.fact("labels.samples", 0)), int(sum(history["batch_size"].values)))
    samples = history.fact("data.train_samples")
    if isinstance(samples, int):
        seen = min(seen, samples)
    classes = history.fact("loss_head.classes")
    per_epoch = history.fact("trainer.steps_per_epoch")
    whole = isinstance(per_epoch, int) and history.last_step + 1 >= per_epoch
    several = isinstance(classes, int) and classes > 2
    covered = seen / samples if isinstance(samples, int) and samples > 0 else None
    # Data sorted by label begin with one.
    enough = whole if several else covered is not None and covered >= share and whole
    if seen < least or not enough:
        return None
    target = str(history.fact("batch.targets"))
    return Finding(
        severity=Severity.ERROR,
        summary=f"all {seen} training labels seen are {present[0]}",
        evidence={"label": str(present[0]), "seen": seen},
        remedy=f"print {target} of some batches and mend the code that makes the labels: a division of integers, a "
        "wrong column or a default value loses them",
        onset=0,
        signals=("train_loss",),
    )


def _in_batch(history: History) -> bool:
    """Whether the labels are a part of the batch: those that a step makes are often all the same by design."""
    shape = batch_leaf(history, "targets").get("shape")
    if not isinstance(shape, list) or not shape:
        return False
    wanted = history.fact("loss_head.target_shape")
    of_loss = prod(wanted[1:]) if isinstance(wanted, list) and wanted else 1
    # One number a sample, or one a class.
    return prod(shape[1:]) in (of_loss, 1, history.fact("loss_head.classes"))
