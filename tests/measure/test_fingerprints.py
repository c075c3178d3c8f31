from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_doctor.measure.fingerprints import Fingerprinter, count_non_finite, duplicate_share, thin

PRINTS = Fingerprinter(torch.device("cpu"))
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.uint8,
    torch.uint16,
    torch.bool,
    torch.float8_e4m3fn,
]


def of_batch(*tensors: Tensor) -> int:
    return int(PRINTS.of_batch(tensors))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_nan_and_infinity_is_counted_and_huge_numbers_are_not(dtype: torch.dtype) -> None:
    values = torch.zeros(5, 7, dtype=dtype)
    values[0, 0] = torch.finfo(dtype).max
    values[0, 1] = -torch.finfo(dtype).tiny
    assert int(count_non_finite(values)) == 0
    values[1, 2], values[3, 3], values[4, 6] = math.nan, math.inf, -math.inf
    assert int(count_non_finite(values)) == 3
    assert int(count_non_finite(values.T)) == 3
    assert int(count_non_finite(values[::2])) == 1


def test_a_complex_number_is_not_finite_where_a_part_of_it_is_not() -> None:
    values = torch.tensor([complex(1, math.nan), complex(math.inf, 0), complex(1, 2)])
    assert int(count_non_finite(values)) == 2
    assert int(count_non_finite(values.conj().imag)) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_batches_have_equal_fingerprints_and_a_changed_element_another(dtype: torch.dtype) -> None:
    values = torch.ones(6, 5).to(dtype)
    other = torch.ones(6, 5)
    other[3, 2] = 0.0
    assert of_batch(values) == of_batch(values.clone())
    assert of_batch(values) != of_batch(other.to(dtype))


def test_the_memory_layout_does_not_matter_and_the_order_of_rows_does() -> None:
    x, y = noise(8, 3, 4, 4), torch.arange(8)
    assert of_batch(x, y) == of_batch(x.to(memory_format=torch.channels_last), y)
    assert of_batch(x, y) == of_batch(x.clone(), y.repeat_interleave(2)[::2])
    assert of_batch(x, y) != of_batch(x.flip(0), y.flip(0))
    assert of_batch(x, y) != of_batch(x, y.flip(0))
    assert of_batch(x) != of_batch(x, y)


def test_batches_of_zeros_and_ones_do_not_collide() -> None:
    # The worst case for a sum of products: bits with many trailing zeros.
    for dtype in (torch.float32, torch.float64, torch.uint8, torch.bool):
        batches = [(noise(16, 8, seed=seed) > 0).to(dtype) for seed in range(2000)]
        assert len({of_batch(batch) for batch in batches}) == 2000


def test_a_change_in_few_pixels_of_large_images_is_seen_when_it_spans_a_row_or_more() -> None:
    images = torch.zeros(64, 28, 28)
    changed = images.clone()
    changed[:, 8:20, 8:20] = noise(64, 12, 12)
    assert of_batch(images) != of_batch(changed)


def test_thinning_spreads_over_all_dimensions_and_keeps_what_it_must() -> None:
    values = torch.zeros(1000, 3, 64, 64)
    assert thin(values, 4096).numel() <= 4096
    assert min(thin(values, 4096).shape[2:]) >= 8
    assert thin(values, 4096, keep=0).shape[0] == 1000
    assert thin(values, 100_000, keep=-1).shape[-1] == 64
    assert thin(values[:2, :, :2, :2], 4096) is not None
    assert thin(torch.zeros(5000), 4096, keep=0).shape == (5000,)
    assert thin(torch.tensor(1.0), 4096).shape == ()


def test_rows_that_another_row_equals_are_counted() -> None:
    x, y = noise(10, 4), torch.arange(10)
    x[7], x[9] = x[2], x[2]
    assert float(duplicate_share(PRINTS.of_rows([x]))) == pytest.approx(0.3)
    # The inputs are the same, the targets are not.
    assert float(duplicate_share(PRINTS.of_rows([x, y]))) == 0.0
    y[7] = y[2]
    assert float(duplicate_share(PRINTS.of_rows([x, y]))) == pytest.approx(0.2)


def test_one_row_has_no_share_of_duplicates() -> None:
    assert math.isnan(float(duplicate_share(PRINTS.of_rows([noise(1, 4)]))))


def test_duplicates_are_found_in_any_type_and_among_very_many_rows() -> None:
    for dtype in DTYPES:
        x = torch.arange(1, 7).remainder(3).to(torch.float32).to(dtype).reshape(6, 1)
        assert float(duplicate_share(PRINTS.of_rows([x]))) == 1.0
    assert PRINTS.of_rows([noise(10_000, 50)]).shape == (4096,)
    assert float(duplicate_share(PRINTS.of_rows([noise(10_000, 50)]))) == 0.0


def test_fingerprints_draw_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    again = Fingerprinter(torch.device("cpu"))
    assert int(again.of_batch([noise(5)])) == of_batch(noise(5))
    assert torch.equal(before, torch.get_rng_state())
