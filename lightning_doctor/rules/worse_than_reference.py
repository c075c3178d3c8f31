"""LD507: a simpler model does better where the network was trained."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.error_bars import CONFIDENCE
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import loss_head
from lightning_doctor.noise import noise, shift, stretch
from lightning_doctor.progress import Standing, standing
from lightning_doctor.reference import is_outdated, outdone_by, read_reference, target
from lightning_doctor.rule import Undecided, rule

# Losses that turn scores into probabilities themselves.
_OF_SCORES, _PROBABILITIES = ("cross_entropy", "bce_with_logits"), ("softmax", "sigmoid")
# The share of its weights from which on a network counts as partly frozen.
_KEPT = 0.1
_BY_ORDER = (
    "check that the network can tell which word or category is where, as these models do: a bag of words, a mean over "
    "positions and attention without positions cannot; if it can, treat its training: lr, warm-up, initialization"
)


@rule(
    "LD507",
    needs={"train_loss": 32},
    reads=("reference",),
    explains=("model_bias", "loss_plateau", "undertrained", "poor_minimum"),
    after=("LD1", "LD2", "LD3", "LD6"),
)
def worse_than_reference(history: History, *, sigmas: float = 4.0, share: float = 0.1) -> Finding | None:
    """A simpler model does better where the network was trained.

    What it looks at:
        The losses of a linear model and of a network of one hidden layer, fitted with penalties to one half of some
        training rows, on the other half, which the network was trained on as well and they were not; those of a
        trained model, of an earlier run, or a loss, given as ``Doctor(reference=…)``.

    Why it matters:
        The network could do at least as well, by copying the simpler one: it is not its size that holds it back, but
        its training.

    Sick:
        Losses of 0.28, 0.18, 0.14, 0.10 and 0.34 for one to five layers: the last

    Healthy:
        0.02 for the network and 0.31 for a linear model; or a difference inside the noise of the rows

    Remedy:
        That of optimization: learning rate, initialization, normalisation, skips, longer training.

    Thresholds:
        sigmas: How surely it must do better [standard errors].
        share: How much of what the simpler model gains over a constant the network must lack [share].

    Blind spots:
        Weighted, summed and unread losses, several targets to a row and several ranks are not compared. Augmented rows
        are compared as they were served. A penalty in the training step counts against the network. A network of which
        a part is frozen cannot copy a simpler one, and one that reads words may not know their order: that is but a
        note.
    """
    now, head = standing(history), loss_head(history)
    if not now.rests:
        return None
    if head.loss in _OF_SCORES and head.activation in _PROBABILITIES and not head.by_hand:
        raise Undecided("the loss of scores is given probabilities, and cannot come near zero as a simple model's can")
    compared = read_reference(history)
    if compared is not None and is_outdated(history, compared, sigmas):
        if target(history) is None:
            raise Undecided(f"the network was compared at step {compared.step}, and its loss has fallen since")
        compared = None
    if compared is not None and compared.draws and "model" not in compared.rivals and target(history) is None:
        raise Undecided(
            "the training step draws random numbers in eval mode too: the network may have been scored on other inputs "
            "than the simple models"
        )
    best = outdone_by(history, compared, sigmas, share)
    if compared is None or best is None:
        return _under_target(history, sigmas, share)
    by_order = compared.kinds and best.name != "model"
    cannot_copy = by_order or _is_partly_frozen(history)
    return Finding(
        # A loss that still falls, or a run that is not over, may get there: that is for undertrained to say.
        severity=Severity.NOTE if cannot_copy else _severity(history, now, best.gap),
        summary=f"{best.title} scores {best.loss:.3g} on {compared.rows} training rows that it was not fitted to, and "
        f"the network, which was, {compared.network:.3g} (a constant {compared.constant:.3g}); the difference is known "
        f"to ± {best.bar:.2g} ({CONFIDENCE:.0%})",
        evidence={
            "reference": best.loss,
            "network": compared.network,
            "constant": compared.constant,
            "error": best.error,
            "bar": best.bar,
            "rows": compared.rows,
        },
        remedy=_BY_ORDER if by_order else _remedy(history),
        # That it could do better is sure; what keeps it from that another finding may say, and goes first.
        confidence=Confidence.SUSPECTED,
        signals=("train_loss", "baseline_loss"),
    )


def _is_partly_frozen(history: History) -> bool:
    """Whether a good part of the weights is kept as it is: such a network cannot copy a simpler one."""
    parameters, trainable = history.fact("model.parameters"), history.fact("model.trainable")
    return isinstance(parameters, int) and isinstance(trainable, int) and trainable < (1 - _KEPT) * parameters


def _severity(history: History, now: Standing, gap: float) -> Severity:
    if now.improving and not (now.ended and now.harmed and not _arrives(history, gap)):
        return Severity.NOTE
    return now.unless_good(Severity.WARNING) if now.ended else now.if_harmed(Severity.WARNING)


def _arrives(history: History, gap: float) -> bool:
    """Whether the loss would fall as far within as many steps again, if it went on as in the second half of the run."""
    late = stretch(history["train_loss"], 0.5)
    half = len(late) // 2
    # The two medians lie a quarter of the run apart.
    return -4 * shift(late[:half], late[half:]).change >= gap


def _under_target(history: History, sigmas: float, share: float) -> Finding | None:
    given = target(history)
    if given is None:
        return None
    wanted, whose = given
    losses = history["train_loss"]
    late = stretch(losses, 0.8)
    now, error = median(late), 1.25 * noise(late) / math.sqrt(len(late))
    start = median(losses.values[:8])
    if now - wanted <= max(sigmas * error, share * max(start - wanted, 0.0)):
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the training loss is {now:.3g}, and {whose} has {wanted:.3g}",
        evidence={"reference": wanted, "network": now, "error": error, "whose": whose},
        remedy=_remedy(history),
        confidence=Confidence.SUSPECTED,
        signals=("train_loss",),
    )


def _remedy(history: History) -> str:
    layers = history.fact("model.layers")
    deep = isinstance(layers, dict) and sum(n for name, n in layers.items() if "Linear" in name or "Conv" in name) >= 8
    depth = "add skips and normalisation, or take fewer layers; " if deep else ""
    return (
        f"{depth}treat the training rather than the size: change lr, warm up, check initialization and input scale, "
        "train longer"
    )
