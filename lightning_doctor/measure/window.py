"""Numbers of many steps, kept on their device until a window is full, then fetched in one copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_doctor.measure.rank_mean import RankMean

Receiver = Callable[[int, list[float]], None]


@dataclass(frozen=True)
class _Reading:
    step: int
    value: Tensor
    receive: Receiver


class Window:
    """Readings that wait for one blocking copy.

    Args:
        together: Whether the readings are averaged over ranks, which then must put the same ones.
    """

    def __init__(self, together: bool = False) -> None:
        self._readings: list[_Reading] = []
        self._mean = RankMean(together)

    def put(self, step: int, value: Tensor, receive: Receiver) -> None:
        """Keeps a tensor of any shape; ``receive(step, numbers)`` gets it flat, as floats, when the window closes.

        The tensor must not change meanwhile: copy what somebody else owns.
        """
        self._readings.append(_Reading(step, value, receive))

    def close(self, signals: list[float], *, alone: bool = False) -> list[float]:
        """Fetches every reading, hands each to its receiver in the order they were put, and empties the window.

        Args:
            signals: This rank's own numbers, averaged over ranks with the rest.
            alone: Do not communicate this time, as after an exception, when the other ranks may be elsewhere.

        Returns:
            ``signals``, averaged over ranks.
        """
        readings, self._readings = self._readings, []
        numbers = self._fetch([reading.value for reading in readings], signals, alone)
        end = 0
        for reading in readings:
            begin, end = end, end + reading.value.numel()
            reading.receive(reading.step, numbers[begin:end])
        return numbers[end:]

    def _fetch(self, values: list[Tensor], signals: list[float], alone: bool) -> list[float]:
        if not values and not self._mean.sync_on_compute:
            return signals
        device = values[-1].device if values else self._mean.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        parts = [value.detach().reshape(-1) for value in values]
        if any(part.device != device for part in parts):
            parts = [part.to(device) for part in parts]
        flat = torch.cat([*parts, torch.tensor(signals, device=device, dtype=dtype)]).to(dtype)
        if self._mean.sync_on_compute and not alone:
            self._mean.to(device)
            self._mean.reset()
            self._mean.update(flat)
            flat = self._mean.compute()
        numbers: list[float] = flat.tolist()
        return numbers
