"""LD508: nothing of what the inputs say about the targets is learned, though training samples may be by heart."""

from __future__ import annotations

from math import prod
from statistics import median

from lightning_doctor.batch import batch_leaf
from lightning_doctor.error_bars import told
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import sizes
from lightning_doctor.progress import standing, stopped_at
from lightning_doctor.reference import Reference, Rival, read_reference
from lightning_doctor.rule import Undecided, rule
from lightning_doctor.scores import (
    constants,
    ever_learned,
    gap,
    kept_apart,
    known_bars,
    learned_at_first,
    scores,
    sureness,
    unlike,
)
from lightning_doctor.step_sizes import none_helps

# What share of the sureness is enough where simple models say the same.
_SURE_OF_TWO = 2 / 3
# What share of a constant's loss simple models must leave for the inputs to say something.
_TAKEN = 0.9
# How sure that must be where the network finds nothing either [standard errors].
_SIGMAS = 2.0
# What such a network must have had: steps, the share of its run, scans of its steps; and the share of a layer's units
# whose death is a reason of its own.
_WAITED, _LATE, _SCANS, _DEAD = 100, 0.5, 4, 0.8

_LOOK = (
    "look at ten training samples with their labels: check that inputs and labels are paired (one shuffled or sorted "
    "without the other, rows dropped from one file only); if they are, these inputs do not tell these labels"
)
_OTHER_KIND = ", or it takes a model of another kind (order, depth)"


@rule(
    "LD508",
    needs={"train_loss": 32, "baseline_loss": 2, "eval_loss/train": 2, "eval_loss/validation": 2},
    explains=(
        "overfitting",
        "stuck_at_baseline",
        "stale_validation",
        "loss_plateau",
        "undertrained",
        "model_bias",
        # What learns rows by heart, or answers to steps of which none helps, is not kept from learning by these.
        "dead_units",
    ),
)
def uninformative_labels(
    history: History,
    *,
    learned: float = 0.02,
    memorised: float = 0.015,
    sigmas: float = 3.0,
    surely: float = 0.25,
) -> Finding | None:
    """Nothing of what the inputs say about the targets is learned, though training samples may be by heart.

    What it looks at:
        ``eval_loss/train`` and ``eval_loss/validation``, what a copy of the model scores on fixed training and
        validation rows in eval mode [unit of your loss], beside ``baseline_loss``, what the best constant scores, and
        the skill of its predictions; of held-out training rows where there are any. In the first epoch
        ``train_loss``, where every sample is new. Of a network that rests at chance ``scan/…``, whether steps of any
        length help, and the fact ``reference``, what simple models make of rows that they were not fitted to.

    Why it matters:
        Where inputs and labels have been shuffled apart, a training loss that falls looks like learning, and the rest
        looks like overfitting; no regularisation helps.

    Sick:
        Training 2.30, 2.26, 2.11, 1.73 over a constant's 2.30, and validation 2.30, 2.31, 2.34, 2.45 from the first
        pass on

    Healthy:
        Validation 2.30, 1.91, 1.42, 1.71, 2.02 while the training loss falls to zero: that first learned, and
        overfits

    Remedy:
        Look at ten training samples with their labels; compare ids if inputs and labels come from two files.

    Thresholds:
        learned: How far under the constant's loss validation must once have come to have learned something [share].
        memorised: How far under it the training rows must be [share].
        sigmas: How surely they must lie under the validation rows; two thirds of that where simple models, fitted to
            some training rows, predict others no better than a constant [standard errors].
        surely: From which share of the constant's loss learned by heart it is sure, where the inputs of held-out or
            validation rows are known to be alike [share].

    Blind spots:
        Too few samples for too many inputs look the same, and are left alone only where simple models had fewer than
        two for each direction that inputs vary in, or were not fitted and there are no more samples than numbers in
        each; so does a validation set whose labels alone are wrong.
        A model that cannot be tried on a copy is not judged. One that cannot express the task looks the same where no
        simple model can be fitted that does.
    """
    if _is_at_chance(history, learned) and _is_unlearnable(history, learned) and _is_sure(history):
        return _nothing_found(history)
    train, sample = scores(history, "train"), "holdout"
    other = kept_apart(history)
    uncompared = other is None and history.fact("comparison.inputs.reason") is not None
    if other is None:
        sample = "validation"
        other = scores(history, sample)
        if unlike(history):
            # On rows of another kind a network that has learned may well be at chance.
            return None
    baselines = constants(history)
    if not baselines:
        raise Undecided("rows were scored by the validation step, whose loss may be another one than training's")
    baseline = median(baselines[-3:])
    if train is None or other is None or baseline <= 0 or min(*train.losses, *other.losses) < 0:
        return None
    distance, error = gap(train, other)
    gained = baseline - train.losses[-1]
    enough = _SURE_OF_TWO if _is_unlearnable(history, learned) else 1.0
    if not (gained > memorised * baseline and gained > 3 * train.errors[-1] and distance > enough * sigmas * error):
        return None
    if ever_learned(other, baseline, learned) or learned_at_first(history, baseline, learned):
        return None
    validation = scores(history, "validation")
    # Few rows held out may be at chance by chance, where others show that something was learned.
    if sample == "holdout" and validation is not None and ever_learned(validation, baseline, learned):
        return None
    if _is_learnable(history):
        return None
    if _is_compared_by_few(history):
        raise Undecided("the inputs vary in so many directions that so few samples fit any labels, right or wrong")
    samples, width = history.fact("data.train_samples"), _width(history)
    if read_reference(history) is None and isinstance(samples, int) and samples <= width:
        raise Undecided(f"{samples} samples of {width} numbers each fit any labels, right or wrong")
    share = gained / baseline
    bar = other.bar_of_best
    best, sure = told(min(other.losses), bar), sureness(train.bar, bar, looked_at=len(other.losses))
    where = "held-out" if sample == "holdout" else sample
    # Where simple models found nothing either it is not this model's doing; of words they miss most of what is said.
    compared = read_reference(history)
    blind = compared is None or compared.kinds
    unless = ", or nothing that this model can express" if blind else ""
    return Finding(
        severity=Severity.WARNING,
        summary=f"training rows are learned by heart, from {baseline:.4g} for a constant to {train}, while {where} "
        f"rows are at chance since the first pass, {best} at best{sure}: the inputs say nothing about the labels"
        + unless,
        evidence={
            "train": train.losses[-1],
            "sample": where,
            "other": other.losses[-1],
            "best": min(other.losses),
            "baseline": baseline,
            "error": error,
            **known_bars(train=train.bar, best=bar),
            **({"train_skill": train.skills[-1]} if train.skills else {}),
            **({"other_skill": other.skills[-1]} if other.skills else {}),
        },
        remedy=f"{_LOOK} for so few samples{_OTHER_KIND if unless else ''}",
        # Validation rows of another shape may be of another kind too.
        confidence=Confidence.CONFIRMED if share > surely and not uncompared else Confidence.SUSPECTED,
        onset=other.steps[0],
        signals=("train_loss", "val_loss", "baseline_loss"),
    )


def _is_compared_by_few(history: History) -> bool:
    compared = read_reference(history)
    return compared is not None and not compared.kinds and compared.few


def _width(history: History) -> int:
    """Returns how many numbers a sample has; 0 where that is not known."""
    shape = sizes(batch_leaf(history, "inputs").get("shape"))
    return prod(shape[1:]) if shape else 0


def _is_at_chance(history: History, learned: float) -> bool:
    """Whether the network has found nothing in its own training rows either, and steps and units are not why."""
    now = standing(history)
    waited = len(history["train_loss"]) >= _WAITED and (now.ended or now.share is None or now.share >= _LATE)
    if not waited or now.improving or now.most is None or now.most >= learned:
        return False
    dead = (history[name].values[-1] >= _DEAD for name in history.names("dead_share/"))
    return stopped_at(history) is None and not any(dead) and none_helps(history, _SCANS)


def _is_sure(history: History) -> bool:
    """Whether the rows are enough to say that simple models find nothing, and do no better than the network."""
    compared = read_reference(history)
    return compared is not None and all(
        not rival.wins(_SIGMAS) and rival.loss - _SIGMAS * rival.error > _TAKEN * compared.constant
        for rival in compared.rivals.values()
    )


def _nothing_found(history: History) -> Finding:
    compared = read_reference(history)
    assert compared is not None
    best = min(compared.rivals.values(), key=lambda rival: rival.loss)
    return Finding(
        severity=Severity.WARNING,
        summary="nothing that was tried finds the labels in the inputs: the network is at chance, and so is "
        f"{best.title} ({best.loss:.4g} on {compared.rows} training rows that it was not fitted to, a constant "
        f"{compared.constant:.4g})",
        evidence={
            "rows": compared.rows,
            "constant": compared.constant,
            "network": compared.network,
            **{name: rival.loss for name, rival in compared.rivals.items()},
        },
        remedy=_LOOK + _OTHER_KIND,
        confidence=Confidence.SUSPECTED,
        onset=history["train_loss"].steps[0],
        signals=("train_loss", "val_loss", "baseline_loss"),
    )


def _is_learnable(history: History) -> bool:
    """Whether a simple model predicts rows that it was not fitted to: then the inputs do say something."""
    compared = read_reference(history)
    return compared is not None and any(
        rival is not None and rival.loss < _TAKEN * compared.constant for rival in _fitted(compared)
    )


def _is_unlearnable(history: History, learned: float) -> bool:
    """Whether no simple model predicts rows that it was not fitted to."""
    compared = read_reference(history)
    if compared is None or compared.kinds:
        return False
    return all(rival is not None and rival.loss >= (1 - learned) * compared.constant for rival in _fitted(compared))


def _fitted(compared: Reference) -> list[Rival | None]:
    """Returns the models that were fitted to a part of the rows; not one that was given."""
    return [compared.rivals.get(name) for name in ("linear", "shallow")]
