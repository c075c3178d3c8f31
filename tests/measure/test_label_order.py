from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_doctor.measure.label_order import LabelKind, LabelTally


def shuffled(labels: Tensor, seed: int = 0) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def compare(*batches: Tensor) -> tuple[list[float], list[float]]:
    run, drift = LabelTally().compare(batches).tolist()
    return run, drift


def kind(*batches: Tensor) -> LabelKind:
    found = LabelKind()
    for targets in batches:
        numbers = found.look(targets)
        if numbers is not None:
            found.learn(numbers.tolist())
    return found


def test_sorted_rows_run_at_one_and_alternating_ones_below_zero() -> None:
    half = torch.tensor([0] * 8 + [1] * 8)
    run, _ = compare(half, torch.tensor([0, 1] * 8))
    # 14 of 15 neighbours are equal; chance is 2 · 8 · 7 / (16 · 15) = 7/15.
    assert run[0] == pytest.approx((14 / 15 - 7 / 15) / (8 / 15))
    # None is equal; over both batches chance is 2 · 16 · 15 / (32 · 31).
    chance = 2 * 16 * 15 / (32 * 31)
    assert run[1] == pytest.approx(-chance / (1 - chance))


def test_drift_is_the_chi_square_of_two_batches_by_hand() -> None:
    _, drift = compare(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1]))
    assert math.isnan(drift[0])
    # Of 8 labels, half of each class, the batch of 4 has 1 and 3 where 2 and 2 are expected: χ² = 1/2 + 1/2,
    # whose mean when dealt at random is (2 − 1)(8 − 4)/(8 − 1).
    assert drift[1] == pytest.approx(1.0 / (4 / 7))


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_shuffled_labels_run_at_zero_and_drift_at_one_on_average(classes: int) -> None:
    labels = torch.arange(20_000).remainder(classes).square().remainder(classes)
    run, drift = compare(*shuffled(labels).split(16))
    known = [value for value in drift if math.isfinite(value)]
    # 1250 batches: the standard error of the mean run is under 0.01; that of χ²/(k−1) is √(2/(k−1)/1250) ≤ 0.04.
    assert sum(run) / len(run) == pytest.approx(0.0, abs=0.03)
    assert sum(known) / len(known) == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_sorted_data_runs_near_one_and_drifts_over_two(classes: int) -> None:
    labels = torch.arange(classes).repeat_interleave(4000 // classes)
    run, drift = compare(*labels.split(40))
    # Undefined until a second class comes.
    later = [value for value in run[len(run) // 2 + 2 :] if math.isfinite(value)]
    assert min(later) > 0.7
    assert sorted(v for v in drift if math.isfinite(v))[len(later) // 2] > 2


def test_one_class_one_row_and_no_known_label_are_undefined() -> None:
    run, drift = compare(torch.zeros(5), torch.tensor([1]), torch.tensor([-100, -100, 5000]), torch.tensor([math.nan]))
    assert [math.isnan(value) for value in run] == [True] * 4
    assert math.isnan(drift[0])


def test_rows_to_ignore_do_not_count_and_are_no_neighbours() -> None:
    run, _ = compare(torch.tensor([0, -100, 0, 1, 1, -100, 1, 0]))
    # Neighbours with both known: (0, 1), (1, 1), (1, 0); chance is (3·2 + 3·2)/(6·5).
    assert run[0] == pytest.approx((1 / 3 - 0.4) / 0.6)


def test_earlier_windows_are_remembered() -> None:
    first, second = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1])
    tally = LabelTally()
    tally.compare([first])
    assert tally.compare([second]).reshape(-1).tolist() == pytest.approx([part[1] for part in compare(first, second)])


@pytest.mark.parametrize(
    ("targets", "form"),
    [
        (torch.tensor([3, 1, 2]), "index"),
        (torch.tensor([[3], [1]]), "index"),
        (torch.tensor([3, -100, 999]), "index"),
        (torch.tensor([True, False]), "index"),
        (torch.tensor([3, 1, 2], dtype=torch.uint8), "index"),
        (torch.arange(16.0), "index"),
        (torch.cat([torch.arange(16.0), torch.tensor([math.nan])]), "index"),
        (torch.eye(16), "one_hot"),
        (torch.eye(4, dtype=torch.long).repeat(5, 1), "one_hot"),
    ],
)
def test_classes_are_recognised(targets: Tensor, form: str) -> None:
    found = kind(targets)
    if found.form is None:
        # One-hot rows count from sixteen on too, and come again.
        found = kind(targets, targets, targets, targets)
    assert found.form == form
    assert found.why_not is None
    assert not found.open


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([3, 1000]),
        torch.tensor([[1.0, 1.0], [0.0, 1.0]]),
        torch.tensor([[0.5, 0.5]]),
        torch.zeros(4, 5, 5, dtype=torch.long),
        torch.tensor(3),
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros(4).to_sparse(),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    ],
)
def test_what_is_no_class_says_why(targets: Tensor) -> None:
    found = kind(targets)
    assert found.form is None
    assert found.why_not is not None
    assert found.why_not.startswith("the targets")
    assert not found.open


@pytest.mark.parametrize("targets", [torch.linspace(0, 1, 20), torch.tensor([[-1.0], [0.0], [1.0]])])
def test_floats_that_are_no_classes_are_numbers(targets: Tensor) -> None:
    found = kind(targets)
    assert (found.form, found.why_not, found.open) == ("number", None, False)
    numbers = found.labels(targets)
    assert numbers is not None
    assert numbers.tolist() == targets.flatten().tolist()


def test_a_few_whole_floats_leave_it_open() -> None:
    assert kind(torch.arange(5.0), torch.arange(5.0)).open
    assert kind(torch.arange(5.0), torch.arange(5.0), torch.tensor([0.5])).form == "number"
    assert kind(*[torch.arange(5.0)] * 4).form == "index"


def test_labels_are_copied_and_other_shapes_left_out() -> None:
    found = kind(torch.tensor([0, 1]))
    targets = torch.tensor([[1], [0]])
    labels = found.labels(targets)
    assert labels is not None
    targets.zero_()
    assert labels.tolist() == [1, 0]
    assert found.labels(torch.zeros(4, 3)) is None
    one_hot = kind(torch.eye(16))
    assert one_hot.labels(torch.eye(3)).tolist() == [0, 1, 2]
    assert one_hot.labels(torch.zeros(4)) is None
    assert LabelKind().labels(torch.zeros(4)) is None
