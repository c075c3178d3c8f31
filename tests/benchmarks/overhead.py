"""What watching costs: `python -m tests.benchmarks.overhead`.

All arms train at once and take turns of a few steps, so that whatever slows the machine down slows all of them, and
each is compared with the plain run, turn by turn. A step's cost is taken from the second half of the runs, after most
of the doctor's first look: the median turn, beside the mean of all, which holds what is done once a window too, and the
whole run. Processor time is less disturbed by others on the machine than the clock on the wall; both are given.

Two instances of the same model differ by more than a few percent, wherever their memory lies. So each callback is also
taken out of a run and put back into it by turns, and the aims are judged by that.

Arms whose package is not installed are left out: `pip install -c tests/constraints.txt -e ".[benchmark]"`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import torch

from lightning_doctor.budget import FIRST_LOOK
from tests.benchmarks.arms import (
    ARMS,
    BESIDE,
    DOCTOR,
    PLAIN,
    Timing,
    available,
    reads_per_ordinary_step,
    train_side_by_side,
    train_switched,
)
from tests.benchmarks.watched_models import TASKS, Task, stack

# What is aimed at: of a run whose steps are long, and of one whose steps take a millisecond [µs].
RATIO_AIM, STEP_AIM, LONG_STEP = 1.02, 30.0, 5e-3
_READ_STEPS = 200
# Side by side, where so many train at once, runs are so many times shorter.
_SHORTER = 4


@dataclass(frozen=True)
class Row:
    """An arm beside the plain run, as quartiles over turns of the second half, or over runs.

    Attributes:
        ratio: The length of a step, in plain ones.
        processor_ratio: The same by processor time.
        added: What a step takes more [µs], by processor time.
        mean: What one takes more on average [µs], by processor time.
        whole: The length of the whole fit, in plain ones.
        beyond: The share of the run that the doctor took beyond its two seconds; None without a doctor.
    """

    ratio: list[float]
    processor_ratio: list[float]
    added: list[float]
    mean: list[float]
    whole: list[float]
    beyond: list[float] | None


def repeat(task: Task, arms: list[str], repetitions: int, steps: int) -> dict[str, list[Timing]]:
    """Trains every arm so many times."""
    timings: dict[str, list[Timing]] = {arm: [] for arm in arms}
    for _ in range(repetitions):
        for arm, timing in train_side_by_side(task, arms, steps).items():
            timings[arm].append(timing)
    return timings


def wall_steps(timings: list[Timing]) -> list[float]:
    """The length of a step in each turn, by the clock on the wall [seconds]."""
    return [length for timing in timings for length in timing.steps(timing.turns.wall)]


def processor_steps(timings: list[Timing]) -> list[float]:
    """The same in processor time [seconds]."""
    return [length for timing in timings for length in timing.steps(timing.turns.processor)]


def quartiles(values: list[float]) -> list[float]:
    return quantiles(values, n=4) if len(values) > 1 else values * 3


def compare(own: list[Timing], plain: list[Timing]) -> Row:
    """Compares an arm with the plain run of the same time."""
    wall = zip(wall_steps(own), wall_steps(plain), strict=True)
    processor = list(zip(processor_steps(own), processor_steps(plain), strict=True))
    runs = list(zip(own, plain, strict=True))
    means = [[fmean(timing.steps(timing.turns.processor)) for timing in pair] for pair in runs]
    # By the clock that it keeps its budget by.
    beyond = [max(0.0, t.spent - FIRST_LOOK) / sum(t.turns.wall) for t in own if t.spent is not None]
    return Row(
        quartiles([a / b for a, b in wall]),
        quartiles([a / b for a, b in processor]),
        quartiles([1e6 * (a - b) for a, b in processor]),
        quartiles([1e6 * (a - b) for a, b in means]),
        quartiles([a.whole / b.whole for a, b in runs]),
        quartiles(beyond) if beyond else None,
    )


def shown(values: list[float], digits: int) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} … {high})"


def table(name: str, timings: dict[str, list[Timing]]) -> tuple[list[str], dict[str, Row]]:
    """Returns the lines of one model's table, and its numbers."""
    plain = timings[PLAIN]
    alone = quartiles([1e3 * length for length in wall_steps(plain)])
    lines = [f"{name}: a plain step takes {shown(alone, 2)} ms; {len(plain)} runs of {sum(plain[0].turns.steps)} steps"]
    lines.append(
        f"  {'arm':30}{'step, wall':>24}{'step, processor':>24}{'µs a step':>26}{'µs, mean':>26}{'whole run':>24}"
    )
    rows: dict[str, Row] = {}
    for arm, own in timings.items():
        beside = BESIDE.get(arm, PLAIN)
        if arm == beside or arm in BESIDE.values() or beside not in timings:
            continue
        row = rows[arm] = compare(own, timings[beside])
        cells = [shown(row.ratio, 3), shown(row.processor_ratio, 3), shown(row.added, 1)]
        cells += [shown(row.mean, 1), shown(row.whole, 3)]
        lines.append(f"  {arm:30}" + "".join(f"{c:>{w}}" for c, w in zip(cells, (24, 24, 26, 26, 24), strict=True)))
    for arm, row in rows.items():
        if row.beyond is not None:
            share = shown([100 * value for value in row.beyond], 2)
            lines.append(f"  share of the run the doctor took, beyond its two seconds: {share} % ({arm})")
    return lines, rows


def switched(name: str, arms: list[str], repetitions: int, steps: int) -> tuple[list[str], list[str]]:
    """Returns the lines of a table of callbacks that come and go within a run, and which aims the doctor missed."""
    title = f"within one run of {steps} steps"
    lines = [f"  {title:30}{'step, wall':>24}{'step, processor':>24}{'µs a step':>26}{'turns':>8}"]
    failed: list[str] = []
    for arm in arms:
        if ARMS[arm].validates or not ARMS[arm].callbacks():
            continue
        pairs = [pair for _ in range(repetitions) for pair in train_switched(TASKS[name], arm, steps)]
        ratio = quartiles([own.wall / plain.wall for own, plain in pairs])
        processor = quartiles([own.processor / plain.processor for own, plain in pairs])
        added = quartiles([1e6 * (own.processor - plain.processor) for own, plain in pairs])
        cells = f"{shown(ratio, 3):>24}{shown(processor, 3):>24}{shown(added, 1):>26}{len(pairs):>8}"
        lines.append(f"  {arm:30}{cells}")
        if arm == DOCTOR:
            failed = missed(name, quartiles([plain.wall for _, plain in pairs])[1], ratio[1], added[1])
    return lines, failed


def scaling(repetitions: int, steps: int | None) -> list[str]:
    """Returns tables of the doctor's cost against parameters, layers and steps."""
    lines = []
    kinds: list[tuple[str, list[tuple[str, Task, int]]]] = [
        # Of 1e8 weights a step takes a second.
        ("parameters", [(f"{3 * width**2:.0e}", stack(4, width), 200 if width < 5000 else 40) for width in _widths()]),
        ("layers", [(f"{layers}", stack(layers, 32), 200) for layers in (10, 100, 1000)]),
        ("steps", [(f"{count}", TASKS["MLP"], count) for count in (100, 1_000, 10_000)]),
    ]
    for title, sizes in kinds:
        lines.append(
            f"\n{title:12}{'plain step [ms]':>18}{'µs a step':>34}{'step, processor':>24}{'doctor took [s]':>18}"
        )
        for label, task, count in sizes:
            length = count if steps is None else min(count, steps)
            timings = repeat(task, [PLAIN, DOCTOR], repetitions, length)
            row = compare(timings[DOCTOR], timings[PLAIN])
            alone = quartiles([1e3 * length for length in wall_steps(timings[PLAIN])])[1]
            spent = quartiles([timing.spent or 0.0 for timing in timings[DOCTOR]])[1]
            lines.append(
                f"{label:12}{alone:18.2f}{shown(row.added, 1):>34}{shown(row.processor_ratio, 3):>24}{spent:18.2f}"
            )
    return lines


def _widths() -> list[int]:
    """Widths of four layers that hold 1e4 to 1e8 weights, as far as they, their copies and Adam's fit into memory."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    widths = [round((size / 3) ** 0.5) for size in (1e4, 1e5, 1e6, 1e7, 1e8)]
    return [width for width in widths if 12 * 4 * 3 * width**2 < free]


def draw(path: Path, found: dict[str, dict[str, Row]]) -> None:
    """Draws the median of each arm's ratio with its quartiles, a panel for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.9 + 2.2 * len(found)), layout="constrained")
    panels: Any = figure.subplots(len(found), squeeze=False)
    for panel, (model, rows) in zip(panels[:, 0], found.items(), strict=True):
        places = range(len(rows))
        middles = [row.processor_ratio[1] for row in rows.values()]
        spans = [[abs(row.processor_ratio[1] - row.processor_ratio[end]) for row in rows.values()] for end in (0, 2)]
        colors = ["tab:blue" if "Doctor" in arm else "tab:gray" for arm in rows]
        panel.barh(places, [middle - 1 for middle in middles], left=1, color=colors, xerr=spans)
        panel.axvline(RATIO_AIM, color="tab:red", linewidth=0.8, linestyle=":")
        panel.set_yticks(places, list(rows))
        panel.invert_yaxis()
        panel.set_title(model, loc="left")
    panels[-1, 0].set_xlabel("length of a step, in plain ones (processor time, median and quartiles)")
    figure.savefig(path, dpi=120)


def missed(name: str, plain: float, ratio: float, added: float) -> list[str]:
    """Says which aim was missed, from a plain step's length [seconds], a watched one's in these, and the rest [µs]."""
    if plain >= LONG_STEP and ratio > RATIO_AIM:
        return [f"{name}: a step takes {ratio:.3f} plain ones; the aim is {RATIO_AIM}"]
    if plain < LONG_STEP and added > STEP_AIM:
        return [f"{name}: {added:.1f} µs a step; the aim is {STEP_AIM:.0f}"]
    return []


def measure(options: argparse.Namespace) -> int:
    arms, left_out = available(list(dict.fromkeys([PLAIN, *options.arms])))
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, one thread; medians and quartiles over turns")
    print(*left_out, sep="\n", end="\n" if left_out else "")
    found: dict[str, dict[str, Row]] = {}
    failed: list[str] = []
    for name in options.models:
        task = TASKS[name]
        steps = options.steps or task.steps
        side_by_side = options.steps or task.steps // _SHORTER
        lines, found[name] = table(name, repeat(task, arms, options.repetitions, side_by_side))
        print("", *lines, sep="\n", flush=True)
        lines, short = switched(name, arms, options.repetitions, steps)
        print(*lines, sep="\n", flush=True)
        failed += short
        if DOCTOR in arms:
            reads, count = reads_per_ordinary_step(task, min(options.steps or _READ_STEPS, _READ_STEPS))
            print(f"  blocking reads per ordinary step: {reads:g} ({count} steps)", flush=True)
            failed += [f"{name}: {reads:g} blocking reads per ordinary step"] if reads else []
    if options.scaling:
        print(*scaling(options.repetitions, options.steps), sep="\n")
    if options.chart is not None:
        draw(options.chart, found)
    print("", *failed, sep="\n")
    return int(bool(failed))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measures what watching a training run costs.")
    parser.add_argument("--models", nargs="*", choices=list(TASKS), default=list(TASKS), metavar="MODEL")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--repetitions", type=int, default=5, help="runs of all arms (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="the length of a run; by default one for each model")
    parser.add_argument("--scaling", action="store_true", help="cost against parameters, layers and steps as well")
    parser.add_argument("--chart", type=Path, metavar="PNG", help="where to draw a chart")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Of what each Trainer says when it starts and ends.
        logging.disable(logging.WARNING)
        try:
            return measure(options)
        finally:
            logging.disable(logging.NOTSET)


if __name__ == "__main__":
    sys.exit(main())
