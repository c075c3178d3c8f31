"""The samples of a probe: batches that choose what is looked at, and others that test it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_doctor.measure.landscape import as_double
from lightning_doctor.measure.rows import count_rows, cut_rows, join

# A batch and its index, as a training step takes them.
Sample = tuple[Any, int]

# Sub-batches that a verdict is tested on, and the rows each must have: batch normalisation makes little of fewer.
_PARTS, FEWEST = 8, 8
# More batches than this are joined.
_FEW_BATCHES = 8


@dataclass(frozen=True)
class Supply:
    """The samples of a probe.

    Attributes:
        batches: All of them, whole, as they were trained on.
        choosing: Batches that choose directions.
        testing: Batches, or parts of them, that test what was chosen.
        held_out: Whether the testing samples are others.
        sizes: The rows of each of the batches; None where unknown.
        rows: Of the choosing ones, together; None where unknown.
        tested: Of the testing ones, together; None where unknown.
    """

    batches: list[Sample]
    choosing: list[Sample]
    testing: list[Sample]
    held_out: bool
    sizes: list[int | None]
    rows: int | None
    tested: int | None


def supply(batches: Sequence[Sample], *, whole: bool, batch_size: Any = None, samples: Any = None) -> Supply:
    """Shares batches out among those that choose and those that test.

    Args:
        batches: As they were trained on.
        whole: Whether each of them is all the data there is: then there are no others to test on, and no need.
        batch_size: What the loader says.
        samples: The number of samples that it serves.
    """
    sizes = [count_rows(batch, batch_size, samples, least=1) for batch, _ in batches]
    if len(batches) > _FEW_BATCHES and sizes[0] is not None and set(sizes) == {sizes[0]}:
        batches, sizes = _joined(batches, sizes[0])
    if whole or len(batches) < 2:
        return Supply(list(batches[:1]), list(batches[:1]), list(batches[:1]), False, sizes[:1], sizes[0], sizes[0])
    half = len(batches) // 2
    most = math.ceil(_PARTS / (len(batches) - half))
    tested = [
        part
        for batch, rows in zip(batches[half:], sizes[half:], strict=True)
        for part in cut(batch, rows, min(most, (rows or 0) // FEWEST))
    ]
    return Supply(list(batches), list(batches[:half]), tested, True, sizes, _total(sizes[:half]), _total(sizes[half:]))


def _joined(batches: Sequence[Sample], rows: int) -> tuple[list[Sample], list[int | None]]:
    """Makes few batches of many small ones."""
    count = math.ceil(len(batches) / _FEW_BATCHES)
    groups = [batches[start : start + count] for start in range(0, len(batches), count)]
    found = [(join([batch for batch, _ in group], rows), group[0][1]) for group in groups]
    if any(batch is None for batch, _ in found):
        return list(batches), [rows] * len(batches)
    return found, [rows * len(group) for group in groups]


def cut(sample: Sample, rows: int | None, count: int) -> list[Sample]:
    """Cuts a batch into so many parts of equal size, if its rows are known; what is left over is left out."""
    if rows is None or count < 2:
        return [sample]
    batch, index = sample
    return [(part, index) for part in cut_rows(batch, rows, count)]


def halved(samples: Supply) -> Supply | None:
    """Returns a supply with half as many choosing samples; None where they cannot be halved."""
    count, rows = len(samples.choosing), samples.sizes[0]
    if count > 1:
        fewer = None if samples.rows is None else samples.rows * (count // 2) // count
        return replace(samples, choosing=samples.choosing[: count // 2], rows=fewer)
    halves = cut(samples.choosing[0], rows, 2)
    if rows is None or len(halves) < 2 or rows < 2 * FEWEST:
        return None
    tested = samples.testing if samples.held_out else halves[:1]
    rest = halves[:1] if samples.batches == samples.choosing else [halves[0], *samples.batches[1:]]
    sizes = [rows // 2, *samples.sizes[1:]]
    return replace(samples, batches=rest, choosing=halves[:1], testing=tested, sizes=sizes, rows=rows // 2)


def as_doubles(samples: Supply) -> Supply:
    """Returns the samples with their floating-point tensors in float64."""
    wide = {id(sample): as_double(sample) for sample in (*samples.batches, *samples.choosing, *samples.testing)}
    batches, choosing, testing = (
        [wide[id(sample)] for sample in part] for part in (samples.batches, samples.choosing, samples.testing)
    )
    return replace(samples, batches=batches, choosing=choosing, testing=testing)


def _total(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
