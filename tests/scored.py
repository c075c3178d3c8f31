"""Histories of runs whose rows were kept, scored and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_doctor.history import History

# What a two-sample test says of inputs that were scaled on one side only.
FAR: dict[str, Any] = {
    "p_value": 0.0025,
    "separation": 0.99,
    "rows": [500, 500],
    "columns": 13,
    "shifted": 13,
    "largest": [{"name": "[0][3]", "means": [0.3, 82.1], "spreads": [1.0, 30.0], "shift": 3.8, "ratio": 30.0}],
}
# Of two samples from two places, of which a network may well know.
NEAR: dict[str, Any] = {
    **FAR,
    "separation": 0.64,
    "largest": [{"name": "[0][3]", "means": [0.0, 0.5], "spreads": [1.0, 1.0], "shift": 0.5, "ratio": 1.0}],
}
ALIKE: dict[str, Any] = {**NEAR, "p_value": 0.4, "separation": 0.51}
# Sixty columns of digits of other writers: surely others, and hardly so.
SLIGHT: dict[str, Any] = {
    **NEAR,
    "separation": 0.56,
    "largest": [{"name": "[0][3]", "means": [0.0, 0.2], "spreads": [1.0, 1.0], "shift": 0.2, "ratio": 1.1}],
}


def scored(
    history: History,
    sample: str,
    losses: Sequence[float],
    *,
    skills: Sequence[float] = (),
    error: float = 0.02,
    rows: int = 500,
    every: int = 20,
) -> History:
    """Adds what a copy of the model scored on a sample, with an accuracy to match for ten classes."""
    for index, loss in enumerate(losses):
        history.record(f"eval_loss/{sample}", index * every, loss)
        history.record(f"eval_error/{sample}", index * every, error)
    for index, skill in enumerate(skills):
        history.record(f"eval_skill/{sample}", index * every, skill)
        history.record(f"eval_accuracy/{sample}", index * every, 0.1 + 0.9 * skill)
    history.facts["scored"] = {**history.fact("scored", {}), sample: rows}
    return history
