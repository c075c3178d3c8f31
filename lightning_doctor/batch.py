"""The fact ``batch`` as rules read it: which tensors a batch is made of, and what they are for."""

from __future__ import annotations

from typing import Any

from lightning_doctor.history import History


def batch_leaf(history: History, role: str) -> dict[str, Any]:
    """Returns what is known of a batch's ``"inputs"`` or ``"targets"``: key, shape, dtype; empty where unknown."""
    leaves, key = history.fact("batch.leaves", []), history.fact(f"batch.{role}")
    found = leaves if isinstance(leaves, list) and key is not None else []
    return next((leaf for leaf in found if isinstance(leaf, dict) and leaf.get("key") == key), {})
