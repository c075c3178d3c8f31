"""Recognises a loss by its value, where its graph is not one that can be read: of a Function of one's own, say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from lightning_doctor.measure.loss_graph import is_plain

# How near two values are that are the same but for the order of their sums [share].
_SAME = 1e-5
# Rows of which all can be compared with all.
_FEW = 1024
# What ``cross_entropy`` leaves out by default.
_LEFT_OUT = -100


def recognise(outputs: Sequence[Tensor], batch: Sequence[Tensor], value: float) -> Tensor | None:
    """Returns a loss of a known kind that has this value, with its graph; None where none of them has.

    Tried are cross-entropy, squared and absolute errors, smooth absolute ones and binary cross-entropies, averaged or
    summed, of every output with every tensor of the batch as its target. That another has the same five digits by
    chance is next to impossible, and a chance is gone with the next batch.

    Args:
        outputs: What may be the prediction, each with its graph.
        batch: What may be the targets.
        value: Of the loss.
    """
    with torch.enable_grad():
        for output, target in product(outputs, batch):
            for loss in _losses(output, target):
                for reduction in ("mean", "sum"):
                    found = loss(reduction)
                    if abs(float(found.detach()) - value) <= _SAME * abs(value):
                        return found
    return None


def _losses(output: Tensor, target: Tensor) -> Iterator[Callable[[str], Tensor]]:
    if not is_plain(output) or not is_plain(target) or output.device != target.device:
        return
    # Under autocast losses are computed in float32.
    output = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
    if not target.is_floating_point() and target.dtype != torch.bool:
        yield from _of_classes(output, target.long())
    if output.numel() == target.numel() and len(output) == len(target):
        yield from _of_numbers(output, target.reshape(output.shape).to(output.dtype))
        shapes = {tuple(output.shape), tuple(target.shape)}
        if len(output) <= _FEW and shapes == {(len(output),), (len(output), 1)}:
            # All with all, where a column meets a row by mistake.
            size = (len(output), len(output))
            yield from _errors(output.expand(size), target.to(output.dtype).expand(size))


def _of_classes(output: Tensor, labels: Tensor) -> Iterator[Callable[[str], Tensor]]:
    # What is out of range ends a process on a GPU.
    for scores in (output, output.movedim(-1, 1)) if output.ndim > 2 else (output,):
        if scores.ndim == labels.ndim + 1 and (scores.shape[0], *scores.shape[2:]) == tuple(labels.shape):
            fits = ((labels >= 0) & (labels < scores.shape[1])) | (labels == _LEFT_OUT)
            if bool(fits.all()):
                yield lambda reduction, scores=scores: functional.cross_entropy(  # type: ignore[misc]
                    scores, labels, reduction=reduction
                )


def _errors(output: Tensor, target: Tensor) -> Iterator[Callable[[str], Tensor]]:
    # Of labels of plus and minus one a hinge is the absolute error, as long as no margin is kept.
    if bool((target.abs() == target.abs().amax()).all()):
        return
    yield lambda reduction: functional.mse_loss(output, target, reduction=reduction)
    yield lambda reduction: functional.l1_loss(output, target, reduction=reduction)
    yield lambda reduction: functional.smooth_l1_loss(output, target, reduction=reduction)


def _of_numbers(output: Tensor, target: Tensor) -> Iterator[Callable[[str], Tensor]]:
    yield from _errors(output, target)
    if bool(((target >= 0) & (target <= 1)).all()):
        yield lambda reduction: functional.binary_cross_entropy_with_logits(output, target, reduction=reduction)
        if bool(((output >= 0) & (output <= 1)).all()):
            yield lambda reduction: functional.binary_cross_entropy(output, target, reduction=reduction)
