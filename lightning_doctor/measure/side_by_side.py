"""One part of the rows of two samples, tested against each other and told as plain JSON."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_doctor.measure.held_out_rows import columns
from lightning_doctor.measure.two_sample import TwoSample, two_sample

_MOST_CLASSES, _NAMED, _FEWEST = 32, 4, 8


def side_by_side(first: Tensor | None, second: Tensor | None, name: str, *, classes: bool) -> dict[str, Any]:
    """Returns what a two-sample test says of two tensors ``[N, …]`` and ``[M, …]``, or the reason why there is none.

    Args:
        first: That of training rows; None where it is not known.
        second: That of validation rows.
        name: What it is called in a batch.
        classes: Whether whole numbers are labels, which are compared class by class.
    """
    reason = _why_not(first, second)
    if reason is None and first is not None and second is not None:
        tables = _tables(first, second, classes=classes)
        reason = _unfit(*tables)
        if reason is None:
            told = _told(two_sample(*tables), name, first, classes=classes)
            return told if classes else {**told, "coinciding": coinciding(tables[0])}
    return {"reason": reason}


def coinciding(rows: Tensor) -> float:
    """Returns the share of different rows ``[N, D]`` that have the same number as another in the usual column.

    1 for whole numbers, which may be names.
    """
    if torch.equal(rows, rows.round()):
        return 1.0
    different = torch.unique(rows, dim=0)
    values = 1 + different.sort(0).values.diff(dim=0).ne(0).sum(0)
    return 1 - float(values.double().median()) / len(different)


def _why_not(first: Tensor | None, second: Tensor | None) -> str | None:
    if first is None or second is None:
        return "which part of the batch this is cannot be told"
    if first.shape[1:] != second.shape[1:]:
        return f"a training row has shape {list(first.shape[1:])}, a validation row {list(second.shape[1:])}"
    if not first.ndim or not second.ndim:
        return "a single number has no rows"
    if first.is_complex() or second.is_complex():
        return "complex numbers are not compared"
    return None


def _tables(first: Tensor, second: Tensor, *, classes: bool) -> tuple[Tensor, Tensor]:
    """Returns what is compared, ``[N, D]`` and ``[M, D]``: labels as one column a class."""
    if classes and not first.is_floating_point() and first.ndim == 1:
        most = int(max(first.max(), second.max()))
        if int(min(first.min(), second.min())) >= 0 and most < _MOST_CLASSES:
            one_hot = torch.nn.functional.one_hot
            return one_hot(first.long(), most + 1).float(), one_hot(second.long(), most + 1).float()
    return columns(first), columns(second)


def _unfit(first: Tensor, second: Tensor) -> str | None:
    if min(len(first), len(second)) < _FEWEST:
        return f"{min(len(first), len(second))} rows are too few to compare"
    if not (first.isfinite().all() and second.isfinite().all()):
        return "not every value is finite"
    return None


def _told(result: TwoSample, name: str, like: Tensor, *, classes: bool) -> dict[str, Any]:
    """Returns the result as plain JSON, with the most different columns by name."""
    thinned = not classes and columns(like[:1]).shape[1] != like[:1].numel()
    flat = like.ndim == 1
    return {
        "p_value": result.p_value,
        "separation": result.separation,
        "rows": list(result.rows),
        "columns": len(result.differences),
        "shifted": sum(abs(each.shift) > 1 or not 0.5 < each.ratio < 2 for each in result.differences),
        "largest": [
            {
                # Of many columns only some are compared, by numbers of their own.
                "name": f"class {each.column}"
                if classes and flat and len(result.differences) > 1
                else name
                if flat
                else f"{name}{'~' if thinned else ''}[{each.column}]",
                "means": list(each.means),
                "spreads": list(each.spreads),
                "shift": each.shift,
                "ratio": min(each.ratio, 1e9),
            }
            for each in result.differences[:_NAMED]
        ],
    }
