"""LD303: classes are learned with a squared or absolute error."""

from __future__ import annotations

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import SQUARED, last_layer, loss_head
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

_SQUASHING = ("sigmoid", "softmax", "tanh")


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
def squared_error_on_classes(history: History, *, worse: float = 0.05) -> Finding | None:
    """Classes are learned with a squared or absolute error.

    What it looks at:
        The fact ``loss_head``: the loss, the last activation and the kind of the targets; the skill of the
        predictions; ``train_loss`` against the loss of a constant prediction.

    Why it matters:
        Behind a softmax or sigmoid the gradient of a squared error vanishes where the network is surely wrong, that
        of cross-entropy does not: training stays where it is. An absolute error prefers to call everything the most
        frequent class.

    Sick:
        ``mse_loss(softmax(scores), one_hot)``, a loss that rests over the one of a constant prediction

    Healthy:
        The same where the accuracy rises all the same; an autoencoder of binary pixels

    Remedy:
        Cross-entropy on the scores.

    Thresholds:
        worse: How far over the loss of a constant prediction a loss that rests must lie to confirm that its
            predictions are stuck where they are wrong [share of that loss].

    Blind spots:
        With a linear output a squared error does not get stuck: that is a note. A regression on class
        numbers looks like one on amounts.
    """
    head = loss_head(history)
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
        evidence["share_learned"] = state.learned
    error = "an absolute error" if head.loss == "l1" else "a squared error"
    of = f"the {head.activation} outputs for" if squashed else "the scores of"
    loss = "cross_entropy" if head.columns > 1 else "binary_cross_entropy_with_logits"
    return Finding(
        severity=state.if_harmed(Severity.WARNING) if squashed or head.loss == "l1" else Severity.NOTE,
        summary=f"{error} on {of} classes, where cross-entropy would keep its gradient on what is surely wrong",
        evidence=evidence,
        remedy=f"use `{loss}` on the scores before {last_layer(history, head.activation)}"
        if squashed
        else f"use `{loss}`, which takes the scores as they are",
        confidence=Confidence.CONFIRMED if stuck else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )
