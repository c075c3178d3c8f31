from __future__ import annotations

import math
import random
from statistics import stdev

import pytest

from lightning_doctor.history import History
from lightning_doctor.labels import entropy, entropy_error, label_counts


def test_the_entropy_of_two_classes_is_the_cost_of_guessing() -> None:
    assert entropy({"0": 3, "1": 1}) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert entropy({"0": 5, "1": 0}) == 0
    assert entropy({}) == 0


def test_its_error_is_how_much_it_scatters_from_sample_to_sample() -> None:
    draw = random.Random(0)
    costs = []
    for _ in range(2000):
        rare = sum(draw.random() < 0.1 for _ in range(400))
        costs.append(entropy({"0": 400 - rare, "1": rare}))
    # Of 2,000 samples a standard deviation is known to 2 %, and the linear approximation is off by less.
    assert entropy_error({"0": 360, "1": 40}) * entropy({"0": 360, "1": 40}) == pytest.approx(stdev(costs), rel=0.06)


@pytest.mark.parametrize("counts", [{}, {"0": 7}, {"0": 0, "1": 0}, {"0": 8, "1": 8}])
def test_without_labels_with_one_class_and_with_even_ones_there_is_no_error_to_speak_of(counts: dict[str, int]) -> None:
    assert entropy_error(counts) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(
    ("fact", "counts"),
    [({"counts": {"0": 3, "1": None}}, {"0": 3.0}), ({"counts": [3, 1]}, {}), ({}, {})],
)
def test_what_is_no_count_is_none(fact: dict[str, object], counts: dict[str, float]) -> None:
    history = History()
    history.facts["labels"] = fact
    assert label_counts(history) == counts
