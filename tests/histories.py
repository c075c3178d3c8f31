"""Histories for the tests of the rules, made of plain numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

from lightning_doctor.history import History


def history_of(losses: Iterable[float], *, rates: Sequence[float] | None = None, **facts: Any) -> History:
    """A run with these training losses, one a step, and these learning rates."""
    history = History()
    for step, loss in enumerate(losses):
        history.record("train_loss", step, loss)
    for step, rate in enumerate(rates or ()):
        history.record("learning_rate", step, rate)
    history.facts = facts
    return history


def gauss(count: int, sigma: float = 1.0, seed: int = 0) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(0, sigma) for _ in range(count)]


def noisy(levels: Iterable[float], sigma: float, seed: int = 0) -> list[float]:
    levels = list(levels)
    return [level + error for level, error in zip(levels, gauss(len(levels), sigma, seed), strict=True)]


def decay(start: float, end: float, time: float, count: int) -> list[float]:
    """Falls from start towards end, exponentially, with this time constant in steps."""
    return [end + (start - end) * math.exp(-step / time) for step in range(count)]


SGD = [{"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.0}]}]
ADAM = [{"class": "Adam", "groups": [{"lr": 0.003, "betas": [0.9, 0.999]}]}]
FULL_BATCH = {"batches_per_epoch": 1}
COMPLETED = {"ended": "completed"}


def scanned(
    history: History,
    changes: Iterable[float],
    *,
    smaller: float = -0.01,
    larger: float = 0.5,
    limit: float | None = None,
    rate: float = 0.1,
    every: int = 10,
) -> History:
    """Adds scans: what the steps changed, what smaller and larger ones would have, and the limit of those that rose."""
    for index, change in enumerate(changes):
        step = index * every
        for factor in (0.015625, 0.0625, 0.25):
            history.record(f"scan/{factor:g}", step, smaller * factor)
        history.record("scan/1", step, change)
        for factor in (4.0, 16.0, 64.0):
            history.record(f"scan/{factor:g}", step, larger * factor)
        if limit is not None and change > 0:
            history.record("scan_limit", step, limit)
    if "learning_rate" not in history:
        history.record("learning_rate", 0, rate)
    return history


def reading(history: History, name: str, values: Sequence[float], every: int = 10) -> History:
    """Adds a series with a value every so many steps."""
    for index, value in enumerate(values):
        history.record(name, index * every, value)
    return history


# A loss head as the fact describes it: a plain regression.
HEAD: dict[str, Any] = {
    "loss": "mse",
    "written_by_hand": False,
    "reduction": "mean",
    "activation": None,
    "output_shape": [32, 1],
    "target_shape": [32, 1],
    "broadcast": False,
    "targets": "real",
    "classes": None,
    "weighted": False,
    "label_smoothing": False,
    "terms": 1,
    "output_min": 0.1,
    "output_max": 0.9,
    "target_min": -2.0,
    "target_max": 2.0,
    "target_mean": 0.0,
    "target_std": 1.0,
}
# Logits for ten classes, and labels.
LOGITS: dict[str, Any] = {
    **HEAD,
    "loss": "cross_entropy",
    "output_shape": [32, 10],
    "target_shape": [32],
    "targets": "class_index",
    "classes": 10,
    "output_min": -3.0,
    "output_max": 3.0,
    "target_min": 0.0,
    "target_max": 9.0,
    "target_mean": 4.5,
    "target_std": 2.9,
}


def headed(
    head: dict[str, Any],
    *,
    skill: float | None = 0.0,
    losses: Sequence[float] = (1.0,) * 400,
    baseline: float | None = 1.0,
    share: float = 0.5,
    **facts: Any,
) -> History:
    """A run with this loss head that has done so well, after this share of its steps."""
    trainer = {"planned_steps": round(len(losses) / share), **facts.pop("trainer", {})}
    history = history_of(losses, loss_head=head, trainer=trainer, **facts)
    if skill is not None:
        reading(history, "skill", [skill] * (len(losses) // 10 + 1))
    if baseline is not None:
        reading(history, "baseline_loss", [baseline] * 3)
    return history


# What a probe leaves at a saddle that the loss shows.
SADDLE: dict[str, Any] = {
    "step": 390,
    "samples": 256,
    "kind": "saddle",
    "because": "the loss goes down to both sides",
    "loss": 1.3,
    "low": {"value": -2.0, "residual": 0.01},
    "high": {"value": 2.0, "residual": 0.01},
    "epsilon": 0.01,
    "failure": 0.001,
    "gradient": {
        "norm": 1e-4,
        "predicted_fall": 1e-5,
        "curvature_fall": 1e-3,
        "standard_error": 1e-4,
        "near_zero": True,
    },
    "escape": {"distance": 0.4, "fall": 0.12, "share": 0.09, "standard_error": 0.01, "samples": 256},
}


def point(kind: str, **details: Any) -> dict[str, Any]:
    """The fact of a probe that found another kind of point."""
    return {key: value for key, value in SADDLE.items() if key != "escape"} | {"kind": kind, **details}
