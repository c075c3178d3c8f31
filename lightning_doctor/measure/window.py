"""Numbers of many steps, kept on their device until a window is full, then fetched in one copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_doctor.measure.rank_mean import RankMean

Receiver = Callable[[int, list[float]], None]
OnFailure = Callable[[Exception], None]


@dataclass(frozen=True)
class _Reading:
    step: int
    value: Tensor
    receive: Receiver


class Window:
    """Readings that wait for one blocking copy.

    Args:
        together: Whether the readings are averaged over ranks. Then every rank closes its windows at the same steps,
            whatever has failed on it.
        device: Where ranks meet.
    """

    def __init__(self, together: bool = False, device: torch.device | None = None) -> None:
        self._together = together
        self._device = device
        self._readings: list[_Reading] = []

    def put(self, step: int, value: Tensor, receive: Receiver) -> None:
        """Keeps a tensor of any shape; ``receive(step, numbers)`` gets it flat, as floats, when the window closes.

        The tensor must not change meanwhile: copy what somebody else owns.
        """
        self._readings.append(_Reading(step, value, receive))

    def close(self, signals: list[float], on_failure: OnFailure, *, alone: bool = False) -> list[float]:
        """Fetches every reading, hands each to its receiver in the order they were put, and empties the window.

        Args:
            signals: This rank's own numbers, averaged over ranks with the rest.
            on_failure: Told of what went wrong, which never keeps this rank from meeting the others.
            alone: Do not communicate this time, as after an exception, when the other ranks may be elsewhere.

        Returns:
            ``signals``, averaged over ranks; NaN where ranks had different numbers of readings.
        """
        readings, self._readings = self._readings, []
        # At the front, where they are found whatever else a rank has put.
        flat = torch.tensor(signals, dtype=torch.float64)
        try:
            if readings:
                flat = _join(flat, [reading.value for reading in readings])
        except Exception as error:  # noqa: BLE001
            readings = []
            on_failure(error)
        if self._together and not alone:
            flat = _mean(flat.to(self._device), len(signals), on_failure)
        numbers = list(signals)
        try:
            numbers = flat.tolist()
        except Exception as error:  # noqa: BLE001
            readings = []
            on_failure(error)
        end = len(signals)
        for reading in readings:
            begin, end = end, end + reading.value.numel()
            try:
                reading.receive(reading.step, numbers[begin:end])
            except Exception as error:  # noqa: BLE001
                on_failure(error)
        return numbers[: len(signals)]


def _mean(flat: Tensor, signals: int, on_failure: OnFailure) -> Tensor:
    metric = RankMean().to(flat.device)
    metric.update(flat)
    try:
        mean: Tensor = metric.compute()
    except RuntimeError as error:
        # Vectors of different lengths have met: every rank sees that, and keeps its own readings this time.
        on_failure(error)
        # Not its own signals: by those the ranks would decide differently.
        return torch.cat([torch.full_like(flat[:signals], math.nan), flat[signals:]])
    return mean


def _join(signals: Tensor, values: list[Tensor]) -> Tensor:
    device = values[-1].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    parts = [value.detach().reshape(-1).to(device) for value in values]
    return torch.cat([signals.to(device, dtype), *parts]).to(dtype)
