from __future__ import annotations

import math

import pytest
import torch

from lightning_doctor.measure.gradient_table import GradientTable
from lightning_doctor.measure.norms import choose_norms, dense_norms, mixed_norms


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(5, 3).to(dtype), torch.randn(7).to(dtype), torch.zeros(2).to(dtype)]


@pytest.mark.parametrize("norms", [dense_norms, mixed_norms])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_are_those_of_float64(norms: object, dtype: torch.dtype) -> None:
    exact = [float(tensor.double().norm()) for tensor in tensors(dtype)]
    # Sums are kept in float32 at least: seven digits.
    assert norms(tensors(dtype)).tolist() == pytest.approx(exact, rel=1e-6)


def test_half_precision_does_not_overflow() -> None:
    # 60000 four times: the square overflows fp16 and so does the norm, 120000.
    assert dense_norms([torch.full((4,), 6e4).half()]).tolist() == pytest.approx([4 * 15000 * 2], rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_a_norm_that_is_not(bad: float) -> None:
    for norms in (dense_norms, mixed_norms):
        values = norms([torch.tensor([1.0, bad]), torch.ones(2)])
        assert values.isfinite().tolist() == [False, True]


def test_the_fast_way_is_taken_only_where_all_are_alike() -> None:
    sparse = torch.eye(3).to_sparse()
    assert choose_norms(tensors()) is dense_norms
    assert choose_norms([*tensors(), torch.ones(2, dtype=torch.float64)]) is mixed_norms
    assert choose_norms([*tensors(), sparse]) is mixed_norms
    assert mixed_norms([torch.ones(4), sparse]).tolist() == pytest.approx([2.0, math.sqrt(3)])


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
