from __future__ import annotations

import dataclasses
import re

import pytest
from tensorboard.plugin_util import _ALLOWED_TAGS, markdown_to_safe_html

from lightning_doctor.findings import Severity
from lightning_doctor.report import Report
from lightning_doctor.sinks.letter import letter, substance
from tests.sinks.reports import NASTY, REPORTS, diverging, healthy, nasty, overfitting


def test_the_letter_names_the_cause_before_its_symptoms_and_those_before_what_has_passed():
    text = letter(diverging())
    order = ["diverging_loss.**", "## 1. LD102", "| best | 0.3112 |", "LD101 non", "LD202 exp", "LD107", "| Question"]
    places = [text.index(piece) for piece in order]
    assert places == sorted(places)
    assert "## 2." not in text


def test_the_letter_says_when_how_bad_how_sure_and_what_to_do():
    text = letter(diverging())
    assert "**ERROR**, confirmed, since about step 240, announced at step 250, still there at step 600." in text
    assert "lower lr from 10 to 0.1" in text
    assert "recovered by step 150" in text
    assert "the run was interrupted" in text
    assert "0.83 %" in text
    assert "value = NaN" in text


def test_reasons_that_rules_share_are_given_once():
    assert letter(diverging()).count("no validation loader") == 1


def test_a_suspicion_is_called_one():
    assert "suspected overfitting" in letter(overfitting())


def test_a_healthy_run_is_told_so_and_on_how_much_it_rests():
    text = letter(healthy())
    assert "**Nothing ill was found: 5 of 6 rules could judge this run.**" in text
    assert "What to do" not in text


def test_a_report_of_nothing_claims_no_health():
    text = letter(Report())
    assert "Nothing could be judged yet" in text
    assert "Nothing ill" not in text


def test_a_note_is_not_called_a_treatment():
    note = dataclasses.replace(overfitting().findings[0], severity=Severity.NOTE)
    assert "Nothing needs treatment" in letter(Report(findings=[note]))


def test_a_finding_whose_cause_is_missing_still_stands_in_the_letter():
    orphan = dataclasses.replace(overfitting().findings[0], explained_by="LD103")
    assert "## 1. LD501 overfitting" in letter(Report(findings=[orphan]))


def test_two_findings_that_explain_each_other_are_both_in_the_letter():
    one, two = diverging().findings[:2]
    report = Report(findings=[dataclasses.replace(one, explained_by="LD101"), two])
    assert {"## 1. LD102 diverging_loss", "## 2. LD101 non_finite_loss"} <= set(letter(report).splitlines())


def test_tensorboard_shows_every_table_row_with_the_cells_it_was_given():
    page = markdown_to_safe_html(letter(nasty()))
    for table in re.findall(r"<table>.*?</table>", page, re.S):
        width = table.count("<th>")
        for row in re.findall(r"<tr>.*?</tr>", table, re.S):
            cells = re.findall("<t[hd]>(.*?)</t[hd]>", row, re.S)
            assert len(cells) == width
            # A bar that splits a cell is not seen in their number: what is too many is dropped.
            for cell in re.findall("<td>(.*?)</td>", row, re.S):
                assert cell in ("loss", "infinite", "unknown") or (cell.startswith("a|b") and cell.endswith("{a}"))


def test_nothing_from_outside_becomes_markup_in_tensorboard():
    page = markdown_to_safe_html(letter(nasty()))
    assert "<a" not in page
    assert "<em>" not in page
    # Only the page's own code block, for the traceback, and never inline code.
    assert page.count("<code>") == page.count("<pre><code>")
    # Exactly the headings that the letter itself has.
    headings = [re.sub("[^A-Za-z ].*", "", h).strip() for h in re.findall(r"<h\d>(.*?)</h\d>", page)]
    assert headings == [
        "Report of the lightning",
        "",
        "",
        "Recovered",
        "The walk through the tree",
        "What could be judged",
        "About the doctor itself",
    ]
    # Whatever was typed is read back as it was typed.
    assert "a|b &lt;script&gt;alert(1)&lt;/script&gt; &amp;amp; `code` **bold** __init__ [link](javascript" in page


def test_the_letter_itself_holds_no_html_and_no_control_characters():
    # Other Markdown viewers do not wash what they show. In the code block a browser would see it as text.
    outside = re.sub(r"^(`{3,})\n.*?^\1$", "", letter(nasty()), flags=re.S | re.M)
    assert "<" not in outside
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", letter(nasty()))
    letter(nasty()).encode("utf-8")


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_renders_with_tags_that_tensorboard_allows(name: str):
    page = markdown_to_safe_html(letter(REPORTS[name]()))
    assert set(re.findall(r"<(\w+)", page)) <= set(_ALLOWED_TAGS)
    assert "| --" not in page
    assert "|---" not in page


def test_a_name_keeps_its_underscores_legible():
    assert "train_loss" in letter(Report(unassessed={"LD102": "train_loss has 3 of the 8 values needed"}))


def test_an_endless_string_does_not_make_an_endless_letter():
    finding = dataclasses.replace(overfitting().findings[0], summary="x" * 10**6)
    assert len(letter(Report(findings=[finding]))) < 5000


def test_a_report_prints_as_its_letter():
    assert str(diverging()) == letter(diverging())


def test_the_substance_stays_while_only_figures_move_on():
    report = diverging()
    later = [dataclasses.replace(f, last_step=999, evidence={"now": 1.0}) for f in report.findings]
    assert substance(dataclasses.replace(report, step=999, overhead=0.5, findings=later)) == substance(report)


@pytest.mark.parametrize("change", [{"recovered": []}, {"notes": [NASTY]}, {"healthy": []}, {"findings": []}])
def test_the_substance_changes_with_what_is_said(change: dict[str, object]):
    assert substance(dataclasses.replace(diverging(), **change)) != substance(diverging())
