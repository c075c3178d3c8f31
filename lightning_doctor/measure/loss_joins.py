"""Terms of a loss that belong together: the halves of a likelihood, and several losses of the same predictions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lightning_doctor.measure.head import Head, product
from lightning_doctor.measure.loss_graph import VIEWS, Edge, alive, kind

# What takes every number for itself, or a row for itself, so that it is still the same prediction.
_SAME = VIEWS | {"Sigmoid", "Softmax", "LogSoftmax", "LogSigmoid", "Log", "Exp"}
# How far a whole number may be from one by rounding.
_WHOLE = 1e-4


def halves(heads: list[Head]) -> Head | None:
    """Joins ``y * log(p)`` and ``(1 - y) * log(1 - p)``."""
    if len(heads) != 2:
        return None
    return _half_and_half(*heads) or _half_and_half(*reversed(heads))


def _half_and_half(one: Head, other: Head) -> Head | None:
    first, second = one.extras, other.extras
    if "origin" not in first or first["origin"] != second.get("origin") or first["turned"] or not second["turned"]:
        return None
    head = replace(one, loss="bce", class_dim=None, extras={"origin": first["origin"]})
    if one.target is not None and other.target is not None and one.target.shape == other.target.shape:
        # What one half is multiplied by more than the other is a weight of its class.
        ratio, unit = (product(half.path.number, half.path.factors) for half in (one, other))
        head.target = (ratio / unit).to(one.target) * one.target
        head.path, head.extras["halves"] = other.path, (head.target, other.target)
        head.doubt = (head.target + other.target - 1).abs().max()
    if len(one.path.weights) != len(other.path.weights):
        head.path = head.path.but("its halves are weighted differently")
    if "logits" in first:
        head.loss, head.link, head.prediction = "bce_with_logits", "sigmoid", first["logits"]
    elif head.prediction is not None:
        head.link, head.prediction = "identity", head.prediction.exp()
    return head


def weigh(head: Head, known: tuple[float, float] | None) -> tuple[float, float] | None:
    """Finds what the two classes weigh in a binary likelihood by hand: ``a * y * log(p) + b * (1 - y) * log(1 - p)``.

    Nothing tells the weights from the targets that they are multiplied by but that these are 0 or 1: where they may lie
    between, both weights are 1. Waits for the device.

    Args:
        head: One that :func:`halves` has joined, which is set right.
        known: What was found before, as a batch of one class tells only one of them.

    Returns:
        The weights of 1 and 0, None as long as they are not known.
    """
    if "halves" not in head.extras:
        return known
    one, other = (values.detach() for values in head.extras.pop("halves"))
    most, most_other, gap = torch.stack([one.max(), other.max(), (one + other - 1).abs().max()]).tolist()
    if min(most, most_other) > 0:
        known = (1.0, 1.0) if gap <= _WHOLE else (most, most_other)
    if known is None or min(known) <= 0 or known == (1.0, 1.0):
        return known
    weight, counter = known
    head.target = one / weight
    head.doubt = (head.target + other / counter - 1).abs().max()
    head.path = head.path.times(counter)
    if weight != counter:
        head.pos_weight = head.target.new_tensor([weight / counter])
        head.extras["class_weights"] = [counter, weight]
    return known


def one_question(heads: list[Head]) -> Head | None:
    """Joins losses of which some are no sums of errors, where all compare the same predictions with the same targets.

    As an overlap beside a cross-entropy (Isensee et al. 2021).
    """
    summed = [head for head in heads if head.path.unclear is None]
    if len(summed) != 1 or len({origin(head.source) for head in heads}) > 1:
        return None
    head = summed[0]
    apart = [_apart(head, other) for other in heads if other is not head]
    known = [gap for gap in apart if gap is not None]
    if len(known) < len(apart):
        return None
    doubts = known if head.doubt is None else [*known, head.doubt]
    head.doubt = torch.stack([doubt.float() for doubt in doubts]).max()
    head.path = head.path.but("there are other losses of the same predictions beside it")
    head.reweighted = True
    head.terms = len(heads)
    return head


def origin(edge: Edge) -> Edge:
    """Returns the value that a prediction was made of, each number or row of it for itself."""
    while kind(edge) in _SAME and len(below := alive(edge)) == 1:
        edge = below[0]
    return edge


def _apart(head: Head, other: Head) -> Tensor | None:
    """Returns how far the targets of two losses differ at most; None where they cannot be compared."""
    one, two = head.target, other.target
    if one is None or two is None:
        return None
    if one.numel() == two.numel():
        return (one.reshape(-1) - two.reshape(-1)).abs().max()
    if head.indexed and head.ignored is not None and tuple(two.shape) == head.output_shape:
        dim = head.class_dim or 0
        # Of what does not count nothing is known.
        index = one.clamp(0, two.shape[dim] - 1).unsqueeze(dim)
        return (1 - two.gather(dim, index)).abs().mul((one != head.ignored).unsqueeze(dim)).max()
    return None
