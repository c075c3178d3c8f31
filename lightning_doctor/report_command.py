"""``lightning-doctor report``: writes the Doctor tab of runs as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_doctor.console import failed
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.judge import judge
from lightning_doctor.logs.curves import printable
from lightning_doctor.logs.runs import NothingToJudgeError, find_runs
from lightning_doctor.report import Report
from lightning_doctor.rules import all_rules
from lightning_doctor.sinks.report import read
from lightning_doctor.tensorboard_plugin.page import page


def run(options: argparse.Namespace) -> int:
    """Writes the page.

    Returns:
        The exit code: 0, or 2 where a run cannot be read, there is none, or the file cannot be written.
    """
    try:
        runs = find_runs(options.path)
    except MalformedError as error:
        return failed(error, options.path)
    except OSError as error:
        return failed(error.strerror or error, options.path)
    named = {signal: tag for signal, tag in vars(options).items() if signal in options.signals and tag is not None}
    reports: dict[str, Report] = {}
    code = 0
    empty: list[tuple[str, Path]] = []
    for each in runs:
        place = options.path if len(runs) == 1 else options.path / each.name
        name = printable(each.name if len(runs) > 1 else options.path.absolute().name)
        try:
            # As it was given: the course of a run is more than its end.
            reports[name] = read(each.files[0]) if each.kind == "report" else judge(each, named, all_rules(), {})
        except NothingToJudgeError as error:
            empty.append((str(error), place))
        except MalformedError as error:
            code = failed(error, place)
        except OSError as error:
            code = failed(error.strerror or error, place)
    # Beside runs that were judged a folder without a loss is no mistake.
    for message, place in empty if not reports else []:
        code = failed(message, place)
    if not reports:
        return code
    try:
        options.html.write_text(page(reports, f"Doctor: {printable(options.path.absolute().name)}"), encoding="utf-8")
    except OSError as error:
        return failed(error.strerror or error, options.html)
    print(f"{options.html}: {len(reports)} {'run' if len(reports) == 1 else 'runs'}")
    return code
