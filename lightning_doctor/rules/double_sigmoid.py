"""LD302: probabilities are fed to a binary cross-entropy that applies its own sigmoid."""

from __future__ import annotations

import math

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import last_layer, loss_head
from lightning_doctor.progress import GOOD, came_far, standing
from lightning_doctor.rule import rule, unread

# What a sample costs whose logit is 0 or 1, the best that a sigmoid can be.
_NEGATIVE, _POSITIVE = math.log(2), math.log(1 + 1 / math.e)


@rule(
    "LD302",
    needs={"train_loss/*": 1},
    non_finite=True,
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "learning_rate_too_low",
        "vanishing_gradients",
        "saturated_units",
        "collapsed_output",
        "imbalanced_classes",
        "noise_floor",
        "stale_validation",
        "model_bias",
        "worse_than_reference",
        "flat_region",
    ),
)
def double_sigmoid(history: History) -> Finding | None:
    """Probabilities are fed to a binary cross-entropy that applies its own sigmoid.

    What it looks at:
        The fact ``loss_head``: the loss, the last activation before it, and the range of the outputs, read off one
        training step; of a loss that is no single one, whether a sigmoid is given to another one anywhere in it.

    Why it matters:
        A sigmoid of numbers in [0, 1] lies in [0.5, 0.73]: no sample can be called negative, and the loss cannot
        come near zero.

    Sick:
        ``binary_cross_entropy_with_logits(sigmoid(net(x)), y)``: a negative sample costs 0.69 at least

    Healthy:
        ``binary_cross_entropy_with_logits(net(x), y)``, ``binary_cross_entropy(sigmoid(net(x)), y)``, a sigmoid gate
        inside the network

    Remedy:
        Return logits, and apply sigmoid only to predict.

    Thresholds:
        None.

    Blind spots:
        A sigmoid whose output is scaled up first is taken for a head with a temperature.
    """
    if not history.fact("loss_head"):
        return _within(history)
    head = loss_head(history)
    # A softmax puts out probabilities just the same.
    if head.loss != "bce_with_logits" or head.activation not in ("sigmoid", "softmax") or head.outputs[1] > 1.001:
        return None
    state = standing(history)
    return Finding(
        severity=state.if_poor(Severity.ERROR if state.harmed else Severity.WARNING),
        summary=f"binary cross-entropy with logits is given a {head.activation}: a negative sample costs "
        f"{_NEGATIVE:.3g} and a positive one {_POSITIVE:.3g} at least",
        evidence={"activation": head.activation, "floor_negative": _NEGATIVE, "floor_positive": _POSITIVE},
        remedy=f"return the logits before {last_layer(history, head.activation)} to the loss, and apply "
        f"{head.activation} only to predict",
        onset=0,
        signals=("train_loss",),
    )


def _within(history: History) -> Finding | None:
    """A sigmoid that is given to another one within a loss that is no single one."""
    if history.fact("sigmoid_twice") is not True:
        raise unread(history)
    least, most = 0.5, 1 / (1 + 1 / math.e)
    # Half of a focal loss can be lost all the same.
    return Finding(
        severity=Severity.NOTE if came_far(history, GOOD) else standing(history).if_poor(Severity.WARNING),
        summary=f"a sigmoid is given to another one within the loss: what comes out lies between {least:.3g} and "
        f"{most:.3g}",
        evidence={"least": least, "most": most},
        remedy=f"return the logits before {last_layer(history, 'sigmoid')} to the loss, and apply sigmoid only to "
        "predict (a distribution takes logits as `logits=`, probabilities as `probs=`)",
        onset=0,
        signals=("train_loss",),
    )
