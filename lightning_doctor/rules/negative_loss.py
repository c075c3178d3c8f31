"""LD307: the loss is, or can come, under the smallest value that a loss of its kind can have."""

from __future__ import annotations

from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.loss_head import SQUARED, LossHead, loss_head
from lightning_doctor.progress import POOR, standing
from lightning_doctor.rule import rule, unread

_NEVER_NEGATIVE = (*SQUARED, "bce", "bce_with_logits", "cross_entropy", "nll", "kl_div")
# Looks at a term that is subtracted, that it is no accident.
_LOOKS = 3


@rule(
    "LD307",
    needs={"train_loss/*": 1},
    non_finite=True,
    explains=(
        "diverging_loss",
        "non_finite_loss",
        "exploding_gradients",
        "learning_rate_too_high",
        "undertrained",
        "loss_plateau",
        "stuck_at_baseline",
        "collapsed_output",
        "saturated_units",
        "dead_units",
        "overfitting",
        "stale_validation",
        "model_bias",
        "imbalanced_classes",
    ),
)
def negative_loss(history: History, *, beyond: float = 0.05, below: float = 0.001) -> Finding | None:
    """The loss is, or can come, under the smallest value that a loss of its kind can have.

    What it looks at:
        The fact ``loss_head``: the kind of the loss and the range of the targets; ``train_loss``; of a sum the fact
        ``subtracted``: whether a term that is never under zero is subtracted from another of the same predictions.

    Why it matters:
        A cross-entropy of targets that are no probabilities has no minimum: it falls for ever, and what it rewards is
        not what was meant.

    Sick:
        Binary cross-entropy with labels 0, 1 and 2, or −1 and 1, or pixels up to 255; ``nll_loss`` of probabilities
        instead of their logarithms, and ``kl_div`` likewise; ``lam * ce(y, a) + (lam - 1) * ce(y, b)``

    Healthy:
        The negative log-likelihood of a density, an evidence lower bound, a sum of terms one of which is a reward

    Remedy:
        Match targets and loss.

    Thresholds:
        beyond: How far outside [0, 1] targets of a cross-entropy must lie [probability].
        below: How far under zero the loss must have been [share of its usual size].

    Blind spots:
        A loss written by hand that could not be read, one of several terms, and one whose samples or classes are
        weighted may be negative by right.
    """
    if not history.fact("loss_head"):
        return _subtracted(history, below)
    head = loss_head(history)
    state = standing(history)
    smallest, largest = head.target_range
    if _takes_probabilities(head) and (smallest < -beyond or largest > 1 + beyond):
        return Finding(
            severity=state.unless_good(Severity.ERROR),
            summary=f"{_spoken(head.loss)} with targets from {smallest:.3g} to {largest:.3g}, which are no "
            "probabilities: it has no minimum and can fall under zero for ever",
            evidence={"loss": head.loss, "target_min": smallest, "target_max": largest, "floor": 0.0},
            remedy=_remedy(head),
            onset=0,
            signals=("train_loss",),
        )
    losses, onset = history.get("train_loss").finite().values, _under_zero(history, below)
    # Weights may be meant to be under zero, as an advantage is.
    if head.loss not in _NEVER_NEGATIVE or head.terms > 1 or head.weighted or onset is None:
        return None
    return Finding(
        severity=state.unless_good(Severity.ERROR),
        summary=f"{_spoken(head.loss)} was {min(losses):.3g}, where it can never be under 0",
        evidence={"loss": head.loss, "lowest": min(losses), "floor": 0.0},
        remedy=_logarithms(head)
        or f"compare what {_spoken(head.loss)} is given with what it asks for: its inputs, targets or weights are of "
        "another kind",
        onset=onset,
        signals=("train_loss",),
    )


def _under_zero(history: History, below: float) -> int | None:
    """Returns the first step at which the loss was under zero by more than rounding; None where it never was."""
    losses = history.get("train_loss").finite()
    limit = -below * median(map(abs, losses.values)) if losses.values else 0.0
    return next((at for at, loss in zip(losses.steps, losses.values, strict=True) if loss < limit), None)


def _subtracted(history: History, below: float) -> Finding | None:
    """A term that is to be large: nothing bounds it, and other terms want the same predictions to be right."""
    value, looks = number(history.fact("subtracted.value")), number(history.fact("subtracted.looks"), 0.0)
    if not (value < 0 and looks >= _LOOKS):
        raise unread(history)
    onset, state, kind = _under_zero(history, below), standing(history), str(history.fact("subtracted.loss", ""))
    if onset is None:
        return None
    return Finding(
        severity=Severity.NOTE if _validates(history) else state.unless_good(Severity.WARNING),
        summary=f"{_spoken(kind)} is subtracted from other terms of the same predictions, down to {value:.3g}: it has "
        f"no maximum, so that the loss, {min(history.get('train_loss').finite().values):.3g} so far, has no minimum",
        evidence={"term": kind, "value": value, "looks": looks, "floor": 0.0},
        remedy="check the signs of the weights of its terms (shares of one whole: `w` and `1 - w`); to push "
        "predictions away from something use a loss with a minimum, as of `1 - p` or with a margin",
        confidence=Confidence.SUSPECTED,
        onset=onset,
        signals=("train_loss",),
    )


def _validates(history: History) -> bool:
    """Whether validation shows that most is learned, by what a constant costs there or by what it cost at first."""
    losses = history.get("val_loss").finite().values
    fell = bool(losses) and min(losses) > 0 and median(losses[-_LOOKS:]) < POOR * losses[0]
    return fell or (standing(history).validated or 0.0) >= POOR


def _takes_probabilities(head: LossHead) -> bool:
    if head.loss == "cross_entropy":
        # Of labels one axis is missing: they are the numbers of classes.
        return bool(head.shape) and head.shape == head.target_shape
    return head.loss in ("bce", "bce_with_logits")


def _logarithms(head: LossHead) -> str:
    if head.loss == "nll":
        return "give `nll_loss` the output of log_softmax, or use `cross_entropy` on the scores"
    return "give `kl_div` the output of log_softmax" if (head.loss, head.activation) == ("kl_div", "softmax") else ""


def _spoken(loss: str) -> str:
    names = {"bce": "binary cross-entropy", "bce_with_logits": "binary cross-entropy", "cross_entropy": "cross-entropy"}
    return names.get(loss, f"`{loss}_loss`" if loss in ("mse", "l1", "smooth_l1", "huber", "nll") else f"`{loss}`")


def _remedy(head: LossHead) -> str:
    smallest, largest = head.target_range
    if smallest >= -1.001 and largest <= 1.001:
        return "map targets of −1 and 1 to 0 and 1: `(targets + 1) / 2`"
    scale = f"scale them into [0, 1]: they lie in [{smallest:.3g}, {largest:.3g}]"
    if head.columns > 1 or smallest % 1 or largest % 1:
        return f"if the targets are probabilities {scale}; if they are amounts use `mse_loss`"
    count = largest - smallest + 1
    if count == 2:
        return f"number the two labels 0 and 1: `targets - {smallest:g}`"
    return f"if the targets are labels put out {count:g} scores and use `cross_entropy`; if they are amounts {scale}"
