"""A real TensorBoard and a real Chromium for the tests of the Doctor tab."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")

# A machine that is busy with other tests takes its time to start a browser; nothing here is a measurement.
PATIENCE = 240

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1440,1000",
)


@contextmanager
def tensorboard(folder: Path, *options: str) -> Iterator[str]:
    """Runs TensorBoard on a log directory; yields its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--reload_interval", "1", *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        said = []
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        else:
            raise RuntimeError(f"TensorBoard did not start: {''.join(said)}")
        yield found[0]
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def chromium(folder: Path) -> Iterator[Chrome]:
    """Runs a headless Chromium with a profile of its own."""
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise RuntimeError("these tests need chromium and chromedriver: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options=options, service=Service(driver))
    try:
        browser.command_executor.client_config.timeout = PATIENCE
        browser.set_page_load_timeout(PATIENCE)
        yield browser
    finally:
        browser.quit()


class Tab:
    """What a reader sees and does.

    Args:
        browser: Where it is open.
    """

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def open(self, address: str) -> None:
        """Opens the Doctor tab of a TensorBoard, as its own link does, and waits until it shows something."""
        self.forget()
        self.browser.get("about:blank")
        self.browser.get(f"{address}#doctor")
        self.browser.switch_to.frame(self.wait(lambda: self.find("iframe")))
        self.wait(lambda: self.find("article, .empty"))

    def wait(self, look: Callable[[], T]) -> T:
        """Waits until something is so; returns it. What the page has drawn anew meanwhile is looked for again."""
        stale = [StaleElementReferenceException]
        return WebDriverWait(self.browser, PATIENCE, 0.1, ignored_exceptions=stale).until(lambda _: look())

    def click(self, look: Callable[[], WebElement | None]) -> None:
        """Waits for an element and clicks it."""

        def clicked() -> bool:
            element = look()
            if element is not None:
                element.click()
            return element is not None

        self.wait(clicked)

    def find(self, css: str) -> WebElement | None:
        """Returns the first element there is, or None."""
        return next(iter(self.all(css)), None)

    def all(self, css: str) -> list[WebElement]:
        """Returns the elements there are."""
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def texts(self, css: str) -> list[str]:
        """Returns the texts of elements, shown or not, all in one look: the page may change between two."""
        script = "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)"
        texts: list[str] = self.browser.execute_script(script, css)
        return texts

    def text(self, css: str) -> str:
        """Returns the text of the first element, empty where there is none."""
        return next(iter(self.texts(css)), "")

    def keyed(self, key: str) -> WebElement:
        """Returns the control with that key."""
        return self.wait(lambda: next((e for e in self.all("[data-key]") if e.get_attribute("data-key") == key), None))

    def choose(self, run: str) -> None:
        """Clicks a run and waits for its report."""
        self.click(lambda: self.keyed(f"run {run}"))
        self.wait(lambda: self.text(".banner-run") == run)

    def tick(self, *runs: str) -> None:
        """Ticks runs and waits until they are beside each other."""
        for run in runs:
            self.keyed(f"compare {run}").click()
        self.wait(lambda: len(self.all(".run-column")) == len(runs))

    def forget(self) -> None:
        """Drops what was logged so far."""
        self.browser.get_log("browser")
        self.browser.get_log("performance")

    def complaints(self) -> list[str]:
        """Returns the errors on the console since the tab was opened."""
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]

    def traffic(self) -> tuple[set[str], list[str]]:
        """Returns the hosts that were asked since the tab was opened, and the requests that failed."""
        hosts, failed, asked = set(), [], {}
        for entry in self.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            details: dict[str, Any] = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                address = urlsplit(details["request"]["url"])
                asked[details["requestId"]] = details["request"]["url"]
                # Blobs and data are of the page itself.
                if address.scheme not in ("data", "blob", "about"):
                    hosts.add(address.hostname or address.scheme)
            elif message["method"] == "Network.responseReceived" and details["response"]["status"] >= 400:
                failed.append(f"{details['response']['status']} {details['response']['url']}")
            elif message["method"] == "Network.loadingFailed" and not details.get("canceled"):
                failed.append(f"{details['errorText']} {asked.get(details['requestId'])}")
        return hosts, failed
