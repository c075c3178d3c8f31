"""LD204: ReLU units that are zero for every sample: a whole layer of them, or so many that the run suffers."""

from __future__ import annotations

from statistics import median
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.layers import measured, of_kind, places
from lightning_doctor.prescriptions import lower_rate
from lightning_doctor.progress import is_like_now, standing
from lightning_doctor.rule import rule

# Examined steps, and samples seen on them, that must agree that a layer puts out nothing but zeros.
_STEPS, _SAMPLES = 3, 64
# Share of the units over which hardly any other cause is needed; under it those that are left would learn something:
# where nothing at all is learned, they are not why.
_MOST, _NOTHING = 0.8, 0.05


@rule(
    "LD204",
    needs={"activation_std/*": 3},
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "vanishing_gradients",
        "collapsed_output",
        "frozen_parameters",
        "imbalanced_classes",
        "undertrained",
        "learning_rate_too_low",
        "flat_region",
        "poor_minimum",
        "saddle_point",
        "stale_validation",
    ),
)
def dead_units(history: History, *, share: float = 0.5) -> Finding | None:
    """ReLU units are zero for every sample: a whole layer of them, or so many that the run suffers.

    What it looks at:
        ``dead_share/<layer>``, the share of a layer's ReLU units that are zero for each of at least 64 samples;
        ``activation_mean/<layer>`` and ``activation_std/<layer>``, which are zero where a whole layer is;
        ``grad_norm/<layer>`` of what comes before it. Of the last layer ``train_loss`` too: where that is gone an
        output of zero may be what it wanted.

    Why it matters:
        No gradient passes a unit that is never on, so it does not come back by training. Where a whole layer is off,
        nothing before it learns, and what follows puts out the same for every input.

    Sick:
        Shares 0.1, 0.8, 1, 1 after a step that was too long

    Healthy:
        Shares 0.1, 0.1, 0.12, 0.12; or half of the units dead in a run that does well

    Remedy:
        No ReLU as the last layer; a lower learning rate; biases of zero and He's initialization; scaled inputs;
        LeakyReLU.

    Thresholds:
        share: Share of a layer's units that must be dead, where it is not all of them [share].

    Blind spots:
        Samples that are rare may need the units that are zero for all that were looked at. Only ReLU and ReLU6.
    """
    relus = [entry for entry in of_kind(history, "relu") if not _has_done_its_part(history, entry)]
    for entry in relus:
        finding = _whole_layer(history, entry)
        if finding is not None:
            return finding
    shares = [(now, entry) for entry in relus if (now := _newest(history, str(entry.get("layer")))) is not None]
    now, worst = max(shares, key=lambda pair: pair[0], default=(0.0, {}))
    if not shares or now < share:
        return None
    layer = str(worst.get("layer"))
    series = history[f"dead_share/{layer}"]
    first = series.values[0]
    onset = next(step for step, value in zip(series.steps, series.values, strict=True) if value >= share)
    how = standing(history)
    # Some of the units are enough for many a task: the run must have had its time.
    waited = now >= _MOST or how.ended or how.share is None or how.share >= 0.5
    beside = now < _MOST and how.most is not None and how.most < _NOTHING
    return Finding(
        severity=how.if_harmed(Severity.WARNING) if waited and not beside else Severity.NOTE,
        summary=f"{now:.0%} of the units of {layer} are zero for every sample, {first:.0%} when first looked at",
        evidence={
            "layer": layer,
            "dead": now,
            "dead_at_first": first,
            "limit": share,
            **({} if how.reached is None else {"learned": how.reached}),
        },
        remedy=_remedy(history, worst, began=onset == series.steps[0]),
        confidence=Confidence.CONFIRMED if now >= _MOST else Confidence.SUSPECTED,
        onset=onset,
        signals=(f"dead_share/{layer}", "dead_share"),
    )


def _whole_layer(history: History, entry: dict[str, Any]) -> Finding | None:
    layer, output = str(entry.get("layer")), entry.get("last") is True
    since = _all_zero_since(history, layer)
    if since is None:
        return None
    place = places(history)
    before = [name for name in measured(history, "grad_norm") if place.get(name, 0) < place.get(layer, 0)]
    newest = [history[f"grad_norm/{name}"].values[-1] for name in before]
    if any(newest):
        # There is a way around this layer, or it was dead on these batches only.
        return None
    began = since == history[f"activation_std/{layer}"].steps[0]
    what = f"every output of {layer}, the last layer, is zero" if output else f"every unit of {layer} is zero"
    return Finding(
        severity=standing(history).unless_good(Severity.ERROR),
        summary=f"{what} for every sample {'from the start' if began else f'since step {since}'}: no gradient passes it"
        + ("" if output else ", and what follows puts out the same for every input"),
        evidence={"layer": layer, "dead": 1.0, "spread": 0.0, "since": since, "layers_cut_off": len(before)},
        remedy=_remedy(history, entry, began=began),
        confidence=Confidence.CONFIRMED if newest else Confidence.SUSPECTED,
        onset=_dying_since(history, layer, since),
        signals=(f"activation_std/{layer}", *(f"grad_norm/{name}" for name in before[-1:])),
    )


def _has_done_its_part(history: History, entry: dict[str, Any]) -> bool:
    """Whether this is the last layer, and a loss is gone that was there before: as where all samples keep a margin."""
    since = _all_zero_since(history, str(entry.get("layer"))) if entry.get("last") is True else None
    losses = history.get("train_loss").finite()
    if since is None or not losses.values or min(losses.values) < 0 or not losses.values[0] > 0:
        return False
    return median(losses.since(since) or losses.values[-1:]) == 0


def _all_zero_since(history: History, layer: str) -> int | None:
    """Returns the step from which on all that was seen of a layer was zero, if enough was seen."""
    means, stds = history.get(f"activation_mean/{layer}"), history.get(f"activation_std/{layer}")
    count = 0
    for mean, std in zip(reversed(means.values), reversed(stds.values), strict=False):
        if mean != 0 or std != 0:
            break
        count += 1
    if count < _STEPS:
        return None
    since = stds.steps[-count]
    batch = history.fact("data.batch_size", 1)
    whole = history.fact("trainer.batches_per_epoch") == 1
    seen = whole or (isinstance(batch, int) and batch * count >= _SAMPLES)
    return since if seen or 1.0 in history.get(f"dead_share/{layer}").since(since) else None


def _dying_since(history: History, layer: str, dead: int) -> int:
    """Returns since when most of the units were dead that were not, as a rule, before the layer was dead as a whole."""
    series = history.get(f"dead_share/{layer}").finite()
    before = [(step, value) for step, value in zip(series.steps, series.values, strict=True) if step < dead]
    if not before:
        return dead
    half = (1 + median(value for _, value in before)) / 2
    alive = [step for step, value in before if value < half]
    return min((step for step, _ in before if not alive or step > alive[-1]), default=dead)


def _newest(history: History, layer: str) -> float | None:
    shares = history.get(f"dead_share/{layer}").finite()
    # Of a run that has come far since nothing is known.
    return shares.values[-1] if shares.values and is_like_now(history, shares.steps[-1]) else None


def _remedy(history: History, entry: dict[str, Any], *, began: bool) -> str:
    name = f"{entry.get('class', 'ReLU')} {entry.get('layer')}"
    if entry.get("last") is True:
        return f"take {name} off the output: it can put out nothing below zero, and no gradient once it is off"
    leaky = f"use LeakyReLU in place of {name}"
    if began:
        return (
            f"initialise with He's weights and biases of zero (`nn.init.kaiming_normal_`), scale the inputs, or {leaky}"
        )
    return f"{lower_rate(history)}, or {leaky}"
