"""LD301: a softmax is fed to cross-entropy, which applies its own."""

from __future__ import annotations

import math

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import last_layer, loss_head
from lightning_doctor.progress import POOR, came_far, standing
from lightning_doctor.rule import rule, unread


@rule(
    "LD301",
    needs={"train_loss/*": 1},
    non_finite=True,
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "learning_rate_too_low",
        "vanishing_gradients",
        "collapsed_output",
        "noise_floor",
        "stale_validation",
        "model_bias",
        "worse_than_reference",
        "flat_region",
    ),
)
def double_softmax(history: History) -> Finding | None:
    """A softmax is fed to cross-entropy, which applies its own.

    What it looks at:
        The fact ``loss_head``: the loss, the last activation before it, and the range of the outputs, read off one
        training step; of a loss that is no single one, whether a softmax is given to another one anywhere in it.

    Why it matters:
        Scores in [0, 1] leave the second softmax nearly flat: the loss cannot come near zero, and gradients shrink
        twice.

    Sick:
        ``cross_entropy(softmax(net(x)), y)``: for ten classes the loss ends at 1.46

    Healthy:
        ``cross_entropy(net(x), y)``, ``nll_loss(log_softmax(net(x)), y)``, a softmax inside an attention layer

    Remedy:
        Return scores, and apply softmax only to predict.

    Thresholds:
        None.

    Blind spots:
        A softmax whose output is scaled up first is taken for a head with a temperature. A log-softmax before
        cross-entropy changes nothing and is passed over.
    """
    if not history.fact("loss_head"):
        return _within(history)
    head = loss_head(history)
    # Written by hand it takes the logarithm of the softmax, which is right.
    if head.loss != "cross_entropy" or head.by_hand or head.activation != "softmax" or head.columns < 2:
        return None
    if head.outputs[1] > 1.001:
        return None
    classes = head.columns
    # One score of 1, the others 0.
    floor = math.log(1 + (classes - 1) / math.e)
    state = standing(history)
    return Finding(
        severity=state.if_poor(
            Severity.ERROR if state.harmed else Severity.WARNING,
            attainable=1 - floor / math.log(classes),
        ),
        summary=f"cross-entropy applies softmax to what is a softmax already: over {classes} classes the loss cannot "
        f"fall under {floor:.3g}, where guessing costs {math.log(classes):.3g}",
        evidence={"classes": classes, "floor": floor, "guessing": math.log(classes)},
        remedy=f"return the scores before {last_layer(history, 'softmax')} to the loss, and apply softmax only to "
        "predict",
        onset=0,
        signals=("train_loss",),
    )


def _within(history: History) -> Finding | None:
    """A softmax that is given to another one within a loss that is no single one."""
    classes = history.fact("softmax_twice.classes")
    if not isinstance(classes, int) or classes < 2:
        raise unread(history)
    # One score of 1, the others 0.
    most = math.e / (math.e + classes - 1)
    return Finding(
        severity=Severity.NOTE if came_far(history, POOR) else standing(history).if_poor(Severity.WARNING),
        summary=f"a softmax over {classes} classes is given to another one within the loss: none can be given more "
        f"than a probability of {most:.2g}",
        evidence={"classes": classes, "most": most},
        remedy=f"give the scores before {last_layer(history, 'softmax')} to the loss (a distribution takes scores as "
        "`logits=`, probabilities as `probs=`)",
        onset=0,
        signals=("train_loss",),
    )
