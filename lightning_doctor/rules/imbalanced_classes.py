"""LD308: predictions follow how frequent the classes are, and rare ones are never found."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import loss_head
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule


@rule(
    "LD308",
    needs={"train_loss/*": 1},
    reads=("labels", "predictions"),
    non_finite=True,
    explains=("stuck_at_baseline", "collapsed_output", "loss_plateau", "undertrained", "stale_validation"),
)
def imbalanced_classes(
    history: History, *, ratio: float = 4.0, found: float = 0.1, all_of_one: float = 0.9, samples: int = 64
) -> Finding | None:
    """Predictions follow how frequent the classes are, and rare ones are never found.

    What it looks at:
        The facts ``labels``, how many of each class were seen, and ``predictions``, what the newest samples were
        taken for; whether the loss weights classes; the skill of the predictions.

    Why it matters:
        Calling everything the most frequent class scores well and is worth nothing.

    Sick:
        95 of 100 labels are 0 and all predictions are 0

    Healthy:
        95 of 100 labels are 0 and most of the others are found; ten classes as frequent as each other, all hard

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
    counts = _numbers(history.fact("labels.counts", {}))
    predicted = _numbers(history.fact("predictions.counts", {}))
    recall = _numbers(history.fact("predictions.recall", {}))
    state = standing(history)
    if len(counts) < 2 or sum(predicted.values()) < samples or not (state.harmed or state.ended):
        return None
    weighted = loss_head(history).weighted
    total, most = sum(counts.values()), max(counts.values())
    favourite = max(predicted, key=predicted.__getitem__)
    taken = predicted[favourite] / sum(predicted.values())
    share = counts.get(favourite, 0) / total
    rare = {label: count for label, count in counts.items() if count * ratio <= most}
    missed = [label for label in rare if label in recall and recall[label] < found]
    evidence: dict[str, float | int | str] = {
        "classes": len(counts),
        "most_frequent_share": most / total,
        "predicted_most": favourite,
        "predicted_most_share": taken,
        "weighted": str(weighted),
    }
    if weighted and taken >= all_of_one and share <= 0.5:
        evidence["its_label_share"] = share
        return Finding(
            severity=state.if_harmed(Severity.WARNING),
            summary=f"{taken:.0%} of the predictions are class {favourite}, which {share:.0%} of the labels are: the "
            "weights of the loss outweigh the data",
            evidence=evidence,
            remedy=f"lower the weight of class {favourite}: weights in inverse proportion to the counts are "
            f"{_weights(counts)}",
            confidence=Confidence.SUSPECTED,
            onset=0,
            signals=("train_loss", "skill"),
        )
    if not missed or sum(rare[label] for label in missed) < 0.5 * sum(rare.values()):
        return None
    evidence |= {"missed": ", ".join(missed[:8]), "missed_share": sum(rare[label] for label in missed) / total}
    others = [value for label, value in recall.items() if label not in rare]
    return Finding(
        severity=state.if_harmed(Severity.WARNING),
        summary=f"class {missed[0]}{f' and {len(missed) - 1} more' if len(missed) > 1 else ''}, "
        f"{evidence['missed_share']:.1%} of the labels, is found in less than {found:.0%} of its samples: predictions "
        "follow the frequency of the classes",
        evidence=evidence,
        remedy=(
            "check the direction of the loss's weights: rare classes need the larger ones"
            if weighted
            else "weight the loss or sample the data"
        )
        + f", in inverse proportion to the counts {_weights(counts)}",
        # That several frequent classes are told apart shows that the network learns: what it lacks is the rare ones.
        confidence=Confidence.CONFIRMED if len(others) > 1 and min(others) >= 0.5 else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "skill"),
    )


def _weights(counts: Mapping[str, float]) -> str:
    """Says what each class would weigh so that all count the same."""
    mean = sum(counts.values()) / len(counts)
    shown = sorted(counts, key=counts.__getitem__)[:3]
    weights = ", ".join(f"{label}: {mean / max(counts[label], 1):.3g}" for label in shown)
    return f"({weights}{', …' if len(counts) > 3 else ''})"


def _numbers(table: Mapping[str, float]) -> dict[str, float]:
    return {str(label): float(value) for label, value in table.items() if isinstance(value, (int, float))}
