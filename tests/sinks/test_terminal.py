from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm

from lightning_doctor.report import Report
from lightning_doctor.sinks.report import write
from lightning_doctor.sinks.terminal import announce, say, summarize
from tests.sinks.reports import REPORTS, diverging, healthy, nasty, overfitting


class Screen(io.StringIO):
    """A terminal that knows carriage return and line feed, as much as tqdm uses for one bar."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        shown = [""]
        column = 0
        for piece in re.findall(r"\r|\n|[^\r\n]+", self.getvalue().replace("\x1b[A", "")):
            if piece == "\r":
                column = 0
            elif piece == "\n":
                shown.append("")
                column = 0
            else:
                shown[-1] = shown[-1][:column].ljust(column) + piece + shown[-1][column + len(piece) :]
                column += len(piece)
        return [line.rstrip() for line in shown]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Returns what was printed to stderr since the last look."""
    # The summary must not depend on who runs the tests.
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return lambda: capsys.readouterr().err


def test_an_announcement_is_one_line_with_all_that_matters():
    assert announce(diverging().findings[0]) == (
        "lightning-doctor · step 250 · ERROR LD102 diverging_loss: the loss left its start for good: 0.31 → 8434 "
        "within 10 steps, 320 times its noise → lower lr from 10 to 0.1, or warm it up over the first 100 steps"
    )


def test_an_announcement_tells_a_suspicion_and_a_recovery():
    assert "WARNING LD501 overfitting (suspected): " in announce(overfitting().findings[0])
    assert announce(diverging().recovered[0]) == "lightning-doctor · step 150 · recovered from LD107 loss_spike"


def test_an_announcement_stays_one_line_and_cannot_steer_the_terminal():
    for finding in nasty().findings:
        line = announce(finding)
        assert line.isprintable()
        assert len(line) < 4000


def test_an_announcement_of_an_endless_summary_ends():
    assert len(announce(dataclasses.replace(overfitting().findings[0], summary="x" * 10**6))) < 600


def test_a_line_said_beside_a_tqdm_bar_leaves_both_whole(monkeypatch: pytest.MonkeyPatch):
    # Lightning's bar writes to stdout, the doctor to stderr, and a terminal shows both.
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    with tqdm(total=10, file=sys.stdout, ncols=60, mininterval=0, desc="Epoch 0") as bar:
        bar.update(3)
        say("something is ill")
        assert screen.lines[0] == "something is ill"
        assert re.match(r"Epoch 0:  30%\|█.*3/10 \[", screen.lines[1])
        assert len(screen.lines) == 2


def test_a_line_said_under_a_live_display_of_rich_goes_through_it(monkeypatch: pytest.MonkeyPatch):
    # As Lightning's RichProgressBar: while it is live, sys.stderr is rich's own and keeps the bar below.
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    console = Console(file=screen, force_terminal=True, width=60, color_system=None)
    with Progress(console=console, auto_refresh=False) as progress:
        progress.add_task("Epoch 0", total=10)
        assert sys.stderr is not screen
        say("something is ill [bold]")
        summarize(healthy())
        progress.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "something is ill [bold]" in re.split(r"[\r\n]", shown)
    # A frame: rich's stand-in for stderr does not pass for a terminal, what lies beneath it does.
    assert "╭─ lightning-doctor" in shown
    assert "Nothing ill was found" in shown
    # The bar is drawn again below each.
    assert shown.rindex("Epoch 0") > shown.index("cost") > shown.index("something is ill")


def test_what_is_said_goes_to_stderr_only(capsys: pytest.CaptureFixture[str]):
    say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_without_tqdm_a_line_is_written_all_the_same(stderr: Callable[[], str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "tqdm")
    say("a line")
    assert stderr() == "a line\n"


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


class Closed(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.close()


@pytest.mark.parametrize("stream", [None, Broken(), Closed()], ids=["none", "broken pipe", "closed"])
def test_where_nobody_listens_nothing_breaks(stream: object, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "stderr", stream)
    say("a line")
    summarize(diverging())
    # tqdm takes None for stdout; a user's stdout may be data.
    assert capsys.readouterr().out == ""


def test_characters_that_the_encoding_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch):
    page = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(page, encoding="ascii", errors="strict"))
    say("step 3 · loss 1 → 2 × noise, layer 'größe'")
    summarize(nasty())
    summarize(diverging())
    sys.stderr.flush()
    text = page.getvalue().decode("ascii")
    assert text.startswith("step 3 - loss 1 -> 2 x noise, layer 'gr\\xf6\\xdfe'\n")
    assert "-> lower lr from 10 to 0.1" in text


def test_a_stream_with_an_unknown_encoding_is_written_to(monkeypatch: pytest.MonkeyPatch):
    class Odd(io.StringIO):
        encoding = "no-such-codec"  # type: ignore[assignment]

    monkeypatch.setattr(sys, "stderr", Odd())
    summarize(healthy())
    assert "Nothing ill was found" in sys.stderr.getvalue()


def test_the_summary_names_findings_remedies_tree_and_cost(stderr: Callable[[], str]):
    summarize(diverging())
    text = stderr()
    order = ["diverging_loss.", "LD102", "lower lr", "LD101", "LD202", "recovered", "tree", "not judged", "cost"]
    places = [text.index(piece) for piece in order]
    assert places == sorted(places)
    cause, symptom = (next(line for line in text.splitlines() if code in line) for code in ("LD102", "LD202"))
    assert len(symptom) - len(symptom.lstrip()) > len(cause) - len(cause.lstrip())


def test_the_summary_is_plain_where_there_is_no_terminal(report: Report, stderr: Callable[[], str]):
    summarize(report)
    text = stderr()
    assert text.startswith("lightning-doctor\n")
    assert "\x1b" not in text
    assert all(line == line.rstrip() and len(line) <= 100 for line in text.splitlines())


def test_the_summary_has_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    summarize(diverging())
    assert "\x1b[1;31m" in sys.stderr.getvalue()


@pytest.mark.parametrize("width", [1, 8, 20, 40, 80])
@pytest.mark.parametrize("name", REPORTS)
def test_the_summary_fits_any_width_and_loses_no_remedy(name: str, width: int):
    file = io.StringIO()
    summarize(REPORTS[name](), Console(file=file, width=width, color_system=None))
    assert max(len(line) for line in file.getvalue().splitlines()) <= max(width, len("lightning-doctor"))
    if width >= 20 and name == "overfitting":
        assert "restorethecheckpoint" in re.sub(r"\s", "", file.getvalue())


def test_markup_of_rich_in_names_is_shown_as_typed(stderr: Callable[[], str]):
    summarize(Report(notes=["[bold red]rich[/] :smile: [/]"]))
    assert "[bold red]rich[/] :smile: [/]" in stderr()


def test_the_summary_says_where_to_look_further(stderr: Callable[[], str], tmp_path: Path):
    folder = tmp_path / ("a folder with a name so long that it would be wrapped" * 2)
    write(healthy(), folder)
    summarize(healthy(), log_dir=folder)
    text = stderr()
    assert f"report: {folder}/doctor.json\n" in text
    # Without an event file there is nothing to open in TensorBoard.
    assert "tensorboard" not in text
    (folder / "events.out.tfevents.1.host").touch()
    summarize(healthy(), log_dir=folder)
    assert f"charts: tensorboard --logdir '{folder}'  # Doctor tab\n" in stderr()


def test_a_folder_that_is_not_there_is_not_pointed_to(stderr: Callable[[], str], tmp_path: Path):
    summarize(healthy(), log_dir=tmp_path / "gone")
    text = stderr()
    assert "cost" in text
    assert "gone" not in text


def test_in_a_process_of_an_ascii_locale_it_prints():
    # PYTHONUTF8 and coercion off: else Python makes UTF-8 of the C locale, and the test would see nothing.
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tests.sinks.reports import diverging, nasty\n"
        "from lightning_doctor.sinks.terminal import announce, say, summarize\n"
        "summarize(diverging()); say(announce(nasty().findings[0])); summarize(nasty())\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parents[2])]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert "-> lower lr from 10 to 0.1" in done.stderr.decode("ascii")
    assert done.stdout == b""
