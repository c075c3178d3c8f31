"""LD402: the run rests at a minimum, and the loss there is high."""

from __future__ import annotations

import math

from lightning_doctor.curvature import Probe, is_full_batch, known, resting_since, standing_probe
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import is_linear
from lightning_doctor.progress import LITTLE, standing
from lightning_doctor.rule import Undecided, rule

# The part of what is let pass as no curvature, and how many times its residual, from which on one is negative.
_PART, _SURELY = 0.25, 10.0


@rule(
    "LD402",
    needs={"train_loss": 8},
    reads=("curvature",),
    explains=("loss_plateau", "stuck_at_baseline", "undertrained", "stale_validation"),
)
def poor_minimum(history: History, *, risk: float = 0.05, blur: float = 0.05, least: int = 64) -> Finding | None:
    """The run rests at a minimum, and the loss there is high.

    What it looks at:
        The newest curvature probe: whether the gradient promises any fall, and how surely no direction curves down;
        ``skill`` and ``baseline_loss``: how much there was to learn.

    Why it matters:
        No step of any length in any direction nearby helps: longer training ends where it is now.

    Sick:
        no curvature below −1 % of the spectral range at 95 %, and predictions as good as a constant

    Healthy:
        the same at a loss that is low; a regression that explains half of what noisy targets vary by; a linear
        model, of whose loss no other minimum is lower

    Remedy:
        Start again from other weights; if that ends at the same loss, widen the model: this is model bias, unless a
        simpler model does better.

    Thresholds:
        risk: Probability that a direction that curves down was missed, at most [probability].
        blur: Standard error of the fall against the gradient: what it hides may be a slope [share of the loss].
        least: How many samples the probe must have seen, where it did not see all of them [samples].

    Blind spots:
        Targets that say nothing of the inputs make the constant prediction the best there is: no other minimum would
        be better. Without a skill or a baseline nothing tells a poor minimum from a good one. A direction that curves
        down by far less than the others up is let pass where something is learned.
    """
    probe, now = standing_probe(history), standing(history)
    if probe is None or probe.kind != "minimum" or not probe.failure <= risk or probe.gradient.near_zero is False:
        return None
    if not now.harmed or now.most is None or probe.gradient.standard_error > blur * abs(probe.loss):
        return None
    if probe.samples < least and not is_full_batch(history):
        return None
    if is_linear(history):
        return None
    little = now.most < LITTLE
    if little and _curves_down(probe):
        raise Undecided(
            f"a direction curves down by {-probe.low.value:.3g}, which is little beside {probe.high.value:.3g}, but "
            "surely not nothing: where next to nothing is learned it may be the way out"
        )
    return Finding(
        # Noise in the targets may keep a run that learned something from learning more.
        severity=Severity.WARNING if little else Severity.NOTE,
        summary=f"a minimum with {max(0.0, now.most):.0%} of what there was to learn learned: no step goes down, and "
        f"there is {_certainty(probe)}",
        evidence=known(
            learned=now.most,
            failure=probe.failure,
            epsilon=probe.epsilon,
            lowest_curvature=probe.low.value,
            highest_curvature=probe.high.value,
            limit=-probe.epsilon * (probe.high.value - probe.low.value),
            loss=probe.loss,
            samples=probe.samples,
            probed_at=probe.step,
        ),
        remedy="start again from other weights (another seed); if that ends at the same loss widen the model, and fit "
        "a linear model beside it: where that does no better, check that inputs and targets belong together",
        # A certified minimum of some samples; that a better one exists nobody has seen.
        confidence=Confidence.SUSPECTED,
        # The first weights decide whose slope a run goes down, where it learns nothing on its way.
        onset=history["train_loss"].steps[0] if now.most < 0 else resting_since(history, probe),
        signals=("curvature/low", "curvature/high", "train_loss"),
    )


def _certainty(probe: Probe) -> str:
    if math.isnan(probe.epsilon):
        return f"no direction that curves down, for sure but for {probe.failure:.1g}"
    return f"no curvature below −{probe.epsilon:.2g} of the spectral range, for sure but for {probe.failure:.1g}"


def _curves_down(probe: Probe) -> bool:
    """Whether a direction surely curves down, though by less than would make a saddle."""
    least = _PART * probe.epsilon * (probe.high.value - probe.low.value)
    # `max` would take a residual that is not known for none.
    return -probe.low.value > least and -probe.low.value > _SURELY * probe.low.residual
