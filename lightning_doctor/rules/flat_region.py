"""LD403: the run rests where the loss does not change in any direction."""

from __future__ import annotations

from lightning_doctor.curvature import does_badly, known, resting_since, standing_probe
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import late_level, listed, of_kind
from lightning_doctor.prescriptions import lower_rate
from lightning_doctor.rule import rule

# Share of a layer's units that are out of use, from which the layer is named.
_MANY = 0.5


@rule(
    "LD403",
    needs={"train_loss": 8},
    reads=("curvature",),
    explains=("loss_plateau", "stuck_at_baseline", "undertrained", "stale_validation", "learning_rate_too_low"),
)
def flat_region(history: History) -> Finding | None:
    """The run rests where the loss does not change in any direction.

    What it looks at:
        The newest curvature probe: gradient and curvature, and the loss at finite distances; which layers' units are
        dead or saturated.

    Why it matters:
        No gradient comes through, so no optimizer finds a way on from here.

    Sick:
        gradient and both ends of the spectrum zero, and the loss the same at any distance, in a run that has learned
        nothing

    Healthy:
        the same in a network that has converged

    Remedy:
        Find what cuts the gradient off: dead or saturated units; then another initialization or activation, and a
        lower learning rate where the first steps did it.

    Thresholds:
        None.

    Blind spots:
        The directions that were tried are few; a narrow way down may be missed.
    """
    probe = standing_probe(history)
    if probe is None or probe.kind != "flat" or probe.gradient.near_zero is False or not does_badly(history):
        return None
    dead, saturated = _out_of_use(history, "dead_share"), _out_of_use(history, "saturated_share")
    evidence = known(
        gradient_norm=probe.gradient.norm,
        highest_curvature=probe.high.value,
        samples=probe.samples,
        probed_at=probe.step,
    )
    if dead:
        evidence["dead"] = listed(dead)
    if saturated:
        evidence["saturated"] = listed(saturated)
    return Finding(
        severity=Severity.WARNING,
        summary="neither gradient nor curvature is left, and the loss is the same at finite distances too"
        + (f"; most units of {listed(dead)} are dead" if dead else "")
        + (f"; most units of {listed(saturated)} are saturated" if saturated else ""),
        evidence=evidence,
        remedy=_remedy(history, dead, saturated),
        confidence=Confidence.CONFIRMED,
        onset=resting_since(history, probe),
        signals=("curvature/gradient_norm", "curvature/high", "train_loss"),
    )


def _out_of_use(history: History, signal: str) -> list[str]:
    """Returns the layers most of whose units are dead, or saturated, input first."""
    layers = [str(entry.get("layer")) for entry in of_kind(history, "relu", "sigmoid", "tanh")]
    return [layer for layer in layers if (late_level(history, f"{signal}/{layer}") or 0.0) > _MANY]


def _remedy(history: History, dead: list[str], saturated: list[str]) -> str:
    start = "start again with smaller weights (`nn.init.xavier_uniform_`) and scaled inputs"
    if dead:
        return f"use LeakyReLU in place of {listed(dead)} and start again, or {lower_rate(history)}"
    if saturated:
        return f"{start}, or use ReLU in place of {listed(saturated)}"
    return f"{start}, and look for what cuts the gradient off: a `.detach()`, an argmax, a clamp"
