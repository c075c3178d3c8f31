"""The fact ``parameters`` as rules read it: which of a model's weights are trained, which are not, and why."""

from __future__ import annotations

from typing import Any

from lightning_doctor.layers import listed


def named(table: dict[str, Any], key: str) -> list[str]:
    """Returns the names in one of the lists; empty where there is none."""
    names = table.get(key, [])
    return [str(name) for name in names] if isinstance(names, list) else []


def counted(table: dict[str, Any], key: str) -> int:
    """Returns how many are in one of the lists, of which only the first names are kept."""
    counts = table.get("counts")
    count = counts.get(key) if isinstance(counts, dict) else None
    return count if isinstance(count, int) else len(named(table, key))


def steps_counted(table: dict[str, Any]) -> int:
    """Returns how many examined steps there were."""
    steps = table.get("steps", 0)
    return steps if isinstance(steps, int) else 0


def output_layer(table: dict[str, Any]) -> str | None:
    """Returns the name of the last layer that gradients flowed through; None where it is not known."""
    last = table.get("last_layer")
    return str(last["name"]) if isinstance(last, dict) and "name" in last else None


def evidence_of(table: dict[str, Any], *keys: str) -> dict[str, float | int | str]:
    """Returns the numbers and first names of some of the lists, and what there is in all."""
    evidence: dict[str, float | int | str] = {}
    for key in keys:
        evidence |= {key: counted(table, key), f"{key}_names": listed(named(table, key))}
    for key in ("tensors", "trained", "frozen_share"):
        value = table.get(key)
        if isinstance(value, (int, float)):
            evidence[key] = value
    return evidence
