"""The reader of the fact ``loss_head``."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_doctor.history import History
from lightning_doctor.loss_head import LossHead, last_layer, loss_head
from tests.histories import HEAD, LOGITS


def read(**head: Any) -> LossHead:
    history = History()
    history.facts["loss_head"] = head
    return loss_head(history)


def test_a_whole_fact_is_read() -> None:
    head = read(**LOGITS)
    assert (head.loss, head.targets, head.classes, head.shape, head.target_shape) == (
        "cross_entropy",
        "class_index",
        10,
        (32, 10),
        (32,),
    )
    assert (head.target_range, head.outputs, head.terms) == ((0.0, 9.0), (-3.0, 3.0), 1)


def test_what_is_missing_is_empty_or_not_a_number() -> None:
    for head in (read(), read(**dict.fromkeys(HEAD)), loss_head(History())):
        assert (head.loss, head.activation, head.targets, head.shape, head.terms) == ("", "", "", (), 1)
        assert not head.broadcast
        assert head.classes is None
        numbers = (*head.outputs, *head.target_range, head.target_mean, head.target_std)
        assert all(math.isnan(number) for number in numbers)


@pytest.mark.parametrize(
    ("loss", "shape", "columns"),
    [
        ("mse", [32], 1),
        ("mse", [32, 3], 3),
        ("mse", [32, 20, 3], 3),
        # Classes of pictures and of sequences lie along the second axis.
        ("cross_entropy", [32, 21, 8, 8], 21),
        ("cross_entropy", [32, 21, 50], 21),
        ("mse", [32, 3, 8, 8], 3),
    ],
)
def test_columns_are_what_is_put_out_for_one_sample_or_position(loss: str, shape: list[int], columns: int) -> None:
    assert read(loss=loss, output_shape=shape).columns == columns


def test_the_last_layer_of_a_kind_is_named() -> None:
    history = History()
    assert last_layer(history, "softmax") == "softmax"
    history.facts["activations"] = [
        {"layer": "attention", "class": "Softmax", "kind": "softmax"},
        {"layer": "head.2", "class": "Softmax", "kind": "softmax"},
        {"layer": "drop", "class": "Dropout", "kind": "dropout"},
    ]
    assert last_layer(history, "softmax") == "Softmax `head.2`"
