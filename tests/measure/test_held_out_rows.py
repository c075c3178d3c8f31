from __future__ import annotations

import pytest
import torch

from lightning_doctor.measure.held_out_rows import Prints, RowSample, columns, share_found, share_repeated


def test_rows_are_taken_from_the_whole_of_a_pass_evenly() -> None:
    sample = RowSample(100, 200)
    for index in range(200):
        sample.take((torch.arange(16.0)[:, None] + 16 * index, torch.zeros(16)), index, 16, 3200)
    (whole, rows), *_ = sample.batches(sample.rows)
    kept = whole[0][:, 0].sort().values
    assert rows == len(kept) == sample.rows
    # A hundred of 3,200: four of every eighth batch.
    assert 96 <= rows <= 100
    assert kept[0] < 100
    assert kept[-1] > 2900
    assert len(kept.unique()) == rows


def test_of_small_batches_more_are_taken() -> None:
    sample = RowSample(100, 200)
    for index in range(200):
        sample.take((torch.full((2, 1), float(index)), torch.zeros(2)), index, 2, 400)
    assert sample.rows == 100
    assert float(sample.batches(100)[0][0][0].max()) > 190


def test_of_a_stream_of_unknown_length_the_first_batches_must_do() -> None:
    sample = RowSample(64, None)
    for index in range(100):
        sample.take((torch.full((4, 2), float(index)), torch.zeros(4)), index)
    assert sample.rows == 64
    assert float(sample.batches(64)[0][0][0].max()) == 31


def test_batches_to_score_hold_rows_from_everywhere() -> None:
    sample = RowSample(64, 8)
    for index in range(8):
        sample.take({"x": torch.full((8, 3), float(index)), "y": torch.zeros(8)}, index, 8, 64)
    parts = sample.batches(16)
    assert [rows for _, rows in parts] == [16] * 4
    for batch, _ in parts:
        assert len(batch["x"][:, 0].unique()) == 8


def test_what_is_kept_is_a_copy() -> None:
    batch = (torch.zeros(8, 2), torch.zeros(8))
    sample = RowSample(8, 1)
    sample.take(batch, 0, 8, 8)
    batch[0].add_(1)
    assert float(sample.batches(8)[0][0][0].max()) == 0


def test_a_sample_stays_within_its_memory_and_is_even_all_the_same() -> None:
    sample = RowSample(512, 4)
    for index in range(4):
        sample.take((torch.full((64, 1 << 16), float(index)), torch.zeros(64)), index, 64, 256)
    # A row is 256 KiB and its label: 3 MiB hold 11; as many of each batch.
    assert sample.rows == 8
    assert sample.full
    assert sample.batches(8)[0][0][0].unique().tolist() == [0, 1, 2, 3]


def test_rows_are_kept_once_however_they_are_asked_for() -> None:
    sample = RowSample(64, 8)
    for index in range(8):
        sample.take({"x": torch.randn(8, 1000), "y": torch.arange(8)}, index, 8, 64)
    before = [float(batch["x"].sum()) for batch, _ in sample.batches(16)]
    sample.batches(64)
    (whole,) = sample._pieces
    assert [tensor.shape for tensor in whole.values()] == [(64, 1000), (64,)]
    assert [float(batch["x"].sum()) for batch, _ in sample.batches(16)] == before
    # Nothing is taken any more.
    sample.take({"x": torch.randn(8, 1000), "y": torch.arange(8)}, 8, 8, 64)
    assert sample.rows == 64


def test_a_batch_that_two_have_it_take_is_taken_once() -> None:
    sample = RowSample(64, 4)
    for index in range(4):
        for _ in range(2):
            sample.take(torch.full((8, 2), float(index)), index, 8, 32)
    assert sample.rows == 32
    assert sample.batches(32)[0][0][:, 0].tolist() == [0.0] * 8 + [1.0] * 8 + [2.0] * 8 + [3.0] * 8


def test_a_batch_without_rows_leaves_the_reason() -> None:
    sample = RowSample(64, 4)
    sample.take((torch.zeros(3, 2), torch.zeros(5, 2)), 0, 16, 64)
    assert sample.rows == 0
    assert sample.reason is not None
    assert "first dimension" in sample.reason
    assert sample.batches(8) == []


def test_many_columns_are_thinned_and_what_a_row_is_as_a_whole_is_kept() -> None:
    images = torch.randn(10, 3, 32, 32)
    table = columns(images)
    assert table.shape[0] == 10
    assert table.shape[1] <= 98
    flat = images.reshape(10, -1)
    assert torch.equal(table[:, -2], flat.mean(1))
    assert torch.equal(columns(flat[:, :5]), flat[:, :5])


def prints(values: torch.Tensor, *, batch: int = 16, like: Prints | None = None) -> Prints:
    taken = Prints(10_000, like)
    for rows in values.split(batch):
        taken.add(rows)
    return taken


@pytest.mark.parametrize("shape", [(64,), (3, 16, 16), (3, 64, 64)])
def test_the_same_row_is_found_in_batches_of_any_size(shape: tuple[int, ...]) -> None:
    rows = torch.randn(300, *shape)
    train = prints(rows, batch=300)
    found = prints(torch.cat([rows[:30], torch.randn(70, *shape)]), batch=7, like=train)
    assert share_found(found.exact(), train.exact()) == 0.3
    assert share_found(found.rounded(), train.rounded()) == 0.3


def test_a_row_that_was_stored_with_fewer_digits_is_found_by_rounding_alone() -> None:
    rows = torch.rand(200, 8, dtype=torch.float64)
    train = prints(rows)
    again = prints(rows[:100] * (1 + 1e-9), like=train)
    assert share_found(again.exact(), train.exact()) == 0.0
    # A value within 1e-9 of a boundary between two of 10,000 steps rounds to the other side: 1e-4 of all rows.
    assert share_found(again.rounded(), train.rounded()) == 1.0


def test_whole_numbers_are_compared_as_they_are() -> None:
    ids = torch.arange(40).reshape(20, 2)
    train = prints(ids)
    assert share_found(prints(ids[:5], like=train).exact(), train.exact()) == 1.0
    assert share_found(prints(ids + 100, like=train).rounded(), train.rounded()) == 0.0


def test_rows_that_come_twice_are_counted() -> None:
    rows = torch.randn(10, 4)
    assert share_repeated(prints(torch.cat([rows, rows[:5]])).exact()) == pytest.approx(10 / 15)
    assert share_repeated(prints(rows[:1]).exact()) == 0.0


def test_pieces_that_cannot_be_joined_count_as_they_are() -> None:
    sample = RowSample(64, 8)
    for index in range(8):
        sample.take({"text": torch.zeros(4, 3 + index)}, index, 4)
    assert sample.rows_of(2) == sample.rows == 32
    assert sample.batches(32)[0][1] == 4
    # Which is known only once they were to be joined.
    assert sample.rows_of(2) == 8
