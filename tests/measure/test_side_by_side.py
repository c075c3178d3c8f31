"""Two sides of rows beside each other, as the fact tells it."""

from __future__ import annotations

import torch

from lightning_doctor.measure.side_by_side import coinciding, side_by_side


def rows(count: int = 400) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(0))


def test_real_numbers_of_different_rows_hardly_ever_meet_however_often_rows_are_copied() -> None:
    assert coinciding(rows()) < 0.01
    assert coinciding(rows().repeat(3, 1)) < 0.01


def test_numbers_of_few_values_meet_in_nearly_all_rows() -> None:
    assert coinciding((rows() > 0).float() / 2) > 0.9
    # Of 32 different rows each column has two values.
    assert coinciding((rows(4000) > 0).float() / 2) == 1 - 2 / 32


def test_whole_numbers_may_be_names() -> None:
    assert coinciding(torch.arange(400.0)[:, None]) == 1.0


def test_the_usual_column_decides() -> None:
    mixed = rows()
    mixed[:, :2] = (mixed[:, :2] > 0).float()
    assert coinciding(mixed) < 0.01
    mixed[:, 2] = (mixed[:, 2] > 0).float()
    assert coinciding(mixed) > 0.9


def test_the_fact_of_inputs_tells_it_and_that_of_labels_does_not() -> None:
    labels = torch.arange(400) % 4
    assert side_by_side(rows(), rows(300), "x", classes=False)["coinciding"] < 0.01
    assert "coinciding" not in side_by_side(labels, labels, "y", classes=True)
