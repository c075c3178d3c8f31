"""Hands a case to the sinks: the run's loggers and doctor.json. Only on rank zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lightning_doctor.history import History
from lightning_doctor.report import Report
from lightning_doctor.sinks import report as json_file
from lightning_doctor.sinks.curvature import draw
from lightning_doctor.sinks.letter import letter, substance
from lightning_doctor.sinks.snapshot_bytes import encode
from lightning_doctor.sinks.tensorboard import Letterbox

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import Trainer

_MOST_LAYERS = 16
# The curves of the Doctor tab are drawn anew when a run has become so much longer, whatever is said of it: that is some
# fifty times from step 50 to step a million.
_GROWTH = 1.25


def log_folder(trainer: Trainer) -> Path | None:
    """Returns the directory of the first logger that has one; None without one.

    Not ``trainer.log_dir``: that is a collective, and a rank may be alone in having a doctor.
    """
    for logger in trainer.loggers:
        folder = getattr(logger, "log_dir", None)
        # A remote store is no folder of this machine.
        if folder and "://" not in str(folder):
            return Path(folder)
    return None


class Publisher:
    """Writes for one case.

    Args:
        loggers: The Trainer's.
        folder: Where ``doctor.json`` goes; None for nowhere.
        history: What is there already, of an earlier run that this one resumes: it has been logged.
    """

    def __init__(self, loggers: Iterable[Any], folder: Path | None, history: History) -> None:
        self.letterbox = Letterbox(loggers)
        self.folder = folder
        self._written = {name: history[name].steps[-1] for name in history.names()}
        self._says: object = None
        self._shown = 1
        self._probed = history.fact("curvature.step")

    def scalars(self, history: History, step: int) -> None:
        """Logs the mean of what each series gained since the last call, and of 16 layers at most."""
        values: dict[str, float] = {}
        for name in _charted(history):
            series = history[name]
            fresh = [v for v in series.since(self._written.get(name, -1) + 1) if math.isfinite(v)]
            if fresh:
                values[f"doctor/{name}"] = _mean(fresh)
            self._written[name] = series.steps[-1]
        self.letterbox.scalars(values, step)

    def curvature(self, history: History) -> None:
        """Shows what the newest probe of the curvature saw, if it is a new one."""
        fact = history.fact("curvature", {})
        if not fact or fact.get("step") == self._probed:
            return
        self._probed = fact.get("step")
        pictures, spectrum = draw(fact)
        self.letterbox.pictures(pictures, spectrum, fact["step"])

    def report(self, report: Report) -> None:
        """Rewrites the letter and ``doctor.json``, if the report says something else than the last one."""
        says = substance(report)
        if says != self._says:
            self._says = says
            self.save(report)
        elif report.step >= _GROWTH * self._shown:
            self._show(report)

    def save(self, report: Report) -> None:
        """Rewrites the letter and ``doctor.json``."""
        self.letterbox.layout(report.history.names())
        self.letterbox.text(letter(report), report.step)
        if self.folder is not None:
            json_file.write(report, self.folder)
        self._show(report)

    def _show(self, report: Report) -> None:
        self._shown = max(1, report.step)
        self.letterbox.snapshot(encode(report), report.step)


def _mean(values: list[float]) -> float:
    try:
        return fmean(values)
    except OverflowError:
        # Their sum is more than a float holds, as in float64 just before a loss is infinite: the largest says as much.
        return max(values, key=abs)


def _charted(history: History) -> list[str]:
    layers: dict[str, list[str]] = {}
    for name in history.names():
        family, _, member = name.partition("/")
        # Not those of a fixed few: loaders, optimizers, multiples of a step.
        if member and not member[0].isdigit():
            layers.setdefault(family, []).append(name)
    hidden = {
        name
        for family in layers.values()
        for name in set(family) - {family[len(family) * i // _MOST_LAYERS] for i in range(_MOST_LAYERS)}
    }
    return [name for name in history.names() if name not in hidden]
