from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from torch import nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.output_out_of_reach import output_out_of_reach
from tests.histories import COMPLETED, HEAD, LOGITS, headed
from tests.runs import LABELS, found

RELU = {**HEAD, "activation": "relu", "output_min": 0.0}
SIGMOID = {**HEAD, "activation": "sigmoid"}
TANH = {**HEAD, "activation": "tanh", "output_min": -0.9}
ONE_SOFTMAX = {
    **HEAD,
    "loss": "bce",
    "activation": "softmax",
    "targets": "binary",
    "output_min": 1.0,
    "output_max": 1.0,
}
SQUEEZED = {**LOGITS, "activation": "sigmoid", "output_min": 0.1, "output_max": 0.9}
HIGH = (LABELS >= 5).float()[:, None]


def judge(head: dict[str, Any], **options: Any) -> Finding | None:
    return output_out_of_reach(headed(head, **options))


def spread(mean: float, deviation: float, low: float, high: float) -> dict[str, float]:
    return {"target_mean": mean, "target_std": deviation, "target_min": low, "target_max": high}


def test_sick_a_relu_output_for_targets_about_zero_misses_half_of_their_variance() -> None:
    finding = judge(RELU)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD304", Severity.ERROR, Confidence.CONFIRMED)
    assert finding.onset == 0
    assert finding.evidence["share_out_of_reach"] == pytest.approx(0.5)
    assert "take relu away" in finding.remedy


def test_sick_a_sigmoid_output_cannot_even_put_out_the_mean_of_large_targets() -> None:
    finding = judge({**SIGMOID, **spread(36.7, 30, 3, 103)}, activations=[{"layer": "out", "kind": "sigmoid"}])
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert "even their mean is out of reach" in finding.summary
    assert "`out`" in finding.remedy
    assert "scale the targets into [0, 1]" in finding.remedy


@pytest.mark.parametrize(("scale", "ill"), [(2.0, True), (40.0, False)])
def test_sick_an_activation_times_a_number_reaches_as_many_times_further(scale: float, ill: bool) -> None:
    head = {**TANH, "scale": scale, "output_min": -scale, "output_max": scale, **spread(0, 12, -20, 20)}
    finding = judge(head)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.severity is Severity.ERROR
        assert "a tanh output times 2, which lies in [-2, 2]" in finding.summary
        # What goes beyond that has something after it that was not seen.
        assert judge({**head, "output_max": 2.1}) is None


def judge_terms(*terms: dict[str, Any]) -> Finding | None:
    """A run that is over, whose loss is a sum."""
    history = headed({}, skill=None, baseline=None, run=COMPLETED, loss_terms={"step": 390, "terms": list(terms)})
    del history.facts["loss_head"]
    history.absent["loss_head"] = "the loss is a sum of 2 terms"
    return output_out_of_reach(history)


DEGREES = {
    "loss": "smooth_l1",
    "activation": "tanh",
    "output_min": -1.0,
    "output_max": 1.0,
    "share": 0.999,
    "learned": 0.01,
    "learned_error": 0.01,
    "looks": 6,
    **spread(0.5, 56.4, -83.8, 84.4),
}
GRIPS = {"loss": "bce_with_logits", "activation": None, "share": 0.001, "learned": 0.7, "looks": 6}


def test_sick_one_term_of_a_sum_asks_for_more_than_its_output_can() -> None:
    finding = judge_terms(GRIPS, DEGREES)
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert finding.remedy.startswith("take the tanh away from the output, or scale")
    assert finding.summary.startswith("of one of 2 terms of the loss, smooth_l1: targets from -83.8 to 84.4 for a tanh")


@pytest.mark.parametrize(
    "change",
    [
        {"activation": None},
        {"output_max": 40.0},
        {"share": 1e-3},
        spread(0.0, 0.5, -0.9, 0.9),
        spread(0.0, 0.5, -1.5, 1.5),
    ],
)
def test_healthy_terms_are_left_open(change: dict[str, Any]) -> None:
    with pytest.raises(Undecided, match="the loss is a sum of 2 terms"):
        judge_terms(GRIPS, {**DEGREES, **change})


def test_a_term_that_is_learned_all_the_same_is_a_note() -> None:
    finding = judge_terms(GRIPS, {**DEGREES, **spread(0.0, 2.0, -5.0, 5.0), "learned": 0.9})
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_sick_one_term_of_a_sum_in_a_real_run(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: Any) -> Any:
        amounts = 40 * (labels.float() - 4.5)
        return functional.cross_entropy(outputs[:, :10], labels) + functional.mse_loss(outputs[:, 10].tanh(), amounts)

    finding = found(tmp_path, "output_out_of_reach", lambda: nn.Linear(64, 11), loss, LABELS)
    assert finding is not None
    assert "for a tanh output, which lies in [-1, 1]" in finding.summary


POISSON = {**HEAD, "loss": "poisson", "activation": "softplus", "output_min": 0.01, "output_max": 2.0}


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ({"target_mean": 0.3}, Severity.ERROR),
        # Some rates under one there may be.
        ({"target_mean": 1.5}, Severity.WARNING),
        ({"target_mean": 40.0}, None),
        ({"target_mean": 0.3, "activation": None, "output_min": -2.0}, None),
        ({"target_mean": 0.3, "output_min": -2.0}, None),
        # Of weighted counts the mean is another.
        ({"target_mean": 0.3, "weighted": True}, None),
    ],
)
def test_sick_softplus_for_the_logarithm_of_a_rate(change: dict[str, Any], severity: Severity | None) -> None:
    finding = judge({**POISSON, **change}, run=COMPLETED)
    assert (None if finding is None else finding.severity) is severity
    if finding is not None:
        assert "no rate is under 1:" in finding.summary
        assert "`log_input=False`" in finding.remedy


@pytest.mark.parametrize(("last", "ill"), [(nn.Softplus(), True), (nn.Identity(), False)])
def test_sick_softplus_under_a_poisson_loss_and_healthy_without_in_a_real_run(
    tmp_path: Path, last: nn.Module, ill: bool
) -> None:
    counts = (LABELS == 3).float()[:, None]
    finding = found(
        tmp_path,
        "output_out_of_reach",
        lambda: nn.Sequential(nn.Linear(64, 1), last),
        functional.poisson_nll_loss,
        counts,
    )
    assert (finding is not None) is ill


def test_sick_targets_that_are_all_the_same_and_out_of_reach() -> None:
    finding = judge({**SIGMOID, **spread(5, 0, 5, 5)})
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert judge({**SIGMOID, **spread(0.5, 0, 0.5, 0.5)}) is None


@pytest.mark.parametrize("loss", ["bce", "mse", "nll"])
def test_sick_softmax_over_one_unit_is_one_whatever_the_targets(loss: str) -> None:
    finding = judge({**ONE_SOFTMAX, "loss": loss})
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert "1 whatever the input" in finding.summary
    # Of two units one is at most a half.
    assert judge({**ONE_SOFTMAX, "loss": "bce", "output_min": 0.4, "output_max": 0.6}) is None


def test_sick_cross_entropy_over_one_unit_is_zero_whatever_the_targets() -> None:
    finding = judge({**LOGITS, "output_shape": [32, 1], "target_shape": [32, 1]})
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert "binary_cross_entropy_with_logits" in finding.remedy


def test_sick_scores_squeezed_by_a_sigmoid_cost_cross_entropy_its_floor() -> None:
    finding = judge(SQUEEZED)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.evidence["share_out_of_reach"] == pytest.approx(-math.log(math.e / (math.e + 9)) / math.log(10))


def test_sick_a_relu_cannot_call_a_sample_negative() -> None:
    head = {**RELU, "loss": "bce_with_logits", "targets": "binary", **spread(0.5, 0.5, 0, 1)}
    finding = judge(head)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    # Of as many of each, those that are negative cost what guessing costs.
    assert finding.evidence["share_out_of_reach"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("head", "skill", "severity"),
    [
        (RELU, 0.9, "note"),
        (RELU, 0.4, "error"),
        (ONE_SOFTMAX, 0.9, "note"),
        (SQUEEZED, 0.9, "note"),
        # It keeps the order of the scores: a run that gets somewhere is left to it.
        (SQUEEZED, 0.6, "note"),
        (SQUEEZED, 0.4, "warning"),
        # Two units in [−1, 1] leave 0.18 of the loss of guessing.
        ({**SQUEEZED, "activation": "tanh", "output_shape": [32, 2]}, 0.4, "warning"),
        ({**SQUEEZED, "activation": "tanh", "output_shape": [32, 2]}, 0.9, "note"),
    ],
)
def test_how_bad_it_is_depends_on_how_well_the_run_does(head: dict[str, Any], skill: float, severity: str) -> None:
    finding = judge(head, skill=skill, run=COMPLETED)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("mean", "severity"), [(0.5, "error"), (0.6, "warning")])
def test_lost_is_the_share_of_the_variance_that_is_out_of_reach(mean: float, severity: str) -> None:
    # Of a normal distribution 0.21 lies, squared, under 0.5 deviations below the mean, 0.18 under 0.6.
    finding = judge({**RELU, **spread(mean, 1, -3, 4)})
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("deviation", "severity"), [(0.5, "warning"), (0.48, "note")])
def test_under_a_sliver_it_is_a_note_even_in_a_run_that_does_badly(deviation: float, severity: str) -> None:
    # Both ends of [−1, 1]: 0.0115 of the variance at 0.5, 0.0087 at 0.48.
    finding = judge({**TANH, **spread(0, deviation, -2, 2)})
    assert finding is not None
    assert finding.severity == severity


def test_what_is_out_of_reach_is_that_of_a_normal_distribution_within_its_range() -> None:
    normal = NormalDist()
    z, step = 0.7, 1e-4
    tail = sum((x - z) ** 2 * normal.pdf(x) * step for x in (z + step * (i + 0.5) for i in range(80_000)))
    finding = judge({**RELU, **spread(0.7, 1, -4, 5)})
    assert finding is not None
    assert finding.evidence["share_out_of_reach"] == pytest.approx(tail, rel=1e-3)
    # Nothing lies further out than the smallest target.
    capped = judge({**RELU, **spread(0.7, 1, -0.2, 5)})
    assert capped is not None
    assert capped.evidence["share_out_of_reach"] == pytest.approx(0.04)


@pytest.mark.parametrize(
    "head",
    [
        # Targets that touch the ends.
        {**SIGMOID, **spread(0.4, 0.4, 0, 1)},
        # A few that lie a hair outside.
        {**TANH, **spread(0, 0.3, -1.01, 1.01)},
        # Counts.
        {**RELU, **spread(3, 2, 0, 40)},
        HEAD,
        {**HEAD, "activation": "leaky_relu"},
        # Scaled after the activation, as the outputs show.
        {**TANH, "output_min": -3.0, "output_max": 3.0},
        # Labels that are no probabilities are told by the loss that turns negative.
        {**SIGMOID, "loss": "bce", **spread(1, 0.8, 0, 2)},
        {**LOGITS, "activation": "relu", "output_min": 0.0},
        {key: value for key, value in SIGMOID.items() if not key.startswith("target_")},
    ],
)
def test_healthy_heads_are_silent(head: dict[str, Any]) -> None:
    assert judge(head) is None


TAGS = {
    **HEAD,
    "loss": "bce",
    "activation": "softmax",
    "targets": "binary",
    "output_shape": [32, 8],
    "target_shape": [32, 8],
    "output_max": 0.4,
}


@pytest.mark.parametrize(
    ("mean", "skill", "severity"), [(0.5, 0.0, "error"), (0.5, 0.9, "note"), (0.1, 0.0, "warning"), (0.1, 0.6, "note")]
)
def test_sick_softmax_shares_one_among_tags_of_which_a_row_has_several(
    mean: float, skill: float, severity: str
) -> None:
    finding = judge({**TAGS, "target_mean": mean}, skill=skill)
    assert finding is not None
    assert finding.severity == severity
    assert finding.evidence["tags_per_row"] == 8 * mean
    assert "before softmax" in finding.remedy


def test_sick_cross_entropy_has_its_softmax_inside() -> None:
    finding = judge({**TAGS, "loss": "cross_entropy", "activation": None, "target_mean": 0.5})
    assert finding is not None
    # As a likelihood of the tags, one after another, it is sound.
    assert finding.severity is Severity.NOTE
    assert "give the scores to" in finding.remedy


def test_healthy_softmax_for_one_class_a_row() -> None:
    assert judge({**TAGS, "targets": "one_hot", "target_mean": 1 / 8}) is None


def cut_off(recall: dict[str, float], **options: Any) -> Finding | None:
    history = headed({**LOGITS, "activation": "relu", "output_min": 0.0}, **options)
    history.facts["labels"] = {"counts": {"0": 30, "1": 50, "2": 20}}
    history.facts["predictions"] = {"recall": recall}
    return output_out_of_reach(history)


def test_sick_a_class_whose_score_a_relu_keeps_at_zero_is_never_found() -> None:
    finding = cut_off({"0": 1.0, "1": 0.0, "2": 0.9}, skill=0.5)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.evidence["lost_share"] == 0.5
    assert "before relu" in finding.remedy


def test_healthy_a_relu_of_scores_that_finds_every_class() -> None:
    assert cut_off({"0": 1.0, "1": 0.2, "2": 0.9}, skill=0.5) is None


def test_healthy_a_class_that_is_merely_rare_is_not_cut_off() -> None:
    history = headed({**LOGITS, "activation": "relu", "output_min": 0.0}, skill=0.5)
    history.facts["labels"] = {"counts": {"0": 500, "1": 500, "2": 1}}
    history.facts["predictions"] = {"recall": {"0": 1.0, "1": 0.8, "2": 0.0}}
    assert output_out_of_reach(history) is None


def test_sick_one_score_behind_a_relu_is_one_score_all_the_same() -> None:
    head = {**LOGITS, "activation": "relu", "output_min": 0.0, "output_shape": [32, 1], "target_shape": [32]}
    finding = judge(head)
    assert finding is not None
    assert "softmax over a single unit" in finding.summary


def test_healthy_a_class_that_is_rare_in_a_run_that_does_well_has_a_note() -> None:
    finding = cut_off({"0": 1.0, "1": 1.0, "2": 0.0}, skill=0.9)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_sick_in_a_real_run_that_ends_in_a_relu(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 1), nn.ReLU())

    targets = (LABELS.float() - 4.5)[:, None]
    finding = found(tmp_path, "output_out_of_reach", net, functional.mse_loss, targets, lr=0.01)
    assert finding is not None
    assert finding.severity is Severity.ERROR
    # A uniform distribution's true share is a half.
    assert finding.evidence["share_out_of_reach"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("last", "ill"), [(nn.Softmax(1), True), (nn.Sigmoid(), False)])
def test_sick_one_unit_with_softmax_and_healthy_with_sigmoid_in_a_real_run(
    tmp_path: Path, last: nn.Module, ill: bool
) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 1), last)

    finding = found(tmp_path, "output_out_of_reach", net, functional.binary_cross_entropy, HIGH)
    assert (finding is not None) is ill
