from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_doctor.measure.rows import count_rows, join, take

IMAGES, LABELS = torch.arange(12.0).reshape(4, 3), torch.arange(4)


@pytest.mark.parametrize(
    ("batch", "told", "rows"),
    [
        ([IMAGES, LABELS], {}, 4),
        ([IMAGES, LABELS], {"batch_size": 4}, 4),
        ([IMAGES, LABELS], {"batch_size": 16, "samples": 100}, 4),
        ({"x": IMAGES, "rest": {"y": LABELS}}, {}, 4),
        (IMAGES, {"batch_size": 4}, 4),
        (IMAGES, {}, None),
        ([IMAGES, LABELS], {"batch_size": 16, "samples": 96}, None),
        ([torch.ones(7, 3), LABELS], {}, None),
        (["a", None], {"batch_size": 2}, None),
    ],
)
def test_rows_are_counted_where_the_loader_or_the_labels_say_so(
    batch: Any, told: dict[str, int], rows: int | None
) -> None:
    assert count_rows(batch, **told) == rows


def test_rows_are_taken_from_every_tensor_that_has_them() -> None:
    weights = torch.ones(3)
    taken = take({"x": IMAGES, "y": [LABELS, "name"], "weights": weights}, 4, torch.tensor([3, 1]))
    assert taken["x"].tolist() == [[9, 10, 11], [3, 4, 5]]
    assert taken["y"][0].tolist() == [3, 1]
    assert taken["y"][1] == "name"
    assert taken["weights"] is weights


def test_names_go_with_their_rows() -> None:
    batch = [{"id": ["a", "b", "c", "d"], "x": IMAGES, "kinds": ["image"]}, LABELS]
    taken = take(batch, 4, torch.tensor([3, 1]))
    assert taken[0]["id"] == ["d", "b"]
    assert taken[0]["kinds"] == ["image"]
    assert taken[1].tolist() == [3, 1]
    joined = join([taken, take(batch, 4, torch.tensor([0, 2]))], 2)
    assert joined[0]["id"] == ["d", "b", "a", "c"]
    assert joined[1].tolist() == [3, 1, 0, 2]


def test_batches_of_a_kind_are_joined_row_by_row() -> None:
    one, other = ({"x": IMAGES + i, "y": (LABELS, "name")} for i in (0, 1))
    joined = join([one, other], 4)
    assert torch.equal(joined["x"], torch.cat([IMAGES, IMAGES + 1]))
    assert torch.equal(joined["y"][0], torch.cat([LABELS, LABELS]))
    assert joined["y"][1] == "name"
    assert count_rows(joined) == 8


@pytest.mark.parametrize(
    "other",
    [[IMAGES, "b"], [IMAGES[:3], "a"], (IMAGES, "a"), [IMAGES], [{"x": IMAGES}, "a"], [IMAGES.reshape(4, 1, 3), "a"]],
)
def test_batches_of_several_kinds_are_not_joined(other: Any) -> None:
    assert join([[IMAGES, "a"], other], 4) is None
