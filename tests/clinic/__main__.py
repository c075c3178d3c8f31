"""``python -m tests.clinic``: runs the clinic and prints its table."""

from __future__ import annotations

import os

# Before torch is imported: two processes with all threads each only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.clinic.patient import Pair
from tests.clinic.programs import PAIRS
from tests.clinic.run import Run, execute
from tests.clinic.verdicts import Totals, accepted, count, label


def main() -> None:
    """Parses the arguments, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.clinic", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="numbers of programs to run")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to leave the report of every run")
    options = parser.parse_args()
    pairs = [pair for pair in PAIRS if options.only is None or pair.number in options.only]
    if not pairs:
        parser.error(f"no such program: the clinic has {', '.join(str(pair.number) for pair in PAIRS)}")
    console = Console(width=None if Console().is_terminal else 170)
    runs = _run(pairs, options.seeds, options.jobs, options.keep, console)
    console.print(_table(runs, pairs))
    everything, existing = count(runs, pairs)
    console.print(_totals("all programs", everything))
    console.print(_totals("programs for whose cause a rule exists", existing))


def _run(pairs: list[Pair], seeds: list[int], jobs: int, keep: Path | None, console: Console) -> list[Run]:
    tasks = [
        (pair.number, sick, seed, keep)
        for pair in pairs
        for sick in ((True, False) if pair.sick is not None else (False,))
        for seed in seeds
    ]
    # Fresh processes: a forked one inherits torch's threads in whatever state they are.
    fresh = multiprocessing.get_context("spawn")
    runs = []
    with ProcessPoolExecutor(jobs, mp_context=fresh) as pool, Progress(console=console) as progress:
        bar = progress.add_task("clinic", total=len(tasks))
        for future in as_completed([pool.submit(execute, *task) for task in tasks]):
            runs.append(future.result())
            progress.advance(bar)
    return sorted(runs, key=lambda run: (run.number, not run.sick, run.seed))


def _table(runs: list[Run], pairs: list[Pair]) -> Table:
    table = Table("#", "program", "seed", "outcome", "gain", "found: step announced", "steps", "rank", "3 lines", "s")
    for pair in pairs:
        for run in (run for run in runs if run.number == pair.number):
            rank = accepted(run, pair)
            found = [f"{said.severity[0].upper()} {said.name}: {_at(said.step)}" for said in run.findings]
            found += [f"({said.name}: {said.step})" for said in run.withdrawn]
            found += [f"! {note}" for note in run.notes]
            table.add_row(
                str(pair.number),
                f"{pair.title if run.sick or pair.sick is None else '  its twin'}",
                str(run.seed),
                label(run, pair, runs),
                f"{run.gain:.3g}",
                "\n".join(found),
                str(run.steps),
                "" if rank is None else str(rank),
                "flagged" if run.yardstick else "",
                f"{run.seconds:.1f}",
            )
        table.add_section()
    return table


def _at(step: int | None) -> str:
    return "a note" if step is None else str(step)


def _totals(title: str, totals: Totals) -> Table:
    table = Table("", "runs", title=title, title_justify="left")
    rows = (
        ("accepted cause first", totals.first, totals.sick),
        ("accepted cause among the first three", totals.among_three, totals.sick),
        ("… announced before half the run", totals.early, totals.sick),
        ("three lines: sick runs flagged", totals.caught, totals.sick),
        ("healthy runs with a warning or error at the end", totals.false_alarms, totals.healthy),
        ("healthy runs with one withdrawn on the way", totals.withdrawn, totals.healthy),
        ("three lines: healthy runs flagged", totals.false_catches, totals.healthy),
    )
    for name, part, whole in rows:
        table.add_row(name, f"{part} of {whole}" + (f" ({part / whole:.0%})" if whole else ""))
    table.add_row("unclear, left out", str(totals.unclear))
    return table


if __name__ == "__main__":
    main()
