from __future__ import annotations

import math

import pytest
import torch

from lightning_doctor.measure.gradient_table import GradientTable
from lightning_doctor.measure.norms import are_alike, are_sharded, norms


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(5, 3).to(dtype), torch.randn(7).to(dtype), torch.zeros(2).to(dtype)]


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_are_those_of_float64(alike: bool, dtype: torch.dtype) -> None:
    exact = [float(tensor.double().norm()) for tensor in tensors(dtype)]
    # Sums are kept in float32 at least: seven digits.
    assert norms(tensors(dtype), alike).tolist() == pytest.approx(exact, rel=1e-6)


def test_half_precision_does_not_overflow() -> None:
    # 60000 four times: the square overflows fp16 and so does the norm, 120000.
    assert norms([torch.full((4,), 6e4).half()], alike=True).tolist() == pytest.approx([4 * 15000 * 2], rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_a_norm_that_is_not(bad: float) -> None:
    for alike in (True, False):
        values = norms([torch.tensor([1.0, bad]), torch.ones(2)], alike)
        assert values.isfinite().tolist() == [False, True]


def test_the_fast_way_is_taken_only_where_all_are_alike() -> None:
    sparse = torch.eye(3).to_sparse()
    assert are_alike(tensors())
    assert not are_alike([*tensors(), torch.ones(2, dtype=torch.float64)])
    assert not are_alike([*tensors(), sparse])
    assert not are_sharded([*tensors(), sparse])
    assert norms([torch.ones(4), sparse], alike=False).tolist() == pytest.approx([2.0, math.sqrt(3)])


def test_a_page_packs_totals_counts_clipped_means_and_flags() -> None:
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    table = GradientTable({first: "a.weight", second: "b.weight"}, torch.optim.SGD([first, second]))
    for step, (one, two) in enumerate([(3.0, 4.0), (math.nan, 5.0), (6.0, 8.0)]):
        first.grad, second.grad = torch.tensor([one]), torch.tensor([two])
        table.keep(step, table.measure())
        if step == 2:
            first.grad = torch.tensor([0.6])
            second.grad = torch.tensor([0.8])
            table.keep_clipped(step)
    (page,) = table.take()
    assert page.layers == ("a", "b")
    assert page.steps == [0, 1, 2]
    totals, counts, clipped, means, flags = page.packed.split([3, 3, 3, 2, 2])
    assert totals.nan_to_num(nan=-1.0).tolist() == pytest.approx([5.0, -1.0, 10.0])
    assert counts.tolist() == [0.0, 1.0, 0.0]
    assert clipped.nan_to_num(nan=-1.0).tolist() == pytest.approx([-1.0, -1.0, 1.0])
    assert means.tolist() == pytest.approx([4.5, 6.0])
    assert flags.tolist() == [1.0, 0.0]
    assert table.take() == []


def test_parameters_frozen_later_begin_another_page() -> None:
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    table = GradientTable({first: "a.weight", second: "b.weight"}, torch.optim.SGD([first, second]))
    first.grad = second.grad = torch.ones(1)
    table.keep(0, table.measure())
    second.grad = None
    table.keep(1, table.measure())
    assert [(page.layers, page.steps) for page in table.take()] == [(("a", "b"), [0]), (("a",), [1])]


def test_which_parameters_have_a_gradient_decides_the_page_not_how_many() -> None:
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    table = GradientTable({first: "a.weight", second: "b.weight"}, torch.optim.SGD([first, second]))
    for step in range(4):
        first.grad = torch.tensor([1.0]) if step % 2 == 0 else None
        second.grad = torch.tensor([1000.0]) if step % 2 else None
        table.keep(step, table.measure())
    pages = table.take()
    assert [(page.layers, page.steps) for page in pages] == [(("a",), [0, 2]), (("b",), [1, 3])]
    assert [page.packed[:2].tolist() for page in pages] == [[1.0, 1.0], [1000.0, 1000.0]]


def test_a_gradient_that_is_sparse_now_and_then_is_measured_each_time() -> None:
    weight, other = torch.zeros(3, 3, requires_grad=True), torch.zeros(2, requires_grad=True)
    table = GradientTable({weight: "a.weight", other: "b.weight"}, torch.optim.SGD([weight, other]))
    for step in range(4):
        weight.grad = torch.eye(3).to_sparse() if step % 2 else torch.eye(3)
        other.grad = torch.ones(2)
        table.keep(step, table.measure())
    (page,) = table.take()
    assert page.packed[:4].tolist() == pytest.approx([math.sqrt(5)] * 4)
