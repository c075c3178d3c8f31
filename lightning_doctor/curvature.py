"""The fact ``curvature`` and the series ``curvature/…`` as rules read them: what a probe found, and where."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.noise import blocks, shift, stretch
from lightning_doctor.progress import standing
from lightning_doctor.rule import is_recent

# Standard errors by which the loss must have gone on falling, and the share of it, for a probe to be of the past.
_SURE, _MOVED = 3.0, 0.05
# Losses before a probe that tell where the run was then.
_BEFORE = 32
# Share of the loss by which it may differ while the run rests.
_REST = 0.1


@dataclass(frozen=True)
class Extreme:
    """One end of the spectrum.

    Attributes:
        value: The Ritz value [loss per squared unit of the weights]; NaN where unknown.
        residual: How near to it an eigenvalue lies for certain; infinite where unknown.
    """

    value: float
    residual: float


@dataclass(frozen=True)
class Gradient:
    """Whether there is still a slope.

    Attributes:
        norm: Its length; NaN where unknown.
        predicted_fall: What it promises within the reach of the line scan [unit of the loss]; NaN where unknown.
        curvature_fall: What curvature adds to that, less than nothing where it takes away; NaN where unknown.
        standard_error: Of the predicted fall, over samples; NaN where unknown.
        near_zero: None where unknown.
    """

    norm: float
    predicted_fall: float
    curvature_fall: float
    standard_error: float
    near_zero: bool | None

    @property
    def fall(self) -> float:
        """What the loss falls by at the best distance along it; NaN where unknown."""
        return self.predicted_fall + self.curvature_fall


@dataclass(frozen=True)
class Escape:
    """A way down from a saddle, measured on samples that did not choose its direction.

    Attributes:
        distance: How far to go.
        fall: By how much the loss falls there [unit of the loss].
        share: The same as a share of the loss; NaN where unknown.
        standard_error: Of the fall; NaN where unknown.
        samples: How many it was measured on; 0 where unknown.
    """

    distance: float
    fall: float
    share: float
    standard_error: float
    samples: int


@dataclass(frozen=True)
class NoiseScale:
    """How many samples' gradients are as much signal as noise.

    Attributes:
        samples: NaN where it is unknown or undefined.
        error: Of that number; NaN where unknown.
        reason: Why there is none, as a clause; empty otherwise.
    """

    samples: float
    error: float
    reason: str


@dataclass(frozen=True)
class Probe:
    """The newest probe.

    Attributes:
        step: Of the run.
        kind: ``"slope"``, ``"saddle"``, ``"minimum"``, ``"flat"`` or ``"inconclusive"``; empty where unknown.
        because: What that rests on, as a clause; empty where unknown.
        samples: How many it looked at; 0 where unknown.
        loss: Of them; NaN where unknown.
        low: The smallest curvature.
        high: The largest.
        epsilon: The share of the spectral range below which curvature was looked for; NaN where unknown.
        failure: The probability that it was missed; 1 where unknown.
        gradient: Whether there is still a slope.
        escape: The way down from a saddle; None without one.
        noise: The noise of the gradient.
    """

    step: int
    kind: str
    because: str
    samples: int
    loss: float
    low: Extreme
    high: Extreme
    epsilon: float
    failure: float
    gradient: Gradient
    escape: Escape | None
    noise: NoiseScale


def newest_probe(history: History) -> Probe | None:
    """Reads the fact; None where there is none. What is missing in it is NaN, empty or the worst it could be."""
    table = history.fact("curvature")
    if not isinstance(table, Mapping) or not table:
        return None
    return Probe(
        step=_whole(table, "step"),
        kind=_text(table, "kind"),
        because=_text(table, "because"),
        samples=_whole(table, "samples"),
        loss=number(table.get("loss")),
        low=_extreme(table.get("low")),
        high=_extreme(table.get("high")),
        epsilon=number(table.get("epsilon")),
        failure=number(table.get("failure"), 1.0),
        gradient=_gradient(table.get("gradient")),
        escape=_escape(table.get("escape")),
        noise=_noise(table.get("noise_scale")),
    )


def standing_probe(history: History) -> Probe | None:
    """Returns the newest probe if it still tells where the run is: the loss has not moved on."""
    probe = newest_probe(history)
    if probe is None:
        return None
    losses = history.get("train_loss").finite()
    before = losses.until(probe.step)[-_BEFORE:]
    after = losses.since(probe.step + 1)
    if len(before) < 8 or len(after) < 8:
        return probe if is_recent(history, probe.step) else None
    # A run that left and came back to the same loss is not where it was.
    parts = [after[-_BEFORE:], *([] if is_recent(history, probe.step) else blocks(after, len(after) // _BEFORE))]
    return None if any(_has_moved(before, part) for part in parts) else probe


def _has_moved(before: list[float], after: list[float]) -> bool:
    change = shift(before, after)
    return abs(change.sigmas) > _SURE and abs(change.change) > _MOVED * abs(median(before))


def resting_since(history: History, probe: Probe) -> int:
    """Returns the first step of the rest in which a probe found the run, by its losses: it began before one looked."""
    losses = history.get("train_loss").finite()
    level = (losses.since(probe.step) or losses.values[-1:])[:1]
    away = [
        step
        for step, value in zip(losses.steps, losses.values, strict=True)
        if step <= probe.step and abs(value - level[0]) > _REST * abs(level[0])
    ]
    return away[-1] if away else losses.steps[0] if losses.steps else probe.step


def does_badly(history: History) -> bool:
    """Whether a run is going nowhere: by its predictions or, where they are unknown, by a loss still near its start."""
    now, losses = standing(history), history.get("train_loss").finite()
    if now.reached is not None:
        return now.harmed
    late = now.ended or now.share is None or now.share >= 0.25
    recent = stretch(losses, 0.8)
    return late and not now.improving and bool(recent) and median(recent) > 0.5 * losses.values[0] > 0


def late_values(history: History, name: str) -> list[float]:
    """Returns a series since the middle of its steps, its last three values at least; nothing where all are old."""
    series = history.get(name).finite()
    if not series.steps or not is_recent(history, series.steps[-1]):
        return []
    return series.values[max(0, min(bisect_left(series.steps, series.steps[-1] / 2), len(series) - 3)) :]


def step_batch(history: History) -> int | None:
    """Returns how many samples make one optimizer step; None where that is unknown."""
    sizes = stretch(history.get("batch_size").finite(), 0.5) or history.get("batch_size").finite().values
    size = median(sizes) if sizes else history.fact("data.batch_size")
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not 1 <= size < 1e12:
        return None
    factors = [history.fact(f"trainer.{name}", 1) for name in ("accumulate_grad_batches", "world_size")]
    for factor in factors:
        size *= factor if isinstance(factor, int) and 0 < factor < 1_000_000 else 1
    return round(size)


def is_full_batch(history: History) -> bool:
    """Whether every step sees all training samples, so that its gradient has no noise of sampling."""
    once = 1 in (history.fact("trainer.batches_per_epoch"), history.fact("trainer.steps_per_epoch"))
    # One batch an epoch may be another one each time.
    samples, batch = history.fact("data.train_samples"), step_batch(history)
    part = isinstance(samples, int) and batch is not None and batch < samples
    return once and not part


def noise_bounds(history: History) -> tuple[float, float] | None:
    """Returns between which numbers the gradient noise scale lies by the later probes [samples]; None where unknown.

    Two errors of the newest probe about the median, or half of the median where that error is not known. Where noise
    hides the gradient the scale is undefined: then ``curvature/least_noise_scale`` bounds it from below alone.
    """
    scales, least = history.get("curvature/noise_scale").finite(), history.get("curvature/least_noise_scale").finite()
    if least.steps and not (scales.steps and scales.steps[-1] >= least.steps[-1]):
        bounds = late_values(history, "curvature/least_noise_scale")
        return (median(bounds), math.inf) if bounds and median(bounds) > 0 else None
    late, probe = late_values(history, "curvature/noise_scale"), newest_probe(history)
    if not late or not median(late) > 0:
        return None
    middle = median(late)
    error = probe.noise.error if probe is not None and math.isfinite(probe.noise.error) else middle / 4
    return max(0.0, middle - 2 * error), middle + 2 * error


def known(**numbers: float) -> dict[str, float | int | str]:
    """Returns the numbers, less those that are not known: NaN or infinite."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _extreme(table: Any) -> Extreme:
    table = table if isinstance(table, Mapping) else {}
    return Extreme(number(table.get("value")), abs(number(table.get("residual"), math.inf)))


def _gradient(table: Any) -> Gradient:
    table = table if isinstance(table, Mapping) else {}
    near_zero = table.get("near_zero")
    return Gradient(
        norm=number(table.get("norm")),
        predicted_fall=number(table.get("predicted_fall")),
        curvature_fall=number(table.get("curvature_fall")),
        standard_error=number(table.get("standard_error")),
        near_zero=near_zero if isinstance(near_zero, bool) else None,
    )


def _escape(table: Any) -> Escape | None:
    if not isinstance(table, Mapping):
        return None
    distance, fall = number(table.get("distance")), number(table.get("fall"))
    if math.isnan(distance) or math.isnan(fall):
        return None
    return Escape(
        distance, fall, number(table.get("share")), number(table.get("standard_error")), _whole(table, "samples")
    )


def _noise(table: Any) -> NoiseScale:
    table = table if isinstance(table, Mapping) else {}
    return NoiseScale(number(table.get("samples")), abs(number(table.get("error"))), _text(table, "reason"))


def _whole(table: Mapping[str, Any], key: str) -> int:
    value = number(table.get(key), 0.0)
    return int(value) if value > 0 else 0


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    return " ".join(value.split()) if isinstance(value, str) else ""
