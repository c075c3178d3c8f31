"""The samples of a batch: its rows, where a batch of any nesting has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_doctor.measure.batches import is_dense, leaves


def tensors(batch: Any) -> list[Tensor]:
    """Returns the dense tensors of a batch that have a first dimension."""
    return [tensor for _, tensor in leaves(batch) if is_dense(tensor) and tensor.ndim]


def has_rows(tensor: Tensor, rows: int) -> bool:
    """Whether the first dimension has this size."""
    return not tensor.is_nested and tensor.ndim > 0 and len(tensor) == rows


def count_rows(batch: Any, batch_size: Any = None, samples: Any = None) -> int | None:
    """Returns the number of samples of a batch; None where its first dimension is not known to be that of samples.

    Args:
        batch: A batch of any nesting.
        batch_size: What the loader says, if it does: a batch of that size, or of what is left of all samples, has
            rows. Where nobody says, tensors of one dimension are taken for labels, one a sample.
        samples: The number of samples that the loader serves.
    """
    found = tensors(batch)
    sizes = [len(tensor) for tensor in found]
    likely: Iterable[int]
    if isinstance(batch_size, int) and batch_size > 0:
        likely = [batch_size, samples % batch_size if isinstance(samples, int) else 0]
    else:
        likely = [len(tensor) for tensor in found if tensor.ndim == 1 and len(set(sizes)) == 1]
    return next((rows for rows in likely if rows > 1 and rows in sizes), None)


def take(batch: Any, rows: int, index: Tensor) -> Any:
    """Returns the batch with these of its ``rows`` rows, ``index`` [K]; what has no rows stays as it is."""

    def chosen(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, index.to(tensor.device)) if has_rows(tensor, rows) else tensor

    return apply_to_collection(batch, Tensor, chosen)
