"""The monitors of a case: called hook by hook, timed, and let go when they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_doctor.callbacks.device_time import DeviceTime
from lightning_doctor.callbacks.monitor import Monitor

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

T = TypeVar("T")


class Staff:
    """Calls the monitors that have something to do at a hook, and books what they take.

    Args:
        case: The case they work on.
        parts: The monitors, in the order in which they are called.

    Attributes:
        device_time: Measures what the device has yet to do when a monitor returns; None where the host waits for it.
    """

    def __init__(self, case: Case, parts: Iterable[Monitor]) -> None:
        self.device_time: DeviceTime | None = None
        self._case = case
        self._parts = list(parts)
        self._listeners: dict[str, tuple[Monitor, ...]] = {}

    @property
    def kept(self) -> float:
        """What is to be kept for probes of the run's first look [seconds]."""
        return sum(part.kept for part in self._parts)

    def each(self, hook: str, *args: Any) -> None:
        """Calls all that listen."""
        listeners = self.listening(hook)
        if not listeners:
            return
        budget, device_time = self._case.budget, self.device_time
        mark = device_time.begin() if device_time is not None else None
        began = budget.begin()
        try:
            for part in listeners:
                self.ask(part, hook, *args)
        finally:
            spent = budget.end(began)
        ledger = self._case.pace.ledger(hook)
        if ledger is not None:
            ledger.add(spent)
        if device_time is not None and mark is not None:
            device_time.end(mark, spent, ledger)

    def listening(self, hook: str) -> tuple[Monitor, ...]:
        """Returns those that do anything at a hook: most have little to do with most hooks."""
        listeners = self._listeners.get(hook)
        if listeners is None:
            listeners = self._listeners[hook] = tuple(part for part in self._parts if _listens(part, hook))
        return listeners

    def ask(self, part: Monitor, hook: str, *args: Any) -> Any:
        """Calls one; None where it fails, which it does only once."""
        try:
            return getattr(part, hook)(self._case, *args)
        except Exception as error:  # noqa: BLE001
            self.lose(part, error)
            return None

    def lose(self, part: Monitor, error: Exception) -> None:
        """Lets go of one that failed."""
        if part in self._parts:
            self._parts.remove(part)
        self._listeners.clear()
        self._case.rest.wake()
        self._case.consultation.failed(type(part).__name__, error)

    def attempt(self, part: str, act: Callable[[], T]) -> T | None:
        """Does something of the case's own; None where it fails, after which it is off."""
        if self._case.consultation.is_off(part):
            return None
        budget = self._case.budget
        began = budget.begin()
        try:
            return act()
        except Exception as error:  # noqa: BLE001
            self._case.consultation.failed(part, error)
            return None
        finally:
            budget.end(began)

    def settle(self) -> None:
        """Books what the device has done meanwhile."""
        if self.device_time is not None:
            self.device_time.settle(self._case.budget)

    def dismiss(self) -> None:
        """Lets go of all."""
        self._parts.clear()
        self._listeners.clear()


def _listens(part: Monitor, hook: str) -> bool:
    return hook in vars(part) or getattr(type(part), hook) is not getattr(Monitor, hook)
