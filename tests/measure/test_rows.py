from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_doctor.measure.rows import count_rows, take

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
