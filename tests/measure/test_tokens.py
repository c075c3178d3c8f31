from __future__ import annotations

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


def test_those_that_differ_most_are_kept() -> None:
    rows = torch.stack([torch.arange(100) % 2, torch.arange(100), torch.zeros(100, dtype=torch.long)], dim=1)
    columns = Tokens(rows, 2)(rows)
    # Half of the rows have either kind first; every other column is the same for nearly all.
    assert sorted(columns.sum(0).tolist()) == [50.0, 50.0]
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
