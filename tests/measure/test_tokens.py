from __future__ import annotations

import pytest
import torch

from lightning_doctor.measure.tokens import Tokens


def test_columns_say_which_kind_is_where_and_how_often_it_occurs() -> None:
    rows = torch.tensor([[7, 3], [3, 3], [7, 9], [9, 9]])
    columns = Tokens(rows, 100)(rows)
    # Of the first place 7, 3 and 9; of the second 3 and 9; of the whole 3, 7 and 9.
    assert columns.shape == (4, 8)
    assert sorted(map(tuple, columns.T.tolist())) == sorted(
        [(1, 0, 1, 0), (0, 1, 0, 0), (0, 0, 0, 1), (1, 1, 0, 0), (0, 0, 1, 1), (1, 2, 0, 0), (1, 0, 1, 0), (0, 0, 1, 2)]
    )


def test_letters_of_which_all_rows_have_some_are_told_by_how_many() -> None:
    rows = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]])
    ordered = Tokens(rows, 100)(rows.flip(1))
    assert (0 in (ordered.T - torch.tensor([3.0, 2.0, 1.0])).abs().sum(1)) is True


def test_padding_leaves_room_for_words() -> None:
    words = torch.randint(1, 50, (200, 100), generator=torch.Generator().manual_seed(0))
    rows = words * (torch.arange(100) < torch.arange(200)[:, None] % 100)
    tokens = Tokens(rows, 64)
    assert tokens.columns == 64
    # At a place there is a word or none; of a word a row may hold several.
    assert int((tokens(rows) > 1).any(0).sum()) == 32


def test_those_that_differ_most_are_kept() -> None:
    rows = torch.stack([torch.arange(100) % 2, torch.arange(100), torch.zeros(100, dtype=torch.long)], dim=1)
    columns = Tokens(rows, 4)(rows)
    # Half of the rows have either kind first, and one more of zero or one; all else is the same for nearly all.
    assert columns[:, :2].sum(0).tolist() == [50.0, 50.0]
    alike = Tokens(rows[:, 2:], 100)
    assert alike.columns == 0
    assert alike(rows[:, 2:]).shape == (100, 0)


def test_kinds_that_were_never_seen_are_none_of_those_that_were() -> None:
    encoded = Tokens(torch.tensor([[1, 2], [2, 1], [5, 5]]), 100)
    assert float(encoded(torch.tensor([[0, 9], [3, 4]])).sum()) == 0.0


def test_rows_of_any_shape_and_single_ones() -> None:
    assert Tokens(torch.tensor([4, 4, 6]), 10)(torch.tensor([6, 4])).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    cubes = torch.randint(0, 3, (10, 2, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Tokens(cubes, 50)(cubes), Tokens(cubes.reshape(10, 6), 50)(cubes.reshape(10, 6)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.bool])
def test_any_type_of_whole_numbers_will_do(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0, 1], [1, 0], [1, 1]])
    assert torch.equal(Tokens(rows.to(dtype), 10)(rows.to(dtype)), Tokens(rows, 10)(rows))


def test_long_rows_are_looked_at_in_places() -> None:
    rows = torch.randint(0, 9, (20, 50_000), generator=torch.Generator().manual_seed(0))
    assert Tokens(rows, 32)(rows).sum(1).max() <= 2048 + 16
