from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_doctor.budget import Budget
from lightning_doctor.callbacks.allowance import Allowance, TooLittleMemoryError
from lightning_doctor.callbacks.curvature import CurvatureProbe
from lightning_doctor.callbacks.meeting import Meeting
from lightning_doctor.callbacks.point import Point
from lightning_doctor.callbacks.supply import Sample, Supply, supply
from tests.runs import DigitsNet, digits, trainer

MIB = 1 << 20


class FakePoint:
    """A model of so many weights, each of whose samples takes so much."""

    device = torch.device("cpu")

    def __init__(self, sample_bytes: int, weight_bytes: int) -> None:
        self.sample_bytes, self._weight_bytes = sample_bytes, weight_bytes

    def activation_bytes(self, sample: Sample, *, twice: bool = False) -> float:
        return float(len(sample[0]) * self.sample_bytes)

    def weight_bytes(self) -> int:
        return self._weight_bytes


def batches(count: int = 8, rows: int = 32) -> list[Sample]:
    return [(torch.zeros(rows, 1), index) for index in range(count)]


def fit(point: Any, batches: list[Sample], free: int | None = None) -> tuple[Supply, int]:
    rows = len(batches[0][0])
    samples = supply(batches, whole=False, batch_size=rows)
    return Allowance(lambda: free).fit(point, samples, batches[0], rows, Meeting(together=False))


def test_a_small_model_is_looked_at_with_all_samples_and_products() -> None:
    samples, most = fit(FakePoint(sample_bytes=1024, weight_bytes=4096), batches())
    assert (samples.rows, most) == (128, 100)


def test_large_activations_halve_the_samples_until_a_product_fits_into_two_steps() -> None:
    samples, most = fit(FakePoint(sample_bytes=8 * MIB, weight_bytes=MIB), batches())
    # A step is 256 MiB; 16 samples take 3.4 · 128 MiB of 512, 32 would take 870.
    assert samples.rows == 16
    assert most == int(512 - 3.4 * 128) - 3


def test_many_weights_and_few_samples_leave_the_graph_the_memory_of_a_step() -> None:
    samples, most = fit(FakePoint(sample_bytes=16 * MIB, weight_bytes=64 * MIB), batches(rows=8))
    # No batch is cut under eight samples: 3.4 · 128 MiB.
    assert (samples.rows, most) == (8, 16)


def test_fewer_products_are_made_where_that_keeps_the_limit() -> None:
    samples, most = fit(FakePoint(sample_bytes=5 * MIB, weight_bytes=11 * MIB), batches())
    # A step is 160 MiB; eight samples take 3.4 · 40 of 320 MiB, and 13 products and 3 vectors more the rest.
    assert (samples.rows, most) == (8, int((320 - 136) / 11) - 3)
    assert most < 16


def test_attention_that_can_be_differentiated_twice_counts_by_what_it_keeps() -> None:
    class Twice(FakePoint):
        def activation_bytes(self, sample: Sample, *, twice: bool = False) -> float:
            return super().activation_bytes(sample) * (4 if twice else 1)

    plain, _ = fit(FakePoint(sample_bytes=8 * MIB, weight_bytes=MIB), batches(rows=64))
    more, _ = fit(Twice(sample_bytes=8 * MIB, weight_bytes=MIB), batches(rows=64))
    assert (plain.rows, more.rows) == (32, 8)


def test_no_more_is_taken_than_half_of_what_is_free() -> None:
    point = FakePoint(sample_bytes=16 * MIB, weight_bytes=64 * MIB)
    # 3.4 · 128 MiB and 19 vectors are 1,651 MiB, and with ten products 1,267.
    for free, products in ((1652, 16), (1650, 10), (1268, 10), (1266, 0), (628, 0)):
        assert fit(point, batches(rows=8), free=2 * free * MIB)[1] == products
    with pytest.raises(TooLittleMemoryError):
        fit(point, batches(rows=8), free=2 * 626 * MIB)


def test_the_rank_with_the_least_free_memory_decides() -> None:
    class Votes(Meeting):
        def number(self, value: float, device: torch.device) -> float:
            asked.append(value)
            # The other rank has room for no product.
            return value if len(asked) == 1 else (value + float(len(asked) == 4)) / 2

    asked: list[float] = []
    point, own = FakePoint(sample_bytes=1024, weight_bytes=4096), batches()
    samples = supply(own, whole=False, batch_size=32)
    most = Allowance(lambda: None).fit(point, samples, own[0], 32, Votes(together=False))[1]  # type: ignore[arg-type]
    assert (most, asked) == (0, [0.0, 1.0, 1.0, 1.0])


def test_small_batches_that_were_joined_are_measured_by_the_runs_own() -> None:
    samples, _ = fit(FakePoint(sample_bytes=16 * MIB, weight_bytes=MIB), batches(count=32, rows=4))
    # A step of four samples is 64 MiB, not the 256 of the sixteen that are joined.
    assert samples.rows == 8


def test_activations_are_measured_once_for_each_shape_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[torch.Size] = []
    original = Point.activation_bytes

    def measure(point: Point, sample: Sample, **options: bool) -> float:
        measured.append(sample[0][0].shape)
        return original(point, sample, **options)

    monkeypatch.setattr(Point, "activation_bytes", measure)
    # A slow machine would not probe as often.
    monkeypatch.setattr(Budget, "left", lambda _: 1e9)
    monkeypatch.setattr(Budget, "has_earned", lambda *_: True)
    probe = CurvatureProbe(samples=64, every_n_steps=8)
    probe.settings.strict = True
    trainer(tmp_path, probe, max_epochs=6).fit(DigitsNet(), digits())
    assert probe.report is not None
    assert len(probe.report.history["curvature/loss"].values) >= 2
    # A quarter of a batch of 32, for a step and for products.
    assert measured == [torch.Size([8, 64])] * 2
