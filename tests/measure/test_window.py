from __future__ import annotations

import math

import torch

from lightning_doctor.measure.rank_mean import RankMean
from lightning_doctor.measure.window import Window


def fail(error: Exception) -> None:
    raise error


def test_readings_of_any_shape_and_type_reach_their_receivers_in_order() -> None:
    window, got = Window(), []
    window.put(3, torch.tensor(1.5), lambda step, numbers: got.append((step, numbers)))
    window.put(4, torch.tensor([[1, 2], [3, 4]]), lambda step, numbers: got.append((step, numbers)))
    window.put(5, torch.tensor(2.0, dtype=torch.float16), lambda step, numbers: got.append((step, numbers)))
    assert window.close([7.0, 8.0], fail) == [7.0, 8.0]
    assert got == [(3, [1.5]), (4, [1.0, 2.0, 3.0, 4.0]), (5, [2.0])]


def test_a_closed_window_is_empty() -> None:
    window, got = Window(), []
    window.put(0, torch.tensor(1.0), lambda *reading: got.append(reading))
    window.close([], fail)
    window.close([], fail)
    assert len(got) == 1


def test_float64_losses_are_not_narrowed() -> None:
    window, got = Window(), []
    huge = 1e300
    window.put(0, torch.tensor(huge, dtype=torch.float64), lambda _, numbers: got.extend(numbers))
    window.put(1, torch.tensor(math.nan), lambda _, numbers: got.extend(numbers))
    window.close([], fail)
    assert got[0] == huge
    assert math.isnan(got[1])


def test_a_reading_that_needs_gradients_holds_no_graph() -> None:
    window, got = Window(), []
    weight = torch.ones(1, requires_grad=True)
    window.put(0, (weight * 3).sum(), lambda _, numbers: got.extend(numbers))
    window.close([], fail)
    assert got == [3.0]


def test_a_receiver_that_fails_costs_only_its_own_reading() -> None:
    window, got, errors = Window(), [], []
    window.put(0, torch.tensor(1.0), lambda *_: 1 / 0)
    window.put(1, torch.tensor(2.0), lambda _, numbers: got.extend(numbers))
    assert window.close([5.0], errors.append) == [5.0]
    assert got == [2.0]
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_readings_that_cannot_be_fetched_leave_the_signals() -> None:
    window, errors = Window(), []
    window.put(0, torch.tensor(1.0, device="meta"), lambda *_: None)
    assert window.close([5.0], errors.append) == [5.0]
    assert len(errors) == 1


def test_the_mean_of_one_rank_is_the_rank() -> None:
    metric = RankMean()
    numbers = torch.tensor([1.0, math.nan, math.inf])
    metric.update(numbers)
    assert torch.equal(metric.compute().nan_to_num(nan=-1.0), numbers.nan_to_num(nan=-1.0))
