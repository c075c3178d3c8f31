from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from lightning_doctor import __version__, console
from lightning_doctor.diagnose import diagnose
from lightning_doctor.history import History
from lightning_doctor.rules import all_rules
from lightning_doctor.sinks.report import write

COMMAND = [sys.executable, "-c", "import sys; from lightning_doctor.console import main; sys.exit(main())"]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def overfitted() -> History:
    """A validation loss that has turned, as LD504 stale_validation sees it: a note."""
    history = History()
    for step in range(400):
        history.record("train_loss", step, 2.0 / (1 + step / 20) + 0.001 * (step % 3))
    for index, value in enumerate([1.0, 0.7, 0.6, 0.61, 0.62, 0.63, 0.63, 0.64, 0.65, 0.66]):
        history.record("val_loss", 40 * (index + 1) - 1, value)
    return history


def table(path: Path, losses: list[object], header: str = "step,train_loss") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(f"{step},{loss}" for step, loss in enumerate(losses))]) + "\n")
    return path


def test_the_catalogue_starts_without_torch_lightning_and_rich() -> None:
    code = (
        "import sys; from lightning_doctor.console import main; code = main(['rules']); "
        "heavy = {'torch', 'lightning', 'pytorch_lightning', 'torchmetrics', 'tensorboard', 'numpy', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("kind", ["metrics.csv", "events", "doctor.json"])
def test_a_diagnosis_needs_neither_torch_nor_lightning(tmp_path: Path, kind: str) -> None:
    if kind == "metrics.csv":
        table(tmp_path / kind, [1.0 / (1 + step) for step in range(30)])
    elif kind == "events":
        with SummaryWriter(str(tmp_path)) as writer:
            for step in range(30):
                writer.add_scalar("train/loss", 1.0 / (1 + step), step, new_style=True)
    else:
        write(diagnose(overfitted()), tmp_path)
    code = (
        f"import sys; from lightning_doctor.console import main; code = main(['diagnose', {str(tmp_path)!r}]); "
        "print(sorted({'torch', 'lightning', 'pytorch_lightning', 'tensorflow'} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_the_installed_command_lists_every_rule() -> None:
    command = Path(sys.executable).parent / "lightning-doctor"
    done = subprocess.run([command, "rules"], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[rule.code, rule.name] for rule in all_rules()]
    assert all(line.endswith(rule.title) for line, rule in zip(lines, all_rules(), strict=True))


def test_the_catalogue_as_json_holds_what_a_program_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["rules", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["stale_validation"]["code"] == "LD504"
    assert entries["stale_validation"]["needs"] == {"val_loss": 8}
    assert entries["stale_validation"]["thresholds"]["patience"] == 5


@pytest.mark.parametrize("name", ["LD504", "ld504", "stale_validation", "Stale_Validation"])
def test_a_manual_page_is_found_by_code_or_name_and_is_plain_in_a_pipe(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.main(["explain", name]) == 0
    page = capsys.readouterr().out
    assert page.startswith("LD504 stale_validation\n")
    assert "Blind spots:" in page
    assert "val_loss: at least 8 values" in page
    assert "LD504.patience=5" in page
    assert "`" not in page
    assert "\x1b" not in page


def test_every_rule_has_a_manual_page_with_each_of_its_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    for rule in all_rules():
        assert console.main(["explain", rule.code]) == 0
        page = capsys.readouterr().out
        assert all(f"{rule.code}.{name}={value}" in page for name, value in rule.thresholds.items())
        assert all(name in page for name in (*rule.needs, *rule.explains))


@pytest.mark.parametrize("arguments", [["rules"], ["explain", "LD504"]])
def test_a_terminal_gets_colour(arguments: list[str]) -> None:
    main_end, other_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([*COMMAND, *arguments], stdout=other_end, env=environment) as process:
        os.close(other_end)
        shown = b""
        # The other end closes with the process, which Linux reports as an error and macOS as the end of the file.
        try:
            while part := os.read(main_end, 65536):
                shown += part
        except OSError:
            pass
        assert process.wait(60) == 0
    os.close(main_end)
    assert b"\x1b[1m" in shown
    assert b"stale_validation" in shown


def test_an_unknown_rule_names_the_nearest() -> None:
    done = run("explain", "stale_validtion")
    assert done.returncode == 2
    assert "did you mean 'stale_validation'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_version_and_the_help_texts_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["--version"], f"lightning-doctor {__version__}\n"),
        (["--help"], "diagnose"),
        (["diagnose", "--help"], "--val-loss TAG"),
        (["rules", "--help"], "--json"),
        (["explain", "--help"], "LD501"),
        (["demo", "--help"], "--epochs"),
    ):
        with pytest.raises(SystemExit) as stop:
            console.main(arguments)
        assert stop.value.code == 0
        assert expected in capsys.readouterr().out


def test_a_saved_report_is_judged_again_from_the_file_or_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = diagnose(overfitted())
    path = write(report, tmp_path)
    codes = [finding.code for finding in report.findings]
    assert "LD504" in codes
    for place in (path, tmp_path):
        assert console.main(["diagnose", str(place), "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert [finding["code"] for finding in again["findings"]] == codes
        assert again == json.loads(json.dumps(report.to_dict()))


def test_a_finding_of_a_saved_report_keeps_the_step_of_its_announcement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table_of_report = diagnose(overfitted()).to_dict()
    for finding in table_of_report["findings"]:
        finding["step"] = 321
    (tmp_path / "doctor.json").write_text(json.dumps(table_of_report))
    assert console.main(["diagnose", str(tmp_path), "--json"]) == 0
    assert {finding["step"] for finding in json.loads(capsys.readouterr().out)["findings"]} == {321}


def test_the_summary_names_the_tags_it_took_and_those_it_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,speed\n" + "".join(f"{step},{1 / (1 + step)},3\n" for step in range(30)))
    assert console.main(["diagnose", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "train_loss from loss (30 values)" in shown
    assert "not used: speed" in shown
    assert "does not tell how its run ended" in " ".join(shown.split())


def test_named_tags_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{step},{1 / (1 + step)},2,0.1,5\n" for step in range(30))
    (tmp_path / "metrics.csv").write_text("step,a,b,c,d\n" + rows)
    tags = ["--train-loss", "a", "--val-loss", "b", "--lr", "c", "--grad-norm", "d"]
    assert console.main(["diagnose", str(tmp_path), "--json", *tags]) == 0
    series = json.loads(capsys.readouterr().out)["history"]["series"]
    assert {name: points["values"][0] for name, points in series.items()} == {
        "train_loss": 1.0,
        "val_loss": 2.0,
        "learning_rate": 0.1,
        "grad_norm": 5.0,
    }


def test_several_runs_are_a_list_and_one_of_them_can_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / "a/metrics.csv", [1.0 / (1 + step) for step in range(30)])
    table(tmp_path / "b/metrics.csv", [*(1.0 / (1 + step) for step in range(30)), "nan"])
    assert console.main(["diagnose", str(tmp_path), "--json"]) == 0
    assert [len(report["findings"]) > 0 for report in json.loads(capsys.readouterr().out)] == [False, True]
    assert console.main(["diagnose", str(tmp_path), "--run", "a", "--fail-on", "note"]) == 0
    assert console.main(["diagnose", str(tmp_path), "--run", "b", "--fail-on", "error"]) == 1
    capsys.readouterr()
    assert console.main(["diagnose", str(tmp_path), "--run", "c"]) == 2
    assert "no run is called 'c'" in capsys.readouterr().err


def test_a_folder_without_a_loss_beside_a_run_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "a/metrics.csv", [1.0] * 9)
    table(tmp_path / "b/metrics.csv", [1.0], header="step,hp_metric")
    assert console.main(["diagnose", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_run_among_others_fails_the_command_and_the_others_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / "a/metrics.csv", ["1.0"] * 9)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/metrics.csv").write_bytes(b"\x80\x81")
    assert console.main(["diagnose", str(tmp_path), "--json"]) == 2
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)) == 1
    assert shown.err.count("\n") == 1
    assert str(tmp_path / "b") in shown.err


@pytest.mark.parametrize(("bar", "code"), [(None, 0), ("note", 1), ("warning", 0), ("error", 0)])
def test_fail_on_fails_at_its_severity_and_above(tmp_path: Path, bar: str | None, code: int) -> None:
    write(diagnose(overfitted()), tmp_path)
    limit = [] if bar is None else ["--fail-on", bar]
    assert console.main(["diagnose", str(tmp_path), "--select", "LD504", *limit]) == code


def test_rules_are_selected_and_ignored_and_thresholds_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(diagnose(overfitted()), tmp_path)

    def codes(*arguments: str) -> dict[str, Any]:
        assert console.main(["diagnose", str(tmp_path), "--json", *arguments]) == 0
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    selected = codes("--select", "stale_validation")
    assert [finding["code"] for finding in selected["findings"]] == ["LD504"]
    assert selected["healthy"] == []
    assert selected["unassessed"] == {}
    ignored = codes("--select", "LD5,LD101", "--ignore", "LD504")
    assert "LD504" not in json.dumps([ignored["findings"], ignored["healthy"], ignored["unassessed"]])
    assert codes("--select", "LD504", "--threshold", "LD504.patience=8")["healthy"] == ["LD504"]


def test_a_rule_that_fails_on_a_strange_report_leaves_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_doctor.rule import Rule

    def broken(self: Rule, history: History, **thresholds: float) -> None:
        raise TypeError("unforeseen")

    write(diagnose(overfitted()), tmp_path)
    monkeypatch.setattr(Rule, "__call__", broken)
    assert console.main(["diagnose", str(tmp_path), "--json", "--select", "LD504"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["notes"] == ["LD504 stale_validation failed: TypeError: unforeseen"]
    assert "LD504" in report["unassessed"]


def _missing(folder: Path) -> Path:
    return folder / "nowhere"


def _barren(folder: Path) -> Path:
    (folder / "notes.txt").write_text("nothing here")
    return folder


def _odd(folder: Path) -> Path:
    (folder / "weights.ckpt").write_bytes(b"PK\x03\x04")
    return folder / "weights.ckpt"


def _linked_in_a_circle(folder: Path) -> Path:
    (folder / "metrics.csv").symlink_to(folder / "metrics.csv")
    return folder / "metrics.csv"


def _folder_named_like_a_report(folder: Path) -> Path:
    (folder / "doctor.json").mkdir()
    return folder / "doctor.json"


def _device(folder: Path) -> Path:
    (folder / "metrics.csv").symlink_to("/dev/zero")
    return folder / "metrics.csv"


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _in_folder(name: str, content: bytes) -> Callable[[Path], Path]:
    return lambda folder: _file(name, content)(folder).parent


GARBAGE = bytes(range(128, 256)) * 4
BAD = {
    "missing path": (_missing, "No such file"),
    "folder without logs": (_barren, "no doctor.json, no event file"),
    "file of another kind": (_odd, "not a log that can be read"),
    "circular link": (_linked_in_a_circle, "symbolic links"),
    "folder named like a report": (_folder_named_like_a_report, "no doctor.json"),
    "device": (_device, "a pipe or a device"),
    "empty report": (_file("doctor.json", b""), "empty"),
    "empty report in a folder": (_in_folder("doctor.json", b""), "empty"),
    "report of garbage": (_file("doctor.json", GARBAGE), "not text"),
    "cut off report": (_file("doctor.json", b'{"schema": 1, "find'), "not JSON"),
    "report that is a list": (_file("doctor.json", b"[]"), "not a doctor report"),
    "report of another schema": (_file("doctor.json", b'{"schema": 99}'), "schema 99"),
    "report with a strange history": (_file("doctor.json", b'{"schema": 1, "history": 3}'), "history must be"),
    "report with strange steps": (
        _file("doctor.json", b'{"schema": 1, "history": {"series": {"a": {"steps": [1], "values": []}}}}'),
        "1 steps and 0 values",
    ),
    "deep report": (_file("doctor.json", b"[" * 100_000), "doctor.json"),
    "empty event file": (_file("events.out.tfevents.1", b""), "empty"),
    "event file of garbage": (_file("events.out.tfevents.1", GARBAGE), "not a TensorBoard event record"),
    "folder with an event file of garbage": (_in_folder("events.out.tfevents.1", GARBAGE), "not a TensorBoard"),
    "empty table": (_file("metrics.csv", b""), "empty"),
    "table of garbage": (_file("metrics.csv", GARBAGE), "not UTF-8"),
    "table with another header": (_file("metrics.csv", b"a,b\n1,2\n"), "no column is named step or epoch"),
    "ragged table": (_file("metrics.csv", b"step,loss\n1,2,3\n4,5\n"), "row 2 has 3 cells"),
    "table with a huge cell": (_file("metrics.csv", b"step,loss\n0," + b"1" * 500_000), "row 2"),
    "table without numbers": (_file("metrics.csv", b"step,loss\n0,low\n"), "no scalars"),
    "table without a loss": (_in_folder("metrics.csv", b"step,speed\n0,1\n1,2\n"), "its tags are speed"),
    "table with a step that is no number": (_file("metrics.csv", b"step,loss\nx,1\n"), "got 'x'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_clear_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = BAD[name]
    path = make(tmp_path)
    for arguments in ([], ["--json"]):
        assert console.main(["diagnose", str(path), *arguments]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("lightning-doctor: error: ")
        assert shown.err.count("\n") == 1
        assert message in shown.err
        # The user must see which file is meant, once.
        assert shown.err.count(str(path)) == 1


def test_bad_input_shows_no_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = run("diagnose", _file("events.out.tfevents.1", GARBAGE)(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["doctor.json", "events.out.tfevents.1", "metrics.csv"])
def test_damage_anywhere_in_a_file_is_survived(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    if name == "doctor.json":
        write(diagnose(overfitted()), tmp_path)
    elif name == "metrics.csv":
        table(path, [1.0 / (1 + step) for step in range(40)])
    else:
        with SummaryWriter(str(tmp_path)) as writer:
            for step in range(20):
                writer.add_scalar("train_loss", 1.0 / (1 + step), step)
                writer.add_scalar("val_loss", 1.0 / (1 + step), step, new_style=True)
        next(tmp_path.iterdir()).rename(path)
    whole = path.read_bytes()
    chance = random.Random(0)
    codes = set()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3, 20))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        code = console.main(["diagnose", str(path), "--json"])
        shown = capsys.readouterr()
        assert (code == 2) == shown.err.startswith("lightning-doctor: error: ")
        assert shown.err.count("\n") == (code == 2)
        codes.add(code)
    # Without both outcomes this would test one path only.
    assert codes == {0, 2}


@pytest.mark.parametrize("name", ["doctor.json", "events.out.tfevents.1", "metrics.csv"])
def test_a_file_that_may_not_be_read_is_named_with_the_reason(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file(name, b"step,loss\n0,1\n")(tmp_path)

    # Not by its mode: the administrator may read everything.
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert console.main(["diagnose", str(path)]) == 2
    assert capsys.readouterr().err == f"lightning-doctor: error: {path}: Permission denied\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--select", "LD9"], "no rule is called 'LD9'"),
        (["--ignore", "stale_validaton"], "did you mean 'stale_validation'"),
        (["--threshold", "LD504.patience"], "must look like LD504.patience=8, got 'LD504.patience'"),
        (["--threshold", "LD504.patience=many"], "must be a number, got 'many'"),
        (["--threshold", "LD504.patince=8"], "did you mean 'patience'"),
        (["--threshold", "stale_validatoin.patience=8"], "did you mean 'stale_validation'"),
        (["--train-loss", "train_los"], "did you mean 'train_loss'"),
    ],
)
def test_a_mistyped_option_names_what_would_be_right(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / "metrics.csv", [1.0] * 9)
    assert console.main(["diagnose", str(tmp_path), *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_what_would_steer_the_terminal_is_taken_out_of_a_foreign_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss,\x1b]0;owned\x07\n0,1,1\n1,1,1\n")
    assert console.main(["diagnose", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    (tmp_path / "metrics.csv").write_text("step,\x1b[2Jspeed\n0,1\n1,1\n")
    assert console.main(["diagnose", str(tmp_path)]) == 2
    assert "\x1b" not in capsys.readouterr().err


# Unbuffered, each write meets the closed pipe; buffered, only the last flush does.
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_ends_the_command_without_a_word(tmp_path: Path, unbuffered: str) -> None:
    table(tmp_path / "metrics.csv", [1.0 / (1 + step) for step in range(2000)])
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for arguments in (["rules"], ["diagnose", str(tmp_path)], ["diagnose", str(tmp_path), "--json"], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False, env=environment
        )
        os.close(writer)
        assert done.stderr == b""
        # argparse itself passes over a help text that nobody reads.
        assert done.returncode in {console.BROKEN_PIPE, 0 if arguments == ["--help"] else console.BROKEN_PIPE}


def test_a_terminal_that_knows_only_ascii_gets_no_traceback(tmp_path: Path) -> None:
    write(diagnose(overfitted()), tmp_path)
    done = run("diagnose", tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "LD504" in done.stdout
    assert done.stderr == ""


def test_ctrl_c_ends_the_command_with_130(tmp_path: Path) -> None:
    # A rule that never returns stands in for a long log. Of a job in the background the signal is ignored.
    code = (
        "import signal, sys, time; from lightning_doctor import console\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(options):\n    print('waiting', flush=True)\n    time.sleep(60)\n    return 0\n"
        "console._rules = wait\n"
        "sys.exit(console.main(['rules']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == console.INTERRUPTED
        assert process.stderr.read() == b""


def test_the_demo_is_told_its_folder_and_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    seen: list[object] = []
    demo = types.ModuleType("lightning_doctor.demo")
    demo.run = lambda folder, epochs: seen.append((folder, epochs)) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning_doctor.demo", demo)
    assert console.main(["demo", "--folder", "here", "--epochs", "3"]) == 7
    assert console.main(["demo"]) == 7
    assert seen == [("here", 3), ("doctor_demo", None)]


@pytest.mark.parametrize("arguments", [[], ["diagnos"], ["diagnose"], ["demo", "--epochs", "0"], ["explain"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        console.main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
