"""How far a step moves the parameters of one optimizer, along which gradient, and which of them it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_doctor.measure.norms import are_sharded
from lightning_doctor.measure.sketch import Sketch, any_nonzero

_ROWS = 6


@dataclass(frozen=True)
class TensorUpdate:
    """What one examined step did to one parameter tensor.

    Attributes:
        name: Its qualified name.
        weight: Its norm before the step.
        update: The norm of its change.
        moved: Whether a sampled element differs from what it was at the first examined step.
        has_gradient: Whether there was a gradient.
        nonzero: Whether any element of the gradient, sampled or not, was not zero; None where not known.
        zeros: The number of elements whose gradient is exactly zero, as estimated; None where not known.
        size: The number of elements.
        trainable: Whether it required a gradient.
        rate: The learning rate; NaN where the optimizer has none.
    """

    name: str
    weight: float
    update: float
    moved: bool
    has_gradient: bool
    nonzero: bool | None
    zeros: float | None
    size: int
    trainable: bool
    rate: float

    @property
    def layer(self) -> str:
        """The module that holds it."""
        return self.name.rpartition(".")[0] or "(root)"

    @property
    def tells(self) -> bool:
        """Whether a step that left the sampled elements alone would have been expected to move them."""
        sampled = self.zeros is not None and self.zeros < self.size
        should = not self.has_gradient or self.nonzero is False or sampled
        return self.trainable and self.rate != 0 and should


@dataclass(frozen=True)
class Page:
    """One examined step of one optimizer, its numbers still on their device.

    Attributes:
        packed: ``[6 P + 2]``.
    """

    packed: Tensor
    names: Sequence[str]
    sketch: Sketch
    has_gradient: Sequence[bool]
    trainable: Sequence[bool]

    def read(self, numbers: Sequence[float]) -> tuple[list[TensorUpdate], float, float]:
        """Returns the tensors, the cosine between this gradient and the last step's, and that between the updates.

        A cosine is NaN where it is not known.

        Args:
            numbers: What ``packed`` holds.
        """
        count = len(self.names)
        weights, updates, moved, zeros, nonzero, rates = (numbers[i * count : (i + 1) * count] for i in range(_ROWS))
        tensors = [
            TensorUpdate(
                name=self.names[i],
                weight=weights[i],
                update=updates[i],
                moved=moved[i] > 0,
                has_gradient=self.has_gradient[i],
                nonzero=None if math.isnan(nonzero[i]) else nonzero[i] > 0,
                zeros=None if math.isnan(zeros[i]) else zeros[i] * self.sketch.weights[i],
                size=round(self.sketch.counts[i] * self.sketch.weights[i]),
                trainable=self.trainable[i],
                rate=rates[i],
            )
            for i in range(count)
        ]
        return tensors, numbers[-2], numbers[-1]


@dataclass(frozen=True)
class _Look:
    ordinal: int
    weights: Tensor
    gradient: Tensor | None


@dataclass(frozen=True)
class _Begun:
    weights: Tensor
    rows: list[Tensor]
    gradient_cosine: Tensor
    earlier_update: Tensor | None
    has_gradient: list[bool]
    trainable: list[bool]


class UpdateTable:
    """The parameters of one optimizer, before and after some of its steps, by a :class:`Sketch` of them.

    Args:
        names: The name of each parameter of the module.
        optimizer: Whose parameters are watched.

    Attributes:
        trouble: Why something could not be measured, as a clause; None where all could.
    """

    def __init__(self, names: Mapping[Tensor, str], optimizer: Optimizer) -> None:
        self.trouble: str | None = None
        self._names = names
        self._optimizer = optimizer
        self._parameters: list[Tensor] = []
        self._called: list[str] = []
        self._sketch: Sketch | None = None
        self._counts = self._places = torch.zeros(0)
        self._sampled: list[int] = []
        self._first: Tensor | None = None
        self._earlier: _Look | None = None
        self._begun: _Begun | None = None

    @property
    def layers(self) -> list[str]:
        """The modules that hold its parameters."""
        names = [self._name(p) for group in self._optimizer.param_groups for p in group["params"]]
        return list(dict.fromkeys(name.rpartition(".")[0] or "(root)" for name in names))

    def look(self, ordinal: int, *, examined: bool) -> None:
        """Looks at weights and gradients before a step.

        Args:
            ordinal: Which step of this optimizer: consecutive ones are compared.
            examined: Whether what the step does is wanted, up to :meth:`finish`; of several the first look counts.
        """
        sketch = self._follow()
        if sketch is None:
            return
        gradients = [p.grad for p in self._parameters]
        look = _Look(ordinal, sketch.take(self._parameters), self._sample(sketch, gradients))
        if self._first is None:
            self._first = look.weights
        if examined and self._begun is None:
            self._begun = self._compare(sketch, look, gradients)
        self._earlier = look

    def finish(self) -> Page | None:
        """Looks at the weights again and returns what the steps since the first examined look did; None without one."""
        begun, sketch, self._begun = self._begun, self._sketch, None
        if begun is None or sketch is None or self._first is None:
            return None
        weights = sketch.take(self._parameters)
        update = weights - begun.weights
        nothing = begun.gradient_cosine.new_full((), math.nan)
        cosine = nothing if begun.earlier_update is None else sketch.cosine(begun.earlier_update, update)
        rows = [sketch.norms(begun.weights), sketch.norms(update), sketch.differ(weights, self._first), *begun.rows]
        packed = torch.cat([*rows, torch.stack([begun.gradient_cosine, cosine])])
        return Page(packed, self._called, sketch, begun.has_gradient, begun.trainable)

    def _follow(self) -> Sketch | None:
        # Groups may have been added, and lazy parameters made. Of sparse ones no elements can be taken.
        given = [p for group in self._optimizer.param_groups for p in group["params"]]
        held = [p for p in given if not is_lazy(p) and p.numel() and p.layout is torch.strided]
        same = len(held) == len(self._parameters) and all(map(_is, held, self._parameters))
        if same or self._begun is not None:
            return self._sketch
        self._parameters, self._sketch, self._first, self._earlier = held, None, None, None
        self._called = [self._name(p) for p in held]
        if are_sharded(held):
            self.trouble = "parameters are sharded over ranks, and no rank sees a whole one"
        elif held:
            self._sketch = sketch = Sketch(held)
            self._counts = torch.tensor(sketch.counts).to(held[0].device)
            self._sampled = [i for i, weight in enumerate(sketch.weights) if weight > 1]
            self._places = torch.tensor(self._sampled, dtype=torch.long).to(held[0].device)
        return self._sketch

    def _sample(self, sketch: Sketch, gradients: Sequence[Tensor | None]) -> Tensor | None:
        there = [gradient for gradient in gradients if gradient is not None]
        if are_sharded(there):
            self.trouble = "gradients are sharded over ranks, and no rank sees a whole one"
            return None
        if any(gradient.layout != torch.strided for gradient in there):
            self.trouble = "gradients are sparse"
            return None
        return sketch.take(gradients)

    def _compare(self, sketch: Sketch, look: _Look, gradients: Sequence[Tensor | None]) -> _Begun:
        earlier = self._earlier if self._earlier is not None and self._earlier.ordinal == look.ordinal - 1 else None
        unknown = look.weights.new_full((len(self._parameters),), math.nan)
        cosine = unknown.new_full((), math.nan)
        if look.gradient is not None and earlier is not None and earlier.gradient is not None:
            cosine = sketch.cosine(earlier.gradient, look.gradient)
        zeros = nonzero = unknown
        if look.gradient is not None:
            zeros = sketch.zeros(look.gradient)
            nonzero = self._nonzero(gradients, zeros)
        return _Begun(
            weights=look.weights,
            rows=[zeros, nonzero, self._rates(unknown)],
            gradient_cosine=cosine.to(unknown.dtype),
            earlier_update=None if earlier is None else look.weights - earlier.weights,
            has_gradient=[gradient is not None for gradient in gradients],
            trainable=[p.requires_grad for p in self._parameters],
        )

    def _nonzero(self, gradients: Sequence[Tensor | None], zeros: Tensor) -> Tensor:
        flags = zeros < self._counts
        if self._sampled:
            # Of these the sample may have missed what there is.
            large = [gradients[i] for i in self._sampled]
            whole = [zeros.new_zeros(1) if gradient is None else gradient for gradient in large]
            flags = flags.index_copy(0, self._places, any_nonzero(whole).to(flags.device))
        return flags

    def _rates(self, like: Tensor) -> Tensor:
        rates: dict[Tensor, Tensor] = {}
        for group in self._optimizer.param_groups:
            lr = group.get("lr")
            # A rate that is a tensor may be on the device: no read.
            rate = lr.detach().to(like).reshape(()) if isinstance(lr, Tensor) else like.new_full((), lr or 0.0)
            rates.update(dict.fromkeys(group["params"], rate if lr is not None else like.new_full((), math.nan)))
        return torch.stack([rates[p] for p in self._parameters])

    def _name(self, parameter: Tensor) -> str:
        return self._names.get(parameter, "unnamed")


def _is(one: object, other: object) -> bool:
    return one is other
