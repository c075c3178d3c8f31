"""Whether targets that are numbers come mixed: within a batch, and from batch to batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class NumberTally:
    """Sums up numbers on their device and compares each batch with what was seen so far, itself included."""

    def __init__(self) -> None:
        self._totals: Tensor | None = None
        self._shift: Tensor | None = None

    def compare(self, batches: Sequence[Tensor]) -> Tensor:
        """Returns ``label_run`` and ``label_drift`` of each batch ``[2, B]``; NaN where undefined.

        With the mean m and the variance v of the N numbers seen so far, n of them in this batch, of mean b:

        - run: 1 less the mean squared difference of neighbours over its mean in random order, 2 v N/(N − 1):
          0 when shuffled, 1 when sorted;
        - drift: n (b − m)²/v, divided by its mean when the N numbers are dealt out at random, (N − n)/(N − 1):
          1 when shuffled, and about n where nearly all of the variance is between batches.

        Args:
            batches: The numbers of each ``[n]``; what is not finite is left out.
        """
        dtype = torch.float32 if batches[0].device.type == "mps" else torch.float64
        table = pad_sequence([batch.to(dtype) for batch in batches], batch_first=True, padding_value=torch.nan)
        known = table.isfinite()
        if self._shift is None or self._shift.device != table.device:
            # Far from zero, squares would lose the variance.
            self._shift, self._totals = table[0].where(known[0], 0.0).sum() / known[0].sum().clamp(min=1), None
        values = (table - self._shift).where(known, 0.0)
        sums = torch.stack([known.sum(1).to(dtype), values.sum(1), values.square().sum(1)])
        totals = sums.cumsum(1) if self._totals is None else sums.cumsum(1) + self._totals
        self._totals = totals[:, -1:].clone()

        n, every = sums[0], totals[0]
        mean = totals[1] / every
        variance = totals[2] / every - mean.square()
        pairs = known[:, 1:] & known[:, :-1]
        steps = (values[:, 1:] - values[:, :-1]).square().where(pairs, 0.0).sum(1) / pairs.sum(1).to(dtype)
        run = 1 - steps * (every - 1) / (2 * variance * every)
        drift = n * (sums[1] / n - mean).square() / variance * (every - 1) / (every - n)
        return torch.stack([run, drift])
