"""The gradient norms of one optimizer's parameters, step after step, on their device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_doctor.measure.norms import are_alike, are_sharded, norms


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


@dataclass(frozen=True, eq=False)
class _Layout:
    layers: tuple[str, ...]
    alike: bool


class GradientTable:
    """Measures the gradients that an optimizer holds, and keeps the norms.

    Args:
        names: The name of each parameter of the module.
        optimizer: Whose parameters are measured.

    Attributes:
        sharded: Whether a rank holds only parts of the gradients, so that nothing is measured.
    """

    def __init__(self, names: Mapping[Tensor, str], optimizer: Optimizer) -> None:
        self.sharded = False
        self._names = names
        self._optimizer = optimizer
        self._rows: dict[_Layout, list[_Row]] = {}
        self._newest: _Row | None = None
        self._layouts: dict[tuple[int, ...] | None, _Layout] = {}
        self._measured: _Layout | None = None
        self._list_parameters()

    def __len__(self) -> int:
        """The number of trainable parameter tensors."""
        return len(self._parameters)

    def measure(self, scale: Tensor | None = None) -> Tensor | None:
        """Returns the norm of each gradient ``[P]``, divided by ``scale``; None where there are no gradients."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not gradients or self.sharded:
            return None
        # Which ones there are matters only where some are missing.
        present = None
        if len(gradients) < len(self._parameters):
            present = tuple(i for i, p in enumerate(self._parameters) if p.grad is not None)
        layout = self._layouts.get(present) or self._lay_out(present, gradients)
        if self.sharded:
            return None
        self._measured = layout
        try:
            values = norms(gradients, layout.alike)
        except RuntimeError:
            # Sparse in this step, dense in the one the layout was made in.
            values = norms(gradients, alike=False)
        return values if scale is None else values / scale

    def keep(self, step: int, values: Tensor | None) -> None:
        """Adds a row of norms that :meth:`measure` has just returned."""
        self._newest = None
        if values is not None and self._measured is not None:
            self._newest = _Row(step, values)
            self._rows.setdefault(self._measured, []).append(self._newest)

    def keep_clipped(self, step: int) -> None:
        """Measures again and adds the global norm to the row of this step, if there is one."""
        if self._newest is not None and self._newest.step == step:
            values = self.measure()
            if values is not None:
                self._newest.clipped = torch.linalg.vector_norm(values)

    def take(self) -> list[Page]:
        """Returns what was kept and begins anew."""
        rows, self._rows, self._newest = self._rows, {}, None
        # Layers may have been frozen or freed, or parameter groups added.
        self._list_parameters()
        return [_pack(layout.layers, group) for layout, group in rows.items()]

    def _list_parameters(self) -> None:
        order = {parameter: i for i, parameter in enumerate(self._names)}
        held = [p for group in self._optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._parameters: list[Tensor] = sorted(held, key=lambda p: order.get(p, len(order)))
        self._layouts.clear()

    def _lay_out(self, present: tuple[int, ...] | None, gradients: Sequence[Tensor]) -> _Layout:
        self.sharded = are_sharded([*self._parameters, *gradients])
        layers = tuple(self._layer(p) for p in self._parameters if p.grad is not None)
        self._layouts[present] = layout = _Layout(layers, are_alike(gradients))
        return layout

    def _layer(self, parameter: Tensor) -> str:
        return self._names.get(parameter, "unnamed").rpartition(".")[0] or "(root)"


def _pack(layers: tuple[str, ...], rows: Sequence[_Row]) -> Page:
    values = torch.stack([row.norms for row in rows])
    bad = ~values.isfinite()
    counts = bad.sum(dim=1)
    first_bad = bad[(counts > 0).to(torch.uint8).argmax()]
    kept = values.masked_fill((counts > 0).unsqueeze(1), 0.0)
    means = kept.sum(dim=0) / (counts == 0).sum().clamp(min=1)
    totals = torch.linalg.vector_norm(values, dim=1)
    clipped = torch.stack([totals.new_tensor(math.nan) if row.clipped is None else row.clipped for row in rows])
    return Page(layers, [row.step for row in rows], torch.cat([totals, counts, clipped, means, first_bad]))
