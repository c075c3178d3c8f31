from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_doctor.history import EVENT_CAPACITY, SERIES_CAPACITY, History, Series
from lightning_doctor.jsonable import MalformedError

NAN, INF = float("nan"), float("inf")
floats = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, NAN, INF, -INF]))


def filled(values: list[float], capacity: int = SERIES_CAPACITY) -> Series:
    series = Series(capacity)
    for step, value in enumerate(values):
        series.append(step, value)
    return series


def test_a_series_that_is_not_full_keeps_everything() -> None:
    series = filled([0.5, NAN, 0.25], capacity=4)
    assert series.steps == [0, 1, 2]
    assert series == filled([0.5, NAN, 0.25], capacity=4)
    assert series != filled([0.5, NAN, 0.26], capacity=4)


@pytest.mark.parametrize(
    "kind", ["falling", "zeros and one", "all NaN", "NaN and finite", "two values", "all infinite"]
)
def test_a_series_stays_bounded_and_keeps_its_first_point_however_long_the_run(kind: str) -> None:
    value = {
        "falling": lambda i: 1 / (1 + i),
        "zeros and one": lambda i: float(i == 777),
        "all NaN": lambda i: NAN,
        "NaN and finite": lambda i: NAN if i % 2 else 1.0,
        "two values": lambda i: float(i % 2),
        "all infinite": lambda i: INF if i % 2 else -INF,
    }[kind]
    series = Series()
    longest = 0
    for step in range(200_000):
        series.append(step, value(step))
        longest = max(longest, len(series))
    assert longest <= SERIES_CAPACITY + 1
    assert len(series) >= SERIES_CAPACITY // 2
    assert series.steps[0] == 0
    assert series.steps == sorted(set(series.steps))
    # Where each point came from is still true.
    assert [repr(v) for v in series.values] == [repr(value(step)) for step in series.steps]


@pytest.mark.parametrize("at", [1, 777, 1023, 1500, 9999])
@pytest.mark.parametrize("peak", [50.0, -50.0, NAN, INF])
def test_a_single_peak_is_never_lost(at: int, peak: float) -> None:
    values = [0.5 + i % 3 / 10 for i in range(20_000)]
    values[at] = peak
    assert at in filled(values).steps


def test_a_single_count_among_zeros_is_never_lost() -> None:
    # All values are the smallest or the largest: keeping every extreme would keep nothing in particular.
    values = [0.0] * 20_000
    values[778 + 1] = 1.0
    assert 779 in filled(values).steps


def test_a_few_values_that_are_not_finite_all_stay_and_of_many_the_first() -> None:
    few = [NAN if i in (101, 303, 505) else 1.0 for i in range(5000)]
    assert {101, 303, 505} <= set(filled(few).steps)
    many = [NAN if i >= 101 else 1.0 for i in range(50_000)]
    assert 101 in filled(many).steps


@given(st.lists(floats, min_size=1, max_size=300), st.integers(8, 64))
def test_thinning_keeps_the_first_point_the_extremes_and_the_newest_points(values: list[float], capacity: int) -> None:
    series = filled(values, capacity)
    kept = dict(zip(series.steps, series.values, strict=True))
    assert len(series) <= capacity
    assert 0 in kept
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        assert {min(finite), max(finite)} <= set(kept.values())
    # Just thinned or not, the newest half of the capacity is all there.
    newest = range(max(0, len(values) - capacity // 2), len(values))
    assert set(newest) <= set(kept)


def test_since_and_finite_cut_a_series() -> None:
    series = filled([3.0, 2.0, INF, 1.0])
    assert series.since(2) == [INF, 1.0]
    assert series.finite().values == [3.0, 2.0]
    assert series.finite().steps == [0, 1]
    whole = filled([3.0, 2.0])
    assert whole.finite() is whole


def test_a_series_that_was_never_recorded_is_empty_and_is_not_made_by_looking() -> None:
    history = History()
    assert len(history.get("val_loss")) == 0
    assert "val_loss" not in history
    with pytest.raises(KeyError):
        history["val_loss"]
    assert history.last_step == 0


def test_names_and_families() -> None:
    history = History()
    for name in ("train_loss/0", "train_loss/1", "train_losses", "grad_norm", "grad_norm/head"):
        history.record(name, 3, 1.0)
    assert history.names("grad_norm/") == ["grad_norm/head"]
    assert history.family("train_loss") == ["train_loss/0", "train_loss/1"]
    assert history.last_step == 3


def test_facts_are_looked_up_by_path_and_a_missing_or_empty_one_is_the_default() -> None:
    history = History()
    history.facts = {"trainer": {"max_epochs": 3, "planned_steps": None}, "optimizers": []}
    assert history.fact("trainer.max_epochs") == 3
    assert history.fact("trainer.planned_steps", 7) == 7
    assert history.fact("trainer.max_epochs.deeper", "no") == "no"
    assert history.fact("data.batch_size") is None
    assert history.fact("optimizers") == []


def test_the_first_events_are_kept() -> None:
    history = History()
    for step in range(EVENT_CAPACITY + 5):
        history.happened("spill", step)
    assert len(history.events) == EVENT_CAPACITY
    assert history.event("spill") == {"name": "spill", "step": 0}
    assert history.event("other") is None


def lived() -> History:
    history = History()
    history.facts = {"model": {"layers": {"Linear": 2}}, "trainer": {"planned_steps": 10, "lr": NAN}}
    history.absent = {"val_loss": "no validation loader"}
    history.happened("non_finite_gradient", 4, layers=["a", "b"], loss=INF)
    for step, value in enumerate([0.5, NAN, INF, -INF, 1e-320]):
        history.record("train_loss", step, value)
        history.record("grad_norm/a", step, value, capacity=128)
    return history


def test_a_history_survives_strict_json() -> None:
    history = lived()
    again = History.from_dict(json.loads(json.dumps(history.to_dict(), allow_nan=False)))
    assert again == history
    assert again["grad_norm/a"].capacity == 128
    assert again["train_loss"].values[2] == INF


def test_a_full_series_survives_without_being_thinned_again_and_goes_on_alike() -> None:
    history = History()
    for step in range(5000):
        history.record("train_loss", step, 1 / (1 + step))
    again = History.from_dict(json.loads(json.dumps(history.to_dict())))
    assert again == history
    for step in range(5000, 8000):
        for one in (history, again):
            one.record("train_loss", step, 0.0)
    assert again == history


@given(
    st.dictionaries(st.text(max_size=5), st.lists(st.tuples(st.integers(0, 10**9), floats), max_size=20), max_size=4)
)
def test_any_history_survives_strict_json(series: dict[str, list[tuple[int, float]]]) -> None:
    history = History()
    for name, points in series.items():
        for step, value in points:
            history.record(name, step, value)
    assert History.from_dict(json.loads(json.dumps(history.to_dict(), allow_nan=False))) == history


def series_of(**points: Any) -> dict[str, Any]:
    return {"series": {"train_loss": {"steps": [0], "values": [1.0], **points}}}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([], "history must be an object, got list"),
        (None, "history must be an object"),
        ({"facts": 3}, "history.facts must be an object, got int"),
        ({"absent": ["val_loss"]}, "history.absent must be an object"),
        ({"events": {"name": "x"}}, "history.events must be a list"),
        ({"events": [7]}, "an event must be an object"),
        ({"events": [{"name": "x"}]}, "an event must have a name and a whole step"),
        ({"events": [{"name": "x", "step": True}]}, "whole step"),
        ({"series": []}, "history.series must be an object"),
        ({"series": {"train_loss": [1.0]}}, "series 'train_loss' must be an object, got list"),
        (series_of(values="1.0"), "the values of series 'train_loss' must be a list, got str"),
        (series_of(steps=None), "the steps of series 'train_loss' must be a list, got NoneType"),
        (series_of(values=[]), "1 steps and 0 values"),
        (series_of(values=["x"]), "must hold numbers, got 0: 'x'"),
        (series_of(steps=[0.5]), "must hold numbers, got 0.5"),
        (series_of(values=[10**400]), "a number that no float holds"),
        (series_of(capacity=0), "capacity of series 'train_loss' must be a whole number of at least 4, got 0"),
        (series_of(capacity=True), "must be a whole number"),
    ],
)
def test_a_malformed_history_is_refused_with_its_place(data: Any, complaint: str) -> None:
    with pytest.raises(MalformedError) as caught:
        History.from_dict(data)
    assert complaint in str(caught.value)


def test_a_detail_of_an_event_may_have_any_name() -> None:
    history = History.from_dict({"events": [{"name": "x", "step": 1, "self": 2}]})
    assert history.events == [{"name": "x", "step": 1, "self": 2}]


def test_the_first_value_that_is_not_finite_is_found_as_a_series_grows_and_thins() -> None:
    series = Series(capacity=8)
    assert series.broken_at() is None
    for step in range(20):
        series.append(step, float(step))
        assert series.broken_at() is None
    series.append(20, math.nan)
    for step in range(21, 40):
        series.append(step, 1.0)
        broken = series.broken_at()
        assert broken is not None
        assert series.steps[broken] == 20
        assert len(series.finite()) == broken


def test_at_rest_what_was_worked_out_once_is_kept_and_forgotten_after() -> None:
    history, asked = History(), []

    def work_out() -> int:
        asked.append(1)
        return len(asked)

    assert [history.once("count", work_out), history.once("count", work_out)] == [1, 2]
    with history.at_rest():
        assert [history.once("count", work_out), history.once("count", work_out)] == [3, 3]
        assert history.once("other", work_out) == 4
    assert history.once("count", work_out) == 5
