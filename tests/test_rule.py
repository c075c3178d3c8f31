from __future__ import annotations

import math

import pytest

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Rule, rule


@rule("LD999", needs={"train_loss": 3, "val_loss": 1}, explains=("overfitting",))
def restless(history: History, *, sigmas: float = 2.0, patience: int = 5) -> Finding | None:
    """The loss does not rest.

    Why it matters:
        It does not.
    """
    if sigmas > 10:
        return None
    return Finding(severity=Severity.NOTE, summary=f"{patience}", remedy="rest", code="LD000", name="other")


def history_of(training: list[float], validation: list[float]) -> History:
    history = History()
    for step, value in enumerate(training):
        history.record("train_loss", step, value)
    for step, value in enumerate(validation):
        history.record("val_loss", 10 * step, value)
    return history


def test_a_rule_is_read_off_its_function() -> None:
    assert isinstance(restless, Rule)
    assert (restless.code, restless.name, restless.title) == ("LD999", "restless", "The loss does not rest.")
    assert restless.thresholds == {"sigmas": 2.0, "patience": 5}
    assert restless.explains == ("overfitting",)
    assert "Why it matters:\n    It does not." in restless.manual


def test_a_finding_is_named_after_its_rule_whatever_the_function_says() -> None:
    finding = restless(History(), patience=7)
    assert finding is not None
    assert (finding.code, finding.name, finding.summary) == ("LD999", "restless", "7")
    assert restless(History(), sigmas=11.0) is None


@pytest.mark.parametrize(
    ("training", "validation", "lack"),
    [
        ([1.0, 1.0, 1.0], [1.0], None),
        ([], [1.0], "train_loss has 0 of the 3 values needed"),
        ([1.0, 1.0], [1.0], "train_loss has 2 of the 3 values needed"),
        ([1.0, 1.0, 1.0], [], "val_loss has 0 of the 1 values needed"),
        ([1.0, math.nan, 1.0, math.inf], [1.0], "train_loss is not finite at step 1"),
        ([1.0, 1.0, 1.0], [1.0, math.inf], "val_loss is not finite at step 10"),
    ],
)
def test_it_says_what_a_history_lacks(training: list[float], validation: list[float], lack: str | None) -> None:
    assert restless.lacks(history_of(training, validation)) == lack


def test_a_series_that_the_run_cannot_have_is_lacking_for_that_reason() -> None:
    history = history_of([1.0, 1.0, 1.0], [])
    history.absent["val_loss"] = "no validation loader"
    assert restless.lacks(history) == "no validation loader"


def test_a_rule_may_ask_to_see_what_is_not_finite() -> None:
    @rule("LD998", needs={"train_loss": 3}, non_finite=True)
    def broken(history: History) -> Finding | None:
        return None

    assert broken.lacks(history_of([1.0, math.nan, 1.0], [])) is None
    assert broken.lacks(history_of([1.0, math.nan], [])) == "train_loss has 2 of the 3 values needed"


def test_a_rule_may_ask_for_one_of_a_family() -> None:
    @rule("LD997", needs={"train_loss/*": 2})
    def any_loss(history: History) -> Finding | None:
        return None

    several = History()
    several.absent["train_loss"] = "2 optimizers: no single loss has to fall"
    assert any_loss.lacks(several) == "2 optimizers: no single loss has to fall"
    several.record("train_loss/0", 0, 1.0)
    assert any_loss.lacks(several) == "train_loss/0 has 1 of the 2 values needed"
    several.record("train_loss/1", 0, 1.0)
    several.record("train_loss/1", 1, 1.0)
    assert any_loss.lacks(several) is None
    assert any_loss.lacks(history_of([1.0, 1.0], [])) is None


def test_what_was_seen_long_ago_does_not_tell_how_the_run_is_now() -> None:
    @rule("LD998", needs={"train_loss": 1}, recent=("val_loss", "absent"))
    def stale(history: History) -> Finding | None:
        """It looks at what is seen rarely."""
        return None

    history = history_of([1.0] * 101, [1.0])
    assert stale.lacks(history) == "the newest val_loss is of step 0: too old to tell of now"
    history.record("val_loss", 40, 1.0)
    assert stale.lacks(history) is None
