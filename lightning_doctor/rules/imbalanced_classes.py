"""LD308: predictions follow how frequent the classes are, and rare ones are never found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.labels import entropy, label_counts, numbers
from lightning_doctor.loss_head import loss_head
from lightning_doctor.progress import Standing, standing
from lightning_doctor.rule import Undecided, is_recent, rule
from lightning_doctor.scores import scores

# How rarely chance must leave all samples of rare classes unfound, where as many came as there should: how many come is
# chance too, so that it is more often by a few times.
_CHANCE = 0.001
# Classes that are several.
_SEVERAL = 3
# How surely labels must be uneven [standard errors].
_SIGMAS = 3.0
# The labels of two classes; and the share of what they weigh, or of their entropy, that is clearly less.
_ANSWERS, _LESS = ("0", "1"), 0.9
# Share of the errors from which on they are many.
_MANY = 0.25
# Tags fewer than which tell nothing of how many are found.
_FEWEST_TAGS = 32
# Samples of a rare class fewer than which tell nothing of how many are found, and looks at the same rows that do.
_FEW, _LOOKS = 4, 3


@rule(
    "LD308",
    needs={"train_loss/*": 1},
    non_finite=True,
    explains=(
        "stuck_at_baseline",
        "collapsed_output",
        "dead_units",
        "loss_plateau",
        "undertrained",
        "stale_validation",
    ),
)
def imbalanced_classes(
    history: History, *, ratio: float = 4.0, found: float = 0.1, all_of_one: float = 0.9, samples: int = 32
) -> Finding | None:
    """Predictions follow how frequent the classes are, and rare ones are never found.

    What it looks at:
        The facts ``labels``, how many of each class were seen, and ``predictions``, what the newest samples were
        taken for, or of two classes what training rows scored of late were, where those hold none of the rarer;
        ``tags``, how many of those that rows may have several of were found; whether the loss weights classes.

    Why it matters:
        Calling everything the most frequent class scores well and is worth nothing.

    Sick:
        95 of 100 labels are 0 and all predictions are 0; 5 % of all tags are there, weighted, and none is found

    Healthy:
        95 of 100 labels are 0 and most of the others are found; ten classes as frequent as each other, all hard; a
        network that finds no class but one, other frequent ones neither; words, of which frequent ones are mostly
        missed too

    Remedy:
        Weights in inverse proportion to the counts, or a sampler that balances.

    Thresholds:
        ratio: How many times rarer than the most frequent class one must be to count as rare [ratio].
        found: Share of its samples under which a rare class is not found [share].
        all_of_one: Share of the predictions that one class of a weighted loss must take, where it has at most half of
            the labels, for the weights to be wrong [share].
        samples: Predictions that must have been seen [samples].

    Blind spots:
        Classes that nothing in the inputs tells apart look the same; what matters to you may be the ranking, not the
        decision at one half.
    """
    counts, predicted = label_counts(history), numbers(history.fact("predictions.counts", {}))
    state = standing(history)
    if not counts:
        return _missed_tags(history, state, ratio, found)
    if not predicted:
        raise Undecided(history.absent.get("predictions", "the fact predictions is not known"))
    if len(counts) < 2 or sum(predicted.values()) < samples:
        return None
    # Every network calls most samples the most frequent class at first, and weights make it lean to the other side.
    share = 1.0 if state.ended or state.share is None else state.share
    if share < 0.25 or ((share < 0.4 or (state.improving and not state.ended)) and not _undercut(history, counts)):
        return None
    if loss_head(history).weighted:
        overweighted = _overweighted(history, state, counts, predicted, all_of_one)
        if overweighted is not None:
            return overweighted
    return _missed(history, state, counts, ratio, found)


def _overweighted(
    history: History, state: Standing, counts: Mapping[str, float], predicted: Mapping[str, float], all_of_one: float
) -> Finding | None:
    favourite = max(predicted, key=predicted.__getitem__)
    taken, share = predicted[favourite] / sum(predicted.values()), counts.get(favourite, 0) / sum(counts.values())
    if taken < all_of_one or share > 0.5:
        return None
    return Finding(
        severity=state.if_harmed(Severity.WARNING),
        summary=f"{taken:.0%} of the predictions are class {favourite}, which {share:.0%} of the labels are: the "
        "weights of the loss outweigh the data",
        evidence={"predicted_most": favourite, "predicted_most_share": taken, "its_label_share": share},
        remedy=f"lower the weight of class {favourite}: weights in inverse proportion to the counts are "
        f"{_weights(counts)}",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )


def _missed(
    history: History, state: Standing, counts: Mapping[str, float], ratio: float, found: float
) -> Finding | None:
    recall = numbers(history.fact("predictions.recall", {}))
    rare = {label: count for label, count in counts.items() if count * ratio <= max(counts.values())}
    wrong_way = _undercut(history, counts)
    # Where the newest samples hold none of them, weights that are wrong for sure and no such prediction are enough.
    predicted = history.fact("predictions.counts", {})
    unseen = 0.0 if wrong_way else _found_in_scored_rows(history, counts)
    missed = [
        label for label in rare if recall.get(label, unseen) < found and (label in recall or label not in predicted)
    ]
    # Weights that are wrong for sure need not have done it to most of them.
    several = wrong_way or sum(rare[label] for label in missed) >= 0.5 * sum(rare.values())
    if not missed or not _are_uneven(counts) or not several:
        return None
    others = [value for label, value in recall.items() if label not in rare]
    if not wrong_way and (
        _misses_frequent_ones(counts, recall, rare, found) or _by_chance(history, counts, recall, missed, len(rare))
    ):
        return None
    # Several frequent classes are told apart: what is missing are the rare ones.
    learns = len(others) > 1 and min(others) >= 0.5
    share = sum(rare[label] for label in missed) / sum(counts.values())
    evidence: dict[str, float | int | str] = {
        "classes": len(counts),
        "most_frequent_share": max(counts.values()) / sum(counts.values()),
        "missed": ", ".join(missed[:8]),
        "missed_share": share,
    }
    # A simple model that does as well may miss them as well: that excuses nothing.
    harmed = replace(state, matched=False).harmed and _are_many_of_the_errors(state, counts, share)
    severity = Severity.WARNING if harmed else Severity.NOTE
    if wrong_way:
        # Of such a loss nearly all can be gone with every rare sample missed.
        severity = Severity.ERROR
        advice = "turn the weights of the loss round: rare classes need the larger ones"
    elif loss_head(history).weighted:
        advice = "check the weights of the loss: rare classes need the larger ones"
    else:
        advice = "weight the loss or sample the data"
    if _ranks(history):
        # A threshold other than one half finds them.
        severity = Severity.NOTE
    return Finding(
        severity=severity,
        summary=f"class {missed[0]}{f' and {len(missed) - 1} more' if len(missed) > 1 else ''}, {share:.1%} of the "
        f"labels, is found in less than {found:.0%} of its samples: predictions follow the frequency of the classes",
        evidence=evidence,
        remedy=f"{advice}, in inverse proportion to the counts {_weights(counts)}",
        confidence=Confidence.CONFIRMED if wrong_way or learns else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )


def _missed_tags(history: History, state: Standing, ratio: float, found: float) -> Finding | None:
    """Tags, of which a row may have several and has few, hardly any of which are found.

    Where the loss weighs them they are meant to be found; else the probabilities may be all that is asked for.
    """
    table, head = numbers(history.fact("tags", {})), loss_head(history)
    if not table:
        raise Undecided(history.absent.get("labels", "the fact labels is not known"))
    tags, answers = table.get("tags", 0.0), table.get("answers", 0.0)
    late = state.ended or ((state.share is None or state.share >= 0.4) and not state.improving)
    if (
        tags < _FEWEST_TAGS
        or tags * (1 + ratio) > answers
        or not late
        or not is_recent(history, int(table.get("step", 0)))
    ):
        return None
    recall, share = table.get("found", 0.0) / tags, tags / answers
    if recall >= found or head.targets != "binary":
        return None
    advice = "lower the threshold, or set `pos_weight`"
    if head.weighted:
        advice = "check `pos_weight`: rare tags need the larger one"
    return Finding(
        severity=state.if_harmed(Severity.WARNING) if head.weighted and not _ranks(history) else Severity.NOTE,
        summary=f"{share:.1%} of all answers are yes, and {recall:.1%} of those are found: predictions follow how rare "
        "tags are",
        evidence={"tags": tags, "share": share, "recall": recall},
        remedy=f"{advice}, up to {(answers - tags) / tags:.3g}: as many as rows without a tag for one with it",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )


def _found_in_scored_rows(history: History, counts: Mapping[str, float]) -> float:
    """Returns 0 where the training rows scored of late were all called the more frequent of two classes, else 1.

    As is to be seen by its share of them that is right, look for look, and no error of a constant's avoided.
    """
    train, right = scores(history, "train"), history.get("eval_accuracy/train").finite().values[-_LOOKS:]
    if len(counts) != 2 or train is None or min(len(right), len(train.skills)) < _LOOKS:
        return 1.0
    if not is_recent(history, train.skill_steps[-1]):
        return 1.0
    rare = min(counts.values()) / sum(counts.values())
    expected = 3 * math.sqrt(rare * (1 - rare) / train.rows) if train.rows > 0 else math.nan
    alike = len(set(right)) == 1 and not any(train.skills[-_LOOKS:]) and abs(1 - right[-1] - rare) <= expected
    return 0.0 if alike and (1 - right[-1]) * train.rows >= _FEW else 1.0


def _misses_frequent_ones(
    counts: Mapping[str, float], recall: Mapping[str, float], rare: Mapping[str, float], found: float
) -> bool:
    """Whether most samples of frequent classes but the first are missed too, and that one has no majority.

    Then it is not for being rare that a class is not found. Where there are several of these, as of words, it is enough
    that most are mostly missed.
    """
    first = max(counts, key=counts.__getitem__)
    frequent = {label: count for label, count in counts.items() if label not in rare and label != first}
    limit = 0.5 if len(frequent) >= _SEVERAL else found
    missed = sum(count for label, count in frequent.items() if recall.get(label, 1.0) < limit)
    return 2 * missed > sum(frequent.values()) and 2 * counts[first] < sum(counts.values())


def _by_chance(
    history: History, counts: Mapping[str, float], recall: Mapping[str, float], missed: Sequence[str], rare: int
) -> bool:
    """Whether the newest samples of these classes may all have been missed though they are found like the others.

    They were picked from so many that are rare. Where the newest samples hold none of them others have told.
    """
    seen = [label for label in missed if label in recall]
    others = {label: counts.get(label, 0.0) for label in recall if label not in missed}
    if not seen or not sum(others.values()):
        return False
    usual = sum(count * recall[label] for label, count in others.items()) / sum(others.values())
    share = sum(counts.get(label, 0.0) for label in seen) / sum(counts.values())
    samples = number(history.fact("predictions.samples"), 0.0)
    return bool((1 - min(1.0, usual)) ** (share * samples) > _CHANCE / rare)


def _are_many_of_the_errors(state: Standing, counts: Mapping[str, float], missed: float) -> bool:
    """Whether classes of this share of the labels, all missed, are a good part of all that is wrongly predicted."""
    wrong = (1 - max(counts.values()) / sum(counts.values())) * (1 - max(0.0, state.skill or 0.0))
    return missed >= _MANY * wrong


def _are_uneven(counts: Mapping[str, float]) -> bool:
    """Whether labels of classes that are all as frequent are hardly ever as uneven as these.

    By Pearson's χ² (1900), whose quantile is approximated after Wilson and Hilferty (1931).
    """
    mean, free = sum(counts.values()) / len(counts), len(counts) - 1
    spread = sum((count - mean) ** 2 for count in counts.values()) / mean
    return spread > free * (1 - 2 / (9 * free) + _SIGMAS * math.sqrt(2 / (9 * free))) ** 3


def _ranks(history: History) -> bool:
    """Whether the run is judged by the order of its scores."""
    metric = str(history.fact("validation.metric", "")).lower()
    return any(word in metric for word in ("auc", "auroc", "auprc", "average_precision"))


def _undercut(history: History, counts: Mapping[str, float]) -> bool:
    """Whether the weights of the loss count the labels as less mixed than they are: those that balance mix them."""
    head, baselines = loss_head(history), history.get("baseline_loss").finite().values
    if head.class_weights and sorted(counts) == list(_ANSWERS) and counts["0"] != counts["1"]:
        frequent, rare = head.class_weights if counts["0"] > counts["1"] else reversed(head.class_weights)
        return rare < _LESS * frequent
    if not head.weighted or head.reduction != "mean" or not baselines or not counts:
        return False
    return baselines[-1] < _LESS * entropy(counts)


def _weights(counts: Mapping[str, float]) -> str:
    """Says what each class would weigh so that all count the same."""
    mean = sum(counts.values()) / len(counts)
    shown = sorted(counts, key=counts.__getitem__)[:3]
    weights = ", ".join(f"{label}: {mean / max(counts[label], 1):.3g}" for label in shown)
    return f"({weights}{', …' if len(counts) > 3 else ''})"
