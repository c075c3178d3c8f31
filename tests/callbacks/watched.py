"""Small training runs under an UpdateMonitor alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from lightning_doctor.callbacks.updates import UpdateMonitor
from lightning_doctor.history import History
from tests.runs import fit

# The examined steps of twenty.
EXAMINED = [0, 1, 3, 7, 15]


def watch(folder: Path, module: LightningModule, **options: Any) -> History:
    """Trains on digits, two epochs of ten batches unless told otherwise."""
    monitor = UpdateMonitor()
    monitor.settings.strict = True
    fit(folder, module, monitor, validate=False, **options)
    assert monitor.report is not None
    return monitor.report.history
