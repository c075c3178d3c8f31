"""The ``lightning-doctor`` command. It starts without torch, lightning and rich; each part loads what it uses."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning_doctor import __version__

FOUND = 1
FAILED = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

SIGNALS = {"train_loss": "--train-loss", "val_loss": "--val-loss", "learning_rate": "--lr", "grad_norm": "--grad-norm"}
COMPARED = ("train_loss", "val_loss")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments, those of the process where None.

    Returns:
        The exit code: 0 done, 1 ``--fail-on`` found something, 2 wrong or unreadable input, 130 after Ctrl-C, 141
        where the reader of the output went away.

    Raises:
        SystemExit: By argparse, after ``--help``, ``--version`` and a usage error.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that knows only ASCII shall see a question mark, not a traceback.
            stream.reconfigure(errors="replace")
    try:
        try:
            options = _parser().parse_args(argv)
            command: Callable[[argparse.Namespace], int] = options.run_command
            return command(options)
        finally:
            # Here, where a reader that went away is still caught.
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-doctor",
        description="Says what is wrong with a training run, why, on what evidence, and what to do about it.",
        epilog="Exit codes: 0 done, 1 --fail-on found something, 2 wrong or unreadable input.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    rules = commands.add_parser("rules", help="list the illnesses it knows", description="Lists every rule.")
    rules.add_argument("--json", action="store_true", help="with needs, symptoms and thresholds, as JSON")
    rules.set_defaults(run_command=_rules)

    explain = commands.add_parser(
        "explain", help="show the manual page of an illness", description="Shows the manual page of a rule."
    )
    explain.add_argument("rule", metavar="RULE", help="a code or a name: LD501, overfitting")
    explain.set_defaults(run_command=_explain)

    diagnose = commands.add_parser(
        "diagnose",
        help="judge a run by what it left behind",
        description="Judges a run by its doctor.json, or by the log of a run that never saw the doctor: TensorBoard "
        "event files or the metrics.csv of Lightning's CSVLogger. Of a folder every run in it is judged.",
        epilog="example: lightning-doctor diagnose lightning_logs/version_3 --val-loss valid/nll --fail-on error",
    )
    diagnose.add_argument("path", metavar="PATH", type=Path, help="a doctor.json, event file, CSV table, or a folder")
    diagnose.add_argument("--run", metavar="NAME", help="only this run of the folder, as TensorBoard names it")
    diagnose.add_argument("--json", action="store_true", help="print the report as JSON; a list where runs are several")
    diagnose.add_argument(
        "--fail-on", choices=("note", "warning", "error"), help="exit with 1 where a finding is at least this bad"
    )
    for option, text in (
        ("--select", "only these rules: codes, beginnings of codes (LD5) or names, with commas between them"),
        ("--ignore", "not these rules"),
    ):
        diagnose.add_argument(option, metavar="RULES", action="append", help=text)
    diagnose.add_argument(
        "--threshold", metavar="RULE.NAME=NUMBER", action="append", default=[], help="for example LD504.patience=8"
    )
    _add_tags(diagnose, SIGNALS)
    diagnose.set_defaults(run_command=_diagnose)

    compare = commands.add_parser(
        "compare",
        help="say which of several runs failed to optimize, which overfit and which is best",
        description="Compares runs of one task, by training loss first and validation loss second: a larger network "
        "that is worse on its training data is no case of overfitting.",
        epilog="example: lightning-doctor compare logs/1_layer logs/3_layers logs/5_layers --chart depth.png",
    )
    compare.add_argument(
        "paths", metavar="RUN", type=Path, nargs="+", help="as for diagnose; of a folder every run in it is taken"
    )
    compare.add_argument("--json", action="store_true", help="print the comparison as JSON")
    compare.add_argument("--chart", metavar="FILE", type=Path, help="write losses over size to this PNG")
    compare.add_argument("--tensorboard", metavar="FOLDER", type=Path, help="write chart and table to an event file")
    _add_tags(compare, COMPARED)
    compare.set_defaults(run_command=_compare)

    report = commands.add_parser(
        "report",
        help="write what the Doctor tab shows as one HTML file",
        description="Writes the diagnosis of a run, or of every run in a folder, as one HTML file without network.",
        epilog="example: lightning-doctor report lightning_logs/version_3 --html report.html",
    )
    report.add_argument("path", metavar="RUN", type=Path, help="as for diagnose; of a folder every run in it is taken")
    report.add_argument("--html", metavar="FILE", type=Path, required=True, help="where to write it")
    _add_tags(report, SIGNALS)
    report.set_defaults(run_command=_report, signals=tuple(SIGNALS))

    demo = commands.add_parser(
        "demo",
        help="train sick and cured networks on handwritten digits",
        description="Trains sick and cured networks on scikit-learn's digits and shows their diagnoses.",
    )
    demo.add_argument("--folder", default="doctor_demo", help="where its logs go (default: %(default)s)")
    demo.add_argument("--epochs", type=_positive, help="epochs of each network (default: as many as each needs)")
    demo.set_defaults(run_command=_demo)
    return parser


def _add_tags(parser: argparse.ArgumentParser, signals: Iterable[str]) -> None:
    tags = parser.add_argument_group("tags of a foreign log", "found by their names where not given")
    for signal in signals:
        tags.add_argument(
            SIGNALS[signal], metavar="TAG", dest=signal, help=f"the tag of the {signal.replace('_', ' ')}"
        )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def failed(message: object, place: object = None) -> int:
    """Writes an error on one line of stderr and returns the exit code for it."""
    # One line, whatever a file name or a foreign message holds.
    text = " ".join(str(message).split())
    where = "" if place is None or text.startswith(str(place)) else f"{place}: "
    line = "".join(char if char.isprintable() else "�" for char in f"lightning-doctor: error: {where}{text}")
    print(line, file=sys.stderr)
    return FAILED


def _rules(options: argparse.Namespace) -> int:
    from lightning_doctor.manual import described
    from lightning_doctor.rules import all_rules

    if options.json:
        print(json.dumps([described(rule) for rule in all_rules()], indent=2))
        return 0
    if sys.stdout.isatty():
        from rich.table import Table

        table = Table("code", "name", "ill when")
        for rule in all_rules():
            table.add_row(rule.code, rule.name, rule.title)
        terminal().print(table)
        return 0
    width = max((len(rule.name) for rule in all_rules()), default=0)
    for rule in all_rules():
        print(f"{rule.code}  {rule.name:{width}}  {rule.title}")
    return 0


def _explain(options: argparse.Namespace) -> int:
    from lightning_doctor.manual import page
    from lightning_doctor.rules import find_rule

    try:
        text = page(find_rule(options.rule))
    except ValueError as error:
        return failed(error)
    if sys.stdout.isatty():
        _show_page(text)
    else:
        print(text.replace("``", ""))
    return 0


def _show_page(text: str) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console = terminal()
    for number, line in enumerate(text.split("\n")):
        indent = len(line) - len(line.lstrip())
        heading = number == 0 or (indent == 0 and line.endswith(":"))
        shown = Text(style="bold" if heading else "")
        for index, part in enumerate(line.strip().split("``")):
            shown.append(part, style="cyan" if index % 2 else "")
        console.print(Padding(shown, (0, 0, 0, indent)))


def terminal() -> Any:
    """Returns a rich console on stdout that leaves a broken pipe to :func:`main`."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            # rich would exit with 1, which here means that something was found.
            raise BrokenPipeError

    return Terminal(highlight=False)


def _demo(options: argparse.Namespace) -> int:
    from importlib import import_module

    # Only here: it imports torch and lightning.
    run: Callable[[str, int | None], int] = import_module("lightning_doctor.demo").run
    return run(options.folder, options.epochs)


def _compare(options: argparse.Namespace) -> int:
    from lightning_doctor.compare_command import run

    return run(options)


def _report(options: argparse.Namespace) -> int:
    from lightning_doctor.report_command import run

    return run(options)


def _diagnose(options: argparse.Namespace) -> int:
    from lightning_doctor.diagnose_command import run

    return run(options)
