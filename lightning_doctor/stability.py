"""The largest curvature at which an optimizer's step is stable, by its own settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Gauge = Literal["curvature", "batch_sharpness", "preconditioned"]


@dataclass(frozen=True)
class Limits:
    """What the theory says of one parameter group.

    Attributes:
        low: Below this the step is stable [loss per squared unit of the weights]; None where the theory has none.
        high: Above this it is unstable; None where the theory has none. Between the two there is no verdict.
        gauge: What is compared with them. ``"curvature"``: the largest eigenvalue of the Hessian H of the loss.
            ``"batch_sharpness"``: gᵀHg/gᵀg with a batch's own gradient and Hessian. ``"preconditioned"``: the largest
            eigenvalue of P^½HP^½ for an optimizer that steps by −lr·P·m.
        decay: Coupled weight decay that belongs on the diagonal of H before it is preconditioned; 0 where it is in
            the limits already, or there is none.
        source: Where that is shown.
    """

    low: float | None
    high: float | None
    gauge: Gauge
    decay: float
    source: str


def limits(optimizer: str, group: Mapping[str, Any], batch: Literal["full", "mini"]) -> Limits | None:
    """Returns the limits of one parameter group.

    Gradient descent on a quadratic shrinks its steps while the curvature is under 2/lr, and trained networks rise to
    that limit and hover there (Cohen et al. 2021, arXiv 2103.00065). With momentum it follows from the characteristic
    polynomial of the two-step recurrence, whose roots lie in the unit circle while |trace| < 1 + determinant.

    Args:
        optimizer: Class name, as ``"SGD"``.
        group: Its settings under PyTorch's names: ``lr``, ``momentum``, ``dampening``, ``nesterov``, ``betas``,
            ``weight_decay``.
        batch: ``"full"`` where each step sees all training samples, ``"mini"`` where it does not.

    Returns:
        None for an optimizer or settings that no theory here covers.
    """
    rate, decay = _number(group, "lr"), _number(group, "weight_decay", 0.0)
    if rate is None or decay is None or rate <= 0 or decay < 0 or group.get("maximize"):
        return None
    if optimizer == "SGD":
        return _sgd(group, rate, decay, batch)
    if optimizer in ("Adam", "AdamW"):
        found = _adam(group, rate, decay, optimizer == "AdamW" or bool(group.get("decoupled_weight_decay")))
    elif optimizer in ("RMSprop", "Adagrad"):
        beta = _momentum(group.get("momentum", 0.0))
        found = None if beta is None else _equal(heavy_ball(rate, beta), "preconditioned", decay, _QUADRATIC)
    else:
        return None
    if found is None or batch == "full":
        return found
    return Limits(None, None, "preconditioned", found.decay, "no limit is known for batches")


def gradient_descent(rate: float) -> float:
    """Returns 2/lr (Cohen et al. 2021, equation 1)."""
    return 2 / rate


def heavy_ball(rate: float, momentum: float, dampening: float = 0.0) -> float:
    """Returns 2(1 + β)/((1 − τ)lr) for a velocity v ← βv + (1 − τ)g (Cohen et al. 2021, equation 2, without τ)."""
    return 2 * (1 + momentum) / ((1 - dampening) * rate)


def nesterov(rate: float, momentum: float) -> float:
    """Returns 2(1 + β)/((1 + 2β)lr) (Cohen et al. 2021, equation 2)."""
    return 2 * (1 + momentum) / ((1 + 2 * momentum) * rate)


def adam(rate: float, beta1: float, decoupled_decay: float = 0.0) -> float:
    """Returns (2 + 2β₁)/((1 − β₁)lr), for the preconditioned curvature (Cohen et al. 2022, arXiv 2207.14484).

    A decoupled decay d multiplies the weights by 1 − lr·d in each step: the same polynomial then gives 2 − lr·d in
    place of the factor 2.
    """
    return (1 + beta1) * (2 - rate * decoupled_decay) / ((1 - beta1) * rate)


_QUADRATIC = "characteristic polynomial on a quadratic"
_DESCENT = "Cohen et al. 2021, arXiv 2103.00065"
_ADAPTIVE = "Cohen et al. 2022, arXiv 2207.14484"
_BATCHES = "Andreyev & Beneventano 2024, arXiv 2412.20553"
_MOMENTUM_BATCHES = "arXiv 2604.14108"


def _sgd(group: Mapping[str, Any], rate: float, decay: float, batch: str) -> Limits | None:
    beta, dampening = _momentum(group.get("momentum", 0.0)), _number(group, "dampening", 0.0)
    if beta is None or dampening is None or not dampening < 1:
        return None
    if beta == 0:
        # PyTorch applies no dampening without momentum. The decay's gradient d·w adds d to every curvature.
        limit = gradient_descent(rate) - decay
        gauge: Gauge = "curvature" if batch == "full" else "batch_sharpness"
        return _equal(limit, gauge, 0.0, _DESCENT if batch == "full" else _BATCHES)
    if batch == "full":
        limit = nesterov(rate, beta) if group.get("nesterov") else heavy_ball(rate, beta, dampening)
        return _equal(limit - decay, "curvature", 0.0, _DESCENT)
    if group.get("nesterov") or dampening:
        return Limits(None, None, "batch_sharpness", 0.0, "no limit is known for batches")
    # Small batches stop at the first, large ones at the second: which of them a run's batches are, nobody can say.
    low, high = 2 * (1 - beta) / rate - decay, heavy_ball(rate, beta) - decay
    return Limits(low, high, "batch_sharpness", 0.0, _MOMENTUM_BATCHES)


def _adam(group: Mapping[str, Any], rate: float, decay: float, decoupled: bool) -> Limits | None:
    betas = group.get("betas")
    beta = _momentum(betas[0]) if isinstance(betas, (list, tuple)) and betas else None
    if beta is None:
        return None
    limit = adam(rate, beta, decay if decoupled else 0.0)
    return _equal(limit, "preconditioned", 0.0 if decoupled else decay, _ADAPTIVE)


def _equal(limit: float, gauge: Gauge, decay: float, source: str) -> Limits:
    return Limits(limit, limit, gauge, decay, source)


def _momentum(value: Any) -> float | None:
    number = _plain(value)
    return number if number is not None and 0 <= number < 1 else None


def _number(group: Mapping[str, Any], key: str, default: float | None = None) -> float | None:
    return _plain(group.get(key, default))


def _plain(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
