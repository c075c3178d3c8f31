"""LD601: the inputs' scale is far from one, or differs widely between features, and the run suffers."""

from __future__ import annotations

import math
from statistics import median
from typing import Any, NamedTuple

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.layers import of_kind
from lightning_doctor.loss_head import loss_head
from lightning_doctor.noise import stretch
from lightning_doctor.prescriptions import is_adaptive, peak_rate
from lightning_doctor.progress import LITTLE, POOR, Standing, standing, stopped_at
from lightning_doctor.rule import rule
from lightning_doctor.validation import held_out

# First layers that do not mind: they normalise, or read whole numbers as names.
_INDIFFERENT = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "SyncBatchNorm", "Embedding")
# Share of the outputs of the first squashing layer that show it to be overdriven.
_OVERDRIVEN = 0.5
# How many times that of a constant prediction the first loss must be to come from outputs as large as the inputs.
_LOUD = 3.0
# How much the first outputs may differ between samples, of their size, where biases drown the inputs.
_UNHEARD = 0.05
# Values after which a loss far over its first one is no start that passes.
_SETTLED = 8
# Shares of the run after which it is told of where the start shows why: of a run that is stuck; of one that is worse
# than a constant.
_EARLY, _LATE = 0.1, 0.25
# The examined steps that a gradient must have been zero on.
_EXAMINED = 4


@rule(
    "LD601",
    reads=("inputs",),
    needs={"train_loss/*": 1},
    explains=(
        "saturated_units",
        "dead_units",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "missing_warmup",
        "uneven_step_sizes",
        "exploding_gradients",
        "vanishing_gradients",
        "non_finite_gradients",
        "non_finite_loss",
        "diverging_loss",
        "always_clipped",
        "loss_spike",
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "collapsed_output",
        "imbalanced_classes",
        "noise_floor",
        "ill_conditioned",
        "flat_region",
        "poor_minimum",
        "stale_validation",
        "saddle_point",
    ),
    # On rows that were scored in eval mode a run does badly for want of that mode alone.
    after=("LD509",),
    non_finite=True,
)
def unscaled_inputs(
    history: History, *, far: float = 10.0, apart: float = 100.0, faint: float = 0.05
) -> Finding | None:
    """The inputs' scale is far from one, or differs widely between features, and the run suffers.

    What it looks at:
        Mean and standard deviation of every input feature, as the first layer gets them; what is learned, the first
        loss, saturated units and the length of steps along the largest feature; whether all gradients have become
        zero.

    Why it matters:
        What a layer puts out, and its gradient, grow with its inputs. Large ones drive units to where they are flat
        and make the loss too steep for any usual learning rate; of features far apart only the largest are heard.

    Sick:
        Two features of mean 50 and standard deviation 29 into tanh: 76 % of its outputs are saturated at the start

    Healthy:
        Pixels in [0, 1], mean 0.3; or features of any scale into a batch normalisation

    Remedy:
        Standardise: subtract each feature's mean, divide by its standard deviation, both of the training data.

    Thresholds:
        far: Root mean square of the largest feature above which it is far from one [unit of standardised features].
        apart: How many times the median feature's standard deviation the largest one's must be [ratio].
        faint: Largest value of all under which the inputs are faint [unit of standardised features].

    Blind spots:
        It is said only of runs that do badly; where nothing in the start shows that the scale is why, of those that
        learn next to nothing, as noise in the data may be why others do not learn more.
        Of several inputs only the one that reaches the first layer is looked at.
    """
    facts = history.fact("inputs", {})
    layer = str(facts.get("layer_class", ""))
    if facts.get("integers") is True or layer.startswith(_INDIFFERENT):
        return None
    kind = _kind(facts, far, apart, faint)
    if kind is None:
        return None
    how = standing(history)
    lost = _lost(history) and not (how.most is not None and how.most >= LITTLE)
    proof = _faint_proof(history) if kind == "faint" else _proof(history, facts)
    suffers = lost or _suffers(history, how, proof)
    if not suffers and (proof is None or how.good or not how.ended):
        return None
    largest, smallest = _features(facts, "largest"), _features(facts, "smallest")
    evidence: dict[str, float | int | str] = {
        "abs_max": number(facts.get("abs_max"), 0.0),
        "std_max": number(facts.get("std_max"), 0.0),
        "std_median": number(facts.get("std_median"), 0.0),
        **({} if how.reached is None else {"learned": how.reached}),
    }
    for name, group in (("largest", largest), ("smallest", smallest)):
        if group:
            evidence |= {f"{name}_feature": group[0][0], f"{name}_mean": group[0][1], f"{name}_std": group[0][2]}
    return Finding(
        severity=Severity.WARNING if suffers else Severity.NOTE,
        summary=_summary(facts, kind, largest, smallest) + (f", and {proof.told}" if proof else ""),
        evidence=evidence,
        remedy=_remedy(facts, kind, largest, smallest),
        confidence=Confidence.CONFIRMED if proof else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss",),
    )


def _kind(facts: dict[str, Any], far: float, apart: float, faint: float) -> str | None:
    if _rms(facts) >= far:
        return "far"
    if number(facts.get("std_max"), 0.0) >= apart * number(facts.get("std_median"), 0.0) > 0:
        return "apart"
    return "faint" if 0 < number(facts.get("abs_max"), 0.0) <= faint else None


def _suffers(history: History, how: Standing, proof: _Proof | None) -> bool:
    """Whether the run does badly, on its own samples or on others, and no noise in the data alone can be why."""
    bar = POOR if proof is not None and proof.stays else LITTLE
    if how.ended:
        known = [share for share in (how.most, held_out(history)) if share is not None]
        # Of a run that cannot be read, that it stopped is all there is to see.
        return not how.good and (min(known) < bar if known else proof is not None and _stopped_short(history))
    if how.most is None or how.most >= bar:
        return False
    if how.harmed or proof is None or how.share is None:
        return how.harmed
    # What the start shows need not be waited for as long, once it is there to stay; nor must a constant be better.
    return (proof.stays and not how.improving and how.share >= _EARLY) or (how.most < 0 and how.share >= _LATE)


def _stopped_short(history: History) -> bool:
    """Whether gradients became zero within the run's first steps, at a loss that is not."""
    stopped, losses = stopped_at(history), history.get("train_loss").finite()
    late = stretch(losses, 0.5)
    if stopped is None or not late or not median(late) > 0:
        return False
    return stopped - losses.steps[0] < _EARLY * (losses.steps[-1] - losses.steps[0])


def _lost(history: History) -> bool:
    """Whether the loss is not finite any more, or stays far over where it began."""
    for name in history.family("train_loss"):
        series = history[name]
        recent = stretch(series.finite(), 0.8)
        risen = len(series) >= _SETTLED and bool(recent) and median(recent) > 3 * abs(series.values[0])
        if series.broken_at() is not None or risen:
            return True
    return False


class _Proof(NamedTuple):
    """What in the run shows that the scale matters, as a clause, and whether it lasts."""

    told: str
    stays: bool = True


def _proof(history: History, facts: dict[str, Any]) -> _Proof | None:
    squashing = [str(entry.get("layer")) for entry in of_kind(history, "sigmoid", "tanh")]
    shares = [
        (layer, series.values[0]) for layer in squashing if len(series := history.get(f"saturated_share/{layer}"))
    ]
    if shares and shares[0][1] >= _OVERDRIVEN:
        return _Proof(f"{shares[0][1]:.0%} of the outputs of {shares[0][0]} were saturated from the start")
    layer = str(facts.get("layer", ""))
    if any(entry.get("layer") == layer for entry in of_kind(history, "recurrent")) and _never_moved(history, layer):
        return _Proof(f"no weight of {layer} had a gradient but zero on any step examined: its gates are saturated")
    rate, steepness = peak_rate(history), _rms(facts) ** 2
    if is_adaptive(history) is False and rate is not None and rate * steepness >= 1:
        product = rate * steepness
        return _Proof(f"lr times the largest feature's mean square is {product:.2g}, which has to stay under about 1")
    losses, baselines = history.get("train_loss").finite().values, history.get("baseline_loss").finite().values
    if losses and baselines and losses[0] >= _LOUD * baselines[0] > 0 and not _targets_are_large(history):
        told = f"the first loss was {losses[0]:.3g} where a constant prediction costs {baselines[0]:.3g}"
        return _Proof(told, stays=False)
    return None


def _never_moved(history: History, layer: str) -> bool:
    """Whether neither what a recurrent layer reads nor what it remembers ever had a gradient but zero."""
    still, steps = history.fact("parameters.zero_gradient"), history.fact("parameters.steps")
    if not isinstance(still, list) or not isinstance(steps, int) or steps < _EXAMINED:
        return False
    return all(f"{layer}.{name}" in still for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"))


def _faint_proof(history: History) -> _Proof | None:
    spreads, levels = history.get("output_spread").values, history.get("output_level").values
    if spreads and levels and spreads[0] <= _UNHEARD * levels[0]:
        share = spreads[0] / levels[0]
        return _Proof(
            f"the first outputs differed from sample to sample by {share:.1%} of their size only", stays=False
        )
    return None


def _targets_are_large(history: History) -> bool:
    """Whether a first loss may be high for the targets' scale as well."""
    head = loss_head(history)
    return head.targets == "real" and not math.hypot(head.target_mean, head.target_std) < _LOUD


def _rms(facts: dict[str, Any]) -> float:
    return max((math.hypot(mean, std) for _, mean, std in _features(facts, "largest")), default=0.0)


def _features(facts: dict[str, Any], group: str) -> list[tuple[int, float, float]]:
    table = facts.get(group)
    rows = [row for row in table if isinstance(row, dict)] if isinstance(table, list) else []
    return [
        (int(number(row.get("feature"), 0.0)), number(row.get("mean"), 0.0), number(row.get("std"), 0.0))
        for row in rows
    ]


def _told(feature: tuple[int, float, float]) -> str:
    return f"feature {feature[0]} has mean {feature[1]:.3g}, std {feature[2]:.3g}"


def _summary(
    facts: dict[str, Any], kind: str, largest: list[tuple[int, float, float]], smallest: list[tuple[int, float, float]]
) -> str:
    if kind == "far":
        return f"the inputs' scale is far from one: {_told(largest[0])}"
    if kind == "apart":
        return "the inputs' scales lie far apart: " + ", ".join(
            _told(group[0]) for group in (largest, smallest) if group
        )
    return f"the inputs are faint: no value is over {number(facts.get('abs_max'), 0.0):.2g}"


def _remedy(
    facts: dict[str, Any], kind: str, largest: list[tuple[int, float, float]], smallest: list[tuple[int, float, float]]
) -> str:
    if number(facts.get("abs_max"), 0.0) == 255.0 and number(facts.get("mean_min"), 0.0) >= 0:
        return "divide the inputs by 255, or standardise them"
    told = [*largest[:2], *(smallest[:1] if kind == "apart" else [])]
    listed = "; ".join(dict.fromkeys(_told(feature) for feature in told))
    return f"standardise the inputs with the training data's mean and std ({listed})" if listed else "standardise"
