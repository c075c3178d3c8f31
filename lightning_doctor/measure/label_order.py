"""Whether class labels come mixed: within a batch, and from batch to batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_doctor.measure.batches import is_dense

CLASSES = 1000
# Of more classes, those that leave the same remainder are taken together, which is much cheaper, and harmless: mixed
# they are still mixed, and sorted still sorted.
_BINS = 32
_MOST_ROWS = 4096
# Of floats, so many must be whole before they are taken for classes.
_ENOUGH = 16


class LabelKind:
    """Finds out whether targets are classes, and in which form, from batches seen on the device.

    Attributes:
        form: ``"index"`` for one whole number in [0, 1000) a row, ``"one_hot"`` for one 1 among zeros a row,
            ``"number"`` for one number a row that is no class, None while that is open or where it is none of them.
        why_not: Why the targets have no order; None where they have, or may have.
    """

    def __init__(self) -> None:
        self.form: str | None = None
        self.why_not: str | None = None
        self._seen = 0.0

    @property
    def open(self) -> bool:
        """Whether another batch is worth looking at."""
        return self.form is None and self.why_not is None

    def look(self, targets: Tensor) -> Tensor | None:
        """Returns the numbers that :meth:`learn` needs ``[3]``, on the device; None where the shape says enough."""
        if not is_dense(targets):
            self.why_not = "the targets are sparse or ragged"
            return None
        wide = targets.ndim == 2 and targets.shape[1] > 1
        if targets.is_complex() or not (wide or _one_a_row(targets)):
            self.why_not = f"the targets, {list(targets.shape)}, hold no single class a row"
            return None
        values = targets.detach()[:_MOST_ROWS]
        if wide:
            bad = ((values != 0) & (values != 1)).sum() + (values.sum(dim=1) != 1).sum()
            seen, sure = values.sum(), 0
        else:
            values, floating = values.reshape(-1), values.is_floating_point()
            # Negative whole numbers mark rows to ignore; negative floats are measurements.
            values = values if floating else values.to(torch.int64)
            known, low = values == values, 0 if floating else -CLASSES
            whole = values == values.round() if floating else known
            bad = (known & ~(whole & (values < CLASSES) & (values >= low))).sum()
            seen, sure = known.sum(), int(not floating)
        return torch.stack([seen, bad, torch.full_like(bad, sure + 2 * wide)])

    def learn(self, numbers: list[float]) -> None:
        """Takes the numbers of a batch."""
        seen, bad, kind = numbers
        wide, sure = kind >= 2, kind % 2 == 1
        self._seen += seen
        if bad > 0 and not wide and not sure:
            self.form = "number"
        elif bad > 0:
            self.why_not = "the targets hold no single class a row" if wide else "the targets are no class indices"
        elif self._seen >= (1 if sure else _ENOUGH):
            self.form = "one_hot" if wide else "index"

    def labels(self, targets: Tensor) -> Tensor | None:
        """Returns a copy of the labels or numbers ``[n]`` of a batch, n ≤ 4,096; None where it has another form."""
        if self.form == "one_hot":
            return targets[:_MOST_ROWS].argmax(dim=1) if targets.ndim == 2 and targets.shape[1] > 1 else None
        return targets[:_MOST_ROWS].reshape(-1).clone() if self.form and _one_a_row(targets) else None


class LabelTally:
    """Counts labels on their device and compares each batch with what was seen so far, itself included."""

    def __init__(self) -> None:
        self._totals: Tensor | None = None

    def compare(self, batches: Sequence[Tensor]) -> Tensor:
        """Returns ``label_run`` and ``label_drift`` of each batch ``[2, B]``; NaN where undefined.

        With T_c labels of class c among N seen so far, o_c of them among the n of this batch:

        - run: the share of neighbouring rows with equal labels, less what random order gives,
          q = Σ T_c (T_c − 1) / (N (N − 1)), divided by 1 − q: 0 when shuffled, 1 when sorted;
        - drift: Σ (o_c − n T_c/N)² / (n T_c/N), divided by its mean when the N labels are dealt out at random,
          (k − 1)(N − n)/(N − 1) with k classes: 1 when shuffled.

        Args:
            batches: The labels of each ``[n]``; what is not in [0, 1000) counts for none.
        """
        table = pad_sequence([_whole(labels) for labels in batches], batch_first=True, padding_value=-1)
        known = (table >= 0) & (table < CLASSES)
        table = table.remainder(_BINS).where(known, _BINS)
        bins = table + torch.arange(len(table), device=table.device).unsqueeze(1) * (_BINS + 1)
        counts = torch.zeros(len(table) * (_BINS + 1), dtype=torch.int64, device=table.device)
        counts.index_add_(0, bins.reshape(-1), torch.ones_like(bins).reshape(-1))
        counts = counts.reshape(len(table), -1)[:, :_BINS]
        totals = counts.cumsum(dim=0)
        if self._totals is not None and self._totals.device == totals.device:
            totals = totals + self._totals
        self._totals = totals[-1].clone()

        dtype = torch.float32 if table.device.type == "mps" else torch.float64
        o, t = counts.to(dtype), totals.to(dtype)
        n, every = o.sum(dim=1), t.sum(dim=1)
        pairs = known[:, 1:] & known[:, :-1]
        equal = (pairs & (table[:, 1:] == table[:, :-1])).sum(dim=1) / pairs.sum(dim=1).to(dtype)
        chance = (t * (t - 1)).sum(dim=1) / (every * (every - 1))
        run = (equal - chance) / (1 - chance)

        expected = n.unsqueeze(1) * t / every.unsqueeze(1)
        square = torch.where(t > 0, (o - expected).square() / expected, 0.0).sum(dim=1)
        drift = square * (every - 1) / (((t > 0).sum(dim=1) - 1) * (every - n))
        return torch.stack([run, drift])


def _one_a_row(targets: Tensor) -> bool:
    return targets.ndim == 1 or (targets.ndim == 2 and targets.shape[1] == 1)


def _whole(labels: Tensor) -> Tensor:
    return (labels.nan_to_num(nan=-1.0) if labels.is_floating_point() else labels).to(torch.int64)
