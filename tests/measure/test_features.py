from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_doctor.measure.features import FeatureMoments, summary


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def facts(*batches: Tensor, axis: int = -1) -> dict[str, float]:
    moments = FeatureMoments()
    for batch in batches:
        moments.add(batch, axis)
    result = summary(moments.packed().tolist())
    assert result is not None
    return result


def test_batches_add_up_to_the_moments_of_all_rows() -> None:
    scales = torch.logspace(-3, 3, 7, dtype=torch.float64)
    rows = noise(100, 7) * scales + 0.1 * scales.flip(0)
    got = facts(rows[:3], rows[3:50], rows[50:51], rows[51:])
    std, mean = rows.std(dim=0, correction=0), rows.mean(dim=0)
    # Two ways to sum a hundred float64 numbers, of which the mean is up to 1e5 times the spread: 1e-16 · 1e10.
    assert got["std_min"] == pytest.approx(float(std.min()), rel=1e-6)
    assert got["std_max"] == pytest.approx(float(std.max()), rel=1e-6)
    assert got["std_median"] == pytest.approx(float(std.median()), rel=1e-6)
    assert got["mean_min"] == pytest.approx(float(mean.min()), rel=1e-12)
    assert got["mean_max"] == pytest.approx(float(mean.max()), rel=1e-12)
    assert got["abs_max"] == float(rows.abs().max())
    assert (got["samples"], got["features"]) == (100, 7)


def test_the_largest_and_smallest_features_are_named() -> None:
    rows = noise(50, 5) * torch.tensor([1.0, 100.0, 0.01, 1.0, 10.0])
    rows[:, 3] = 7.0
    got = facts(rows)
    assert [entry["feature"] for entry in got["largest"]] == [1, 4, 3]
    assert [entry["feature"] for entry in got["smallest"]] == [2, 0, 4]
    assert got["largest"][2] == {"feature": 3, "mean": pytest.approx(7.0), "std": pytest.approx(0.0, abs=1e-12)}
    # Constant features are counted, and not the smallest.
    assert got["constant_features"] == 1
    assert got["std_min"] == pytest.approx(0.01, rel=0.3)


def test_what_is_not_finite_is_left_out() -> None:
    rows = noise(40, 3)
    broken = torch.cat([rows, torch.full((1, 3), math.nan), torch.full((1, 3), -math.inf)])
    clean, got = facts(rows), facts(broken[:20], broken[20:])
    assert got["samples"] == 42
    for name in ("mean_min", "mean_max", "std_min", "std_max", "abs_max"):
        # Another order of summation.
        assert got[name] == pytest.approx(clean[name], rel=1e-9, abs=1e-12)


def test_nothing_and_nothing_but_nan_have_no_summary() -> None:
    moments = FeatureMoments()
    assert summary(moments.packed().tolist()) is None
    moments.add(torch.full((4, 3), math.nan), -1)
    assert summary(moments.packed().tolist()) is None


def test_channels_are_features_where_they_are_the_axis() -> None:
    images = noise(6, 3, 5, 5) + torch.tensor([0.0, 10.0, 100.0]).reshape(3, 1, 1)
    got = facts(images, axis=1)
    assert got["features"] == 3
    assert got["samples"] == 6
    assert got["mean_max"] == pytest.approx(float(images[:, 2].mean()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8, torch.bool])
def test_any_real_type_is_measured_in_float64(dtype: torch.dtype) -> None:
    rows = torch.arange(200).remainder(2).reshape(100, 2).T.reshape(50, 4).to(dtype)
    got = facts(rows)
    assert got["abs_max"] == 1.0
    assert got["mean_max"] == pytest.approx(float(rows.double().mean(dim=0).max()))


def test_of_many_features_some_are_measured_and_keep_their_index() -> None:
    rows = torch.ones(4, 10_000) + noise(4, 10_000) * 1e-3
    # Every third is measured, and this one is not.
    rows[:, 9_998] = 70.0
    rows[:, 9_000] = 50.0 * torch.tensor([1.0, -1.0, 1.0, -1.0])
    got = facts(rows)
    assert got["features"] == 10_000
    assert got["largest"][0]["feature"] == 9_000


def test_a_large_batch_is_thinned_but_not_its_features() -> None:
    rows = noise(2_000, 100)
    got = facts(rows)
    assert got["features"] == 100
    assert 100 <= got["samples"] < 2_000
    # A few hundred rows: the standard error of a standard deviation is about 4 %, and 100 of them are looked at.
    assert got["std_min"] > 0.8
    assert got["std_max"] < 1.2


def test_batches_with_other_features_begin_anew() -> None:
    got = facts(noise(10, 3), noise(5, 4))
    assert (got["features"], got["samples"]) == (4, 5)
