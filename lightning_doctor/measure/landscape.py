"""The loss of a module as a function of its weights, on some samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_doctor.measure.hessian import Hessian, flat, require_any, unflat, vector_dtype
from lightning_doctor.measure.rows import cut_rows, tensors
from lightning_doctor.measure.twice import twice_differentiable
from lightning_doctor.measure.twin import twin

Loss = Callable[[Any, Any], Tensor]
"""``loss(module, batch)``: the mean loss of the batch, a scalar with its graph."""


class Landscape:
    """The loss of a module around its weights.

    Every evaluation begins at the same random state, so that dropout drops the same units, and leaves the weights,
    the buffers, the gradients and every random generator as they were. Parameters that do not require gradients stand
    still.

    Args:
        module: In the mode, train or eval, in which it is to be looked at.
        loss: As in :data:`Loss`.

    Raises:
        ValueError: Where no parameter requires gradients.
    """

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        self._module = module
        self._loss = loss
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ValueError("no parameter of the module requires gradients")
        size = sum(parameter.numel() for parameter in self.parameters)
        first = self.parameters[0]
        self.like = torch.zeros((), dtype=vector_dtype(self.parameters), device=first.device).expand(size)
        """Zeros in the form of a vector over the weights ``[n]``, which take no memory."""

    @property
    def weights(self) -> Tensor:
        """A copy of the weights ``[n]``."""
        return flat([parameter.detach() for parameter in self.parameters], self.parameters, self.like.dtype)

    def hessian(self, batch: Any) -> Hessian:
        """Returns products with the Hessian of the loss of a batch."""
        with self._undisturbed(), torch.enable_grad(), twice_differentiable():
            return Hessian(self._loss(self._module, batch), self.parameters)

    def gradient(self, batch: Any, offset: Tensor | None = None) -> Tensor:
        """Returns the gradient of the loss of a batch ``[n]``, at the weights plus an offset ``[n]``."""
        try:
            return self._gradient(batch, offset, self._by_grad)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            # Reentrant checkpointing knows only the other way.
            return self._gradient(batch, offset, self._by_backward)

    def _gradient(self, batch: Any, offset: Tensor | None, by: Callable[[Tensor], Sequence[Tensor | None]]) -> Tensor:
        with self._undisturbed(), self._moved(offset), torch.enable_grad():
            rows = by(self._loss(self._module, batch))
        require_any(rows)
        return flat(rows, self.parameters, self.like.dtype)

    def _by_grad(self, loss: Tensor) -> Sequence[Tensor | None]:
        return torch.autograd.grad(loss, self.parameters, allow_unused=True)

    def _by_backward(self, loss: Tensor) -> Sequence[Tensor | None]:
        kept = [parameter.grad for parameter in self.parameters]
        try:
            for parameter in self.parameters:
                parameter.grad = None
            torch.autograd.backward(loss)
            return [parameter.grad for parameter in self.parameters]
        finally:
            for parameter, gradient in zip(self.parameters, kept, strict=True):
                parameter.grad = gradient

    def losses(self, batches: Sequence[Any], offset: Tensor | None = None) -> Tensor:
        """Returns the loss of each batch ``[S]`` in float64, at the weights plus an offset ``[n]``."""
        with self._undisturbed(), self._moved(offset), torch.no_grad():
            return torch.stack([self._loss(self._module, batch).detach().double().reshape(()) for batch in batches])

    def doubled(self) -> Landscape:
        """Returns the landscape of a copy of the module in float64, which takes batches in float64 too."""
        return Landscape(twin(self._module).double(), self._loss)

    @contextmanager
    def _moved(self, offset: Tensor | None) -> Iterator[None]:
        if offset is None:
            yield
            return
        # Not before they are moved: while products are taken, memory is short.
        starts = [parameter.detach().clone() for parameter in self.parameters]
        try:
            with torch.no_grad():
                for weight, start, part in zip(self.parameters, starts, unflat(offset, self.parameters), strict=True):
                    weight.copy_(start + part)
            yield
        finally:
            with torch.no_grad():
                for weight, start in zip(self.parameters, starts, strict=True):
                    weight.copy_(start)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        buffers = [(buffer, buffer.detach().clone()) for buffer in self._module.buffers()]
        device = self.parameters[0].device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                # Not `torch.manual_seed`, which seeks every kind of device, for milliseconds.
                torch.default_generator.manual_seed(0)
                if device.type == "cuda":
                    torch.cuda.manual_seed(0)
                yield
        finally:
            for buffer, kept in buffers:
                # Not under the eyes of autograd: batch normalisation in train mode keeps the running statistics in
                # its graph, though it does not use them, and would not go backward past a change.
                buffer.data.copy_(kept)


def samples(batch: Any) -> int | None:
    """Returns the length of the first axis that the tensors of a batch share; None where they share none."""
    lengths = {len(tensor) for tensor in tensors(batch)}
    return lengths.pop() if len(lengths) == 1 else None


def parts(batch: Any, begin: int, end: int, count: int) -> list[Any]:
    """Cuts samples ``begin`` to ``end`` of a batch into so many parts of equal size; what is left over is left out."""
    return cut_rows(batch, samples(batch) or 0, count, begin, end)


def as_double(batch: Any) -> Any:
    """Returns a batch with its floating-point tensors in float64."""

    def double(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    return apply_to_collection(batch, Tensor, double)
