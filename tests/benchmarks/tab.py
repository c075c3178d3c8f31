"""``python -m tests.benchmarks.tab``: how long the Doctor tab takes to be there, with 200 runs of 50 findings."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from lightning_doctor.sinks.snapshot_bytes import encode
from tests.tensorboard_plugin.chrome import Tab, chromium, tensorboard
from tests.tensorboard_plugin.logs import crowded, write


def main() -> None:
    """Writes the runs, opens the tab a few times, prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--findings", type=int, default=50)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder, "logs")
        data = encode(crowded(options.findings))
        for index in range(options.runs):
            write(logs / f"run {index}", [(1999, data)])
        print(f"{options.runs} runs of {options.findings} findings, {len(data)} bytes each")
        with tensorboard(logs) as address, chromium(Path(folder, "profile")) as browser:
            route = f"{address}data/plugin/doctor/runs"
            while (page := _get(route))[1].count(b'"run":') < options.runs:
                time.sleep(0.5)
            print(f"the list: {len(page[1])} bytes, first answer {page[0]:.2f} s, then {_get(route)[0]:.2f} s")
            tab = Tab(browser)
            tab.open(address)
            taken = [_drawn(tab, f"{address}data/plugin_entry.html?name=doctor") for _ in range(options.times)]
            print(f"from opening the tab to all runs and the first report: {median(taken):.2f} s")
            tab.open(address)
            chosen = [_chosen(tab, index) for index in range(options.times)]
            print(f"from choosing another run to its report: {median(chosen):.2f} s")


def _get(route: str) -> tuple[float, bytes]:
    began = time.perf_counter()
    with urlopen(route) as answer:
        content = answer.read()
    return time.perf_counter() - began, content


def _drawn(tab: Tab, address: str) -> float:
    """Opens a fresh frame inside TensorBoard, as its tab does, and measures inside the page [seconds]."""
    script = """
    const [address, done] = arguments;
    document.querySelectorAll("iframe").forEach((frame) => frame.remove());
    const began = performance.now();
    const frame = document.createElement("iframe");
    frame.src = address;
    document.body.append(frame);
    const look = () => frame.contentDocument?.querySelector("article") ? done((performance.now() - began) / 1000)
      : requestAnimationFrame(look);
    look();
    """
    tab.browser.switch_to.default_content()
    return float(tab.browser.execute_async_script(script, address))


def _chosen(tab: Tab, index: int) -> float:
    script = """
    const [wanted, done] = arguments;
    const button = [...document.querySelectorAll(".run-button")].find((one) => one.dataset.key === `run ${wanted}`);
    const began = performance.now();
    button.click();
    const look = () => document.querySelector(".banner-run")?.textContent === wanted
      ? done((performance.now() - began) / 1000) : requestAnimationFrame(look);
    look();
    """
    return float(tab.browser.execute_async_script(script, f"run {100 + index}"))


if __name__ == "__main__":
    main()
