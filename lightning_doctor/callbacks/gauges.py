"""The numbers that each probe of the curvature leaves, and where they go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_doctor.gradient_noise import NoiseScale

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

_CAPACITY = 256
NOISE = ("curvature/noise_scale", "curvature/least_noise_scale", "curvature/gradient_noise")
GAUGES = (
    "curvature/loss",
    "curvature/gradient_norm",
    "curvature/sharpness",
    "curvature/step_ratio",
    "curvature/preconditioned",
    *NOISE,
    "curvature/high",
    "curvature/low",
)


def noise_gauges(noise: NoiseScale) -> dict[str, float]:
    """Returns what is known of the noise: where it hides the gradient, its scale is known from below only."""
    found = {"curvature/gradient_noise": noise.noise}
    if noise.samples is not None:
        found["curvature/noise_scale"] = noise.samples
    if noise.signal_error is not None and noise.noise > 0:
        highest = max(noise.signal, 0.0) + 2 * noise.signal_error
        found["curvature/least_noise_scale"] = noise.noise / highest if highest > 0 else math.nan
    return found


def receive_noise(case: Case, step: int, noise: NoiseScale) -> None:
    """Records what is known of the noise."""
    for name, value in noise_gauges(noise).items():
        if math.isfinite(value):
            case.history.record(name, step, value, capacity=_CAPACITY)


def receive_gauges(case: Case, step: int, numbers: list[float]) -> None:
    """Records all of a probe's numbers, in the order of their names; NaN for what is not known."""
    for name, value in zip(GAUGES, numbers, strict=True):
        if math.isfinite(value):
            case.history.record(name, step, value, capacity=_CAPACITY)
