"""Mean and spread of every input feature, gathered batch by batch on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_doctor.measure.fingerprints import thin

_MOST_FEATURES = 4096
_MOST_ELEMENTS = 2**15
_SHOWN = 3


class FeatureMoments:
    """Counts, means and sums of squared deviations of features, over batches (Chan, Golub and LeVeque 1979, eq. 2.1).

    Elements that are NaN or infinite are left out. Of more than 4,096 features every so-manyth is measured, and of a
    large batch as many rows and positions as make 32,768 elements.
    """

    def __init__(self) -> None:
        self._like: tuple[int, torch.device] | None = None
        self._samples = 0
        self._counts = self._means = self._squares = torch.zeros(0)
        self._largest = torch.zeros(())

    def add(self, values: Tensor, axis: int) -> None:
        """Adds a dense batch ``[N, …]`` whose features lie along ``axis``; one with other features begins anew."""
        features = values.shape[axis]
        wide = values.detach().movedim(axis, -1)[..., :: _stride(features)]
        wide = thin(wide, max(_MOST_ELEMENTS, 8 * wide.shape[-1]), keep=-1)
        rows = wide.reshape(-1, wide.shape[-1])
        if self._like != (features, rows.device):
            self._begin(features, rows)
        self._samples += len(wide)
        rows = rows.to(self._means.dtype)
        bad = (rows - rows) != 0
        rows = rows.masked_fill(bad, 0.0)
        counts = len(rows) - bad.sum(dim=0)
        means = rows.sum(dim=0) / counts.clamp(min=1)
        squares = (rows - means).masked_fill(bad, 0.0).square().sum(dim=0)
        total = self._counts + counts
        distance, share = means - self._means, counts / total.clamp(min=1)
        self._squares = self._squares + squares + distance.square() * self._counts * share
        self._means = self._means + distance * share
        self._counts = total
        self._largest = torch.maximum(self._largest, rows.abs().amax())

    def packed(self) -> Tensor:
        """Returns everything as one vector ``[3 + 3 F]`` for :func:`summary`, on the device."""
        features = 0 if self._like is None else self._like[0]
        head = torch.stack(
            [self._largest.new_full((), features), self._largest.new_full((), self._samples), self._largest]
        )
        return torch.cat([head, self._counts, self._means, self._squares])

    def _begin(self, features: int, rows: Tensor) -> None:
        self._like, self._samples = (features, rows.device), 0
        dtype = torch.float32 if rows.device.type == "mps" else torch.float64
        self._counts = torch.zeros(rows.shape[1], dtype=dtype, device=rows.device)
        self._means, self._squares = torch.zeros_like(self._counts), torch.zeros_like(self._counts)
        self._largest = self._counts.new_zeros(())


def summary(numbers: list[float]) -> dict[str, Any] | None:
    """Returns what :meth:`FeatureMoments.packed` holds as plain JSON; None where no element was finite.

    ``constant_features`` spread less than a millionth of their size; ``std_min`` and ``smallest`` are over the others.
    ``largest`` and ``smallest`` list up to three features by their root mean square.
    """
    features, samples, abs_max = int(numbers[0]), int(numbers[1]), numbers[2]
    counts, means, squares = torch.tensor(numbers[3:], dtype=torch.float64, device="cpu").reshape(3, -1)
    stride = _stride(features)
    seen = counts > 0
    means, index = means[seen], seen.nonzero()[:, 0] * stride
    if not len(index):
        return None
    std = (squares[seen] / counts[seen]).sqrt()
    varies = std > 1e-6 * means.abs()
    size = (means.square() + std.square()).sqrt()
    spread = std[varies] if bool(varies.any()) else std

    def show(order: Tensor) -> list[dict[str, Any]]:
        return [{"feature": int(index[i]), "mean": float(means[i]), "std": float(std[i])} for i in order.tolist()]

    by_size = size.argsort(descending=True)
    return {
        "features": features,
        "mean_min": float(means.min()),
        "mean_max": float(means.max()),
        "std_min": float(spread.min()),
        "std_max": float(spread.max()),
        "std_median": float(spread.median()),
        "abs_max": abs_max,
        "samples": samples,
        "constant_features": int((~varies).sum()) * stride,
        "largest": show(by_size[:_SHOWN]),
        "smallest": show(by_size[varies[by_size]].flip(0)[:_SHOWN]),
    }


def _stride(features: int) -> int:
    return -(-max(1, features) // _MOST_FEATURES)
