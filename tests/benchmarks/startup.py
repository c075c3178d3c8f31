"""How long the package and its command take to start: `python -m tests.benchmarks.startup`.

The arms take turns, so that a machine that slows down slows all of them, and each is compared with the bare
interpreter of its own turn.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles

# The net cost aimed at [s].
AIMS = {"import lightning_doctor": 0.05, "lightning-doctor rules": 0.3}


def arms() -> dict[str, list[str]]:
    command = shutil.which("lightning-doctor", path=str(Path(sys.executable).parent)) or "lightning-doctor"
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import lightning_doctor": [sys.executable, "-c", "import lightning_doctor"],
        "lightning-doctor rules": [command, "rules"],
    }


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(repetitions: int) -> dict[str, list[float]]:
    commands = arms()
    # Once without a clock: the first start compiles the files and fills the file cache.
    for command in commands.values():
        seconds(command)
    times: dict[str, list[float]] = {arm: [] for arm in commands}
    for turn in range(repetitions):
        order = list(commands) if turn % 2 else list(commands)[::-1]
        for arm in order:
            times[arm].append(seconds(commands[arm]))
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures the start times of the package and its command.")
    parser.add_argument("--repetitions", type=int, default=40, help="turns of all arms (default: %(default)s)")
    times = measure(parser.parse_args().repetitions)
    bare = times["python -c pass"]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {len(bare)} turns, milliseconds")
    print(f"{'arm':26}{'quartile':>9}{'median':>9}{'quartile':>9}{'net':>9}{'aim':>9}")
    missed = False
    for arm, own in times.items():
        low, middle, high = quantiles(own, n=4)
        net = quantiles([a - b for a, b in zip(own, bare, strict=True)], n=4)[1]
        aim = AIMS.get(arm)
        missed |= aim is not None and net > aim
        shown = "" if aim is None else f"{1000 * aim:.0f}"
        print(f"{arm:26}{1000 * low:9.1f}{1000 * middle:9.1f}{1000 * high:9.1f}{1000 * net:9.1f}{shown:>9}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
