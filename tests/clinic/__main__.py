"""``python -m tests.clinic``: runs the clinic and prints its table."""

from __future__ import annotations

import os

# Before torch is imported: two processes with all threads each only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import Progress

from tests.clinic.programs import PAIRS
from tests.clinic.run import Run, execute
from tests.clinic.table import markdown, programs, totals
from tests.clinic.verdicts import count


def main() -> None:
    """Parses the arguments, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.clinic", description=__doc__)
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    seeds.add_argument("--vary", type=int, metavar="N", help="run N random neighbours of every program instead")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="numbers of programs to run")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to leave the report of every run")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where to write the totals too")
    options = parser.parse_args()
    pairs = [pair for pair in PAIRS if options.only is None or pair.number in options.only]
    if not pairs:
        parser.error(f"no such program: the clinic has {', '.join(str(pair.number) for pair in PAIRS)}")
    chosen = options.seeds if options.vary is None else list(range(options.vary))
    tasks = [
        (pair.number, sick, seed, options.keep, options.vary is not None)
        for pair in pairs
        for sick in ((True, False) if pair.sick is not None else (False,))
        for seed in chosen
    ]
    console = Console(width=None if Console().is_terminal else 180)
    began = perf_counter()
    runs = _run(tasks, options.jobs, console)
    minutes = (perf_counter() - began) / 60
    console.print(programs(runs, pairs))
    everything, existing = count(runs, pairs)
    console.print(totals("all programs", everything))
    console.print(totals("programs for whose cause a rule exists", existing))
    console.print(f"{len(runs)} runs, plain and watched, in {minutes:.1f} minutes")
    if options.markdown is not None:
        options.markdown.write_text(markdown(everything), encoding="utf-8")


def _run(tasks: list[tuple[int, bool, int, Path | None, bool]], jobs: int, console: Console) -> list[Run]:
    # Fresh processes: a forked one inherits torch's threads in whatever state they are.
    fresh = multiprocessing.get_context("spawn")
    runs = []
    with ProcessPoolExecutor(jobs, mp_context=fresh) as pool, Progress(console=console) as progress:
        bar = progress.add_task("clinic", total=len(tasks))
        for future in as_completed([pool.submit(execute, *task) for task in tasks]):
            runs.append(future.result())
            progress.advance(bar)
    return sorted(runs, key=lambda run: (run.number, not run.sick, run.seed))


if __name__ == "__main__":
    main()
