"""LD206: nearly every step is clipped, and by a large factor."""

from __future__ import annotations

from statistics import median

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import fades, levels, noise, trend
from lightning_doctor.prescriptions import is_adaptive, peak_rate
from lightning_doctor.progress import MUCH, hardly_fell, standing
from lightning_doctor.rule import rule

# Rounding leaves the factor of a step that was not clipped a little off one.
_UNCLIPPED = 0.999
# Steps before which no loss is expected to have fallen beyond its noise.
_TIME_TO_LEARN = 100


@rule(
    "LD206",
    needs={"clip_factor": 50, "grad_norm": 50},
    explains=("learning_rate_too_low", "loss_plateau", "stale_validation", "stuck_at_baseline", "undertrained"),
)
def always_clipped(
    history: History, *, share: float = 0.95, factor: float = 10.0, gained: float = 0.1
) -> Finding | None:
    """Nearly every step is clipped, and by a large factor.

    What it looks at:
        ``clip_factor``, the gradient norm after clipping over that before it, one per measured step, in the newer
        half of the run; ``grad_norm``; ``train_loss`` and ``skill``.

    Why it matters:
        Of such a gradient only the direction remains: under plain SGD every step has the same length, whether the
        network is far from its goal or near. Under Adam and its kin the length does not matter, and little is lost.

    Sick:
        Factors 0.02, 0.01, 0.03, 0.02, 0.01, 0.02, and the loss does not fall

    Healthy:
        Factors 1, 1, 0.3, 1, 0.8, 1, 1, 0.5, 1

    Remedy:
        Raise the limit to about the median norm, with a lower learning rate for steps of the same length.

    Thresholds:
        share: Share of the steps that must be clipped [share].
        factor: By how much the median step must be clipped [ratio].
        gained: Under plain SGD a warning, if the loss no longer falls and has fallen by less than this, or the run
            does badly by its predictions, or, where those cannot be read, by its loss, of which much is left that
            falls as steadily as ever [share of its start].

    Blind spots:
        Clipping by value has no single norm: the limit it names is an estimate.
    """
    factors = history["clip_factor"].values
    recent = factors[len(factors) // 2 :]
    clipped = sum(value < _UNCLIPPED for value in recent) / len(recent)
    usual = median(recent)
    if clipped < share or not 0 < usual * factor <= 1:
        return None
    norms = history["grad_norm"].values
    norm = median(norms[len(norms) // 2 :])
    evidence: dict[str, float | int | str] = {"clipped": clipped, "factor": usual, "median_norm": norm}
    plain = is_adaptive(history) is False
    stuck = plain and (_stuck(history, gained, evidence) or standing(history).harmed)
    slow = plain and not stuck and (hardly_fell(history) or _goes_on(history))
    return Finding(
        severity=Severity.WARNING if stuck or slow else Severity.NOTE,
        summary=f"{clipped:.0%} of the steps are clipped, the median one to {usual:.2g} of its length"
        + (", and the run gets nowhere" if stuck else ", and much of the loss is left" if slow else ""),
        evidence=evidence,
        remedy=_remedy(history, norm, usual, stuck, evidence),
        onset=_onset(history),
        signals=("clip_factor", "grad_norm"),
    )


def _goes_on(history: History) -> bool:
    """Whether much of the loss is left, and falls nearly as it did before."""
    return standing(history).improving and hardly_fell(history, MUCH) and not fades(history["train_loss"])


def _onset(history: History) -> int:
    """Returns the step from which on no step was left alone, give or take single ones."""
    series = history["clip_factor"]
    onset, free = len(series) - 1, 0
    for index in range(len(series) - 1, -1, -1):
        free = free + 1 if series.values[index] >= _UNCLIPPED else 0
        if free > 2:
            break
        if free == 0:
            onset = index
    return series.steps[onset]


def _stuck(history: History, gained: float, evidence: dict[str, float | int | str]) -> bool:
    series = history.get("train_loss")
    losses = series.finite().values
    if len(losses) < _TIME_TO_LEARN or len(losses) < len(series):
        return False
    start, *_, now = levels(losses, 20)
    evidence |= {"start_loss": start, "loss_now": now}
    falls = min(trend(losses[len(losses) // 2 :]).sigmas, trend(losses).sigmas) < -2
    return not falls and start - now < max(gained * abs(start), noise(losses))


def _remedy(history: History, norm: float, usual: float, stuck: bool, evidence: dict[str, float | int | str]) -> str:
    limit = history.fact("trainer.gradient_clip_val")
    now = f" (now {limit:.3g})" if isinstance(limit, (int, float)) else ""
    if history.fact("trainer.gradient_clip_algorithm") == "value" and isinstance(limit, (int, float)):
        evidence["limit"] = limit
        return f"raise gradient_clip_val to about {limit / usual:.2g}{now}, or clip by norm at {norm:.2g}"
    advice = f"raise gradient_clip_val to about the median norm, {norm:.2g}{now}"
    rate = peak_rate(history)
    if is_adaptive(history) is False and rate is not None and not stuck:
        evidence["lr"] = rate
        advice += f", and lr to {rate * usual:.2g} for steps of the same length"
    return advice
