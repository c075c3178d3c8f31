"""An even sample of the rows of batches that pass by, and their fingerprints."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from lightning_doctor.measure.batches import is_dense, leaves
from lightning_doctor.measure.fingerprints import Fingerprinter, duplicate_share, thin
from lightning_doctor.measure.rows import count_rows, join, take, tensor_bytes, tensors

# Rows of a kind that are compared and scored.
ROWS = 500
# Batches that rows are taken from: of a few only, as in sorted data, they would all be of one kind.
_PICKS = 32
# What may be kept of them [bytes]: with rows of both sides, half as many again that are scored beside simple models,
# and all else that is kept it is less than ten million.
_BYTES = 3 << 20
# Columns that samples are compared in: the test must be quick, and many columns hide a difference of one.
_COLUMNS = 96
# Of the largest value in the first batch: rows that differ by less were stored or scaled in another way.
_ROUNDING = 1e-4
# Elements of a row that its fingerprint is made of, and rows that are done at once: a fingerprinter thins out more.
_PRINTED, _PRINTED_ROWS = 1024, 256


class RowSample:
    """Keeps rows of the first pass over a data set, evenly from its beginning to its end.

    Args:
        most: How many rows to keep, at most.
        batches: How many batches a pass has; None where nobody knows.
    """

    def __init__(self, most: int, batches: int | None) -> None:
        self._most = most
        self._of = batches
        self._stride, self._per_pick = 1, 0
        self._pieces: list[Any] = []
        self._sizes: list[int] = []
        self._next = 0
        self._joins = True
        self.reason: str | None = None

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(self._sizes)

    @property
    def full(self) -> bool:
        """Whether nothing more will be kept."""
        return self.rows >= self._most

    def passes(self, batch_idx: int) -> int | None:
        """Returns how many batches from this one on go by before one that rows are taken of; None where none is."""
        return None if self.full or self.reason is not None else max(0, self._next - batch_idx)

    def take(self, batch: Any, batch_idx: int, batch_size: Any = None, samples: Any = None) -> None:
        """Takes rows of this batch, if it is one of those.

        Args:
            batch: A batch of any nesting.
            batch_idx: Its index in the pass.
            batch_size: What the loader says.
            samples: How many the loader serves.
        """
        if self.full or batch_idx < self._next:
            return
        if not all(is_dense(tensor) for _, tensor in leaves(batch)):
            self.reason = "the batch holds tensors that are not dense"
            return
        rows = count_rows(batch, batch_size, samples, least=1)
        if rows is None:
            self.reason = "the first dimension of the batch is not known to be that of its samples"
            return
        if not self._per_pick:
            self._plan(rows, tensor_bytes(tensors(batch)) / rows)
        self._next = batch_idx + self._stride
        count = min(rows, self._per_pick, self._most - self.rows)
        self._pieces.append(take(batch, rows, torch.arange(count) * rows // count))
        self._sizes.append(count)

    def _plan(self, rows: int, row_bytes: float) -> None:
        self._most = max(1, min(self._most, int(_BYTES // max(row_bytes, 1))))
        picks = _PICKS if self._of is None else max(1, min(_PICKS, self._of))
        # Of small batches all rows, and more batches; as many of each.
        self._per_pick = min(rows, max(1, self._most // picks))
        picks = self._most // self._per_pick
        if self._of is not None:
            picks = max(1, min(picks, self._of))
            self._stride = self._of // picks or 1
        self._most = picks * self._per_pick

    def rows_of(self, batches: int) -> int:
        """Returns how many rows so many batches hold at most: as far as is known, pieces that cannot be joined."""
        return self.rows if self._joins else sum(self._sizes[:batches])

    def batches(self, rows: int) -> list[tuple[Any, int]]:
        """Returns what was kept as batches of ``rows`` rows, each from all over the pass, and how many each has.

        Where pieces cannot be joined they are batches themselves.
        """
        if not self._pieces:
            return []
        whole, total = self._joined()
        if whole is None:
            return list(zip(self._pieces, self._sizes, strict=True))
        parts = max(1, total // max(1, rows))
        if parts == 1:
            return [(whole, total)]
        index = [torch.arange(part, total, parts) for part in range(parts)]
        return [(take(whole, total, chosen), len(chosen)) for chosen in index]

    def _joined(self) -> tuple[Any | None, int]:
        """Returns all pieces of one size as one, and how many rows it has; None where they cannot be joined."""
        size = max(self._sizes)
        alike = [piece for piece, count in zip(self._pieces, self._sizes, strict=True) if count == size]
        whole, total = join(alike, size) if len(alike) > 1 else alike[0], size * len(alike)
        self._joins = whole is not None
        if self.full and self._joins:
            # The pieces need not be kept beside it.
            self._pieces, self._sizes, self._most = [whole], [total], total
        return whole, total


def columns(values: Tensor, most: int = _COLUMNS) -> Tensor:
    """Returns rows ``[N, D]`` of at most ``most`` columns, evenly spread, and the mean and spread of many in a row."""
    flat = values.reshape(len(values), -1)
    flat = flat.float() if flat.dtype not in (torch.float32, torch.float64) else flat
    if flat.shape[1] <= most:
        return flat
    every = thin(values, len(values) * most, keep=0).reshape(len(values), -1)
    return torch.cat([every.to(flat), flat.mean(1, keepdim=True), flat.std(1, keepdim=True)], dim=1)


class Prints:
    """Fingerprints of the rows of many batches, exact and rounded.

    Rounding is to a share of the largest value in the first batch of all, so that the same row is the same again after
    it was stored or computed with fewer digits.

    Args:
        most: Rows that are taken, at most.
        like: Prints to compare with, whose rounding is taken over.
    """

    def __init__(self, most: int, like: Prints | None = None) -> None:
        self._most = most
        self._printer: Fingerprinter | None = None if like is None else like._printer
        self._step: Tensor | None = None if like is None else like._step
        self._exact: list[Tensor] = []
        self._rounded: list[Tensor] = []
        self.rows = 0

    @property
    def full(self) -> bool:
        """Whether no more are taken."""
        return self.rows >= self._most

    def add(self, values: Tensor) -> None:
        """Takes the rows ``[N, …]`` of a batch."""
        if self.full or values.ndim == 0 or not prod(values.shape):
            return
        if self._printer is None or self._printer.device != values.device:
            self._printer = Fingerprinter(values.device)
        # As many elements of a row, whatever the size of its batch.
        values = thin(values, len(values) * _PRINTED, keep=0)
        rounded = values
        if values.is_floating_point():
            if self._step is None:
                self._step = values.abs().amax().double() * _ROUNDING
            rounded = (values.double() / self._step).round().long()
        self._exact += [self._printer.of_rows([part]) for part in torch.tensor_split(values, _pieces(values))]
        self._rounded += [self._printer.of_rows([part]) for part in torch.tensor_split(rounded, _pieces(rounded))]
        self.rows += len(values)

    def exact(self) -> Tensor:
        """Returns one number a row ``[N]``, the same for the same bits."""
        return torch.cat(self._exact)

    def rounded(self) -> Tensor:
        """Returns one number a row ``[N]``, the same for values that round alike."""
        return torch.cat(self._rounded)


def share_found(rows: Tensor, among: Tensor) -> float:
    """Returns the share of rows ``[N]`` that are among others ``[M]``."""
    return float(torch.isin(rows, among).double().mean()) if len(rows) else 0.0


def different_found(rows: Tensor, among: Tensor) -> int:
    """Returns how many different ones of rows ``[N]`` are among others ``[M]``."""
    return len(torch.unique(rows[torch.isin(rows, among)]))


def share_repeated(rows: Tensor) -> float:
    """Returns the share of rows ``[N]`` that are there more than once."""
    return float(duplicate_share(rows)) if len(rows) > 1 else 0.0


def _pieces(values: Tensor) -> int:
    return ceil(len(values) / _PRINTED_ROWS)
