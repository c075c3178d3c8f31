"""LD304: the last activation cannot put out what the targets ask for."""

from __future__ import annotations

import math
from dataclasses import replace

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.labels import label_counts, numbers
from lightning_doctor.loss_head import SQUARED, LossHead, LossTerm, last_layer, loss_head, loss_terms
from lightning_doctor.progress import Standing, standing
from lightning_doctor.rule import rule, unread

# What puts out nothing under zero.
_OVER_ZERO = ("relu", "sigmoid", "softplus", "exp", "softmax")
# Of a sum of terms: how many looks at one tell how it does.
_LOOKS = 3


@rule(
    "LD304",
    needs={"train_loss/*": 1},
    non_finite=True,
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "learning_rate_too_low",
        "learning_rate_too_high",
        "vanishing_gradients",
        "missing_warmup",
        "dead_units",
        "saturated_units",
        "collapsed_output",
        "frozen_parameters",
        "unscaled_targets",
        "bad_initialization",
        "imbalanced_classes",
        "noise_floor",
        "stale_validation",
        "model_bias",
        "worse_than_reference",
        "poor_minimum",
        "flat_region",
    ),
)
def output_out_of_reach(history: History, *, lost: float = 0.2, sliver: float = 0.01) -> Finding | None:
    """The last activation cannot put out what the targets ask for.

    What it looks at:
        The fact ``loss_head``: the last activation before the loss, the range, mean and standard deviation of the
        targets, the shape of the output. Of a loss that is a sum, the same of each squared or absolute error in it.

    Why it matters:
        No training brings an output where its activation ends: that part of the loss stays, and units that are driven
        against the end get no gradient.

    Sick:
        A ReLU output for targets in (−1, 1); softmax for rows of several tags; a sigmoid output for targets up to
        100; softmax over one unit, which is always 1; cross-entropy of scores that a sigmoid has squeezed into (0, 1),
        or of which a ReLU makes that of one class zero for every sample; softplus for the logarithm of a Poisson rate

    Healthy:
        A sigmoid output for targets in [0, 1]; a ReLU output for counts; a tanh output for targets of which a few
        lie a little outside [−1, 1]

    Remedy:
        Take the activation away, or scale the targets into its range.

    Thresholds:
        lost: What must be out of reach to be an error: of the targets' variance, or for class targets twice that of
            the loss of a constant prediction [share].
        sliver: Under this it is a note at most, under a tenth of it nothing [share].

    Blind spots:
        What lies outside is estimated from mean, deviation and range as if the targets were normally distributed.
        Only the last activation counts, times a number of the program: what is scaled by a tensor or shifted after it
        is not judged.
    """
    state = standing(history)
    if not history.fact("loss_head"):
        return _of_a_term(history, state, lost, sliver)
    head = loss_head(history)
    if _is_constant(head):
        return _constant(history, head, state)
    if head.loss == "cross_entropy" and head.activation == "relu" and _fits(head):
        return _cut_off(history, head, state, sliver)
    shares = head.activation == "softmax" or head.loss == "cross_entropy"
    if shares and head.targets == "binary" and head.columns > 1:
        return _shared(history, head, state)
    if head.loss == "poisson":
        return _never_under_one(history, head, state)
    if head.loss in SQUARED:
        return _unreachable(history, head, state, lost, sliver)
    return _squeezed(history, head, state, 2 * lost)


def _of_a_term(history: History, state: Standing, lost: float, sliver: float) -> Finding | None:
    """The same of one term of a sum, by what is learned of that term."""
    terms = loss_terms(history)
    for term in terms:
        if term.loss not in SQUARED or not term.share >= sliver:
            continue
        learned = term.learned if term.looks >= _LOOKS else None
        own = replace(state, skill=None, learned=learned, validated=None, best_term=None, matched=False)
        found = _unreachable(history, term, own, lost, sliver)
        # A little may be that of targets which move, as a codebook does.
        if found is not None and number(found.evidence["share_out_of_reach"]) >= lost:
            return replace(found, summary=f"of one of {len(terms)} terms of the loss, {term.loss}: {found.summary}")
    raise unread(history)


def _is_constant(head: LossHead) -> bool:
    if head.loss == "cross_entropy":
        return head.columns == 1
    # Of two units or more the smallest is one half at most.
    return head.activation == "softmax" and head.outputs[0] > 0.999


def _constant(history: History, head: LossHead, state: Standing) -> Finding:
    scores = "put out one score for each class"
    if head.loss == "cross_entropy":
        remedy = f"use `binary_cross_entropy_with_logits` for two classes, or {scores}"
    else:
        remedy = f"use a sigmoid instead of {last_layer(history, 'softmax')} for two classes, or {scores}"
    return Finding(
        severity=state.unless_good(Severity.ERROR),
        summary="softmax over a single unit is 1 whatever the input: nothing can be learned",
        evidence={"units": 1, "loss": head.loss},
        remedy=f"{remedy}; for amounts no activation",
        onset=0,
        signals=("train_loss",),
    )


def _shared(history: History, head: LossHead, state: Standing) -> Finding | None:
    """Probabilities that sum to one, for rows of targets that do not."""
    expected = head.columns * head.target_mean
    if not expected > 0:
        return None
    if head.loss == "cross_entropy":
        # As a likelihood of which tag comes next it is sound; which of them are there it does not tell.
        severity = Severity.NOTE
    else:
        severity = state.unless_good(Severity.ERROR) if expected > 1 else state.if_harmed(Severity.WARNING)
    return Finding(
        severity=severity,
        summary=f"each row has {expected:.2g} of {head.columns} tags on average, and softmax shares a total of 1 among "
        "them: what one gains another loses",
        evidence={"columns": head.columns, "tags_per_row": expected, "target_mean": head.target_mean},
        remedy=f"give the scores {f'before {last_layer(history, head.activation)} ' if head.activation else ''}to "
        "`binary_cross_entropy_with_logits`: a sigmoid for each tag",
        onset=0,
        signals=("train_loss",),
    )


def _unreachable(
    history: History, head: LossHead | LossTerm, state: Standing, lost: float, sliver: float
) -> Finding | None:
    if head.reach is None or not _fits(head):
        return None
    low, high = head.reach
    smallest, largest = head.target_range
    share = _outside(head, low, high)
    if not share >= sliver / 10:
        return None
    if share >= lost:
        severity = state.unless_good(Severity.ERROR)
    else:
        severity = state.if_harmed(Severity.WARNING) if share >= sliver else Severity.NOTE
    top = "∞" if math.isinf(high) else f"{high:g}"
    constant = head.target_mean < low or head.target_mean > high
    amount = "even their mean is out of reach" if constant else f"about {share:.0%} of their variance is out of reach"
    return Finding(
        severity=severity,
        summary=f"targets from {smallest:.3g} to {largest:.3g} for a {head.activation} output{_times(head)}, which "
        f"lies in [{low:g}, {top}]: {amount}",
        evidence={
            "activation": head.activation,
            "target_min": smallest,
            "target_max": largest,
            "target_mean": head.target_mean,
            "target_std": head.target_std,
            "share_out_of_reach": share,
        },
        remedy=_remedy(history, head, low, high),
        onset=0,
        signals=("train_loss",),
    )


def _never_under_one(history: History, head: LossHead, state: Standing) -> Finding | None:
    """Logarithms of rates that an activation keeps over zero, so that no rate is under one."""
    if head.activation not in _OVER_ZERO or not _fits(head) or head.outputs[0] < 0 or head.weighted:
        return None
    if not head.target_mean < 2:
        return None
    layer = last_layer(history, head.activation)
    return Finding(
        severity=state.unless_good(Severity.ERROR) if head.target_mean < 1 else state.if_harmed(Severity.WARNING),
        summary=f"the loss takes the {head.activation} output for the logarithm of a rate, so that no rate is under 1: "
        f"the counts have a mean of {head.target_mean:.3g}",
        evidence={"activation": head.activation, "least_rate": 1, "target_mean": head.target_mean},
        remedy=f"take {layer} away from the output, or give the loss rates: `log_input=False`",
        onset=0,
        signals=("train_loss",),
    )


def _times(head: LossHead | LossTerm) -> str:
    return "" if head.scale == 1 else f" times {head.scale:.3g}"


def _fits(head: LossHead | LossTerm) -> bool:
    """Whether the outputs seen are such as the activation can put out: else something comes after it."""
    low, high = head.reach or (-math.inf, math.inf)
    smallest, largest = head.outputs
    slack = 1e-3 * head.scale
    return not (smallest < low - slack or largest > high + slack)


def _outside(head: LossHead | LossTerm, low: float, high: float) -> float:
    """Returns the squared distance of the targets from the reach, as a share of their variance; NaN if unknown."""
    mean, deviation = head.target_mean, head.target_std
    smallest, largest = head.target_range
    under, over = max(0.0, low - smallest), max(0.0, largest - high)
    if not deviation > 0:
        # All targets alike.
        return 0.0 if under == over == 0 else math.inf if under > 0 or over > 0 else math.nan
    under, over = under / deviation, over / deviation
    below = min(_beyond((mean - low) / deviation), under * under)
    above = min(_beyond((high - mean) / deviation), over * over) if math.isfinite(high) else 0.0
    return below + above


def _beyond(z: float) -> float:
    """Returns E[(x − z)²; x > z] of a standard normal x: (1 + z²) Q(z) − z φ(z)."""
    tail, density = math.erfc(z / math.sqrt(2)) / 2, math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return max(0.0, (1 + z * z) * tail - z * density)


def _remedy(history: History, head: LossHead | LossTerm, low: float, high: float) -> str:
    # Of several outputs the last activation of this kind may be another's.
    layer = last_layer(history, head.activation) if isinstance(head, LossHead) else f"the {head.activation}"
    if math.isinf(high):
        return f"take {layer} away from the output: a linear output reaches every target"
    return f"take {layer} away from the output, or scale the targets into [{low:g}, {high:g}]"


def _cut_off(history: History, head: LossHead, state: Standing, sliver: float) -> Finding | None:
    """Scores of classes that a ReLU has cut off: those that are zero for every sample get no gradient."""
    counts, recall = label_counts(history), numbers(history.fact("predictions.recall", {}))
    lost = [label for label, found in recall.items() if found == 0]
    if not lost or not state.rests:
        return None
    share = sum(counts.get(label, 0) for label in lost) / sum(counts.values())
    # A class that is merely rare is another matter.
    if share < sliver or share < 0.5 * len(lost) / head.columns:
        return None
    return Finding(
        severity=state.unless_good(Severity.WARNING),
        summary=f"the loss takes scores of any size but gets those of a relu, in [0, ∞]: {len(lost)} of "
        f"{head.columns} classes, {share:.0%} of the labels, are never found: a score that is zero for every "
        "sample gets no gradient",
        evidence={
            "activation": head.activation,
            "loss": head.loss,
            "lost": ", ".join(lost[:8]),
            "lost_share": share,
        },
        remedy=f"return the scores before {last_layer(history, head.activation)} to the loss",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )


def _squeezed(history: History, head: LossHead, state: Standing, lost: float) -> Finding | None:
    """Scores that an activation has squeezed, for a loss that wants any number."""
    if head.reach is None or not _fits(head):
        return None
    low, high = head.reach
    if head.loss == "cross_entropy" and head.activation in ("sigmoid", "tanh"):
        classes = head.columns
        share = math.log(1 + (classes - 1) * math.exp(low - high)) / math.log(classes)
    elif head.loss == "bce_with_logits" and head.activation == "tanh":
        share = math.log(1 + 1 / math.e) / math.log(2)
    elif head.loss == "bce_with_logits" and head.activation == "relu" and 0 < head.target_mean < 1:
        # A negative sample costs log 2 at least; guessing costs the entropy of the labels.
        p = head.target_mean
        share = (1 - p) * math.log(2) / -(p * math.log(p) + (1 - p) * math.log(1 - p))
    else:
        return None
    top = "∞" if math.isinf(high) else f"{high:g}"
    # The order of the scores stays: many a run finds its classes all the same.
    severity = state.if_poor(Severity.WARNING, attainable=max(0.05, 1 - share))
    return Finding(
        severity=severity if share >= lost else state.if_harmed(severity),
        summary=f"the loss takes scores of any size but gets those of a {head.activation}, in [{low:g}, {top}]: "
        f"{share:.0%} of the loss of guessing stays whatever is learned",
        evidence={"activation": head.activation, "loss": head.loss, "share_out_of_reach": share},
        remedy=f"return the scores before {last_layer(history, head.activation)} to the loss",
        onset=0,
        signals=("train_loss",),
    )
