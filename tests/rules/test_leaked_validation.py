from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.leaked_validation import leaked_validation
from tests.scored import FAR, scored


def judge(
    found: float, *, usual: float = 0.0, rows: int = 397, samples: int = 1400, **thresholds: Any
) -> Finding | None:
    history = History()
    history.record("val_loss", 9, 0.5)
    exact = thresholds.pop("exact", found)
    history.facts = {
        "data": {"train_samples": samples},
        "overlap": {
            "train_rows": 1400,
            "validation_rows": rows,
            "exact": exact,
            "different": thresholds.pop("different", round(exact * rows)),
            "rounded": found,
            "repeated": usual,
            "repeated_validation": 0.0,
        },
    }
    if (coinciding := thresholds.pop("coinciding", None)) is not None:
        history.facts["comparison"] = {"inputs": {"coinciding": coinciding}}
    assert leaked_validation.lacks(history) is None
    return leaked_validation(history, **thresholds)


def test_sick_a_quarter_of_validation_among_the_training_rows_is_a_warning() -> None:
    finding = judge(97 / 397)
    assert finding is not None
    assert (finding.code, finding.severity) == ("LD506", Severity.WARNING)
    assert finding.summary.startswith("97 of 397 validation rows (24.4%) are among 1400 training rows")


@pytest.mark.parametrize(("coinciding", "ill"), [(0.0, True), (0.09, True), (0.11, False), (None, False)])
def test_sick_rows_of_numbers_that_never_meet_were_copied_before_the_split(coinciding: float | None, ill: bool) -> None:
    finding = judge(0.5, usual=0.5, coinciding=coinciding)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.severity is Severity.WARNING
        assert "copies" in finding.summary
        assert "oversample after the split" in finding.remedy


@pytest.mark.parametrize(("different", "ill"), [(1, False), (19, False), (21, True)])
def test_healthy_one_row_that_comes_again_and_again_is_no_copy_of_another(different: int, ill: bool) -> None:
    # Of 199 rows that are found.
    assert (judge(0.5, usual=0.5, coinciding=0.0, different=different) is not None) is ill


def test_healthy_numbers_that_meet_only_where_they_are_rounded_are_no_copies() -> None:
    assert judge(0.12, exact=0.0, usual=0.09, coinciding=0.0) is None


def test_sick_the_training_set_itself_is_named() -> None:
    finding = judge(1.0)
    assert finding is not None
    assert "the training set itself" in finding.remedy


def test_sick_rows_that_are_the_same_but_for_rounding_are_said_to_be() -> None:
    finding = judge(0.2, exact=0.0)
    assert finding is not None
    assert "but for rounding" in finding.summary


def test_sick_of_a_large_training_set_that_was_seen_in_part_more_are_likely() -> None:
    finding = judge(0.009, rows=4000, samples=140_000)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    # 0.9 % found among one row in a hundred.
    assert finding.evidence["likely_share"] == pytest.approx(0.9)


def test_healthy_no_row_of_the_other_side() -> None:
    assert judge(0.0) is None


def test_healthy_rows_that_hold_little_come_twice_by_themselves() -> None:
    assert judge(0.9, usual=0.93) is None
    assert judge(0.05, usual=0.04) is None


@pytest.mark.parametrize(("count", "ill"), [(8, False), (9, True)])
def test_rows_is_how_many_must_be_found(count: int, ill: bool) -> None:
    assert (judge(count / 397, least=9) is not None) is ill


@pytest.mark.parametrize(("share", "severity"), [(0.01, "warning"), (0.05, "note")])
def test_share_makes_a_warning(share: float, severity: str) -> None:
    finding = judge(0.03, share=share)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("found", "ill"), [(0.26, False), (0.32, True)])
def test_sigmas_is_how_surely_more_must_be_found_than_come_twice(found: float, ill: bool) -> None:
    # The standard error of 20 % of 397 rows is 2 %: four of them are 8 %.
    assert (judge(found, usual=0.2) is not None) is ill


def test_a_fact_that_cannot_be_read_is_no_finding() -> None:
    history = History()
    history.facts["overlap"] = {"train_rows": "many"}
    assert leaked_validation(history) is None


def too_good(
    train: float = 0.6, validation: float = 0.2, *, data: dict[str, Any] | None = None, **options: Any
) -> Finding | None:
    history = History()
    history.record("val_loss", 9, validation)
    history.facts = {
        "data": data or {},
        "overlap": {
            "train_rows": 1400,
            "validation_rows": 400,
            "exact": 0.0,
            "rounded": 0.0,
            "repeated": 0.0,
            "repeated_validation": 0.0,
        },
    }
    if compared := options.pop("compared", None):
        history.facts["comparison"] = {"inputs": compared}
    scored(history, "train", [train])
    scored(history, "validation", [validation])
    return leaked_validation(history, **options)


def test_validation_far_better_than_training_is_a_note() -> None:
    finding = too_good()
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.NOTE, Confidence.SUSPECTED)
    assert "validation rows score 0.2 ± 0.039 and training rows 0.6 ± 0.039, both in eval mode (95%)" in finding.summary


def test_healthy_augmented_training_rows_score_worse() -> None:
    assert too_good(data={"augmentation": "RandomCrop"}) is None


def test_healthy_rows_of_another_kind_may_be_easier() -> None:
    assert too_good(compared=FAR) is None


def test_healthy_validation_within_the_error_of_few_rows() -> None:
    assert too_good(0.3, 0.1) is None


@pytest.mark.parametrize(("factor", "ill"), [(2.9, True), (3.1, False)])
def test_factor_is_how_many_times_the_training_loss_must_be(factor: float, ill: bool) -> None:
    assert (too_good(factor=factor) is not None) is ill
