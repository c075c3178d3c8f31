from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_doctor.report import Report
from tests.tensorboard_plugin.chrome import Tab, chromium, tensorboard
from tests.tensorboard_plugin.logs import PROGRAMS, plain, train


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all tests: to start one takes longer than most of them."""
    folder: Path = tmp_path_factory.mktemp("chromium")
    with chromium(folder) as browser:
        yield Tab(browser)
        browser.switch_to.default_content()


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Report]]:
    """A log directory with runs of the clinic, and what their doctors said."""
    folder: Path = tmp_path_factory.mktemp("clinic")
    told = {name: train(folder, name, number, sick=sick) for name, (number, sick) in PROGRAMS.items()}
    plain(folder / "untreated")
    return folder, told


@pytest.fixture(scope="session")
def board(reports: tuple[Path, dict[str, Report]]) -> Iterator[str]:
    """A TensorBoard on them."""
    with tensorboard(reports[0]) as address:
        yield address
