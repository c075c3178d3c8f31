from __future__ import annotations

import pytest

from lightning_doctor.report import Report
from tests.sinks.reports import REPORTS


@pytest.fixture(params=REPORTS)
def report(request: pytest.FixtureRequest) -> Report:
    return REPORTS[request.param]()
