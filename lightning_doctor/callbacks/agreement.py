"""The one place that reads from a device or communicates: a window is fetched, and ranks agree on what comes next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case
    from lightning_doctor.callbacks.monitor import Monitor
    from lightning_doctor.callbacks.staff import Staff


class Agreement:
    """Fetches the windows of a case, and heeds with them what the ranks would like, in the mean.

    Every rank decides from these means, so that all stop alike and measure the same steps.

    Args:
        case: Whose windows.
        staff: The monitors.
    """

    def __init__(self, case: Case, staff: Staff) -> None:
        self._case = case
        self._staff = staff

    def reach(self, alone: bool) -> None:
        """Fetches the window; alone, without the other ranks."""
        case = self._case
        began = case.budget.begin()
        try:
            self._meet(alone)
        finally:
            case.budget.end(began)
        self._staff.attempt("timing the device", self._staff.settle)

    def _meet(self, alone: bool) -> None:
        # Not under `attempt`: what fails here on one rank must not keep it from meeting the others the next time.
        case = self._case
        prober = next(iter(self._staff.listening("wishes")), None)
        paced = case.pace.wishes()
        wanted = self._wishes(prober)
        wishes = [float(case.consultation.stop_wanted), *wanted, *paced]
        stop, *means = case.window.close(wishes, self._failed, alone=alone)
        if stop > 0 and case.together:
            case.trainer.should_stop = True
        if not math.isnan(stop):
            case.pace.heed(means[len(wanted) :])
        if prober is not None and not alone:
            self._staff.ask(prober, "heed", means[: len(wanted)])

    def _wishes(self, prober: Monitor | None) -> list[float]:
        # As many on a rank whose probe has failed.
        wishes = None if prober is None else self._staff.ask(prober, "wishes")
        return [0.0, 0.0] if wishes is None else wishes

    def _failed(self, error: Exception) -> None:
        self._case.consultation.failed("reading the window", error)
