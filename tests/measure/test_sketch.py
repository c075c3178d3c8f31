from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_doctor.measure.sketch import Sketch, any_nonzero


def pair(seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Two wholes of a large, a middling and a small tensor, with a true cosine of about 0.5."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(300, 200), (2000,), (7, 5)]
    one = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    other = [0.5 * a + math.sqrt(0.75) * torch.randn(a.shape, generator=generator, dtype=a.dtype) for a in one]
    return one, other


def whole(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def exact_cosine(one: list[Tensor], other: list[Tensor]) -> float:
    return float(torch.nn.functional.cosine_similarity(whole(one), whole(other), dim=0))


def test_the_cosine_of_many_samples_is_that_of_the_whole() -> None:
    one, other = pair()
    estimates = []
    for seed in range(100):
        sketch = Sketch(one, seed=seed)
        estimates.append(float(sketch.cosine(sketch.take(one), sketch.take(other))))
    spread = torch.tensor(estimates).std()
    # One sample of 1024 independent elements errs by (1 - 0.5²)/sqrt(1024) = 0.023.
    assert 0.015 < spread < 0.035
    # A mean of 100 errs by a tenth of it: four standard errors.
    assert float(torch.tensor(estimates).mean()) == pytest.approx(exact_cosine(one, other), abs=4 * 0.0035)


def test_the_squared_norm_of_many_samples_is_that_of_each_tensor() -> None:
    # A ramp: a sample that kept to one end would be far off.
    tensors = [torch.linspace(0, 1, 5001, dtype=torch.float64), torch.linspace(0, 1, 2999, dtype=torch.float64)]
    squares = torch.stack(
        [(sketch := Sketch(tensors, seed=seed)).norms(sketch.take(tensors)).square() for seed in range(50)]
    )
    exact = torch.stack([tensor.square().sum() for tensor in tensors])
    # Each of 1024 parts spans 1/1024 of the ramp: one sample errs by about 2/1024/sqrt(12·1024) of its sum.
    assert torch.allclose(squares.mean(dim=0), exact, rtol=4 * 2e-5 / math.sqrt(50))
    assert squares.std(dim=0).min() > 0


def test_every_element_is_drawn_equally_often() -> None:
    drawn = torch.zeros(1500)
    place = torch.arange(1500)
    for seed in range(2000):
        sketch = Sketch([drawn], seed=seed)
        drawn.index_add_(0, sketch.take([place]).long(), torch.ones(1024))
    expected = 2000 * 1024 / 1500
    # Poisson would give sqrt(expected) = 37; five of them over 1500 elements.
    assert (drawn - expected).abs().max() < 5 * math.sqrt(expected)


def test_small_tensors_are_taken_whole_and_give_exact_numbers() -> None:
    one = [torch.randn(1024), torch.randn(3, 4), torch.randn(())]
    other = [torch.randn_like(a) for a in one]
    sketch = Sketch(one)
    sample = sketch.take(one)
    assert torch.equal(sample, whole(one))
    assert sketch.weights == [1.0, 1.0, 1.0]
    # float32 sums in another order.
    assert torch.allclose(sketch.norms(sample), torch.stack([a.norm() for a in one]), rtol=1e-5)
    assert float(sketch.cosine(sample, sketch.take(other))) == pytest.approx(exact_cosine(one, other), rel=1e-4)


def test_the_sample_is_the_same_each_time_and_draws_no_global_random_number() -> None:
    state = torch.get_rng_state()
    tensors = [torch.arange(5000.0), torch.arange(3.0)]
    samples = [Sketch(tensors).take(tensors) for _ in range(2)]
    assert torch.equal(*samples)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sample_is_a_copy() -> None:
    tensors = [torch.ones(5), torch.ones(2000)]
    sketch = Sketch(tensors)
    before = sketch.take(tensors)
    for tensor in tensors:
        tensor.mul_(2)
    assert before.unique().tolist() == [1.0]


def test_the_layout_in_memory_does_not_matter() -> None:
    images = torch.randn(8, 16, 5, 5)
    sketch = Sketch([images])
    assert torch.equal(sketch.take([images]), sketch.take([images.to(memory_format=torch.channels_last)]))
    assert torch.equal(sketch.take([images]), sketch.take([images.transpose(0, 1).contiguous().transpose(0, 1)]))


def test_what_is_none_counts_as_zero() -> None:
    sketch = Sketch([torch.ones(4), torch.ones(3)])
    sample = sketch.take([None, torch.tensor([0.0, 2.0, 0.0])])
    assert sample.tolist() == [0, 0, 0, 0, 0, 2, 0]
    assert sketch.zeros(sample).tolist() == [4, 2]


def test_half_precision_is_measured_without_overflow() -> None:
    tensors = [torch.full((2000,), 60000.0, dtype=torch.float16), torch.ones(4, dtype=torch.float16)]
    sketch = Sketch(tensors)
    assert sketch.norms(sketch.take(tensors)).tolist() == pytest.approx([60000 * math.sqrt(2000), 2.0], rel=1e-3)


def test_complex_elements_count_as_two() -> None:
    tensor = torch.complex(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 0.0]))
    sketch = Sketch([tensor])
    sample = sketch.take([tensor])
    assert sketch.norms(sample).tolist() == [5.0]
    assert sketch.zeros(sample).tolist() == [2]


def test_a_difference_too_small_to_be_squared_is_one() -> None:
    one = [torch.zeros(3), torch.zeros(3), torch.tensor([math.nan])]
    other = [torch.tensor([0.0, 1e-30, 0.0]), torch.zeros(3), torch.tensor([math.nan])]
    sketch = Sketch(one)
    assert sketch.differ(sketch.take(one), sketch.take(other)).tolist() == [True, False, True]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_cosine_has_no_scale(scale: float) -> None:
    one, other = [torch.tensor([3.0, 4.0]) * scale], [torch.tensor([4.0, 3.0])]
    sketch = Sketch(one)
    assert float(sketch.cosine(sketch.take(one), sketch.take(other))) == pytest.approx(24 / 25, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_cosine_with_nothing_or_with_what_is_not_finite_is_unknown(value: float) -> None:
    one, other = [torch.full((2,), value)], [torch.ones(2)]
    sketch = Sketch(one)
    assert math.isnan(float(sketch.cosine(sketch.take(one), sketch.take(other))))


def test_any_element_that_is_not_zero_is_found() -> None:
    large = torch.zeros(10_000)
    large[1234] = 1e-40
    tensors = [large, torch.zeros(3), torch.tensor([math.nan, 0.0]), torch.ones(())]
    assert any_nonzero(tensors).tolist() == [True, False, True, True]
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([2.0, -2.0]), (4,))
    empty = torch.sparse_coo_tensor(torch.empty((1, 0), dtype=torch.long), torch.empty(0), (4,))
    # Duplicate entries of a sparse tensor are summed: this one is zero.
    assert any_nonzero([torch.ones(2), sparse, empty, torch.ones(2, dtype=torch.float64)]).tolist() == [
        True,
        False,
        False,
        True,
    ]
