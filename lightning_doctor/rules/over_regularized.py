"""LD310: dropout or weight decay keeps the network from learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from lightning_doctor.curvature import known
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.labels import entropy_error, label_counts
from lightning_doctor.layers import listed
from lightning_doctor.loss_head import loss_head
from lightning_doctor.loss_levels import typical
from lightning_doctor.prescriptions import optimizer, parameter_groups
from lightning_doctor.progress import hardly_fell, is_like_now, standing
from lightning_doctor.rule import Undecided, is_recent, rule
from lightning_doctor.scores import constants, scores
from lightning_doctor.validation import held_out

_DECOUPLED = ("adamw", "nadamw", "lion")
# Losses whose level is set beside what rows score in eval mode.
_AROUND = 32
# How surely what a constant prediction costs is not more [standard errors].
_SURELY = 2.0
# The share of its largest value under which the norm of the weights must be to have faded.
_FADED = 0.2
# And the share of an unread loss that must be left.
_MOST_LEFT = 0.5


@rule(
    "LD310",
    needs={"train_loss": 8},
    explains=(
        "stuck_at_baseline",
        "collapsed_output",
        "loss_plateau",
        "undertrained",
        "vanishing_gradients",
        "dead_units",
        "noise_floor",
        "learning_rate_too_low",
        "learning_rate_too_high",
        "stale_validation",
        "model_bias",
        "worse_than_reference",
        "train_eval_discrepancy",
        "flat_region",
    ),
)
def over_regularized(
    history: History,
    *,
    taken: float = 0.3,
    strong: float = 0.7,
    outweighs: float = 0.1,
    shrunk: float = 0.8,
    alike: float = 0.1,
) -> Finding | None:
    """Dropout or weight decay keeps the network from learning.

    What it looks at:
        ``mode_gap``, how far the loss in train mode lies over the one in eval mode, against how far that is under the
        loss of a constant prediction; the dropout of the layers; ``weight_norm`` over the run, and the weight decay
        times it against ``grad_norm``, or for AdamW its share of ``update_ratio``; a penalty that is a term of the
        loss, by how much more than a constant prediction the loss cost at first; terms that ask something of what
        layers put out (a divergence, a call for sparse codes), with ``regulariser_share``, ``output_spread`` and
        ``skill``, or ``eval_skill/train``. All that only in a run that does badly in eval mode too, as far as that is
        known, and no longer improves; of one that nothing tells of only weights that decay took nearly all of.

    Why it matters:
        A network that has not learned the training data has nothing to be regularised.

    Sick:
        Dropout of 0.9 on every layer; weight decay 0.1, under which the norm of the weights falls from 6 to 0.1

    Healthy:
        Dropout of 0.5, a loss of 0.7 in train mode and of 0.3 in eval mode; weights that decay by a tenth

    Remedy:
        Less dropout or decay; first learn the training data.

    Thresholds:
        taken: Share of what the network has learned in eval mode that dropout must take away in train mode [share].
        strong: Dropout of one layer from which on a network that has learned nothing is suspected of it [share].
        outweighs: What the decay must be of the gradient, or of AdamW's steps a fifth of; what terms of layers' outputs
            must once have been of a constant's loss, and may be of that now [ratio].
        shrunk: Share of its largest value under which the norm of the weights must have fallen [share].
        alike: Share of the targets' standard deviation by which outputs may differ at most, and of a constant's errors
            that they may avoid, where the loss has other terms than that of the predictions [share].

    Blind spots:
        A penalty that is a term of the loss is suspected only where it was most of it; terms of layers' outputs are but
        a note where they are neither dear nor given way to, and beside a penalty. Dropout called as a function, and
        augmentation that is too strong, are not seen.
    """
    return _unlearned(history, taken, strong, outweighs, shrunk) or _outweighed(history, outweighs, alike)


def _unlearned(history: History, taken: float, strong: float, outweighs: float, shrunk: float) -> Finding | None:
    state = standing(history)
    modes = _modes(history)
    learned = max((share for share in (modes and modes[0], held_out(history)) if share is not None), default=None)
    if learned is not None and learned >= 0.5:
        return None
    if not state.harmed:
        # Weights that faded are seen whatever the loss is made of, which may be at its floor.
        faded = None
        if hardly_fell(history):
            faded = _decayed(history, outweighs, _FADED)
        elif hardly_fell(history, _MOST_LEFT):
            # Something was learned, until nothing moved the weights any more but decay.
            faded = _decayed(history, 1.0, _FADED)
        return faded and replace(faded, confidence=Confidence.SUSPECTED)
    return (
        _decayed(history, outweighs, shrunk) or _penalised(history, shrunk) or _dropped(history, modes, taken, strong)
    )


def _modes(history: History) -> tuple[float, float | None] | None:
    """Returns the share of a constant prediction's loss that the loss is under in eval mode and in train mode, of late.

    Both in the same unit and of the same time: a loss that still falls must not pose as what dropout takes away. The
    latter is None where it is not known.
    """
    state, gaps = standing(history), history.get("mode_gap").finite()
    if state.learned is not None and gaps and is_recent(history, gaps.steps[-1]):
        return 1 - (1 - state.learned) / max(1 + median(gaps.values[-8:]), 1e-6), state.learned
    # Where batches were scanned at first only, many rows may have been scored since.
    train, baselines = scores(history, "train"), constants(history)
    if train is None or not baselines or not baselines[-1] > 0 or (gaps and train.steps[-1] < gaps.steps[-1]):
        return None
    losses, at = history["train_loss"].finite(), train.steps[-1]
    around = [loss for step, loss in zip(losses.steps, losses.values, strict=True) if step <= at][-_AROUND:]
    # What cannot be told of the run cannot be told of these either.
    known_to_learn = state.learned is not None and bool(around)
    return 1 - train.losses[-1] / baselines[-1], 1 - typical(around) / baselines[-1] if known_to_learn else None


def _dropped(history: History, modes: tuple[float, float | None] | None, taken: float, strong: float) -> Finding | None:
    rates = {name: rate for name, rate in history.fact("model.dropout", {}).items() if rate > 0}
    known_to_learn = standing(history).learned
    if modes is None and known_to_learn is not None:
        # Nothing tells the modes apart.
        modes = known_to_learn, known_to_learn
    learned, trained = modes or (None, None)
    if not rates or learned is None or trained is None:
        return None
    share = 1 - trained / learned if learned >= 0.03 else 0.0
    highest = max(rates.values())
    # What a constant prediction costs is known from the labels that were seen: what lies between may be more.
    dearer = 1 + _SURELY * entropy_error(label_counts(history))
    trained_at_most, learned_at_most = (1 - (1 - part) / dearer for part in (trained, learned))
    confirmed = share >= taken and 1 - trained_at_most / learned_at_most >= taken
    if not confirmed and (highest < strong or trained > 0.1):
        return None
    names = [name for name, rate in rates.items() if rate == highest]
    if confirmed:
        summary = f"dropout takes away {share:.0%} of what the network has learned, which is {learned:.0%} in eval mode"
    else:
        summary = f"with a dropout of {highest:g} the network has learned {max(trained, 0):.0%}"
    return Finding(
        severity=Severity.WARNING,
        summary=summary,
        evidence={
            "learned_in_eval_mode": learned,
            "learned_in_train_mode": trained,
            "taken": share,
            "dropout": highest,
        },
        remedy=f"lower the dropout of {listed(names)} from {highest:g} to {min(0.2, highest / 2):.2g} or take it away, "
        "until the training data is learned",
        confidence=Confidence.CONFIRMED if confirmed else Confidence.SUSPECTED,
        onset=0,
        signals=("mode_gap", "train_loss"),
    )


def _decayed(history: History, outweighs: float, shrunk: float) -> Finding | None:
    decay = max((_decay(group) for group in parameter_groups(history)), default=0.0)
    norms = history.get("weight_norm").finite().values
    if not decay > 0 or len(norms) < 3:
        return None
    now = _norm_now(norms)
    if decoupled := optimizer(history).lower() in _DECOUPLED:
        weight, outweighs = _share_of_steps(history, decay), 5 * outweighs
    else:
        weight = _against_gradient(history, decay)
    if weight is None or weight < outweighs or now > shrunk * max(norms):
        return None
    lower = decay * min(0.1, 0.01 / weight)
    against = "of the length of its steps" if decoupled else "of the gradient"
    return Finding(
        severity=Severity.WARNING,
        summary=f"weight decay of {decay:g} pulls with {weight:.2g} {against}: the norm of the weights fell from "
        f"{max(norms):.3g} to {now:.3g}",
        evidence={"weight_decay": decay, "pull": weight, "largest_weight_norm": max(norms), "weight_norm": now}
        | {"limit": shrunk * max(norms)},
        remedy=f"lower weight_decay from {decay:g} to {lower:.1g} or less, until the training data is learned",
        onset=0,
        signals=("weight_norm", "train_loss"),
    )


def _norm_now(norms: list[float]) -> float:
    # Weights that have grown again are not being pulled down, however old the values before the newest are.
    return max(norms[-1], median(norms[-3:]))


def _penalised(history: History, shrunk: float) -> Finding | None:
    """A penalty that is a term of the loss, was most of it, and has pulled the weights down."""
    terms, norms = loss_head(history).terms, history.get("weight_norm").finite().values
    baselines, losses = history.get("baseline_loss").finite().values, history["train_loss"].values
    if terms < 2 or len(norms) < 3 or not baselines or not baselines[-1] > 0:
        return None
    now, start = _norm_now(norms), median(losses[:4])
    if start < 2 * baselines[-1] or now > shrunk * max(norms):
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the loss has a penalty beside its predictions: it began at {start:.3g}, where those of a constant "
        f"cost {baselines[-1]:.3g}, and the norm of the weights fell from {max(norms):.3g} to {now:.3g}",
        evidence={
            "terms": terms,
            "start": start,
            "baseline_loss": baselines[-1],
            "largest_weight_norm": max(norms),
            "weight_norm": now,
            "limit": shrunk * max(norms),
        },
        remedy="make the factor of the penalty a hundred times smaller, until the training data is learned",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("weight_norm", "train_loss"),
    )


def _outweighed(history: History, outweighs: float, alike: float) -> Finding | None:
    """Terms that ask something of what layers put out, and outputs that no longer tell inputs apart.

    A note, unless those terms cost more than all that predictions could gain, or the run gave up for them what it would
    have to tell inputs apart by: they cost a good part of that, and next to nothing now.
    """
    head, state = loss_head(history), standing(history)
    spreads, skills = (history.get(name).finite() for name in ("output_spread", "skill"))
    if not head.regularisers or not state.rests or not spreads or not skills or not head.target_std > 0:
        return None
    spread, scored = spreads.values[-1], _scored_of_late(history)
    # Outputs that differ by so much of the targets' deviation, whatever the inputs, raise squared errors by its square.
    constant = abs(scored) <= alike**2
    if not constant and (spread > alike * head.target_std or median(skills.values[-3:]) > alike):
        return None
    if not (constant or is_recent(history, skills.steps[-1]) or is_like_now(history, skills.steps[-1])):
        raise Undecided(f"the newest skill is of step {skills.steps[-1]}: too old to tell of now")
    shares = history.get("regulariser_share").finite().values
    share, now = (median(shares[:3]), shares[-1]) if shares else (math.nan, math.nan)
    terms = "another term" if head.regularisers == 1 else f"{head.regularisers} other terms"
    cost = f" ({share:.2g} of what a constant prediction costs at first, {now:.2g} now)" if shares else ""
    # Where all rows are surely predicted as by a constant less of a cost tells the same.
    least = outweighs**2 if constant else outweighs
    outweigh = share >= 1 or (share >= least and now <= outweighs * share)
    return Finding(
        severity=Severity.WARNING if outweigh else Severity.NOTE,
        summary=f"beside its predictions the loss has {terms}, of what layers put out whatever the targets{cost}; "
        + (
            "training rows are predicted as by a constant"
            if constant
            else f"outputs differ by {spread:.2g} from sample to sample, targets by {head.target_std:.2g}"
        ),
        evidence={
            "regularisers": head.regularisers,
            "output_spread": spread,
            "target_std": head.target_std,
            "limit": alike * head.target_std,
            **known(first_regulariser_share=share, regulariser_share=now, scored_skill=scored),
        },
        remedy="make the factor of those terms a hundred times smaller, or raise it from zero over the first epochs; "
        "add up the error over elements as they are added up (a mean over pixels beside a sum over codes)",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("output_spread", "train_loss"),
    )


def _scored_of_late(history: History) -> float:
    """Returns what training rows that were scored of late avoid of a constant's errors; NaN where none were."""
    train = scores(history, "train")
    if train is None or not train.skills or not is_recent(history, train.skill_steps[-1]):
        return math.nan
    return train.skills[-1]


def _decay(group: Mapping[str, Any]) -> float:
    decay = group.get("weight_decay")
    return float(decay) if isinstance(decay, (int, float)) else 0.0


def _against_gradient(history: History, decay: float) -> float | None:
    """Returns the decay's own gradient over that of the loss, early or late, whichever is more."""
    norms, gradients = history.get("weight_norm").finite().values, history.get("grad_norm").finite().values
    if len(gradients) < 5:
        return None
    # Late, where the weights are gone, the gradient is that of a network that does nothing.
    ends = ((median(norms[:3]), median(gradients[:5])), (median(norms[-3:]), median(gradients[-32:])))
    return max(decay * norm / gradient if gradient > 0 else 0.0 for norm, gradient in ends)


def _share_of_steps(history: History, decay: float) -> float | None:
    updates, rates = history.get("update_ratio").finite().values, history.get("learning_rate").finite().values
    if not updates or not rates or not median(updates[-8:]) > 0:
        return None
    return max(rates) * decay / median(updates[-8:])
