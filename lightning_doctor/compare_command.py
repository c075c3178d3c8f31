"""``lightning-doctor compare``: reads the runs it is given and shows how they compare."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lightning_doctor.compare import Comparison, compare
from lightning_doctor.compared_run import RunSummary, summarized
from lightning_doctor.console import COMPARED, FAILED, failed, terminal
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.judge import judge
from lightning_doctor.logs.curves import printable
from lightning_doctor.logs.runs import NothingToJudgeError, Run, find_runs
from lightning_doctor.rules import all_rules
from lightning_doctor.run_names import renamed


def run(options: argparse.Namespace) -> int:
    """Compares the runs and writes what was asked for.

    Returns:
        The exit code: 0, or 2 where a run cannot be read, fewer than two are left, or a file cannot be written.
    """
    named = {signal: getattr(options, signal) for signal in COMPARED if getattr(options, signal) is not None}
    runs: list[RunSummary] = []
    unread = False
    for path in options.paths:
        found, complete = _read(path, named)
        runs.extend(found)
        unread = unread or not complete
    if len(runs) < 2:
        # What could not be read has been said; one readable run alone has not.
        return FAILED if unread else failed(f"there must be at least two runs to compare, got {len(runs)}")
    comparison = compare(renamed(runs))
    if options.json:
        print(json.dumps(comparison.to_dict(), indent=2, allow_nan=False))
    else:
        from lightning_doctor.sinks.comparison import show

        show(comparison, terminal())
    return FAILED if not _written(comparison, options.chart, options.tensorboard) or unread else 0


def _read(path: Path, named: dict[str, str]) -> tuple[list[RunSummary], bool]:
    """Returns the runs at and below a path, and whether all of them could be read."""
    try:
        runs = find_runs(path)
    except MalformedError as error:
        return [], not failed(error, path)
    except OSError as error:
        return [], not failed(error.strerror or error, path)
    read: list[RunSummary] = []
    complete = True
    empty: list[tuple[str, Path]] = []
    for each in runs:
        place = path if len(runs) == 1 else path / each.name
        try:
            read.append(summarized(judge(each, named, all_rules(), {}), place, _name(path, each)))
        except NothingToJudgeError as error:
            empty.append((str(error), place))
        except MalformedError as error:
            complete = not failed(error, place)
        except OSError as error:
            complete = not failed(error.strerror or error, place)
    # Beside runs that have a loss a folder without one is no mistake.
    for message, place in empty if not read else []:
        complete = not failed(message, place)
    return read, complete


def _name(path: Path, run: Run) -> str:
    """The run's own name; a file is called after its folder where it has the name that every such file has."""
    if run.name not in (".", path.name):
        return printable(run.name)
    place = path.absolute()
    if not path.is_dir() and (path.name in ("doctor.json", "metrics.csv") or "tfevents" in path.name):
        place = place.parent
    return printable(place.name if path.is_dir() or place != path.absolute() else place.stem)


def _written(comparison: Comparison, picture: Path | None, folder: Path | None) -> bool:
    from lightning_doctor.sinks.comparison import save_chart, to_tensorboard

    try:
        if picture is not None and not save_chart(comparison, picture):
            failed("there is no finite loss to draw", picture)
            return False
    except OSError as error:
        failed(error.strerror or error, picture)
        return False
    try:
        if folder is not None:
            to_tensorboard(comparison, folder)
    except OSError as error:
        failed(error.strerror or error, folder)
        return False
    return True
