"""The fact ``labels`` as rules read it: how many of each class were seen, and what always guessing by that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning_doctor.history import History


def label_counts(history: History) -> dict[str, float]:
    """Returns how many labels of each class were seen; empty where they are no classes."""
    return numbers(history.fact("labels.counts", {}))


def numbers(table: Mapping[str, float]) -> dict[str, float]:
    """Returns the entries of a table that are numbers."""
    if not isinstance(table, Mapping):
        return {}
    return {str(label): float(value) for label, value in table.items() if isinstance(value, (int, float))}


def entropy(counts: Mapping[str, float]) -> float:
    """Returns the cross-entropy of always guessing classes by their frequency [nats]; 0 without labels."""
    return -sum(share * math.log(share) for share in _shares(counts))


def entropy_error(counts: Mapping[str, float]) -> float:
    """Returns the standard error of :func:`entropy`, as a share of it; 0 where there is one class only, or none.

    That of the mean of ``−log p`` over the labels, as by Basharin (1959).
    """
    shares = _shares(counts)
    cost = entropy(counts)
    if cost <= 0:
        return 0.0
    variance = sum(share * math.log(share) ** 2 for share in shares) - cost**2
    return math.sqrt(max(0.0, variance) / sum(counts.values())) / cost


def _shares(counts: Mapping[str, float]) -> list[float]:
    total = sum(counts.values())
    return [count / total for count in counts.values() if count > 0]
