from __future__ import annotations

from html.parser import HTMLParser

from lightning_doctor.report import Report
from lightning_doctor.sinks.html import html
from tests.sinks.reports import diverging, healthy, nasty

OWN_TAGS = {"div", "span", "b", "table", "tr", "td", "details", "summary", "pre"}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_brings_nothing_but_inline_style(report: Report):
    page = Page(html(report))
    assert page.open == []
    assert page.tags <= OWN_TAGS
    assert page.attributes <= {"style"}


def test_what_comes_from_outside_is_read_as_it_was_typed():
    page = Page(html(nasty()))
    assert "<script>alert(1)</script> &amp; `code`" in page.text
    html(nasty()).encode("utf-8")


def test_the_page_says_what_the_letter_says():
    text = Page(html(diverging())).text
    for piece in ("diverging_loss.", "lower lr from 10 to 0.1", "8434", "exploding_gradients", "LD107", "0.83 %"):
        assert piece in text


def test_a_report_shows_itself_in_a_notebook():
    assert healthy()._repr_html_() == html(healthy())


def test_no_colour_of_text_is_set_but_on_the_badges():
    # On a dark page black letters would vanish, and tables in old documents do not inherit unless told to.
    page = html(diverging())
    assert "color:inherit" in page
    assert page.count(";color:#") == page.count("background:#")
