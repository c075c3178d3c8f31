from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tensorboard_plugin.chrome import Tab, chromium


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all tests: to start one takes longer than most of them."""
    folder: Path = tmp_path_factory.mktemp("chromium")
    with chromium(folder) as browser:
        yield Tab(browser)
        browser.switch_to.default_content()
