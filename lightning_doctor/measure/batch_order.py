"""Whether batches come again: within an epoch, or in the same order as in the one before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BACK = 4
_MOST_REMEMBERED = 64


@dataclass(frozen=True)
class _Seen:
    step: int
    index: int
    print_: Tensor
    recent: tuple[Tensor, ...]
    earlier: Tensor | None


class BatchOrder:
    """Remembers fingerprints on their device and compares them there, so that averaging over ranks makes sense.

    Of an epoch the first 64 batches are remembered for the next one, and one of a single batch not at all: where
    the epoch is one batch, it comes again as it must. Repeats are looked for inside one epoch.
    """

    def __init__(self) -> None:
        self._epoch = -1
        self._longest = 0
        self._follows = -1
        self._recent: dict[int, Tensor] = {}
        self._now: dict[int, Tensor] = {}
        self._before: dict[int, Tensor] = {}
        self._pending: list[_Seen] = []

    def arrives(self, epoch: int, index: int) -> bool:
        """Takes note of a batch; says whether it is worth a fingerprint though its step is not measured.

        So are the first batch of an epoch, else none may meet itself again, and one that follows a measured one.
        """
        if epoch != self._epoch:
            follows_on = epoch == self._epoch + 1 and self._longest > 0
            self._before = self._now if follows_on else {}
            self._epoch, self._follows = epoch, -1
            self._recent, self._now = {}, {}
        self._longest = max(self._longest, index)
        return index == 0 or index == self._follows + 1

    def add(self, step: int, index: int, fingerprint: Tensor, *, measured: bool) -> None:
        """Keeps the fingerprint of the batch that has just arrived."""
        self._recent = {i: print_ for i, print_ in self._recent.items() if i >= index - _BACK}
        recent = tuple(self._recent.values())
        self._pending.append(_Seen(step, index, fingerprint, recent, self._before.get(index)))
        self._recent[index] = fingerprint
        if index < _MOST_REMEMBERED:
            self._now[index] = fingerprint
        if measured:
            self._follows = index

    def take(self) -> tuple[list[int], Tensor | None]:
        """Compares what was added since the last call.

        Returns:
            The steps of N batches, and for each ``[2, N]`` whether it equals one of the four before it, and the one at
            its place in the previous epoch: 1 or 0, NaN where there is none to compare with. No tensor where N = 0.
        """
        seen, self._pending = [s for s in self._pending if s.recent or s.earlier is not None], []
        if not seen:
            return [], None
        prints = torch.stack([s.print_ for s in seen])
        # Nothing equals its one's complement.
        others = ~prints
        earlier = torch.stack([others[i] if s.earlier is None else s.earlier for i, s in enumerate(seen)])
        recent = torch.stack([p for i, s in enumerate(seen) for p in (*s.recent, *[others[i]] * _BACK)[:_BACK]])
        repeated = (recent.reshape(-1, _BACK) == prints.unsqueeze(1)).any(dim=1)
        known = torch.tensor([[bool(s.recent) for s in seen], [s.earlier is not None for s in seen]])
        equal = torch.stack([repeated, earlier == prints]).to(torch.float32)
        return [s.step for s in seen], equal.masked_fill(~known.to(equal.device), math.nan)
