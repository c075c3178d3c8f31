"""LD209: the network puts out (nearly) the same for every input, and did not from the start."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.prescriptions import lower_rate
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule

# Looks that must agree.
_LOOKS = 3
# How many times over its first level the output must lie to have been thrown there.
_THROWN = 10.0


@rule(
    "LD209",
    needs={"output_spread": 4, "output_level": 4, "skill": 1},
    explains=("loss_plateau", "stale_validation"),
)
def collapsed_output(history: History, *, collapsed: float = 0.01, level: float = 1e-4) -> Finding | None:
    """The network puts out (nearly) the same for every input, and did not from the start.

    What it looks at:
        ``output_spread``, the standard deviation of the outputs over the samples of a batch, beside what it was at
        first and beside ``output_level``, their root mean square [unit of the output]; what is learned.

    Why it matters:
        Such a network has stopped to listen to its inputs: it scores what a constant scores.

    Sick:
        A spread of 0.3, 0.1, 0.002, 2e-6, 0 while the loss rests at that of a constant prediction

    Healthy:
        A spread of 0.3, 0.5, 1.2, 3.4; or a small one from the first step on, which grows

    Remedy:
        By what stopped the signal: dead or saturated units, a rate that is too high, inputs far from scale one, decay.

    Thresholds:
        collapsed: Share of its first spread under which the output has collapsed [share].
        level: Share of their level under which outputs that once differed are all the same [share].

    Blind spots:
        Where targets have nothing to do with inputs, a constant is the best there is. An output that was constant
        from the start is left to the rules on initialization and dead units.
    """
    spreads, levels = history["output_spread"], history["output_level"]
    how = standing(history)
    start = spreads.values[0] if spreads.values[0] > 0 else max(spreads.values[:6])
    now, size = median(spreads.values[-_LOOKS:]), median(levels.values[-_LOOKS:])
    flat = spreads.values[0] > 100 * level * levels.values[0]
    if not how.harmed or not start > 0 or not (now <= collapsed * start or (flat and now <= level * size)):
        return None
    limit = max(collapsed * start, level * size if flat else 0.0)
    onset = spreads.steps[0]
    for (_, before), (step, value) in pairwise(zip(spreads.steps, spreads.values, strict=True)):
        onset = step if before > limit >= value else onset
    thrown = size > _THROWN * levels.values[0] > 0
    return Finding(
        severity=Severity.WARNING,
        summary=f"outputs hardly differ from sample to sample any more: by {now:.2g}, where they differed by "
        f"{start:.2g} at first; their level is {size:.2g}",
        evidence={
            "spread": now,
            "first_spread": start,
            "level": size,
            "first_level": levels.values[0],
            **({} if how.reached is None else {"learned": how.reached}),
        },
        remedy=f"{lower_rate(history)}: steps threw the output to {size / levels.values[0]:.0f} times its first level"
        if thrown
        else "find where the signal ends: dead or saturated units, inputs far from scale one, a weight decay that "
        "outweighs the loss; if targets do not depend on inputs, a constant is the best there is",
        confidence=Confidence.SUSPECTED,
        onset=onset,
        signals=("output_spread", "output_level"),
    )
