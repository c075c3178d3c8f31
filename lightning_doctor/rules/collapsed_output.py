"""LD209: the network puts out (nearly) the same for every input, and did not from the start."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.layers import entries
from lightning_doctor.prescriptions import lower_rate
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

# Looks that must agree.
_LOOKS = 3
# How many times over its first level the output must lie to have been thrown there.
_THROWN = 10.0


@rule("LD209", needs={"activation_std/*": 4}, explains=("loss_plateau", "overfitting", "stale_validation"))
def collapsed_output(history: History, *, collapsed: float = 0.01, level: float = 1e-4) -> Finding | None:
    """The network puts out (nearly) the same for every input, and did not from the start.

    What it looks at:
        ``output_spread``, the standard deviation of the outputs over the samples of a batch, beside what it was at
        first and beside ``output_level``, their root mean square [unit of the output]; what is learned. Of a loss
        that cannot be read, the same of a last layer of one unit.

    Why it matters:
        Such a network has stopped to listen to its inputs. Either it scores what a constant scores, or the loss has
        a way out that needs no learning.

    Sick:
        A spread of 0.3, 0.1, 0.002, 2e-6, 0 while the loss rests at that of a constant prediction; or a loss of
        distances that falls to zero because all distances do

    Healthy:
        A spread of 0.3, 0.5, 1.2, 3.4; or a small one from the first step on, which grows

    Remedy:
        By what stopped the signal: dead or saturated units, a rate that is too high, inputs far from scale one,
        decay; pairs that are unlike, for a loss of distances.

    Thresholds:
        collapsed: Share of its first spread under which the output has collapsed; of an unread loss, of its level
            too [share].
        level: Share of their level under which outputs that once differed are all the same [share].

    Blind spots:
        Where targets have nothing to do with inputs, a constant is the best there is. An output that was constant
        from the start is left to the rules on initialization and dead units.
    """
    if "output_spread" not in history:
        return _by_last_layer(history, collapsed)
    spreads, levels = history["output_spread"].finite(), history.get("output_level").finite()
    if min(len(spreads), len(levels)) < _LOOKS + 1 or not standing(history).harmed:
        return None
    first, now = _first(spreads), median(spreads.values[-_LOOKS:])
    start, size = levels.values[0], median(levels.values[-_LOOKS:])
    # Biases may well put out more than what differs from the first step on.
    flat = first > 100 * level * start and now <= level * size
    if not (flat or now <= collapsed * first) or not first > 0:
        return None
    limit = max(collapsed * first, level * size if flat else 0.0)
    return _finding(history, spreads, ("output_spread", "output_level"), limit, (first, now), (start, size))


def _by_last_layer(history: History, collapsed: float) -> Finding | None:
    """Judges the output that the loss is made of by its last layer, whose single unit differs over samples only."""
    last = [entry.get("layer") for entry in entries(history) if entry.get("last") is True and entry.get("units") == 1]
    stds = history.get(f"activation_std/{last[-1]}").finite() if last else Series()
    means = history.get(f"activation_mean/{last[-1]}").finite() if last else Series()
    if min(len(stds), len(means)) < _LOOKS + 1:
        return None
    first, now = _first(stds), median(stds.values[-_LOOKS:])
    start, size = abs(means.values[0]), abs(median(means.values[-_LOOKS:]))
    # An output that has come to zero everywhere may be a hinge that holds.
    if not now <= collapsed * min(first, size) or not size > 0:
        return None
    return _finding(history, stds, (f"activation_std/{last[-1]}",), collapsed * first, (first, now), (start, size))


def _first(spreads: Series) -> float:
    # A last layer of zeros begins with no spread at all.
    return spreads.values[0] if spreads.values[0] > 0 else max(spreads.values[:6])


def _finding(
    history: History,
    spreads: Series,
    signals: tuple[str, ...],
    limit: float,
    spread: tuple[float, float],
    level: tuple[float, float],
) -> Finding:
    onset = spreads.steps[0]
    for (_, before), (step, value) in pairwise(zip(spreads.steps, spreads.values, strict=True)):
        onset = step if before > limit >= value else onset
    thrown = level[1] > _THROWN * level[0] > 0
    learned = standing(history).reached
    return Finding(
        severity=Severity.WARNING,
        summary=f"outputs hardly differ from sample to sample any more: by {spread[1]:.2g}, where they differed by "
        f"{spread[0]:.2g} at first, at a level of {level[1]:.2g}",
        evidence={
            "spread": spread[1],
            "first_spread": spread[0],
            "limit": limit,
            "level": level[1],
            "first_level": level[0],
            **({} if learned is None else {"learned": learned}),
        },
        remedy=f"{lower_rate(history)}: steps threw the output to {level[1] / level[0]:.0f} times its first level"
        if thrown
        else "find where the signal ends: dead or saturated units, inputs far from scale one, a weight decay that "
        "outweighs the loss; if the loss rewards outputs that are alike, give it samples that must differ",
        confidence=Confidence.SUSPECTED,
        onset=onset,
        signals=signals,
    )
