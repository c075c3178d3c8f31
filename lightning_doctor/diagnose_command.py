"""``lightning-doctor diagnose``: judges the runs it is given and shows what was found."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from pathlib import Path

from lightning_doctor.console import FAILED, FOUND, SIGNALS, failed, terminal
from lightning_doctor.findings import Severity
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.judge import judge
from lightning_doctor.logs.curves import listed, printable
from lightning_doctor.logs.runs import NothingToJudgeError, Run, find_runs
from lightning_doctor.report import Report
from lightning_doctor.rules import check_thresholds, choose_rules
from lightning_doctor.sinks.terminal import summarize


def run(options: argparse.Namespace) -> int:
    """Judges the runs and shows their reports.

    Returns:
        The exit code: 0, 1 where ``--fail-on`` found something, or 2 for wrong options and runs that cannot be read.
    """
    try:
        rules = choose_rules(_names(options.select), _names(options.ignore) or ())
        thresholds = check_thresholds(_thresholds(options.threshold))
    except ValueError as error:
        return failed(error)
    named = {signal: getattr(options, signal) for signal in SIGNALS if getattr(options, signal) is not None}
    try:
        runs = find_runs(options.path)
        if options.run is not None:
            runs = [_named_run(runs, options.run)]
    except MalformedError as error:
        return failed(error, options.path)
    except OSError as error:
        return failed(error.strerror or error, options.path)

    reports: list[Report] = []
    unread = False
    skipped: list[tuple[str, Path]] = []
    for each in runs:
        place = options.path if len(runs) == 1 and options.run is None else options.path / each.name
        try:
            report = judge(each, named, rules, thresholds)
        except NothingToJudgeError as error:
            skipped.append((str(error), place))
        except MalformedError as error:
            unread = bool(failed(error, place))
        except OSError as error:
            unread = bool(failed(error.strerror or error, place))
        else:
            reports.append(report)
            if not options.json:
                _show(report, place, foreign=each.kind != "report")
    # Beside runs that were judged a folder without a loss is no mistake: add_hparams writes such.
    for message, place in skipped if not reports else []:
        unread = bool(failed(message, place))
    if options.json and reports:
        content = [report.to_dict() for report in reports]
        print(json.dumps(content if len(runs) > 1 else content[0], indent=2, allow_nan=False))
    if unread:
        return FAILED
    worst = max((report.worst.rank for report in reports if report.worst is not None), default=-1)
    return FOUND if options.fail_on is not None and worst >= Severity(options.fail_on).rank else 0


def _names(given: list[str] | None) -> list[str] | None:
    if given is None:
        return None
    return [name.strip() for names in given for name in names.split(",") if name.strip()]


def _thresholds(given: list[str]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for text in given:
        match = re.fullmatch(r"([^.=]+)\.([^=]+)=(.+)", text)
        if match is None:
            raise ValueError(f"--threshold must look like LD504.patience=8, got {text!r}")
        rule, name, value = match.groups()
        try:
            number = int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
        except ValueError:
            raise ValueError(f"--threshold {rule}.{name} must be a number, got {value!r}") from None
        table.setdefault(rule, {})[name] = number
    return table


def _named_run(runs: list[Run], name: str) -> Run:
    for each in runs:
        if each.name == name.rstrip("/"):
            return each
    names = [each.name for each in runs]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    raise MalformedError(f"no run is called {name!r}, did you mean {nearest[0]!r}? There are {', '.join(names)}")


def _show(report: Report, place: Path, *, foreign: bool) -> None:
    print(printable(str(place), 1000))
    if foreign:
        log = report.history.facts["log"]
        for signal, tag in log["tags"].items():
            print(f"  {signal} from {printable(tag)} ({log['points'][signal]} values)")
        if log["others"]:
            print(f"  not used: {listed(log['others'])}")
    # Before what rich writes to the same stream.
    sys.stdout.flush()
    summarize(report, console=terminal())
