"""The Doctor tab in a real browser, on a real TensorBoard, with runs of the clinic."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from lightning.pytorch import Callback
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from lightning_doctor.report import Report
from lightning_doctor.sinks import wording
from lightning_doctor.sinks.snapshot import VERSION, snapshot
from lightning_doctor.sinks.snapshot_bytes import encode, pack
from tests.sinks.reports import NASTY, diverging, healthy, nasty
from tests.tensorboard_plugin.chrome import Tab, tensorboard
from tests.tensorboard_plugin.logs import PROGRAMS, crowded, plain, train, write


def expected(report: Report) -> str:
    return snapshot(report)["state"]


def test_the_tab_is_there_and_tells_of_every_run_what_its_doctor_said(
    tab: Tab, board: str, reports: tuple[Path, dict[str, Report]]
):
    tab.open(board)
    tab.browser.switch_to.default_content()
    assert "DOCTOR" in [text.strip().upper() for text in tab.texts("mat-toolbar [role=tab], mat-toolbar .mdc-tab")]
    tab.open(board)
    tab.wait(lambda: len(tab.all(".run")) == len(PROGRAMS))
    for name, report in reports[1].items():
        tab.choose(name)
        assert tab.text(".banner .verdict") == wording.verdict(report)
        assert tab.find(f".banner.state-{expected(report)}") is not None
        assert tab.text(".facts").startswith(wording.stage(report))
        assert wording.cost(report) in tab.text(".facts")
    assert {expected(report) for report in reports[1].values()} >= {"ill", "well"}
    assert tab.text(".others li") == "untreated"
    assert tab.complaints() == []
    hosts, failed = tab.traffic()
    assert (hosts, failed) == ({"127.0.0.1"}, [])


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_path_through_the_tree_is_lit_as_it_was_walked(
    tab: Tab, board: str, reports: tuple[Path, dict[str, Report]], name: str
):
    tab.open(board)
    tab.choose(name)
    guide = reports[1][name].guide
    shown = tab.browser.execute_script(
        "return [...document.querySelectorAll('.node.lit > .box:has(.reply)')].map((box) =>"
        " [box.querySelector('.question').firstChild.data, box.querySelector('.reply').textContent,"
        " box.querySelector('small').textContent])"
    )
    assert sorted(shown) == sorted([a.question, a.reply, wording.value(a.because)] for a in guide.answers)
    (end,) = tab.texts(".node.end b")
    titles = {
        "optimization": "Optimization",
        "healthy": "Healthy",
        "unknown": "Not settled",
        "model_bias": "Model bias",
    }
    assert end == titles[guide.conclusion]


def test_causes_come_first_with_their_symptoms_evidence_remedy_and_curves(
    tab: Tab, board: str, reports: tuple[Path, dict[str, Report]]
):
    tab.open(board)
    tab.choose("descent/sick")
    report = reports[1]["descent/sick"]
    roots = [finding for finding in report.findings if finding.explained_by is None]
    assert tab.texts(".findings > .card > summary .code") == [finding.code for finding in roots]
    root = roots[0]
    (card, *_) = tab.all(".findings > .card")
    assert root.summary.replace("`", "") in card.get_property("textContent")
    assert tab.text(".findings > .card .remedy p") == root.remedy.replace("`", "")
    evidence = dict(zip(tab.texts(".findings > .card dt"), tab.texts(".findings > .card dd"), strict=True))
    # The first card's own figures come first; those of others follow.
    for key, value in root.evidence.items():
        assert evidence[key.replace("_", " ")] == wording.value(value)
    assert tab.texts(".findings > .card:first-of-type .symptoms .card > summary .code") == [
        finding.code for finding in report.symptoms(root)
    ]
    drawn = tab.texts(".findings > .card:first-of-type > .card-body > .charts .chart-title")
    assert drawn == [name for name in root.signals if name in report.history][:3]
    assert len(tab.all(".findings .chart .onset")) == len(tab.all(".findings .chart"))
    assert tab.all(".findings .chart .level") != []


def test_a_symptoms_card_is_filled_when_it_is_opened(tab: Tab, board: str, reports: tuple[Path, dict[str, Report]]):
    tab.open(board)
    tab.choose("descent/sick")
    tab.wait(lambda: tab.find(".symptoms .card > summary"))
    assert tab.all(".symptoms .card .summary") == []
    tab.click(lambda: tab.find(".symptoms .card > summary"))
    tab.wait(lambda: tab.find(".symptoms .card[open] .summary"))
    (symptom, *_) = reports[1]["descent/sick"].symptoms(reports[1]["descent/sick"].findings[0])
    assert tab.text(".symptoms .card[open] .summary") == symptom.summary.replace("`", "")
    assert tab.all(".symptoms .card[open] .chart") != []


def test_the_curvature_panel_shows_the_spectrum_the_line_and_what_kind_of_point_it_is(tab: Tab, board: str):
    tab.open(board)
    tab.choose("saddle")
    assert tab.text(".curvature > p b") == "saddle"
    titles = tab.texts(".curvature .chart-title")
    assert {"spectrum of the Hessian", "loss along the way down"} <= set(titles)
    assert len(tab.all(".curvature .stick.negative")) > 0


def test_a_findings_manual_page_opens_from_the_package_and_closes_by_key(tab: Tab, board: str):
    tab.open(board)
    tab.choose("saddle")
    tab.keyed("manual LD401").click()
    tab.wait(lambda: tab.find("dialog[open]"))
    assert "saddle point" in tab.text("dialog h2")
    assert "Blind spots" in tab.texts("dialog h3")
    ActionChains(tab.browser).send_keys(Keys.ESCAPE).perform()
    tab.wait(lambda: tab.find("dialog") is None)
    assert tab.complaints() == []


def test_runs_are_compared_beside_each_other(tab: Tab, board: str, reports: tuple[Path, dict[str, Report]]):
    tab.open(board)
    tab.tick("saddle", "way by", "descent/sick")
    assert tab.texts(".run-column h3 button") == ["saddle", "way by", "descent/sick"]
    rows = {row.split("\n")[0] for row in tab.texts(".outcome tbody th")}
    assert rows == {"saddle", "way by", "descent/sick"}
    names = tab.texts(".outcome tbody th")
    beside = dict(zip(names, tab.texts(".outcome tbody td:nth-last-child(2)"), strict=True))
    # The same network on the same data, by Adam and by plain descent from a saddle.
    assert (beside["saddle"], beside["way by"]) == ("optimization", "nothing ill")
    own = dict(zip(names, tab.texts(".outcome tbody td:last-child"), strict=True))
    assert own == {"saddle": "Ill", "way by": "Well", "descent/sick": "Ill"}
    assert len(tab.all(".curves .legend li")) == 3
    tab.keyed("column way by").click()
    tab.wait(lambda: tab.text(".banner-run") == "way by")
    tab.keyed("compare none").click()
    assert tab.complaints() == []


@pytest.mark.parametrize("width", [1024, 1440])
def test_nothing_runs_over_the_edge(tab: Tab, board: str, width: int):
    tab.browser.set_window_size(width, 900)
    tab.open(board)
    for name in PROGRAMS:
        tab.choose(name)
        over = tab.browser.execute_script(
            "const main = document.querySelector('main');"
            "return [document.documentElement.scrollWidth - innerWidth, main.scrollWidth - main.clientWidth]"
        )
        assert over == [0, 0], name
    tab.browser.set_window_size(1440, 1000)


def test_the_tab_follows_a_run_while_it_trains(tab: Tab, tmp_path: Path):
    plain(tmp_path / "untreated")
    seen: list[tuple[str, str]] = []

    class Reader(Callback):
        """Looks at the tab in the middle of the run, as its reader would."""

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 150:
                tab.wait(lambda: "live" in tab.texts(".run .name"))
                tab.choose("live")
                tab.wait(lambda: tab.find(".banner.state-ill"))
                seen.append((tab.text(".banner-run"), tab.text(".facts li")))

    with tensorboard(tmp_path) as address:
        write(tmp_path / "before", [(1000, encode(healthy()))])
        tab.open(address)
        tab.wait(lambda: tab.text(".banner-run") == "before")
        write(tmp_path / "before", [(1200, encode(replace(diverging(), step=1200)))])
        tab.wait(lambda: tab.find(".banner.state-ill"))
        assert "diverging_loss" in tab.text("[role=status]")
        report = train(tmp_path, "live", 25, sick=True, callbacks=[Reader()])
        ((name, stage),) = seen
        assert name == "live"
        assert "as far as it is seen" in stage
        tab.wait(lambda: wording.stage(report) in tab.text(".facts li"))
        assert tab.text(".banner .verdict") == wording.verdict(report)
        assert tab.complaints() == []


LONG = "x" * 10_000
NAMES = [
    "<img src=x onerror=alert(1)>",
    "'\"><svg onload=alert(1)>",
    "%2e%2e%2fetc",
    "a b&run=c#d?e=f",
    "émoji 🩺 שלום",
    "javascript:alert(1)",
]


def hostile() -> Report:
    report = nasty()
    first, *others = report.findings
    return replace(report, findings=[replace(first, summary=f"<script>window.hurt = 1</script>{LONG}"), *others])


@pytest.fixture
def hostile_logs(tmp_path: Path) -> Path:
    for name in NAMES:
        # A slash in a name is a folder to TensorBoard.
        write(tmp_path / name, [(0, encode(hostile()))])
    write(tmp_path / "newer", [(0, pack({**snapshot(healthy()), "version": VERSION + 1}))])
    write(tmp_path / "damaged", [(0, b"no snapshot")])
    return tmp_path


def test_hostile_names_and_texts_are_shown_as_text(tab: Tab, hostile_logs: Path):
    with tensorboard(hostile_logs) as address:
        tab.open(address)
        tab.wait(lambda: len(tab.all(".run")) == len(NAMES) + 2)
        assert {*NAMES, "newer", "damaged"} == set(tab.texts(".run .name"))
        for name in NAMES:
            tab.choose(name)
            assert tab.text(".card .summary").startswith("<script>window.hurt = 1</script>xxx")
            assert wording.value(NASTY)[:20] in tab.text(".card h3").replace(" ", " ")
        assert tab.browser.execute_script("return [window.hurt, window.parent.hurt]") == [None, None]
        assert tab.all("main script, main img, nav img, main iframe") == []
        main = "const main = document.querySelector('main'); return main.scrollWidth - main.clientWidth"
        assert tab.browser.execute_script(main) == 0
        tab.choose("newer")
        assert f"version {VERSION + 1}, this one reads {VERSION}" in tab.text(".banner .verdict")
        tab.choose("damaged")
        assert "not a doctor's snapshot" in tab.text(".banner .verdict")
        assert tab.complaints() == []
        hosts, failed = tab.traffic()
        assert (hosts, failed) == ({"127.0.0.1"}, [])


def test_a_log_directory_without_a_doctor_has_no_doctor_tab(tab: Tab, tmp_path: Path):
    plain(tmp_path / "untreated")
    with tensorboard(tmp_path) as address, urlopen(f"{address}data/plugins_listing") as answer:
        assert json.load(answer)["doctor"]["enabled"] is False


def test_two_hundred_runs_of_fifty_findings_are_all_there(tab: Tab, tmp_path: Path):
    data = encode(crowded(50))
    for index in range(200):
        write(tmp_path / f"run {index}", [(1999, data)])
    with tensorboard(tmp_path) as address:
        tab.open(address)
        tab.wait(lambda: len(tab.all(".run")) == 200)
        tab.choose("run 137")
        assert len(tab.all(".findings > .card")) == 50
        tab.keyed("filter").send_keys("run 19")
        tab.wait(lambda: len(tab.all(".run")) == 11)
        assert tab.browser.execute_script("return document.activeElement.dataset.key") == "filter"
        assert tab.complaints() == []


@pytest.mark.parametrize("loader", ["true", "false"], ids=["fast loader", "slow loader"])
def test_of_five_thousand_snapshots_the_newest_is_read_and_tells_the_whole_course(tmp_path: Path, loader: str):
    table = snapshot(diverging())
    write(tmp_path / "long", ((step, pack({**table, "step": step})) for step in range(5_000)))
    with tensorboard(tmp_path, f"--load_fast={loader}") as address:
        until = time.monotonic() + 240
        while True:
            with urlopen(f"{address}data/plugin/doctor/runs") as answer:
                runs = json.load(answer)["runs"]
            if (runs and runs[0]["step"] == 4_999) or time.monotonic() > until:
                break
            time.sleep(0.2)
        with urlopen(f"{address}data/plugin/doctor/run?run={quote('long')}") as answer:
            assert json.load(answer) == {**table, "step": 4_999}
