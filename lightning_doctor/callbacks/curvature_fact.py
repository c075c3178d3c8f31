"""A verdict on the curvature as the history holds it: the fact ``curvature``."""

from __future__ import annotations

import math
from typing import Any

from lightning_doctor.gradient_noise import NoiseScale
from lightning_doctor.measure.verdict import CriticalPoint


def described(point: CriticalPoint, noise: NoiseScale | str) -> dict[str, Any]:
    """Returns a verdict as the fact ``curvature``: plain JSON, without what is not known."""
    fact: dict[str, Any] = {
        "kind": point.kind,
        "because": point.because,
        "loss": point.loss,
        "samples": point.samples,
        "tested": point.tested,
        "held_out": point.held_out,
        "products": point.products,
        "epsilon": point.share,
        "failure": point.failure,
    }
    if point.ends is not None:
        low, high = (point.ends.low, point.ends.low_residual), (point.ends.high, point.ends.high_residual)
        fact["converged"], fact["parameters"] = point.ends.converged, point.ends.size
        fact["density"] = [[x, y] for x, y in zip(point.ends.points, point.ends.weights, strict=True)]
        fact["low"], fact["high"] = ({"value": value, "residual": residual} for value, residual in (low, high))
    if point.slope is not None:
        fact["gradient"] = {
            "norm": point.slope.norm,
            "distance": point.slope.distance,
            "predicted_fall": point.slope.predicted_fall,
            "curvature_fall": point.slope.curvature_fall,
            "fall": point.slope.fall,
            "standard_error": point.slope.error,
            "near_zero": point.near_zero,
        }
    if point.escape is not None:
        fact["escape"] = {
            "distance": point.escape.distance,
            "fall": point.escape.fall,
            "share": point.escape.share,
            "standard_error": point.escape.error,
            "curvature": point.escape.curvature,
            "real": point.escape.real,
            "samples": point.tested,
        }
    if isinstance(noise, NoiseScale):
        fact["noise_scale"] = {"samples": noise.samples, "error": noise.error, "reason": noise.reason}
    else:
        fact["noise_scale"] = {"reason": noise}
    return _known(fact)


def _known(fact: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what is None, not finite, or empty."""
    found = {}
    for key, value in fact.items():
        kept = _known(value) if isinstance(value, dict) else value
        if kept not in (None, "", {}) and not (isinstance(kept, float) and not math.isfinite(kept)):
            found[key] = kept
    return found
