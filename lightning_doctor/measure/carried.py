"""Whether an optimizer's gradients outlive its step, because nobody sets them to zero."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_doctor.measure.norms import are_sharded
from lightning_doctor.measure.sketch import any_nonzero


class CarriedGradients:
    """Watches one optimizer from a step of its to the next one.

    Gradients that are carried over are there at the start of every backward pass in between. One start at which they
    are all zero or None clears the optimizer: so accumulation over batches does, which begins with zeros once, and an
    adversary's backward pass that fills them between this optimizer's step and its own ``zero_grad``.
    Values are not compared: clipping changes them.

    Attributes:
        wanted: Set it to have a span watched, from the next step on.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._watching = False
        self._cleared = False
        self._flags: list[Tensor] = []

    def backward_begins(self, parameters: Iterable[Tensor]) -> None:
        """A backward pass is about to start, of whatever loss."""
        if not self._watching or self._cleared:
            return
        gradients = [p.grad for p in parameters if p.grad is not None and p.grad.numel()]
        if are_sharded(gradients):
            self._watching = False
        elif gradients:
            self._flags.append(any_nonzero(gradients).any())
        else:
            self._cleared = True

    def step(self, *, again: bool = False) -> Tensor | bool | None:
        """The optimizer is about to step: returns whether gradients were carried up to here; None where not known.

        Args:
            again: Whether to watch the coming span too.
        """
        carried: Tensor | bool | None = None
        if self._watching and (self._cleared or self._flags):
            carried = False if self._cleared else torch.stack(self._flags).all()
            self.wanted = False
        self.wanted |= again
        self._watching, self._cleared = self.wanted, False
        self._flags.clear()
        return carried
