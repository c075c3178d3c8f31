"""The page for sharing: one file, the same view, and nothing that it could ask anybody for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_doctor.console import main
from lightning_doctor.report import Report
from lightning_doctor.rules import all_rules
from lightning_doctor.sinks import wording
from lightning_doctor.sinks.report import write
from lightning_doctor.sinks.snapshot import snapshot
from lightning_doctor.tensorboard_plugin.page import page
from tests.sinks.reports import NASTY, diverging, healthy, nasty, overfitting
from tests.tensorboard_plugin.chrome import Tab


def embedded(text: str) -> dict:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def test_everything_is_in_the_file_and_nothing_is_fetched():
    text = page({"a": diverging()}, "Doctor: a")
    addresses = set(re.findall(r"[a-z]+://[^\"'`\s]+", text))
    # A name space, which nobody opens.
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href|srcset|action)\s*=\s*[\"']|@import|url\(|\bimport\b[^.]*\bfrom\b", text)
    assert "default-src 'none'" in text
    data = embedded(text)
    assert data["runs"]["a"] == snapshot(diverging())
    assert set(data["rules"]) == {rule.code for rule in all_rules()}


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", NASTY, "<!-- <script>", "\u2028]]>"])
def test_no_name_ends_the_data_before_its_end(name: str):
    text = page({name: nasty()}, name)
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert list(embedded(text)["runs"]) == [name]
    text.encode("utf-8")


def test_a_page_of_several_runs_has_their_comparison():
    data = embedded(page({"a": diverging(), "b": healthy()}, "x"))
    assert [run["run"] for run in data["comparison"]["runs"]] == ["a", "b"]
    assert embedded(page({"a": diverging()}, "x"))["comparison"] is None


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Report]:
    reports = {"a/1": diverging(), "b": healthy(), "<i>": replace(overfitting(), step=300)}
    for name, report in reports.items():
        write(report, tmp_path / "logs" / name)
    return reports


def opened(tab: Tab, path: Path) -> None:
    tab.browser.switch_to.default_content()
    tab.forget()
    tab.browser.get(path.as_uri())
    tab.wait(lambda: tab.find("article"))


def test_the_command_writes_what_the_tab_shows(
    tab: Tab, tmp_path: Path, runs: dict[str, Report], capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "logs"), "--html", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: 3 runs\n"
    opened(tab, file)
    assert tab.texts(".run .name") == ["a/1", "<i>", "b"]
    for name, report in runs.items():
        tab.choose(name)
        assert tab.text(".banner .verdict") == wording.verdict(report)
        assert tab.texts(".findings > .card > summary .code") == [finding.code for finding in report.roots]
    tab.tick(*runs)
    assert tab.texts(".outcome tbody th") != []
    tab.choose("a/1")
    tab.keyed("manual LD102").click()
    tab.wait(lambda: tab.find("dialog[open]"))
    assert tab.complaints() == []
    hosts, failed = tab.traffic()
    assert (hosts, failed) == ({"file"}, [])


def test_a_page_of_one_run_is_that_run_alone(tab: Tab, tmp_path: Path, runs: dict[str, Report]):
    file = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "logs" / "a" / "1"), "--html", str(file)]) == 0
    opened(tab, file)
    assert tab.text(".banner .verdict") == wording.verdict(runs["a/1"])
    assert not tab.find(".side-bar").is_displayed()


def test_hostile_texts_are_shown_as_text_and_run_nothing(tab: Tab, tmp_path: Path):
    file = tmp_path / "report.html"
    hurt = "<img src=x onerror='window.hurt=1'><script>window.hurt=1</script>"
    file.write_text(page({hurt: nasty(), "b": nasty()}, hurt), encoding="utf-8")
    opened(tab, file)
    tab.choose(hurt)
    assert tab.browser.execute_script("return window.hurt ?? null") is None
    assert tab.browser.title == hurt
    # The policy names the hashes of the one script and the one style: had they differed, nothing would be shown.
    assert tab.complaints() == []


def test_a_log_that_never_saw_a_doctor_is_judged(tmp_path: Path):
    rows = ["step,train_loss"] + [f"{step},{2.0 * 0.97**step + 0.1}" for step in range(120)]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    file = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "metrics.csv"), "--html", str(file)]) == 0
    (run,) = embedded(file.read_text("utf-8"))["runs"].values()
    assert run["signals"]["train_loss"]["steps"][-1] == 119


@pytest.mark.parametrize("broken", ["missing", "empty", "damaged", "unwritable"])
def test_what_cannot_be_read_or_written_is_said_on_one_line(
    tmp_path: Path, broken: str, capsys: pytest.CaptureFixture[str]
):
    logs = tmp_path / "logs"
    file = tmp_path / "report.html"
    if broken != "missing":
        logs.mkdir()
    if broken == "damaged":
        (logs / "doctor.json").write_text("{")
    if broken == "unwritable":
        write(healthy(), logs)
        file = tmp_path / "nowhere" / "report.html"
    assert main(["report", str(logs), "--html", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lightning-doctor: error: ")
    assert error.count("\n") == 1
    assert not file.exists()
