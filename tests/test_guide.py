from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.guide import Guide, walk
from lightning_doctor.history import History
from lightning_doctor.jsonable import MalformedError
from tests.histories import SADDLE, decay, history_of, point
from tests.rules.test_worse_than_reference import compared
from tests.scored import FAR, scored

LOW = decay(2.3, 0.01, 10, 200)
HIGH = decay(2.3, 1.5, 10, 200)


def lived(training: list[float], validation: list[float] | None = None) -> History:
    history = history_of(training)
    for number, loss in enumerate(validation or ()):
        history.record("val_loss", 10 * number + 9, loss)
    return history


def finding(code: str, name: str, severity: Severity = Severity.WARNING, **fields: Any) -> Finding:
    return Finding(severity=severity, summary="s", remedy="r", code=code, name=name, **fields)


OVERFITTING = finding("LD501", "overfitting")
DIVERGING = finding("LD102", "diverging_loss", Severity.ERROR)
PLATEAU = finding("LD105", "loss_plateau", confidence=Confidence.SUSPECTED)


def replies(guide: Guide) -> list[str]:
    return [answer.reply for answer in guide.answers]


def test_both_losses_low_and_nothing_found_is_healthy() -> None:
    guide = walk(lived(LOW, decay(2.3, 0.02, 2, 20)), [])
    assert (guide.conclusion, replies(guide)) == ("healthy", ["yes", "yes"])
    assert "2.3" in guide.answers[0].because or "at the start" in guide.answers[0].because


def test_a_note_of_overfitting_does_not_make_a_low_validation_loss_high() -> None:
    note = finding("LD501", "overfitting", Severity.NOTE)
    assert walk(lived(LOW, decay(2.3, 0.02, 2, 20)), [note]).conclusion == "healthy"


def test_a_warning_of_another_kind_keeps_it_from_being_called_healthy() -> None:
    guide = walk(lived(LOW, decay(2.3, 0.02, 2, 20)), [finding("LD606", "data_starved")])
    assert guide.conclusion == "unknown"


def test_an_error_of_optimization_answers_the_first_question() -> None:
    guide = walk(lived(LOW), [DIVERGING])
    assert (guide.conclusion, replies(guide)) == ("optimization", ["no", "yes", "unknown"])
    assert guide.answers[0].because == "LD102 diverging_loss"
    assert "LD102 diverging_loss" in guide.answers[1].because


def probed(curvature: dict[str, Any], cause: Finding = DIVERGING) -> Guide:
    history = lived(HIGH)
    history.facts["curvature"] = curvature
    return walk(history, [cause])


def test_a_probe_that_did_not_run_is_unknown_with_its_reason() -> None:
    history = lived(HIGH)
    assert walk(history, [DIVERGING]).answers[-1].because == "no curvature probe ran"
    history.absent["curvature"] = "2 optimizers: no single loss has a curvature"
    assert walk(history, [DIVERGING]).answers[-1].because == "2 optimizers: no single loss has a curvature"


def test_a_saddle_is_walked_to_with_its_numbers() -> None:
    guide = probed(SADDLE, finding("LD401", "saddle_point"))
    assert (guide.conclusion, replies(guide)) == ("optimization", ["unknown", "yes", "yes", "saddle"])
    gradient, critical = guide.answers[-2:]
    assert gradient.question == "Is the gradient near zero?"
    assert "at step 390, norm 0.0001, at best it promises a fall of 1e-05" in gradient.because
    assert critical.question == "What is this critical point?"
    assert critical.because == "the loss goes down to both sides, by 256 samples"


def test_a_probe_that_gives_no_reason_is_quoted_by_its_numbers() -> None:
    because = probed({**SADDLE, "because": None}).answers[-1].because
    assert because == "curvature from -2 to 2, down by 0.12 (9%) at distance 0.4, by 256 samples"


@pytest.mark.parametrize("kind", ["minimum", "flat"])
def test_a_point_of_another_kind_is_named(kind: str) -> None:
    assert probed(point(kind)).answers[-1].reply == kind


def test_a_point_that_nobody_can_tell_is_unknown_and_says_why() -> None:
    guide = probed(point("inconclusive", because="the time ran out after 9 products"))
    assert replies(guide)[-2:] == ["yes", "unknown"]
    assert "the time ran out after 9 products" in guide.answers[-1].because


def test_a_slope_ends_the_walk_there() -> None:
    slope = point("slope", gradient={"norm": 0.4, "predicted_fall": 0.2, "near_zero": False})
    guide = probed(slope)
    assert replies(guide) == ["no", "yes", "no"]
    # What is not known is left out.
    assert guide.answers[-1].because == "at step 390, norm 0.4, at best it promises a fall of 0.2"


def test_where_the_gradient_is_not_told_the_kind_of_point_tells() -> None:
    assert [probed(point(kind, gradient={})).answers[2].reply for kind in ("minimum", "slope", "inconclusive")] == [
        "yes",
        "no",
        "unknown",
    ]


def test_a_minimum_without_a_confirmed_cause_is_shown_and_leaves_the_conclusion_open() -> None:
    suspected = finding("LD402", "poor_minimum", confidence=Confidence.SUSPECTED)
    guide = probed(point("minimum"), suspected)
    assert (guide.conclusion, replies(guide)) == ("unknown", ["unknown", "unknown", "yes", "minimum"])


def test_a_cause_that_is_only_suspected_leaves_it_unknown() -> None:
    guide = walk(lived(HIGH), [PLATEAU])
    assert (guide.conclusion, replies(guide)) == ("unknown", ["unknown", "unknown"])


def test_a_symptom_is_no_cause() -> None:
    symptom = finding("LD101", "non_finite_loss", explained_by="LD501")
    assert walk(lived(LOW, decay(2.3, 1.0, 2, 20)), [OVERFITTING, symptom]).conclusion == "overfitting"


def test_overfitting_ends_the_walk_where_it_says_so_and_asks_what_cannot_be_known() -> None:
    guide = walk(lived(LOW, [0.5] * 10), [OVERFITTING])
    assert (guide.conclusion, replies(guide)) == ("overfitting", ["yes", "no", "unknown"])
    assert guide.answers[-1].because == "no such data was held out"


MISMATCH = finding("LD502", "distribution_mismatch")


def held_out(train: float, kept: float, validation: float, error: float = 0.02) -> History:
    history = lived(LOW, [0.5] * 10)
    for sample, loss in (("train", train), ("holdout", kept), ("validation", validation)):
        scored(history, sample, [loss], error=error)
    return history


def test_too_few_held_out_rows_leave_it_open() -> None:
    answer = walk(held_out(0.1, 0.5, 1.0, error=0.4), [MISMATCH]).answers[-1]
    assert (answer.reply, answer.because) == ("unknown", "too few rows were held out to tell")


def test_a_simpler_model_that_does_better_ends_in_optimization() -> None:
    guide = walk(lived(HIGH), [finding("LD507", "worse_than_reference")])
    assert (guide.conclusion, replies(guide)[:2]) == ("optimization", ["no", "yes"])
    assert guide.answers[1].because == "a simpler model does: LD507 worse_than_reference"


def test_a_simpler_model_that_does_better_does_so_whatever_is_suspected_of_the_training() -> None:
    cause = finding("LD104", "learning_rate_too_low", confidence=Confidence.SUSPECTED)
    symptom = finding("LD507", "worse_than_reference", confidence=Confidence.SUSPECTED, explained_by="LD104")
    guide = walk(lived(HIGH), [cause, symptom])
    assert (guide.conclusion, replies(guide)[:2]) == ("optimization", ["no", "yes"])
    assert guide.answers[1].because == "a simpler model does: LD507 worse_than_reference"
    other = finding("LD507", "worse_than_reference", confidence=Confidence.SUSPECTED, explained_by="LD509")
    assert walk(lived(HIGH), [other]).conclusion == "unknown"


@pytest.mark.parametrize(("skill", "reply"), [(0.85, "yes"), (0.75, "unknown")])
def test_validation_rows_whose_predictions_are_good_make_the_loss_low(skill: float, reply: str) -> None:
    history = lived(LOW, [0.5] * 10)
    scored(history, "validation", [0.5], skills=[skill])
    assert walk(history, []).answers[1].reply == reply


def test_the_validation_loss_is_quoted_with_its_error_bar() -> None:
    history = lived([1.0] * 200, [0.5] * 20)
    history.facts["data"] = {"val_samples": 2000}
    scored(history, "validation", [0.6, 0.5], skills=[0.5, 0.9], every=199)
    quoted = walk(history, []).answers[-1].because
    # The standard error of 0.02 over 500 rows is 0.01 over 2,000, times the normal quantile of 0.975.
    assert quoted.startswith("0.5 ± 0.02 now (95%)")


def test_a_model_that_lacks_what_another_has_ends_in_model_bias() -> None:
    guide = walk(lived(HIGH), [finding("LD503", "model_bias"), PLATEAU])
    assert (guide.conclusion, replies(guide)) == ("model_bias", ["no", "no"])


def test_a_confirmed_cause_goes_before_any_word_of_model_bias() -> None:
    cause = finding("LD103", "learning_rate_too_high")
    guide = walk(lived(HIGH), [cause, finding("LD503", "model_bias")])
    assert guide.conclusion == "optimization"


def test_a_reference_is_quoted_and_rows_that_score_well_make_it_low() -> None:
    history = lived(HIGH, [1.6] * 10)
    history.facts["reference"] = compared(0.4, linear=0.5, shallow=0.6)
    answer = walk(history, []).answers[0]
    assert answer.reply == "unknown"
    assert "the network scores 0.4, a linear model 0.5, a network of one hidden layer 0.6, a constant 2.3" in (
        answer.because
    )
    scored(history, "train", [0.4], skills=[0.85])
    assert walk(history, []).answers[0].reply == "yes"


@pytest.mark.parametrize(("target", "reply"), [(1.6, "yes"), (1.0, "unknown")])
def test_a_loss_that_was_given_is_what_low_enough_goes_by(target: float, reply: str) -> None:
    history = lived(HIGH, [1.6] * 10)
    history.facts["reference"] = {"target": target, "target_of": "the run in logs/4"}
    answer = walk(history, []).answers[0]
    assert answer.reply == reply
    assert answer.because.endswith(f"; the run in logs/4 has {target:.4g}")


def test_a_model_that_could_not_be_compared_is_said() -> None:
    history = lived(HIGH, [1.6] * 10)
    history.facts["reference"] = {**compared(0.4), "model_unread": "it is for other inputs"}
    assert "the model given could not be compared (it is for other inputs)" in walk(history, []).answers[0].because


def test_held_out_rows_that_do_well_end_in_a_mismatch() -> None:
    guide = walk(held_out(0.02, 0.05, 1.7), [MISMATCH])
    assert (guide.conclusion, replies(guide)) == ("distribution_mismatch", ["yes", "no", "yes"])
    assert guide.answers[-1].because == (
        "training rows 0.02 ± 0.039, held-out ones 0.05 ± 0.039, validation 1.7 ± 0.039 (95%)"
    )


def test_held_out_rows_that_do_as_badly_end_in_overfitting() -> None:
    guide = walk(held_out(0.02, 1.5, 1.7), [OVERFITTING])
    assert (guide.conclusion, replies(guide)) == ("overfitting", ["yes", "no", "no"])


def test_a_mismatch_that_looks_like_overfitting_is_concluded_from_the_cause() -> None:
    symptom = finding("LD501", "overfitting", explained_by="LD502")
    guide = walk(lived(LOW, [0.5] * 10), [symptom, MISMATCH])
    assert guide.conclusion == "distribution_mismatch"


def test_a_two_sample_test_is_quoted_where_nothing_was_held_out() -> None:
    history = lived(LOW, [0.5] * 10)
    history.facts["comparison"] = {"inputs": FAR}
    because = walk(history, [MISMATCH]).answers[-1].because
    assert because == "no such data was held out; a two-sample test tells the inputs apart (p ≤ 0.0025)"


def test_inputs_that_say_nothing_end_the_walk_whatever_the_losses() -> None:
    nothing = finding("LD508", "uninformative_labels")
    symptom = finding("LD501", "overfitting", explained_by="LD508")
    guide = walk(lived(HIGH, [2.4] * 10), [nothing, symptom])
    assert guide.conclusion == "nothing_to_learn"
    assert guide.answers[-1].because == "LD508 uninformative_labels"


def test_a_high_training_loss_without_a_reference_is_unknown_not_no() -> None:
    guide = walk(lived(HIGH, [1.6] * 10), [])
    assert guide.conclusion == "unknown"
    assert "no reference" in guide.answers[0].because


@pytest.mark.parametrize(
    ("history", "because"),
    [
        (History(), "0 finite training losses are too few"),
        (lived([1.0] * 9), "9 finite training losses are too few"),
        (lived([*[1.0] * 20, float("nan")]), "20 finite training losses"),
        (lived([-1.0] * 20), "no reference"),
    ],
)
def test_what_cannot_be_answered_is_unknown_with_its_reason(history: History, because: str) -> None:
    guide = walk(history, [])
    assert guide.answers[0].reply == "unknown"
    assert because in guide.answers[0].because
    assert guide.conclusion == "unknown"


def test_a_series_that_the_run_cannot_have_is_the_reason() -> None:
    history = History()
    history.absent = {"train_loss": "2 optimizers: no single loss has to fall", "val_loss": "no validation loader"}
    assert [a.because for a in walk(history, []).answers] == [
        "2 optimizers: no single loss has to fall",
        "no validation loader",
    ]


def test_a_guide_survives_being_saved() -> None:
    guide = walk(lived(LOW, [0.5] * 10), [OVERFITTING])
    assert Guide.from_dict(guide.to_dict()) == guide


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([], "the guide must be an object, got list"),
        ({"answers": [{"question": "?", "reply": "yes"}]}, "'because'"),
        ({"answers": 3}, "cannot be read"),
        ({"answers": ["yes"]}, "cannot be read"),
        (
            {"answers": [{"question": "?", "reply": "perhaps", "because": "."}]},
            "must be yes, no, unknown or what a critical point is, got 'perhaps'",
        ),
        ({"answers": [{"question": "?", "reply": [], "because": "."}]}, "must be yes, no, unknown"),
    ],
)
def test_a_malformed_guide_is_refused(data: Any, complaint: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Guide.from_dict(data)
    assert complaint in str(caught.value)
