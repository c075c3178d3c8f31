"""LD303: classes are learned with a squared or absolute error."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.batch import batch_leaf
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import SQUARED, LossHead, last_layer, loss_head
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

_SQUASHING = ("sigmoid", "softmax", "tanh")
# More whole numbers than these are amounts.
_MOST_CLASSES = 50


@rule(
    "LD303",
    needs={"train_loss": 1},
    reads=("loss_head",),
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "learning_rate_too_low",
        "vanishing_gradients",
        "saturated_units",
        "collapsed_output",
        "stale_validation",
        "flat_region",
    ),
)
def squared_error_on_classes(
    history: History, *, worse: float = 0.05, off: float = 0.5, sure: float = 0.1
) -> Finding | None:
    """Classes are learned with a squared or absolute error.

    What it looks at:
        The fact ``loss_head``: the loss, the last activation, the kind and the spread of the targets; the type of the
        targets in the batch; the skill of the predictions; ``train_loss`` against the loss of a constant prediction.

    Why it matters:
        Behind a softmax or sigmoid the gradient of a squared error vanishes where the network is surely wrong, that
        of cross-entropy does not: training stays where it is. An absolute error prefers to call everything the most
        frequent class. Class numbers that are to be met as numbers make class 2 lie between 1 and 3.

    Sick:
        ``mse_loss(softmax(scores), one_hot)``, a loss that rests over the one of a constant prediction;
        ``mse_loss(output, labels.float())`` for labels 0 to 9, which the usual output misses by 1.2

    Healthy:
        The same where the accuracy rises all the same; an autoencoder of binary pixels; a regression on counts

    Remedy:
        Cross-entropy on the scores.

    Thresholds:
        worse: How far over the loss of a constant prediction a loss that rests must lie to confirm that its
            predictions are stuck where they are wrong [share of that loss].
        sure: How near to 0 or 1 the usual output of a single sigmoid must be to be sure [probability].
        off: How far the usual output must be from its class number to round to another [classes].

    Blind spots:
        With a linear output a squared error does not get stuck, nor with one sigmoid that is not sure of the wrong
        class: that is a note. Whole numbers are taken for classes
        only where they are few, begin at 0, are all about as frequent and come from the loader as integers: marks and
        ages may be an order that a network should know.
    """
    head = loss_head(history)
    if head.loss in SQUARED and _are_class_numbers(history, head):
        return _numbered(history, head, off)
    # Many columns that are not one-hot are pictures or tags, each a target of its own.
    classes = (head.targets == "one_hot" and head.columns > 1) or (head.targets == "binary" and head.columns == 1)
    if head.loss not in SQUARED or not classes or (head.activation == "softmax" and head.columns == 1):
        return None
    state = standing(history)
    squashed = head.activation in _SQUASHING
    stuck = state.harmed and squashed and state.learned is not None and state.learned < -worse
    evidence: dict[str, float | int | str] = {"loss": head.loss, "targets": head.targets}
    if head.activation:
        evidence["activation"] = head.activation
    if state.skill is not None:
        evidence["skill"] = state.skill
    if state.learned is not None:
        # The baseline that it is a share of, as it comes to stand under the recent loss.
        baseline = median(history["baseline_loss"].finite().values[-3:])
        evidence |= {"share_learned": state.learned, "limit": (1 + worse) * baseline}
    harms = head.loss == "l1" or (squashed and (stuck or head.columns > 1 or _is_sure(history, sure)))
    error = "an absolute error" if head.loss == "l1" else "a squared error"
    of = f"the {head.activation} outputs for" if squashed else "the scores of"
    loss = "cross_entropy" if head.columns > 1 else "binary_cross_entropy_with_logits"
    return Finding(
        severity=state.if_harmed(Severity.WARNING) if harms else Severity.NOTE,
        summary=f"{error} on {of} classes, where cross-entropy would keep its gradient on what is surely wrong",
        evidence=evidence,
        remedy=f"use `{loss}` on the scores before {last_layer(history, head.activation)}"
        if squashed
        else f"use `{loss}`, which takes the scores as they are",
        confidence=Confidence.CONFIRMED if stuck else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )


def _is_sure(history: History, sure: float) -> bool:
    """Whether the outputs of a sigmoid are nearly 0 or nearly 1 for all samples.

    The gradient of the squared error is 2 p (1 − p) times that of cross-entropy: half of it at p = 0.5.
    """
    levels = history.get("output_level").finite().values
    return bool(levels) and not sure < levels[-1] < 1 - sure


def _are_class_numbers(history: History, head: LossHead) -> bool:
    kind = str(batch_leaf(history, "targets").get("dtype"))
    lowest, highest = head.target_range
    few = lowest == 0 and 2 <= highest <= _MOST_CLASSES and highest % 1 == 0
    # Counts and marks crowd about their mean; a uniform distribution's deviation is 0.29 of its width.
    return "int" in kind and head.columns == 1 and few and head.target_std >= 0.25 * highest


def _numbered(history: History, head: LossHead, off: float) -> Finding:
    state = standing(history)
    classes = round(head.target_range[1]) + 1
    # Of normal errors the median is 0.674 standard deviations.
    usual = math.nan if state.skill is None else 0.674 * head.target_std * math.sqrt(max(0.0, 1 - state.skill))
    late = state.ended or state.share is None or state.share >= 0.4
    evidence: dict[str, float | int | str] = {"loss": head.loss, "classes": classes}
    if state.skill is not None:
        needed = 1 - (off / (0.674 * head.target_std)) ** 2
        evidence |= {"skill": state.skill, "usual_error": usual, "skill_needed": needed}
    return Finding(
        severity=Severity.WARNING if late and usual > off else Severity.NOTE,
        summary=f"{classes} classes are to be met as the numbers 0 to {classes - 1}"
        + (f", and the usual output is off by {usual:.2g}" if usual > off else ""),
        evidence=evidence,
        remedy=f"put out {classes} scores, one for each class, and use `cross_entropy`",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )
