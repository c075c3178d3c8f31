"""Finds the runs below a path and turns what they logged into a history that the rules can judge."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

from lightning_doctor.history import SERIES_CAPACITY, History
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.curves import Curves, Point, listed
from lightning_doctor.logs.event_files import read_events
from lightning_doctor.logs.metrics_csv import read_csv
from lightning_doctor.logs.tags import TRAIN, VALIDATION, choose, natural
from lightning_doctor.rules import all_rules

REPORT = "doctor.json"
TABLE = "metrics.csv"
_EVENTS = "tfevents"


class NothingToJudgeError(MalformedError):
    """A log that can be read and holds no loss."""


class LoggedHistory(History):
    """What a log tells of a run; it remembers which facts it was asked for in vain.

    Attributes:
        missed: The dotted paths of those facts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missed: set[str] = set()

    def fact(self, path: str, default: Any = None) -> Any:
        """Looks a fact up by its dotted path, as any history does."""
        found = super().fact(path)
        if found is None:
            self.missed.add(path)
            return default
        return found


@dataclass(frozen=True)
class Run:
    """One run below a path.

    Attributes:
        name: Its folder relative to the path that was searched, as TensorBoard names runs; ``"."`` for that path.
        kind: What it left: a report of the doctor, event files, or a table.
        files: The report, the table, or the event files from oldest to newest.
        parts: Event files of sub-folders that are parts of this run, by the name that their tags are under.
    """

    name: str
    kind: Literal["report", "events", "table"]
    files: tuple[Path, ...]
    parts: tuple[tuple[str, tuple[Path, ...]], ...] = ()


def find_runs(path: Path) -> list[Run]:
    """Finds the runs at and below a path, in natural order; of several records of one run the richest.

    Links below it are not followed and hidden folders are passed over.

    Raises:
        MalformedError: Where the path is not a log; the message says what was looked for.
        FileNotFoundError: Where there is no such path.
        OSError: Where it cannot be read.
    """
    if not path.is_dir():
        return [_single(path)]
    runs = _merged({run.name: run for run in _walk(path)})
    if not runs:
        raise MalformedError(f"no {REPORT}, no event file (*{_EVENTS}*) and no {TABLE} in this folder or below it")
    return [runs[name] for name in sorted(runs, key=natural)]


def read_run(run: Run, named: Mapping[str, str] | None = None) -> tuple[LoggedHistory, list[str]]:
    """Reads a run that the doctor did not see; returns its history with notes on what was odd about the log.

    Args:
        run: One with event files or a table.
        named: Tags by signal that the user named; the others are found.

    Raises:
        NothingToJudgeError: Where it holds no loss; the message lists what it holds.
        MalformedError: Where it cannot be read.
        OSError: Where it cannot be opened.
    """
    if run.kind == "table":
        curves = read_csv(_regular(run.files[0]))
    else:
        curves = Curves()
        if run.files:
            curves = read_events([_regular(file) for file in run.files])
        for name, files in run.parts:
            curves.join(read_events([_regular(file) for file in files]), name)
    return to_history(curves.counted(), named)


def to_history(curves: Curves, named: Mapping[str, str] | None = None) -> tuple[LoggedHistory, list[str]]:
    """Turns curves into a history, whose fact ``log`` says which tags were taken for what, and notes.

    Raises:
        NothingToJudgeError: Where there is no loss among the curves.
        MalformedError: Where a named tag is not there or not a number.
    """
    for signal, tag in (named or {}).items():
        if tag in curves.text:
            raise MalformedError(f"{signal}: {tag!r} must hold numbers, got {curves.text[tag]}")
    tags = {tag: len(points) for tag, points in curves.points.items() if points}
    if not tags:
        raise NothingToJudgeError("the log holds no scalars")
    choice = choose(tags, named)
    if not {"train_loss", "val_loss"} & choice.taken.keys():
        reasons = dict.fromkeys(choice.absent.values())
        raise NothingToJudgeError(
            f"{'; '.join(reasons)}; its tags are {listed(list(tags))}; name them with --train-loss and --val-loss"
        )
    notes = list(curves.notes)
    history = LoggedHistory()
    history.facts.update(choice.facts)
    points = {signal: curves.points[tag] for signal, tag in choice.taken.items()}
    last = max(step for step, _ in points.get("train_loss", [(0, 0.0)]))
    for signal, its in points.items():
        if signal.startswith("val") and _counts_epochs(its, last):
            notes.append(f"{choice.taken[signal]} is counted in epochs: its steps were spread evenly over the run")
            its = [((index + 1) * last // len(its), value) for index, (_, value) in enumerate(its)]
        for step, value in its:
            history.record(signal, step, value, capacity=SERIES_CAPACITY)
    history.absent.update(choice.absent)
    needed = {signal for rule in all_rules() for signal in rule.needs}
    for signal in sorted(needed):
        if signal not in history and signal not in history.absent:
            history.absent[signal] = f"the log has no {signal}"
    history.facts["log"] = {
        "tags": dict(choice.taken),
        "points": {signal: len(its) for signal, its in points.items()},
        "others": choice.others,
    }
    return history, notes


def _single(path: Path) -> Run:
    _regular(path)
    if path.suffix == ".json":
        return Run(path.name, "report", (path,))
    if path.suffix == ".csv":
        return Run(path.name, "table", (path,))
    if _EVENTS in path.name:
        return Run(path.name, "events", (path,))
    raise MalformedError(f"not a log that can be read: it must be a {REPORT}, a *.csv or a *{_EVENTS}* file")


def _regular(path: Path) -> Path:
    # A pipe or a device may never end.
    if not S_ISREG(path.stat().st_mode):
        raise MalformedError(f"{path.name} must be a file, and is a folder, a pipe or a device")
    return path


def _walk(top: Path) -> Iterator[Run]:
    def unlisted(error: OSError) -> None:
        # A folder below that cannot be listed is somebody else's; the one that was asked for must be readable.
        if error.filename == str(top):
            raise error

    for folder, inner, files in os.walk(top, onerror=unlisted):
        inner[:] = [name for name in inner if not name.startswith(".")]
        here = Path(folder)
        # A log from elsewhere could point at any file of this machine.
        files = [file for file in files if not (here / file).is_symlink()]
        name = here.relative_to(top).as_posix()
        events = tuple(here / file for file in sorted(files, key=natural) if _EVENTS in file)
        if REPORT in files:
            yield Run(name, "report", (here / REPORT,))
        elif events:
            yield Run(name, "events", events)
        elif TABLE in files:
            yield Run(name, "table", (here / TABLE,))


def _merged(runs: dict[str, Run]) -> dict[str, Run]:
    """Joins runs that are one: Keras writes ``train`` and ``validation``, ``add_scalars`` a folder a curve.

    Joined are sibling folders named after both sides, or whose names end so after one common beginning
    (``loss_train``, ``loss_val``); they become parts of the folder above.
    """
    result = dict(runs)
    parents = {Path(name).parent.as_posix() for name in runs if name != "."}
    for parent in parents:
        parts: list[tuple[str, Run]] = []
        for name, run in runs.items():
            if name != "." and Path(name).parent.as_posix() == parent and run.kind == "events":
                side = Path(name).name.rsplit("_", 1)[-1].lower()
                if side in TRAIN | VALIDATION:
                    parts.append((Path(name).name.rsplit("_", 1)[-1], run))
        sides = {side.lower() for side, _ in parts}
        above = result.get(parent)
        if not (sides & TRAIN and sides & VALIDATION) or (above is not None and above.kind != "events"):
            continue
        for _, run in parts:
            del result[run.name]
        files = above.files if above is not None else ()
        result[parent] = Run(parent, "events", files, tuple((side, run.files) for side, run in parts))
    return result


def _counts_epochs(points: list[Point], last: int) -> bool:
    """Whether steps run 0, 1, 2 … or 1, 2, 3 … while the training loss is on an axis at least ten times as long."""
    steps = [step for step, _ in points]
    if len(steps) < 3 or steps[0] not in (0, 1) or last < 10 * steps[-1]:
        return False
    return steps == list(range(steps[0], steps[0] + len(steps)))
