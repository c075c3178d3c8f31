"""The samples of a batch: its rows, where a batch of any nesting has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_doctor.measure.batches import is_dense, leaves

# Nothing is taken from these by index.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
# Layouts of which rows can be taken; the compressed ones refuse.
_CUT = (torch.strided, torch.sparse_coo)


def tensors(batch: Any) -> list[Tensor]:
    """Returns the dense tensors of a batch that have a first dimension."""
    return [tensor for _, tensor in leaves(batch) if is_dense(tensor) and tensor.ndim]


def tensor_bytes(held: Iterable[Tensor]) -> int:
    """Returns what tensors take [bytes]."""
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def has_rows(tensor: Tensor, rows: int) -> bool:
    """Whether the first dimension has this size."""
    return not tensor.is_nested and tensor.ndim > 0 and len(tensor) == rows


def count_rows(batch: Any, batch_size: Any = None, samples: Any = None, least: int = 2) -> int | None:
    """Returns the number of samples of a batch; None where its first dimension is not known to be that of samples.

    Args:
        batch: A batch of any nesting.
        batch_size: What the loader says, if it does: a batch of that size, or of what is left of all samples, has
            rows. Where nobody says, tensors of one dimension are taken for labels, one a sample.
        samples: The number of samples that the loader serves.
        least: How many there must be.
    """
    found = tensors(batch)
    sizes = [len(tensor) for tensor in found]
    likely: Iterable[int]
    if isinstance(batch_size, int) and batch_size > 0:
        likely = [batch_size, samples % batch_size if isinstance(samples, int) else 0]
    else:
        likely = [len(tensor) for tensor in found if tensor.ndim == 1 and len(set(sizes)) == 1]
    rows = next((rows for rows in likely if rows >= least and rows in sizes), None)
    # Nobody can take rows of these, and without them a part of the batch is none.
    whole = [len(tensor) for _, tensor in leaves(batch) if tensor.layout not in _CUT and tensor.ndim]
    return None if rows in whole else rows


def take(batch: Any, rows: int, index: Tensor) -> Any:
    """Returns the batch with these of its ``rows`` rows, ``index`` [K]; what has no rows stays as it is.

    Rows are those of tensors, and names in a list: ``{"id": ["a", "b"], "x": …}``.
    """

    def chosen(part: Any) -> Any:
        if isinstance(part, Tensor):
            return _taken(part, index) if has_rows(part, rows) else part
        if _names(part, rows):
            return [part[place] for place in index.tolist()]
        return [apply_to_collection(each, (Tensor, list), chosen) for each in part]

    return apply_to_collection(batch, (Tensor, list), chosen)


def cut_rows(batch: Any, rows: int, count: int, begin: int = 0, end: int | None = None) -> list[Any]:
    """Cuts rows ``begin`` to ``end`` into so many parts of equal size; what is left over is left out."""
    size = ((rows if end is None else end) - begin) // count
    return [take(batch, rows, torch.arange(begin + i * size, begin + (i + 1) * size)) for i in range(count)]


def join(batches: Sequence[Any], rows: int) -> Any | None:
    """Returns batches of ``rows`` rows each as one; None where they are of kinds that cannot be joined."""
    first = batches[0]
    if any(type(batch) is not type(first) for batch in batches):
        return None
    if isinstance(first, Tensor):
        alike = all(has_rows(batch, rows) and batch.shape == first.shape for batch in batches)
        return torch.cat(list(batches)) if alike else first if all(batch is first for batch in batches) else None
    if isinstance(first, Mapping):
        if any(batch.keys() != first.keys() for batch in batches):
            return None
        joined = {key: join([batch[key] for batch in batches], rows) for key in first}
        return None if any(part is None for part in joined.values()) else joined
    if _names(first, rows) and all(_names(batch, rows) for batch in batches):
        return [name for batch in batches for name in batch]
    if isinstance(first, (list, tuple)):
        if any(len(batch) != len(first) for batch in batches):
            return None
        parts: list[Any] = [join(values, rows) for values in zip(*batches, strict=True)]
        if any(part is None for part in parts):
            return None
        if isinstance(first, list):
            return parts
        make: Any = type(first)
        return make(*parts) if hasattr(first, "_fields") else tuple(parts)
    try:
        return first if all(batch == first for batch in batches) else None
    except Exception:  # noqa: BLE001
        # Objects that hold tensors or arrays do not say whether they are equal.
        return None


def _names(part: Any, rows: int) -> bool:
    """Whether this is a list with a name for each row, such as where its file lies."""
    return isinstance(part, list) and len(part) == rows > 0 and all(isinstance(name, str) for name in part)


def _taken(tensor: Tensor, index: Tensor) -> Tensor:
    # Of unsigned numbers wider than a byte, as in medical images, only the bits can be taken.
    if tensor.dtype in _SIGNED:
        return _taken(tensor.view(_SIGNED[tensor.dtype]), index).view(tensor.dtype)
    return tensor.index_select(0, index.to(tensor.device))
