"""LD207: parameters that were to be trained are not: frozen, in no optimizer, cut off from the loss, or never moved."""

from __future__ import annotations

from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.layers import listed, of_kind
from lightning_doctor.parameters import counted, evidence_of, named, output_layer, steps_counted
from lightning_doctor.progress import POOR, came_far, hardly_fell, standing
from lightning_doctor.rule import rule
from lightning_doctor.step_sizes import longer_lowers, scanned_steps

# Examined steps that must agree that there is no gradient, and scans that tell whether longer steps would do more.
_STEPS = 3
# How many, and from which share of the planned run on, that an optimizer does not merely join later.
_MANY, _LATE = 8, 0.4
# The share of all elements, or of a layer's units, that is most of them.
_MOST = 0.5
# How many times longer steps may be too short to tell what holds a run back, and in which share of the scans.
_LONGER, _NEARLY = (4.0, 16.0), 0.9
# Steps, and the share of the planned run, before which an optimizer may still wait for its turn.
_PATIENCE, _TURN = 100, 0.75


@rule(
    "LD207",
    needs={"train_loss/*": 1},
    reads=("parameters",),
    non_finite=True,
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "vanishing_gradients",
        "dead_units",
        "collapsed_output",
        "undertrained",
        "learning_rate_too_low",
        "over_regularized",
        "model_bias",
        "flat_region",
        "poor_minimum",
        "uninformative_labels",
        "imbalanced_classes",
        "worse_than_reference",
        "stale_validation",
    ),
)
def frozen_parameters(history: History, *, share: float = 0.9) -> Finding | None:
    """Parameters that were to be trained are not: frozen, in no optimizer, cut off from the loss, or never moved.

    What it looks at:
        The fact ``parameters``: which parameters require a gradient, which an optimizer holds, which of the
        others get gradients and look as they were drawn, whether frozen ones do, which never had a gradient or had
        none but zeros, which optimizers step without any, or are never stepped, which never changed, which the loss
        depends on though the module does not know them, and whether the last layer is trained.

    Why it matters:
        What is not trained stays random. A frozen last layer forces everything before it to fit random weights; an
        optimizer that holds nothing trainable does nothing at all.

    Sick:
        The optimizer is given the last layer, whose ``requires_grad`` is off

    Healthy:
        A pretrained trunk is frozen, and the new last layer learns

    Remedy:
        ``requires_grad_(True)``, or give the parameters to the optimizer; find the ``.detach()``.

    Thresholds:
        share: Share of all elements over which a part that is frozen on purpose is worth a note in a run that does
            badly [share].

    Blind spots:
        Rows of an embedding that never occur are not told apart. What only some steps use may look unused early on.
    """
    table = history.fact("parameters", {})
    return (
        _nothing(history, table)
        or _without_slope(history, table)
        or _unregistered(history, table)
        or _unstepped(history, table)
        or _cut_off(history, table)
        or _unheld(history, table)
        or _frozen(history, table, share)
    )


def _nothing(history: History, table: dict[str, Any]) -> Finding | None:
    if table.get("trained") != 0 or not table.get("tensors"):
        return None
    frozen, unheld = named(table, "frozen"), named(table, "not_in_optimizer")
    does = f"{counted(table, 'frozen')} parameter tensors are frozen" if frozen else "no parameter is frozen"
    return Finding(
        severity=Severity.ERROR,
        summary=f"nothing is trained: the optimizers hold no parameter that requires a gradient; {does}"
        + (f", {listed(unheld)} in no optimizer" if unheld else ""),
        evidence=evidence_of(table, "frozen", "not_in_optimizer"),
        remedy=_unfreeze_head(table, frozen)
        or f"give {listed(unheld) if unheld else 'parameters that require a gradient'} to the optimizer",
        onset=0,
        signals=("train_loss",),
    )


def _without_slope(history: History, table: dict[str, Any]) -> Finding | None:
    obstacle = table.get("obstacle")
    # Checkpointing hides parameters from the graph, but not their gradients.
    if not isinstance(obstacle, str) or any(any(history[name].values) for name in history.family("grad_norm")):
        return None
    losses = table.get("obstructed_losses", 0)
    # What the loss does depend on instead is told by its name.
    elsewhere = not obstacle and (named(table, "unregistered") or named(table, "not_in_optimizer"))
    if elsewhere or not isinstance(losses, int) or losses < _STEPS:
        return None
    return Finding(
        severity=Severity.ERROR,
        summary="nothing is trained: the loss depends on no parameter that an optimizer holds"
        if not obstacle
        else f"nothing is trained: every way from the loss to a parameter leads through `{obstacle}`, whose derivative "
        "is zero",
        evidence={"obstacle": obstacle or "no way", "trained": int(table.get("trained") or 0)},
        remedy="return the loss as it was computed: `.item()`, `.detach()`, `torch.tensor(loss)`, `torch.no_grad()` "
        "and NumPy cut it off from the parameters"
        if not obstacle
        else f"compute the loss from what goes into `{obstacle}`, and use it for the metric only",
        onset=0,
        signals=("train_loss",),
    )


def _unfreeze_head(table: dict[str, Any], frozen: list[str]) -> str | None:
    head = output_layer(table)
    if head is None or not any(name.startswith(f"{head}.") for name in frozen):
        return None
    return f"call `{head}.requires_grad_(True)`: it is frozen, and nothing else is in the optimizer"


def _cut_off(history: History, table: dict[str, Any]) -> Finding | None:
    """Parameters that an optimizer holds in vain."""
    if steps_counted(table) < _STEPS:
        return None
    zero, head = named(table, "zero_gradient"), output_layer(table)
    still = [name for name in named(table, "unchanged") if name not in zero and not _is_stuck(history, name)]
    if head is None or any(name.startswith(f"{head}.") for name in zero) or _is_dead(history):
        # The cut is at the very output, or in units that are off: other illnesses.
        zero = []
    found = {
        "no_gradient": named(table, "no_gradient"),
        "zero_learning_rate": named(table, "zero_learning_rate"),
        "zero_gradient": zero,
        "unchanged": still,
    }
    key = next((key for key, names in found.items() if names), None)
    if key is None:
        return None
    names = listed(found[key])
    cut_off = (
        f"find what cuts {names} off from the loss (`.detach()`, `torch.no_grad()`, `.item()`, a layer that is not "
        "called), or take them out of the optimizer"
    )
    if history.fact("trainer.automatic_optimization") is False and counted(table, key) == table.get("trained"):
        cut_off = f"call `zero_grad` before `manual_backward`, not between it and the step; else {cut_off}"
    what, remedy = {
        "no_gradient": ("never get a gradient", cut_off),
        "zero_learning_rate": ("have a learning rate of zero", f"give {names} a learning rate, or freeze them"),
        "zero_gradient": (
            "only ever get a gradient of zero",
            f"find what has no slope between {names} and the loss: rounding, `sign`, a clamp",
        ),
        "unchanged": (
            "have not changed",
            f"raise the learning rate of {names}, or keep them in fp32: steps this small are rounded away",
        ),
    }[key]
    how = standing(history)
    idle = [str(index) for index in table.get("idle_optimizers") or ()] if key == "no_gradient" else []
    # An optimizer that steps in vain for long is nothing that anybody meant; it may join later, by a plan.
    late = how.ended or how.share is None or how.share >= _LATE
    # What moves all the same is stepped during the backward pass.
    unmoved = set(named(table, "unchanged")).issuperset(found[key])
    # Nor is it that most of what an optimizer holds goes without, where the run shows for it.
    most = key == "no_gradient" and 2 * counted(table, key) > (table.get("trained") or 0) and hardly_fell(history)
    in_vain = (bool(idle) or most) and late and unmoved and steps_counted(table) >= _MANY
    return Finding(
        severity=how.unless_good(Severity.WARNING) if in_vain else how.if_harmed(Severity.WARNING),
        summary=f"{counted(table, key)} parameter tensors in the optimizer {what}: {names}"
        + (f"; optimizer {', '.join(idle)} has stepped without any gradient so far" if idle else ""),
        evidence=evidence_of(table, key),
        remedy=remedy,
        confidence=Confidence.CONFIRMED if key in ("no_gradient", "zero_learning_rate") else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss", "update_ratio"),
    )


def _unregistered(history: History, table: dict[str, Any]) -> Finding | None:
    names = named(table, "unregistered")
    if not names:
        return None
    return Finding(
        severity=standing(history).if_harmed(Severity.WARNING),
        summary=f"{counted(table, 'unregistered')} parameter tensors that the loss depends on are not the module's, so "
        f"that no optimizer trains and no checkpoint keeps them: {listed(names)}",
        evidence=evidence_of(table, "unregistered"),
        remedy=f"register {listed(names)}: keep layers in an `nn.ModuleList` or `nn.ModuleDict`, parameters in an "
        "`nn.ParameterList`, not in a plain list or dict",
        onset=0,
        signals=("train_loss",),
    )


def _unstepped(history: History, table: dict[str, Any]) -> Finding | None:
    """What an optimizer holds that nobody steps, as may be forgotten where steps are made by hand."""
    names, how = named(table, "unstepped"), standing(history)
    late = how.ended or (how.share is not None and how.share >= _TURN)
    if not names or not late or history.last_step < _PATIENCE:
        return None
    only = counted(table, "unstepped") == table.get("trained")
    whose = "the optimizer" if only else "an optimizer"
    return Finding(
        severity=how.unless_good(Severity.WARNING),
        summary=f"{whose} has never been stepped: {counted(table, 'unstepped')} parameter tensors are as they were at "
        f"first: {listed(names)}",
        evidence=evidence_of(table, "unstepped"),
        remedy=f"call `.step()` on the optimizer of {listed(names)}, after its backward pass",
        # One of several may be meant to rest.
        confidence=Confidence.CONFIRMED if only else Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss",),
    )


def _unheld(history: History, table: dict[str, Any]) -> Finding | None:
    names, drawn, how = named(table, "not_in_optimizer"), named(table, "as_drawn"), standing(history)
    if not names:
        return None
    summary = f"{counted(table, 'not_in_optimizer')} parameter tensors require gradients, but are in no optimizer: "
    # What was trained before may be left as it is; random weights that get gradients wait for an optimizer.
    forgotten = (
        bool(drawn) and steps_counted(table) >= _STEPS and (how.ended or how.share is None or how.share >= _LATE)
    )
    if forgotten:
        summary += f"{listed(names)}; the weights of {listed(drawn)} look as they were drawn: nothing trains them"
    else:
        summary += listed(names)
    return Finding(
        severity=how.unless_good(Severity.WARNING) if forgotten else how.if_harmed(Severity.WARNING),
        summary=summary,
        evidence=evidence_of(table, "not_in_optimizer", *(["as_drawn"] if drawn else [])),
        remedy=f"give {listed(names)} to the optimizer, or call `requires_grad_(False)` on them to save gradients",
        confidence=Confidence.SUSPECTED if forgotten and not how.harmed else Confidence.CONFIRMED,
        onset=0,
        signals=("train_loss",),
    )


def _frozen(history: History, table: dict[str, Any], share: float) -> Finding | None:
    """What is frozen may be meant so: it is told only where the run does badly."""
    names, head = named(table, "frozen"), output_layer(table)
    how = standing(history)
    if not names or not how.harmed:
        return None
    held_back = head is not None and any(name.startswith(f"{head}.") for name in names)
    frozen, part = number(table.get("frozen_share"), 0.0), number(table.get("frozen_as_drawn_share"), 0.0)
    drawn = part > _MOST and _rests_on_it(history)
    if not held_back and not drawn and frozen < share:
        return None
    summary, remedy = f"{frozen:.0%} of the parameters are frozen", f"call `requires_grad_(True)` on {listed(names)}"
    if held_back:
        summary, remedy = f"the last layer, {head}, is frozen", f"call `requires_grad_(True)` on {head}"
    elif drawn:
        summary = (
            f"{part:.0%} of the parameters are frozen and look as they were drawn: nothing seems to have trained them"
        )
        remedy = f"load the weights that were meant to be kept before they are frozen, or {remedy}"
    return Finding(
        severity=Severity.WARNING if held_back or drawn else Severity.NOTE,
        summary=f"{summary}, and the run does badly",
        evidence=evidence_of(table, "frozen", *(["frozen_as_drawn"] if drawn else []))
        | ({"frozen_as_drawn_share": part} if drawn else {})
        | ({} if how.reached is None else {"learned": how.reached}),
        remedy=f"{remedy}, and give it to the optimizer",
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("train_loss",),
    )


def _rests_on_it(history: History) -> bool:
    """Whether what is trained gets no further on what is frozen: not by longer steps, and not yet far."""
    now, scans = standing(history), scanned_steps(history)[-_STEPS:]
    late = now.ended or now.share is None or now.share >= _LATE
    slow = any(longer_lowers(history, scans[0].step, _NEARLY, factor) for factor in _LONGER if scans)
    return late and not slow and not came_far(history, POOR)


def _is_stuck(history: History, name: str) -> bool:
    """Whether most units of a recurrent layer put out the same for every input, as where its gates are saturated."""
    layer = name.rpartition(".")[0]
    gated = any(entry.get("layer") == layer for entry in of_kind(history, "recurrent"))
    constant = history.get(f"constant_share/{layer}").values
    return gated and bool(constant) and constant[-1] >= _MOST


def _is_dead(history: History) -> bool:
    shares = [*history.family("dead_share"), *history.names("saturated_share/")]
    return any(history[name].values[-1] == 1 for name in shares)
