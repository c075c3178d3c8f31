"""Photographs the Doctor tab for the README: python tab.py LOG_DIRECTORY. Needs chromium, chromedriver and selenium."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ASSETS = Path(__file__).parent
sys.path.insert(0, str(ASSETS.parent))

from tests.tensorboard_plugin.chrome import Tab, chromium, tensorboard  # noqa: E402

ILL, WELL, ANOTHER = "memorizing_sick/version_0", "memorizing_cured/version_0", "step_size_cured/version_0"


def photograph(tab: Tab, name: str) -> None:
    """Takes the whole window, and goes back into the tab."""
    # Where the pointer rests a row is lit, and where the focus is there is a frame.
    tab.browser.execute_script("document.activeElement.blur()")
    tab.browser.switch_to.default_content()
    tab.browser.save_screenshot(str(ASSETS / name))
    tab.browser.switch_to.frame(tab.wait(lambda: tab.find("iframe")))


def main() -> None:
    """Takes a run that is ill, one that is well, and three beside each other in the dark."""
    with (
        tempfile.TemporaryDirectory() as profile,
        tensorboard(Path(sys.argv[1])) as address,
        chromium(Path(profile)) as browser,
    ):
        browser.set_window_size(1440, 1000)
        tab = Tab(browser)
        tab.open(address)
        tab.choose(ILL)
        photograph(tab, "tab.png")
        tab.choose(WELL)
        photograph(tab, "tab-well.png")
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        tab.open(address)
        tab.tick(ILL, WELL, ANOTHER)
        photograph(tab, "tab-compare.png")


if __name__ == "__main__":
    main()
