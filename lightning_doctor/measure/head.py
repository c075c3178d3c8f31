"""What is known of a loss head: the last thing a network's predictions go into."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_doctor.measure.loss_graph import Edge

_UNREAD = "it is multiplied by something that cannot be read"
# Losses of a probability of one of two answers.
BINARY = ("bce", "bce_with_logits", "dice")


@dataclass(frozen=True)
class Path:
    """What a loss does to the errors of single elements: it weights, adds up, and multiplies.

    Attributes:
        number: What the sum is multiplied by, as far as it is a number of the program.
        factors: And as far as it is held in tensors of one element.
        weights: What elements are multiplied by before they are added up, each with the shape it is multiplied at.
        batch: How the rows are put together: ``"mean"``, ``"sum"`` or, where they have not been, ``"unknown"``.
        root: Where a square root was taken of the sum, what that is multiplied by.
        row_root: Whether a square root was taken of the errors of single rows.
        unclear: Why the loss cannot be computed from its elements, if so.
    """

    number: float = 1.0
    factors: tuple[Tensor, ...] = ()
    weights: tuple[tuple[Tensor, tuple[int, ...]], ...] = ()
    batch: str = "unknown"
    root: tuple[float, tuple[Tensor, ...]] | None = None
    row_root: bool = False
    unclear: str | None = None

    def times(self, factor: float) -> Path:
        """Multiplies by a number."""
        return replace(self, number=self.number * factor)

    def scaled(self, constant: Tensor | float | None, size: tuple[int, ...]) -> Path:
        """Multiplies values of this shape by a constant; None for one that cannot be read."""
        if constant is None:
            return self.but(_UNREAD)
        if not isinstance(constant, Tensor):
            return self.times(float(constant))
        if constant.ndim == 0 or (constant.numel() == 1 and len(size) == 0):
            return replace(self, factors=(*self.factors, constant.reshape(())))
        return replace(self, weights=(*self.weights, (constant, size)))

    def reduced(self, how: str, over_rows: bool, elements: int) -> Path:
        """Adds up or averages groups of so many elements."""
        path = self.times(1 / max(elements, 1)) if how == "mean" else self
        # The innermost decides: what is left of rows outside it are columns.
        return replace(path, batch=how) if over_rows else path

    def rooted(self, size: tuple[int, ...]) -> Path:
        """Takes the square root."""
        if size != () or self.root is not None:
            return replace(self.but("it takes the square root of each row's error"), row_root=True)
        return replace(self, number=1.0, factors=(), root=(self.number, self.factors))

    def rescaled(self, number: float, factor: Tensor | None) -> Path:
        """Multiplies the loss as a whole."""
        factors = () if factor is None else (factor,)
        if self.root is None:
            return replace(self, number=self.number * number, factors=self.factors + factors)
        return replace(self, root=(self.root[0] * number, self.root[1] + factors))

    def positive(self) -> tuple[Path, Tensor | float]:
        """Returns the same with a positive factor, and the sign that was left out."""
        if not self.factors:
            return replace(self, number=abs(self.number)), 1.0 if self.number > 0 else -1.0
        factor = product(self.number, self.factors)
        return replace(self, number=1.0, factors=(factor.abs(),)), factor.sign()

    def but(self, reason: str) -> Path:
        """Notes why the loss cannot be computed from its elements."""
        return replace(self, unclear=self.unclear or reason)


def product(number: float, factors: tuple[Tensor, ...]) -> Tensor:
    """Multiplies a number by tensors of one element each."""
    value = torch.tensor(number)
    # A number of the program is on the CPU, from where it may meet any other without a copy.
    for factor in factors:
        value = value * factor.float()
    return value


@dataclass(kw_only=True)
class Head:
    """A loss and what goes into it.

    Attributes:
        loss: Its name: ``"cross_entropy"``, ``"mse"`` …
        source: Where the predictions enter it.
        path: How its elements make up the loss.
        by_hand: Whether it is composed of elementary operations, as ``l1_loss`` is too.
        output_shape: The predictions' shape.
        target_shape: The targets'.
        broadcast: Whether the difference of the two is larger than the predictions.
        prediction: The predictions as the loss takes them: logits, logarithms, probabilities or numbers.
        link: What makes them comparable with the targets: ``"identity"``, ``"sigmoid"``, ``"exp"`` or ``"softmax"``.
        target: Class indices, or of the same shape as the predictions.
        class_dim: The dimension of the predictions that is over classes; None where each element is for itself.
        activation: The last activation before the loss.
        scale: What that is multiplied by, a number of the program.
        outputs: What it puts out, times the scale; without one, the predictions before the loss changes them.
        sums_to_one: Whether the probabilities of a row do, by construction.
        class_weight: ``[classes]``, or what each element of the loss is multiplied by in one that is no class loss.
        pos_weight: As of ``binary_cross_entropy_with_logits``.
        ignored: The class index that does not count.
        smoothing: The share of each target that is spread evenly over the classes.
        reweighted: Whether the predictions themselves weigh its elements too, as in a focal loss.
        normalised: Whether the sum is divided by the sum of the weights.
        bend: Where a Huber or smooth L1 loss turns from square to straight.
        doubt: Is zero if the loss is what it was taken for.
        terms: The number of terms that are added up.
        regularisers: How many of them are made of layers' outputs and numbers alone.
        extras: What only the reader of a loss needs.
    """

    loss: str
    source: Edge
    path: Path
    by_hand: bool = False
    output_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] | None = None
    broadcast: bool = False
    prediction: Tensor | None = None
    link: str = "identity"
    target: Tensor | None = None
    class_dim: int | None = None
    activation: str | None = None
    scale: float = 1.0
    outputs: Tensor | None = None
    sums_to_one: bool = False
    class_weight: Tensor | None = None
    pos_weight: Tensor | None = None
    ignored: int | None = None
    smoothing: float = 0.0
    reweighted: bool = False
    normalised: bool = False
    bend: float = 1.0
    doubt: Tensor | None = None
    terms: int = 1
    regularisers: int = 0
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def indexed(self) -> bool:
        """Whether the targets are class indices."""
        return self.target is not None and self.class_dim is not None and not self.target.is_floating_point()

    @property
    def weighted(self) -> bool:
        """Whether samples, classes or columns count differently, or may."""
        weights = (self.class_weight, self.pos_weight)
        some = bool(self.path.weights) or self.path.unclear == _UNREAD or any(weight is not None for weight in weights)
        return some or self.reweighted
