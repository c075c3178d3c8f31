"""The terminal: one line when an illness is found, a summary when the run is over. Both go to stderr."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from lightning_doctor.findings import Confidence, Finding
from lightning_doctor.report import Report
from lightning_doctor.sinks.wording import encodable, one_line

if TYPE_CHECKING:
    from rich.console import Console

_LINE_LIMIT = 400
# A summary wider than this is hard to read; a log file has no width of its own.
_WIDEST, _LOG_WIDTH = 110, 100


def announce(finding: Finding) -> str:
    """Returns the line that tells of a finding as it appears, or as it passes."""
    step = finding.step if finding.recovered_at is None else finding.recovered_at
    named = one_line(f"{finding.code} {finding.name}")
    if finding.recovered_at is not None:
        return f"lightning-doctor · step {step} · recovered from {named}"
    sure = " (suspected)" if finding.confidence is Confidence.SUSPECTED else ""
    summary, remedy = one_line(finding.summary, _LINE_LIMIT), one_line(finding.remedy, _LINE_LIMIT)
    line = f"lightning-doctor · step {step} · {str(finding.severity).upper()} {named}{sure}: {summary}"
    return f"{line} → {remedy}" if remedy else line


def say(text: str) -> None:
    """Writes text and a line break to stderr without tearing a progress bar; says nothing where there is no stderr.

    A tqdm bar is lifted out of the way and put back. Rich's live displays redirect ``sys.stderr`` themselves, so
    this writes to whatever that name stands for now.
    """
    stream = sys.stderr
    if stream is None:
        return
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    try:
        text = encodable(text, _encoding(stream))
        if tqdm is None:
            stream.write(f"{text}\n")
        else:
            tqdm.write(text, file=stream)
    except Exception:  # noqa: BLE001
        # Closed, a pipe that nobody reads any more, or somebody's own idea of a stream. The same is in doctor.json.
        return


def summarize(report: Report, console: Console | None = None, log_dir: str | os.PathLike[str] | None = None) -> None:
    """Prints what the report comes to.

    Args:
        report: What to sum up.
        console: Where to print; stderr where it is None.
        log_dir: The folder that holds ``doctor.json``, to say where it lies and how to open TensorBoard on it.
    """
    from lightning_doctor.sinks.summary import print_summary

    if console is not None:
        print_summary(report, console, log_dir)
    elif sys.stderr is not None:
        # Drawn first and said then: a progress bar may still be on the screen.
        page = io.BytesIO()
        with io.TextIOWrapper(page, encoding=_encoding(sys.stderr), errors="backslashreplace", newline="\n") as file:
            print_summary(report, _paper(file, terminal=_is_terminal(sys.stderr)), log_dir)
            file.flush()
            text = page.getvalue().decode(file.encoding)
        say("\n".join(line.rstrip() for line in text.rstrip("\n").split("\n")))


def _paper(file: io.TextIOWrapper, *, terminal: bool) -> Console:
    from rich.console import Console

    # None leaves FORCE_COLOR its say; a notebook would draw past the file.
    console = Console(file=file, force_terminal=terminal or None, force_jupyter=False)
    console.width = min(console.width if terminal or "COLUMNS" in os.environ else _LOG_WIDTH, _WIDEST)
    return console


def _encoding(stream: Any) -> str:
    encoding: Any = getattr(_beneath(stream), "encoding", None)
    try:
        codecs.lookup(encoding)
    except (LookupError, TypeError):
        return "utf-8"
    return str(encoding)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(_beneath(stream).isatty())
    except (AttributeError, ValueError, OSError):
        return False


def _beneath(stream: Any) -> Any:
    # What rich puts in the place of stderr knows neither an encoding nor whether it is a terminal.
    return getattr(stream, "rich_proxied_file", stream)
