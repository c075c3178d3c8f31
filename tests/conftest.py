from __future__ import annotations

import os
from functools import partial
from time import process_time

import pytest

# Before torch is imported, and for the processes that tests start: small tensors on many threads only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the doctor go by the time of this process, and have time to spare: what else a machine does, which makes
    the same work several times as long, must not decide what a test sees."""
    from lightning_doctor.budget import Budget
    from lightning_doctor.callbacks import case

    monkeypatch.setattr(case, "Budget", partial(Budget, clock=lambda: process_time() / 4))
