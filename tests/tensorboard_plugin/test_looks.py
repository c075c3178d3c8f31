"""How the tab looks: what stands out from its ground, and that nothing is cut off, on every page in both themes."""

from __future__ import annotations

import pytest

from tests.tensorboard_plugin.chrome import Tab
from tests.tensorboard_plugin.pages import PAGES, darken


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_texts_and_marks_stand_out_from_their_ground(tab: Tab, board: str, page: str, dark: bool):
    tab.open(board)
    PAGES[page](tab)
    darken(tab, dark)
    texts, faint_texts = tab.browser.execute_script(COLOURS + TEXTS)
    marks, faint_marks = tab.browser.execute_script(COLOURS + MARKS)
    darken(tab, False)
    assert faint_texts == []
    assert faint_marks == []
    assert texts > 50
    assert marks > 20


@pytest.mark.parametrize("width", [1440, 1024])
@pytest.mark.parametrize("page", PAGES)
def test_no_text_of_a_chart_and_no_bar_is_cut_off_and_nothing_scrolls_sideways(
    tab: Tab, board: str, page: str, width: int
):
    tab.browser.set_window_size(width, 1000)
    tab.open(board)
    PAGES[page](tab)
    looked_at, cut, wide = tab.browser.execute_script(CUT)
    tab.browser.set_window_size(1440, 1000)
    assert cut == []
    assert wide == []
    assert looked_at > 10


# Colours as they come out where some are let through, and how far apart two are (WCAG 2.2, contrast ratio).
COLOURS = """
const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const seen = new Map();
const rgba = (colour) => {
  if (!seen.has(colour)) {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    seen.set(colour, [r, g, b, a / 255]);
  }
  return seen.get(colour);
};
const over = ([r, g, b, a], under) => [r, g, b].map((value, index) => a * value + (1 - a) * under[index]);
const light = (rgb) => {
  const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) =>
  node ? over(rgba(getComputedStyle(node).backgroundColor), ground(node.parentElement)) : [255, 255, 255];
const opacity = (node) => node ? getComputedStyle(node).opacity * opacity(node.parentElement) : 1;
const faint = new Set();
let lookedAt = 0;
const look = (least, under, colour, node, text) => {
  const [r, g, b, a] = rgba(colour);
  const [one, other] = [light(over([r, g, b, a * opacity(node)], under)), light(under)].sort((x, y) => y - x);
  const ratio = (one + 0.05) / (other + 0.05);
  lookedAt += 1;
  if (ratio < least) faint.add(`${ratio.toFixed(2)} ${node.className.baseVal ?? node.className} ${text}`);
};
"""

# WCAG 2.2, 1.4.3: 4.5 to 1 between a text and what it lies on.
TEXTS = """
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("script, style, option")) continue;
  const style = getComputedStyle(node);
  look(4.5, ground(node), node.closest("svg") ? style.fill : style.color, node, walker.currentNode.data.slice(0, 30));
}
for (const input of document.querySelectorAll("[placeholder]")) {
  look(4.5, ground(input), getComputedStyle(input, "::placeholder").color, input, input.placeholder);
}
return [lookedAt, [...faint]];
"""

# WCAG 2.2, 1.4.11: 3 to 1 between what a mark is drawn with and what it lies on.
MARKS = """
const drawn = ".icon-body, .bar, .curve, .dot, .onset, .level, .broken, .stick, .axis";
for (const node of document.querySelectorAll(drawn)) {
  if (!node.checkVisibility()) continue;
  const style = getComputedStyle(node);
  look(3, ground(node.closest("svg").parentElement), style.stroke === "none" ? style.fill : style.stroke, node, "");
}
for (const node of document.querySelectorAll(".icon-mark")) {
  const body = getComputedStyle(node.previousElementSibling).fill;
  if (node.checkVisibility()) look(3, rgba(body).slice(0, 3), getComputedStyle(node).stroke, node, body);
}
for (const node of document.querySelectorAll(".span")) {
  const style = getComputedStyle(node);
  const passed = node.classList.contains("passed");
  look(3, ground(node.parentElement), passed ? style.borderTopColor : style.backgroundColor, node, "");
}
for (const node of document.querySelectorAll(".filter, .card, .banner, .run-column")) {
  const style = getComputedStyle(node);
  const edge = node.matches(".run-column") ? style.borderTopColor : style.borderLeftColor;
  if (node.checkVisibility()) look(3, ground(node.parentElement), edge, node, "");
}
for (const node of document.querySelectorAll(".tree ul > .node")) {
  if (node.checkVisibility()) look(3, ground(node), getComputedStyle(node, "::before").borderLeftColor, node, "");
}
return [lookedAt, [...faint]];
"""

# A pixel is what a browser rounds by.
CUT = """
const cut = [];
let lookedAt = 0;
const inside = (inner, outer, what) => {
  const [one, other] = [inner.getBoundingClientRect(), outer.getBoundingClientRect()];
  lookedAt += 1;
  const across = one.left >= other.left - 1 && one.right <= other.right + 1;
  const along = one.top >= other.top - 1 && one.bottom <= other.bottom + 1;
  if (!across || !along) cut.push(what);
};
for (const text of document.querySelectorAll("svg.chart text")) {
  if (text.checkVisibility()) inside(text, text.closest("svg"), `${text.closest("svg").ariaLabel} ${text.textContent}`);
}
for (const bar of document.querySelectorAll(".strip rect")) {
  if (bar.checkVisibility()) inside(bar, bar.parentElement, bar.closest(".run").textContent);
}
for (const bar of document.querySelectorAll(".span")) inside(bar, bar.parentElement, bar.closest("li").textContent);
for (const box of document.querySelectorAll(".tree .box")) inside(box, box.closest(".panel"), box.textContent);
for (const name of document.querySelectorAll(".run-verdict")) {
  lookedAt += 1;
  if (name.scrollHeight > name.clientHeight + 1) cut.push(name.textContent);
}
const wide = [document.scrollingElement, ...document.querySelectorAll("main, .side-bar, dialog")]
  .filter((place) => place.scrollWidth > place.clientWidth + 1)
  .map((place) => place.className || place.tagName);
return [lookedAt, cut, wide];
"""
