"""Whether the tab serves who does not see it, sees it badly, or has no mouse: by what Chromium tells screen readers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from lightning_doctor.sinks.snapshot_bytes import encode
from tests.sinks.reports import diverging, healthy
from tests.tensorboard_plugin.chrome import Tab, tensorboard
from tests.tensorboard_plugin.logs import write
from tests.tensorboard_plugin.pages import PAGES, darken

# What is pressed, typed into, ticked or opened, as Chromium calls it.
INTERACTIVE = {
    "button",
    "checkbox",
    "combobox",
    "DisclosureTriangle",
    "link",
    "menuitem",
    "radio",
    "searchbox",
    "slider",
    "switch",
    "textbox",
}


@dataclass(frozen=True)
class Node:
    """A node of the accessibility tree, as a screen reader is given it.

    Attributes:
        role: ``"button"``, ``"heading"`` …
        name: What is read out.
        properties: ``level``, ``focusable``, ``live`` …, as far as they are set.
        text: Of all that is under it.
    """

    role: str
    name: str
    properties: dict[str, Any]
    text: str


def told(tab: Tab) -> list[Node]:
    """Returns the tree that Chromium computed for the tab's frame, in the order of reading."""
    top = tab.browser.execute_cdp_cmd("Page.getFrameTree", {})["frameTree"]
    (frame,) = [child["frame"]["id"] for child in top["childFrames"]]
    nodes = tab.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {"frameId": frame})["nodes"]
    known = {node["nodeId"]: node for node in nodes}

    def text(node: dict[str, Any]) -> str:
        if node.get("role", {}).get("value") == "StaticText":
            return str(node["name"]["value"])
        return "".join(text(known[child]) for child in node.get("childIds", []) if child in known)

    def walk(node: dict[str, Any]) -> Iterator[Node]:
        if not node["ignored"]:
            properties = {one["name"]: one["value"].get("value") for one in node.get("properties", [])}
            yield Node(node["role"]["value"], node.get("name", {}).get("value", ""), properties, text(node))
        for child in node.get("childIds", []):
            if child in known:
                yield from walk(known[child])

    return list(walk(nodes[0]))


@pytest.mark.parametrize("page", PAGES)
def test_all_that_can_be_used_has_a_name_and_every_chart_is_told_in_words(tab: Tab, board: str, page: str):
    tab.open(board)
    PAGES[page](tab)
    nodes = told(tab)
    used = [node for node in nodes if node.role in INTERACTIVE]
    assert used
    assert [node for node in used if not node.name.strip()] == []
    # What can have the focus is read out when it gets it.
    focusable = [node for node in nodes if node.properties.get("focusable") and node.role != "RootWebArea"]
    assert [node for node in focusable if not node.name.strip()] == []
    charts = [node for node in nodes if node.role == "image"]
    assert [node for node in charts if not node.name.strip()] == []
    if page != "manual":
        # Behind an open dialog nothing is told.
        drawn = "return [...document.querySelectorAll('svg.chart')].filter((one) => one.checkVisibility()).length"
        assert len(charts) == tab.browser.execute_script(drawn) > 0


@pytest.mark.parametrize("page", PAGES)
def test_headings_nest(tab: Tab, board: str, page: str):
    tab.open(board)
    PAGES[page](tab)
    headings = [node for node in told(tab) if node.role == "heading"]
    levels = [int(node.properties["level"]) for node in headings]
    # A dialog stands for itself: what is behind it is not told.
    assert levels[0] == (2 if page == "manual" else 1)
    skipped = [
        (before.name, after.name)
        for before, after in pairwise(headings)
        if after.properties["level"] > before.properties["level"] + 1
    ]
    assert skipped == []
    assert [node for node in headings if not node.name.strip()] == []
    assert len(levels) > 2


def test_a_verdict_and_its_findings_are_headings_to_jump_to(tab: Tab, board: str):
    tab.open(board)
    tab.choose("descent/sick")
    headings = {node.name: node.properties["level"] for node in told(tab) if node.role == "heading"}
    # As it is shown, the state in capitals.
    assert headings["ILL This run is lost or wrong as it stands: learning_rate_too_high."] == 2
    for name in tab.texts(".findings > .card > summary h3"):
        assert headings[name] == 3


def test_a_chart_tells_its_course_its_onset_and_its_levels(tab: Tab, board: str):
    tab.open(board)
    tab.choose("descent/sick")
    (chart, *_) = [node.name for node in told(tab) if node.role == "image"]
    assert chart.startswith("Chart of ")
    assert " goes from " in chart
    assert "onset at step" in chart
    assert len(tab.all(".findings .level")) > 0
    assert any("level" in node.name for node in told(tab) if node.role == "image")


def test_a_verdict_that_changes_is_announced_and_one_that_stays_is_not(tab: Tab, tmp_path: Path):
    def said() -> str:
        (status,) = [node for node in told(tab) if node.role == "status"]
        assert status.properties["live"] == "polite"
        return status.text

    write(tmp_path / "run", [(1000, encode(healthy()))])
    with tensorboard(tmp_path) as address:
        tab.open(address)
        tab.wait(lambda: tab.text(".banner-run") == "run")
        assert said() == ""
        write(tmp_path / "run", [(1100, encode(replace(healthy(), step=1100)))])
        tab.wait(lambda: "1,100" in tab.text(".lane-axis, .facts") or "1100" in tab.text(".facts"))
        assert said() == ""
        write(tmp_path / "run", [(1200, encode(replace(diverging(), step=1200)))])
        tab.wait(lambda: tab.find(".banner.state-ill"))
        assert said().startswith("run: Ill. ")
        assert "diverging" in said()


def test_the_landmarks_are_there_and_what_is_chosen_is_said_in_words(tab: Tab, board: str):
    tab.open(board)
    tab.choose("descent/sick")
    assert tab.browser.execute_script("return document.documentElement.lang") == "en"
    nodes = told(tab)
    assert [node.name for node in nodes if node.role == "navigation"] == ["Runs"]
    assert len([node for node in nodes if node.role == "main"]) == 1
    assert tab.text(".run-button[aria-current=true] .run-name") == "Ill: descent/sick"


def test_everything_can_be_reached_and_done_by_keyboard(tab: Tab, board: str):
    tab.open(board)
    tab.browser.execute_script("document.body.focus()")
    reached = []
    for _ in range(40):
        ActionChains(tab.browser).send_keys(Keys.TAB).perform()
        reached.append(
            tab.browser.execute_script("return document.activeElement.dataset.key ?? document.activeElement.className")
        )
    assert {"skip", "filter", "state ill", "run saddle", "compare saddle"} <= set(reached)
    _, name = tab.texts(".run .name")[:2]
    tab.browser.execute_script("document.querySelector('.run-button').focus()")
    ActionChains(tab.browser).send_keys(Keys.ARROW_DOWN).send_keys(Keys.ENTER).perform()
    tab.wait(lambda: tab.text(".banner-run") == name)
    # Drawn anew, and the focus is where it was.
    assert tab.browser.execute_script("return document.activeElement.dataset.key") == f"run {name}"


def test_the_theme_is_that_of_tensorboard(tab: Tab, board: str):
    tab.open(board)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = tab.browser.execute_script(ground)
    darken(tab, True)
    assert tab.browser.execute_script(ground) != light
    darken(tab, False)
    assert tab.browser.execute_script(ground) == light
