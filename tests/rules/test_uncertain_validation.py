from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.uncertain_validation import uncertain_validation

LABELS = {"counts": {"0": 50, "1": 50}, "samples": 100}


def validated(
    samples: int,
    losses: Sequence[float],
    accuracies: Sequence[float] = (),
    *,
    metric: str = "val_acc",
    mode: str = "max",
    labels: dict[str, Any] | None = LABELS,
    baseline: float | None = None,
    skill: float | None = None,
) -> History:
    history = History()
    history.facts = {"data": {"val_samples": samples}, "validation": {"metric": metric, "mode": mode}}
    if labels is not None:
        history.facts["labels"] = labels
    for index, loss in enumerate(losses):
        history.record("train_loss", 10 * index, 0.2 * loss)
        if skill is not None:
            history.record("skill", 10 * index, skill)
        history.record("val_loss", 10 * index + 9, loss)
    for index, accuracy in enumerate(accuracies):
        history.record("val_metric", 10 * index + 9, accuracy)
    if baseline is not None:
        history.record("baseline_loss", 0, baseline)
    return history


def judge(*arguments: Any, **options: Any) -> Finding | None:
    thresholds = {"coarse": options.pop("coarse")} if "coarse" in options else {}
    return uncertain_validation(validated(*arguments, **options), **thresholds)


FALLING, RISING = [0.69, 0.6, 0.55, 0.5], [0.5, 0.6, 0.65, 0.7]


def test_sick_an_accuracy_on_twenty_samples_may_be_luck() -> None:
    finding = judge(20, FALLING, RISING)
    assert finding is not None
    assert (finding.code, finding.severity) == ("LD505", Severity.WARNING)
    # √(ln 40 / 40) = 0.304; four passes are three networks, √(ln 120 / 40) = 0.346; ln 120 / (2 · 0.2²) = 59.8.
    assert finding.evidence["bar"] == pytest.approx(0.3037, abs=5e-5)
    assert finding.evidence["bar_of_best"] == pytest.approx(0.3460, abs=5e-5)
    assert finding.evidence["looks"] == 3
    assert finding.evidence["gain"] == pytest.approx(0.2)
    assert finding.evidence["samples_needed"] == 60
    assert "60 samples" in finding.remedy
    assert "cross_validate" in finding.remedy


@pytest.mark.parametrize(("trained", "severity"), [(20, Severity.NOTE), (21, Severity.WARNING)])
def test_where_as_few_are_trained_on_there_are_no_more_to_hold_out(trained: int, severity: Severity) -> None:
    history = validated(20, FALLING, RISING)
    history.facts["data"]["train_samples"] = trained
    finding = uncertain_validation(history)
    assert finding is not None
    assert finding.severity is severity


def test_sick_a_loss_on_twenty_samples_may_be_luck() -> None:
    finding = judge(20, FALLING, baseline=0.69)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.summary.startswith("the validation loss rests on 20 samples")


def scattered(error: float, samples: int = 20) -> History:
    """A loss from 0.69 to 0.5, of whose samples half were scored, with this standard error."""
    history = validated(samples, FALLING, baseline=0.69)
    history.facts["scored"] = {"validation": samples // 2}
    history.record("eval_error/validation", 39, error)
    return history


def test_sick_a_loss_whose_samples_scatter_widely_may_be_luck() -> None:
    finding = uncertain_validation(scattered(0.2))
    assert finding is not None
    assert finding.severity is Severity.WARNING
    # 1.95996 · 0.2 / √2 / 0.69
    assert finding.evidence["bar"] == pytest.approx(0.40171, abs=1e-5)


def test_the_scatter_under_a_model_of_long_ago_tells_nothing() -> None:
    history = scattered(0.2)
    for step in range(40, 400):
        history.record("train_loss", step, 0.1)
    finding = uncertain_validation(history)
    assert finding is not None
    assert finding.evidence["bar"] == pytest.approx(0.3037, abs=5e-5)


def test_a_loss_that_weighs_its_classes_is_made_by_few_samples_and_noted_only() -> None:
    history = scattered(0.2)
    history.facts["loss_head"] = {"reduction": "mean", "weighted": True}
    finding = uncertain_validation(history)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_a_loss_whose_samples_are_alike_is_known_however_few_there_are() -> None:
    # 1.95996 · 0.07 / √2 / 0.69 is 0.141, of 0.15.
    assert uncertain_validation(scattered(0.07)) is None


def test_the_scatter_of_a_sum_is_not_that_of_a_mean() -> None:
    history = scattered(0.07)
    history.facts["loss_head"] = {"reduction": "sum"}
    finding = uncertain_validation(history)
    assert finding is not None
    assert finding.evidence["bar"] == pytest.approx(0.3037, abs=5e-5)


def test_healthy_five_hundred_samples_are_enough() -> None:
    assert judge(500, FALLING, RISING) is None
    assert judge(500, FALLING) is None


def test_healthy_a_gain_that_luck_does_not_explain_is_a_note() -> None:
    finding = judge(36, [1.1, 0.4, 0.2, 0.1], [0.6, 0.9, 0.97, 0.97], labels={"counts": {"0": 59, "1": 71, "2": 48}})
    assert finding is not None
    assert finding.severity is Severity.NOTE
    # ln 40 / (2 · 0.05²) = 737.8.
    assert finding.evidence["samples_needed"] == 738


# By Hoeffding 0.304 for one look at twenty samples. Half of it gained, in 64 passes that are seven networks: 0.375.
@pytest.mark.parametrize(("best", "severity"), [(0.86, Severity.WARNING), (0.89, Severity.NOTE)])
def test_healthy_many_passes_over_the_same_samples_make_little_more_luck(best: float, severity: Severity) -> None:
    losses = [0.69 - 0.005 * index for index in range(64)]
    finding = judge(20, losses, [0.5 + (best - 0.5) * index / 63 for index in range(64)])
    assert finding is not None
    assert finding.severity is severity


def test_healthy_a_run_that_was_good_from_its_first_pass_on_is_measured_against_guessing() -> None:
    # From 0.93 to 0.97 is little; from the 0.5 of a guess it is not.
    finding = judge(60, FALLING, [0.93, 0.95, 0.97])
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_without_anything_to_measure_a_gain_against_it_is_a_note() -> None:
    finding = judge(20, FALLING, RISING, labels=None)
    assert finding is not None
    assert finding.severity is Severity.NOTE
    finding = judge(20, FALLING, labels=None)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_a_network_that_learned_nothing_has_other_troubles() -> None:
    finding = judge(20, FALLING, RISING, skill=0.1)
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(("samples", "ill"), [(81, True), (82, False)])
def test_the_threshold_is_the_width_of_the_bar(samples: int, ill: bool) -> None:
    # ln 40 / (2 · 0.15²) = 81.97.
    assert (judge(samples, FALLING, RISING) is not None) is ill
    assert (judge(samples, FALLING) is not None) is ill


def test_the_threshold_can_be_set() -> None:
    assert judge(20, FALLING, RISING, coarse=0.31) is None
    assert judge(500, FALLING, RISING, coarse=0.05) is not None


@pytest.mark.parametrize(
    ("metric", "mode", "values"),
    [("valid/accuracy", "max", [50, 60, 65, 70]), ("val_err", "min", [0.5, 0.4, 0.35, 0.3])],
)
def test_per_cent_and_error_rates_are_read_as_shares(metric: str, mode: str, values: list[float]) -> None:
    finding = judge(20, FALLING, values, metric=metric, mode=mode)
    assert finding is not None
    assert finding.evidence["looks"] == 3
    assert finding.evidence["gain"] == pytest.approx(0.2)
    assert finding.summary.startswith(metric)


def test_a_metric_of_unknown_range_leaves_the_loss() -> None:
    finding = judge(20, FALLING, [3.0, 2.0, 1.0], metric="val_mae", mode="min", baseline=0.69)
    assert finding is not None
    assert finding.signals == ("val_loss",)


def test_a_loss_that_may_be_negative_has_no_share_and_is_a_note() -> None:
    finding = judge(20, [1.0, 0.5, -0.5], baseline=1.0)
    assert finding is not None
    assert finding.severity is Severity.NOTE
    assert "gain" not in finding.evidence


@pytest.mark.parametrize("facts", [{}, {"data": {}}, {"data": {"val_samples": None}}])
def test_without_the_number_of_samples_it_is_unassessed(facts: dict[str, Any]) -> None:
    history = validated(20, FALLING, RISING)
    history.facts = facts
    assert uncertain_validation.lacks(history) == "the fact data.val_samples is not known"


@pytest.mark.parametrize(("batch", "severity"), [(2, Severity.NOTE), (20, Severity.WARNING)])
def test_what_a_constant_costs_must_be_known_by_as_many_rows(batch: int, severity: Severity) -> None:
    history = validated(20, FALLING, baseline=0.69)
    history.facts["data"]["batch_size"] = batch
    finding = uncertain_validation(history)
    assert finding is not None
    assert finding.severity is severity


def test_of_how_many_a_single_sample_is_made_nobody_knows() -> None:
    with pytest.raises(Undecided, match="one sample"):
        judge(1, FALLING, RISING)
    assert judge(2, FALLING, RISING) is not None
