"""The report of a run that was trained in another process, as ``ddp_spawn`` and notebooks do."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

from lightning_doctor.report import Report
from lightning_doctor.sinks import report as json_file


class Handover:
    """A folder that the process which made a callback and the one which trained with it both know."""

    def __init__(self) -> None:
        self._made_in = os.getpid()
        self._folder = Path(tempfile.gettempdir()) / f"lightning-doctor-{uuid4().hex}"

    def leave(self, report: Report) -> None:
        """Leaves the report for the process that made the callback, if that is another one."""
        if os.getpid() != self._made_in:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            json_file.write(report, self._folder)

    def take(self) -> Report | None:
        """Returns what was left, once; None where nothing was."""
        if not self._folder.exists():
            return None
        report = json_file.read(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        return report
