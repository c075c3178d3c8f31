"""LD111: relative to their weights some layers move orders of magnitude faster than others."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.prescriptions import is_adaptive, optimizer
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

# How many times as large as the other's the weights of one layer must be to be what makes the steps uneven.
_WEIGHTS = 10.0
# The share of its weights that a layer must be unable to move by in the whole run.
_UNMOVED = 0.05


@rule(
    "LD111",
    needs={"update_ratio/*": 3, "train_loss": 8},
    explains=(
        "learning_rate_too_high",
        "learning_rate_too_low",
        "dead_units",
        "saturated_units",
        "loss_plateau",
        "stuck_at_baseline",
        "exploding_gradients",
        "diverging_loss",
        "undertrained",
        "collapsed_output",
        "ill_conditioned",
    ),
)
def uneven_step_sizes(history: History, *, factor: float = 300.0) -> Finding | None:
    """Relative to their weights some layers move orders of magnitude faster than others.

    What it looks at:
        ``update_ratio/<layer>``, the length of a step over that of the layer's weights; ``weight_norm/<layer>``; the
        learning rates of the parameter groups.

    Why it matters:
        Plain SGD has one learning rate: one that the fastest layer bears leaves the slowest where it is.

    Sick:
        5e-8, 0.4, 0.007

    Healthy:
        0.005, 0.001, 0.007

    Remedy:
        Initialise layers alike, normalise between them, use an adaptive optimizer, or a learning rate for each.

    Thresholds:
        factor: How many times as fast as the slowest layer the fastest must be [ratio].

    Blind spots:
        It is said only of runs that do badly. Layers that do not move at all are another illness.
    """
    if is_adaptive(history) is not False or not standing(history).harmed:
        return None
    norms = _normalisations(history)
    steps: dict[int, dict[str, float]] = defaultdict(dict)
    for name in history.names("update_ratio/"):
        layer = name.partition("/")[2]
        series = history[name].finite()
        for step, ratio in zip(series.steps, series.values, strict=True):
            if ratio > 0 and layer not in norms:
                steps[step][layer] = ratio
    spreads = {step: max(ratios.values()) / min(ratios.values()) for step, ratios in steps.items() if len(ratios) > 1}
    if len(spreads) < 3 or median(spreads.values()) < factor:
        return None
    # The step that shows what is usual.
    typical = steps[min(spreads, key=lambda step: abs(spreads[step] - median(spreads.values())))]
    fast, slow = max(typical, key=typical.__getitem__), min(typical, key=typical.__getitem__)
    evidence: dict[str, float | int | str] = {
        "fastest": fast,
        "slowest": slow,
        "fastest_ratio": typical[fast],
        "slowest_ratio": typical[slow],
        "spread": median(spreads.values()),
    }
    heavy, light = (history.get(f"weight_norm/{layer}").finite().values[:1] for layer in (slow, fast))
    scaled = bool(heavy and light and heavy[0] > _WEIGHTS * light[0])
    if scaled:
        evidence |= {"slowest_weight_norm": heavy[0], "fastest_weight_norm": light[0]}
    return Finding(
        # Gradients that differ by themselves vanish or explode, which is told elsewhere.
        severity=Severity.WARNING
        if scaled
        else standing(history).if_harmed(Severity.WARNING)
        if _rates_lie_apart(history, factor) and typical[slow] * (history.last_step + 1) < _UNMOVED
        else Severity.NOTE,
        summary=f"{fast} moves by {typical[fast]:.2g} of its weights a step, {slow} by {typical[slow]:.2g}",
        evidence=evidence,
        remedy=_remedy(history, fast, slow, scaled),
        confidence=Confidence.CONFIRMED if scaled else Confidence.SUSPECTED,
        onset=min(spreads),
        signals=(f"update_ratio/{fast}", f"update_ratio/{slow}"),
    )


def _rates_lie_apart(history: History, factor: float) -> bool:
    """Whether the learning rates of one optimizer's parameter groups differ as much as a tenth of that."""
    if len(history.fact("optimizers", [])) > 1:
        return False
    rates = [max(series.values) for name in history.family("learning_rate") if (series := history[name].finite())]
    live = [rate for rate in rates if rate > 0]
    return len(live) > 1 and max(live) >= 0.1 * factor * min(live)


def _normalisations(history: History) -> set[str]:
    """Returns the names of normalising layers, whose few weights move as they like."""
    return {
        str(layer.get("layer"))
        for layer in history.fact("activations", [])
        if isinstance(layer, dict) and layer.get("kind") == "norm"
    }


def _remedy(history: History, fast: str, slow: str, scaled: bool) -> str:
    ways = [f"give {slow} a larger lr than {fast} by parameter groups"]
    if scaled:
        ways.insert(0, f"initialise {slow} with smaller weights and {fast} with larger ones (`reset_parameters()`)")
    return ", or ".join([*ways, f"use Adam instead of {optimizer(history) or 'SGD'}"])
