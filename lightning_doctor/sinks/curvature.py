"""What a probe of the curvature saw, as pictures and a histogram."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_doctor.sinks.pictures import bars, curve

LINE_TAG = "doctor/curvature/line"
DENSITY_TAG = "doctor/curvature/density"


def draw(fact: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """Draws the fact ``curvature``.

    Returns:
        The loss along the way down and the spectral density as pictures by their tags, as far as they are known, and
        points of the spectrum with how many eigenvalues are near each.
    """
    pictures, step = {}, fact.get("step")
    line = [(float(x), float(y)) for x, y in fact.get("line", [])]
    escape = fact.get("escape", {})
    if not escape.get("real"):
        escape = {}
    if len(line) > 2:
        which = "the escape direction" if escape else "the gradient, downwards"
        pictures[LINE_TAG] = curve(
            line,
            title=f"loss along {which}, step {step}",
            across="distance from the weights",
            up="loss of samples that did not choose it" if fact.get("held_out") else "loss",
            mark=escape.get("distance") or fact.get("gradient", {}).get("distance"),
        )
    density = [(float(x), float(share)) for x, share in fact.get("density", [])]
    if sum(share > 0 for _, share in density) > 1:
        pictures[DENSITY_TAG] = bars(
            density, title=f"spectrum of the Hessian, step {step}", across="curvature", up="share of eigenvalues"
        )
    count = fact.get("parameters", 1)
    return pictures, [(x, share * count) for x, share in density]
