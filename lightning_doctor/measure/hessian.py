"""Products with the Hessian of a loss, which is never formed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

# The node that `once_differentiable` leaves in the graph of a gradient.
_ERROR = "torch::autograd::Error"


class Curvature(Protocol):
    """What multiplies a vector by a Hessian."""

    gradient: Tensor
    """Of the loss ``[n]``: in the dtype and on the device in which vectors are taken."""
    products: int
    """How many products were made."""

    def __call__(self, vector: Tensor) -> Tensor:
        """Returns the Hessian times a vector ``[n]``."""


class Hessian:
    """Exact products with the Hessian of a scalar loss, from one gradient whose graph is kept.

    Pearlmutter 1994: Hv is the gradient of gᵀv. The graph of g is made once; a product is a backward pass through it,
    about two gradients of work. Dropout and batch statistics are the same in every product, as the forward pass is.

    The parameters must not be changed in place while products are taken. The forward pass must consist of operations
    that can be differentiated twice, as under :func:`lightning_doctor.measure.twice.twice_differentiable`.

    Args:
        loss: A scalar, with its graph, which is used up.
        parameters: Those to differentiate by. One that the loss does not depend on has zeros.

    Raises:
        RuntimeError: Where the loss cannot be differentiated, or depends on none of the parameters; a product raises
            where the gradient cannot be.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self.custom_functions = custom_functions(loss)
        """Names of custom ``autograd.Function`` in the loss, which may drop curvature silently."""
        # Never `backward(create_graph=True)`: the gradients it leaves behind refer to the graph, and it to them.
        gradients = torch.autograd.grad(loss, self._parameters, create_graph=True, allow_unused=True)
        require_any(gradients)
        # Products would pass by the error that `once_differentiable` leaves for them: it leads to no parameter.
        if self.custom_functions and any(node.name() == _ERROR for node in _nodes(gradients)):
            raise RuntimeError(f"once_differentiable among {', '.join(self.custom_functions)}")
        dtype = vector_dtype(self._parameters)
        self.gradient = flat([None if g is None else g.detach() for g in gradients], self._parameters, dtype)
        self.products = 0
        # A parameter that enters linearly and alone has a gradient without a graph: its row of the Hessian is zero.
        # Of the others where they stand in the graph is enough: as large as the weights, they are let go.
        self._curved = [
            (i, get_gradient_edge(g), g.dtype) for i, g in enumerate(gradients) if g is not None and g.requires_grad
        ]

    @property
    def size(self) -> int:
        """The number of parameters n."""
        return self.gradient.numel()

    def __call__(self, vector: Tensor) -> Tensor:
        """Returns the Hessian times a vector ``[n]``."""
        self.products += 1
        if not self._curved:
            return torch.zeros_like(self.gradient)
        parts = unflat(vector, self._parameters)
        rows = torch.autograd.grad(
            [edge for _, edge, _ in self._curved],
            self._parameters,
            [parts[i].to(gradient_dtype) for i, _, gradient_dtype in self._curved],
            retain_graph=True,
            allow_unused=True,
        )
        return flat(rows, self._parameters, self.gradient.dtype)

    def release(self) -> None:
        """Lets go of the graph: every product is zero from here on."""
        self._curved = []


class DifferencedHessian:
    """Products by central differences of gradients, for what has no double backward.

    (g(w + hv) − g(w − hv))/2h costs two gradients and errs by h² times the third derivative and by the rounding of g
    over h; the cube root of the rounding balances the two (Nocedal & Wright 2006, section 8.1). In float32 it is wrong
    for networks with kinks (ReLU, max-pooling), and in bfloat16 for all: ask for a gradient without autocast.

    Args:
        gradient_at: The gradient at the weights plus an offset, both ``[n]``.
        weights: The weights ``[n]``; they scale h, and lend dtype and device.
        resolution: The relative rounding of the arithmetic inside; that of the dtype of ``weights`` where not given.
    """

    def __init__(
        self, gradient_at: Callable[[Tensor], Tensor], weights: Tensor, *, resolution: float | None = None
    ) -> None:
        self._gradient_at = gradient_at
        self._step = step_length(weights, resolution)
        self.gradient = gradient_at(torch.zeros_like(weights)).detach()
        self.products = 0

    @property
    def size(self) -> int:
        """The number of parameters n."""
        return self.gradient.numel()

    def __call__(self, vector: Tensor) -> Tensor:
        """Returns the Hessian times a vector ``[n]``, nearly."""
        self.products += 1
        length = float(vector.norm())
        if length == 0:
            return torch.zeros_like(vector)
        offset = vector * (self._step / length)
        difference = self._gradient_at(offset) - self._gradient_at(-offset)
        return difference.detach() * (length / (2 * self._step))

    def release(self) -> None:
        """Does nothing: there is no graph."""


def custom_functions(loss: Tensor) -> list[str]:
    """Returns the names of custom ``autograd.Function`` in the graph of a loss, each once."""
    # Not in that of its gradient: a function that drops all curvature is not in there.
    names = {
        type(node).__name__.removesuffix("Backward")
        for node in _nodes([loss])
        if isinstance(node, torch.autograd.function.BackwardCFunction)
    }
    return sorted(names)


def _nodes(tensors: Sequence[Tensor | None]) -> Iterator[Node]:
    """Walks the graph of some tensors, each node once."""
    waiting: list[Node | None] = [tensor.grad_fn for tensor in tensors if tensor is not None]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        yield node
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)


def require_any(gradients: Sequence[Tensor | None]) -> None:
    """Raises RuntimeError where the loss depends on no parameter: that of a copy is then that of another model."""
    if all(gradient is None for gradient in gradients):
        raise RuntimeError("the loss of a copy does not depend on its weights")


def step_length(weights: Tensor, resolution: float | None = None) -> float:
    """Returns the length of an offset at which a central difference of gradients is about as good as it gets.

    Args:
        weights: ``[n]``.
        resolution: As in :class:`DifferencedHessian`.
    """
    rounding: float = torch.finfo(weights.dtype).eps if resolution is None else resolution
    return float(rounding ** (1 / 3)) * (float(weights.norm()) or 1.0)


def vector_dtype(parameters: Sequence[Tensor]) -> torch.dtype:
    """Returns the widest dtype of the parameters, float32 at least: sums over many weights need it."""
    dtype = torch.float32
    for parameter in parameters:
        dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype


def flat(tensors: Sequence[Tensor | None], parameters: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Joins one tensor per parameter into a vector ``[n]`` on the device of the first; None counts as zeros."""
    device = parameters[0].device
    return torch.cat(
        [
            torch.zeros(parameter.numel(), dtype=dtype, device=device)
            if tensor is None
            else tensor.reshape(-1).to(device, dtype)
            for tensor, parameter in zip(tensors, parameters, strict=True)
        ]
    )


def unflat(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Cuts a vector ``[n]`` into one tensor per parameter, of its shape and on its device, in the vector's dtype."""
    parts = torch.split(vector, [parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape).to(parameter.device) for part, parameter in zip(parts, parameters, strict=True)]
