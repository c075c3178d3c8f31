"""The gradient norms of one optimizer's parameters, step after step, on their device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_doctor.measure.norms import Norms, choose_norms


@dataclass
class _Row:
    step: int
    norms: Tensor
    clipped: Tensor | None = None


@dataclass(frozen=True)
class Page:
    """Rows whose parameters are the same ones, packed into one tensor so that one copy fetches them.

    Attributes:
        layers: The layer of each parameter tensor, in order of registration ``[P]``.
        steps: The step of each row ``[N]``.
        packed: ``[3 N + 2 P]``: global norms, numbers of non-finite tensors, clipped norms (NaN where not measured),
            the mean of each tensor's norm over finite rows, and a flag for each tensor that was not finite in the
            first row that had one.
    """

    layers: tuple[str, ...]
    steps: list[int]
    packed: Tensor


class GradientTable:
    """Measures the gradients that an optimizer holds, and keeps the norms.

    Args:
        names: The name of each parameter of the module.
        optimizer: Whose parameters are measured.
    """

    def __init__(self, names: Mapping[Tensor, str], optimizer: Optimizer) -> None:
        self._names = names
        self._optimizer = optimizer
        self._rows: dict[tuple[str, ...], list[_Row]] = {}
        self._newest: _Row | None = None
        self._norms: Norms | None = None
        self._present = 0
        self._layers: tuple[str, ...] = ()
        self._list_parameters()

    def __len__(self) -> int:
        """The number of trainable parameter tensors."""
        return len(self._parameters)

    def measure(self, scale: Tensor | None = None) -> Tensor | None:
        """Returns the norm of each gradient ``[P]``, divided by ``scale``; None where there are no gradients."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not gradients:
            return None
        if self._norms is None or len(gradients) != self._present:
            self._present = len(gradients)
            self._norms = choose_norms(gradients)
            self._layers = tuple(self._layer(p) for p in self._parameters if p.grad is not None)
        norms = self._norms(gradients)
        return norms if scale is None else norms / scale

    def keep(self, step: int, norms: Tensor | None) -> None:
        """Adds a row of norms that :meth:`measure` has just returned."""
        self._newest = None
        if norms is not None:
            self._newest = _Row(step, norms)
            self._rows.setdefault(self._layers, []).append(self._newest)

    def keep_clipped(self, step: int) -> None:
        """Measures again and adds the global norm to the row of this step, if there is one."""
        if self._newest is not None and self._newest.step == step:
            norms = self.measure()
            if norms is not None:
                self._newest.clipped = torch.linalg.vector_norm(norms)

    def take(self) -> list[Page]:
        """Returns what was kept and begins anew."""
        rows, self._rows, self._newest = self._rows, {}, None
        # Layers may have been frozen or freed, or parameter groups added.
        self._list_parameters()
        return [_pack(layers, group) for layers, group in rows.items()]

    def _list_parameters(self) -> None:
        order = {parameter: i for i, parameter in enumerate(self._names)}
        held = [p for group in self._optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._parameters: list[Tensor] = sorted(held, key=lambda p: order.get(p, len(order)))
        self._norms = None

    def _layer(self, parameter: Tensor) -> str:
        return self._names.get(parameter, "unnamed").rpartition(".")[0] or "(root)"


def _pack(layers: tuple[str, ...], rows: Sequence[_Row]) -> Page:
    norms = torch.stack([row.norms for row in rows])
    bad = ~norms.isfinite()
    counts = bad.sum(dim=1)
    first_bad = bad[(counts > 0).to(torch.uint8).argmax()]
    kept = norms.masked_fill((counts > 0).unsqueeze(1), 0.0)
    means = kept.sum(dim=0) / (counts == 0).sum().clamp(min=1)
    totals = torch.linalg.vector_norm(norms, dim=1)
    clipped = torch.stack([totals.new_tensor(math.nan) if row.clipped is None else row.clipped for row in rows])
    return Page(layers, [row.step for row in rows], torch.cat([totals, counts, clipped, means, first_bad]))
