from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_doctor.measure.table import products
from tests.measure.test_loss_head import BITS, LABELS, REAL, C, read


def correlation(products: Tensor) -> float:
    together, one, other = products.tolist()
    return together / math.sqrt(one * other)


def test_predictions_go_with_targets_within_their_columns() -> None:
    # Columns whose means lie far apart tell nothing of the rows.
    targets = REAL + 100 * torch.arange(C)
    head, _ = read(lambda o: functional.mse_loss(o, targets))
    assert head.prediction is not None
    found = products(head)
    assert found is not None
    pairs = [
        (head.prediction[:, i] - head.prediction[:, i].mean(), targets[:, i] - targets[:, i].mean()) for i in range(C)
    ]
    expected = [
        sum(float((a * b).sum()) for a, b in each)
        for each in (pairs, [(a, a) for a, _ in pairs], [(b, b) for _, b in pairs])
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_what_is_predicted_right_goes_with_its_targets_wholly() -> None:
    head, _ = read(lambda o: functional.mse_loss(o, 3 * o.detach() - 7))
    found = products(head)
    assert found is not None
    assert correlation(found) == pytest.approx(1)


def test_logits_are_compared_as_probabilities() -> None:
    head, _ = read(lambda o: functional.binary_cross_entropy_with_logits(o, BITS))
    assert head.prediction is not None
    found = products(head)
    assert found is not None
    likely = head.prediction.sigmoid().double()
    assert float(found[1]) == pytest.approx(float((likely - likely.mean(0)).square().sum()))


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda o: functional.cross_entropy(o, LABELS), id="classes"),
        pytest.param(lambda o: functional.mse_loss(o[:, :1], REAL[:, 0]), id="broadcast"),
        pytest.param(lambda o: functional.mse_loss(o[:1], REAL[:1]), id="one row"),
    ],
)
def test_where_there_is_nothing_to_go_together_none_is_returned(loss: Any) -> None:
    head, _ = read(loss)
    assert head.prediction is not None
    assert products(head) is None
