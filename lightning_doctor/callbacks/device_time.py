"""What a device does for the doctor after the host has gone on: told by events on its stream that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch

from lightning_doctor.budget import Budget
from lightning_doctor.callbacks.ledger import Ledger


class Event(Protocol):
    """A mark on a stream, as ``torch.cuda.Event`` makes it."""

    def record(self) -> None:
        """Puts the mark behind whatever has been queued."""

    def query(self) -> bool:
        """Whether the device has come to it."""

    def elapsed_time(self, end_event: Any, /) -> float:
        """Returns the time between two marks [milliseconds]."""


@dataclass(frozen=True)
class _Stretch:
    began: Event
    ended: Event
    host: float
    ledger: Ledger | None


class DeviceTime:
    """Books what the device took for a monitor beyond what the host did.

    Args:
        event: Makes a mark.
    """

    def __init__(self, event: Callable[[], Event]) -> None:
        self._event = event
        self._open: list[_Stretch] = []

    def begin(self) -> Event:
        """Marks where a monitor's work begins."""
        event = self._event()
        event.record()
        return event

    def end(self, began: Event, host: float, ledger: Ledger | None) -> None:
        """Marks where it ends.

        Args:
            began: The mark at its beginning.
            host: What the host took for it [seconds].
            ledger: Where it is booked beside the budget.
        """
        self._open.append(_Stretch(began, self.begin(), host, ledger))

    def settle(self, budget: Budget) -> None:
        """Books what the device is done with; after a window has been fetched that is nearly all."""
        waiting, self._open = self._open, []
        for stretch in waiting:
            if not stretch.ended.query():
                self._open.append(stretch)
                continue
            beyond = max(0.0, stretch.began.elapsed_time(stretch.ended) / 1e3 - stretch.host)
            budget.spent += beyond
            if stretch.ledger is not None:
                stretch.ledger.add(beyond)


def device_time(device: torch.device) -> DeviceTime | None:
    """Returns what measures a device that works on its own; None for one that the host waits for anyway."""
    return DeviceTime(partial(cast(Any, torch.cuda.Event), enable_timing=True)) if device.type == "cuda" else None
