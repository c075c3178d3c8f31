from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure.batches import key, leaves, roles_by_structure
from lightning_doctor.measure.features import summary
from lightning_doctor.measure.input_layer import InputReader


def read(batch: Any, *calls: tuple[str, nn.Module, Tensor | None], reader: InputReader | None = None) -> Any:
    """Follows a pass; returns the reader, the input's key and the target's."""
    found = leaves(batch)
    reader = reader or InputReader()
    reader.start(found, roles_by_structure(found))
    for layer, module, tensor in calls:
        reader.ran(layer, module, () if tensor is None else (tensor,))
    roles = reader.finish()
    return reader, *(None if path is None else key(path) for path in roles)


def measured(reader: InputReader) -> dict[str, Any]:
    result = summary(reader.moments.packed().tolist())
    assert result is not None
    return result


def test_the_input_is_measured_as_the_first_layer_with_parameters_gets_it() -> None:
    images, labels = torch.full((4, 1, 3, 3), 255, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)
    scaled = images / 255
    flat = nn.Flatten()(scaled)
    reader, inputs, targets = read((images, labels), ("flat", nn.Flatten(), scaled), ("fc", nn.Linear(9, 2), flat))
    assert (inputs, targets) == ("[0]", "[1]")
    assert reader.layer == ("fc", "Linear")
    assert measured(reader)["features"] == 9
    assert measured(reader)["abs_max"] == 1.0


def test_a_convolution_has_its_features_in_the_channels_and_anything_else_in_the_last_dimension() -> None:
    x = torch.rand(4, 3, 8, 8)
    assert measured(read([x], ("conv", nn.Conv2d(3, 2, 3), x))[0])["features"] == 3
    assert measured(read([x[0]], ("conv", nn.Conv1d(8, 2, 3), x[0]))[0])["features"] == 8
    assert measured(read([x], ("norm", nn.BatchNorm2d(3), x))[0])["features"] == 3
    assert measured(read([x], ("fc", nn.Linear(8, 2), x))[0])["features"] == 8
    flat = torch.rand(10)
    assert measured(read([flat], ("fc", nn.Linear(1, 2), flat.unsqueeze(1)))[0])["features"] == 1
    assert measured(read([flat])[0])["features"] == 1


def test_whole_numbers_that_a_layer_is_fed_with_have_no_scale() -> None:
    ids = torch.zeros(4, 7, dtype=torch.long)
    reader, inputs, _ = read({"input_ids": ids, "labels": ids.clone()}, ("embed", nn.Embedding(3, 2), ids))
    assert inputs == "['input_ids']"
    assert reader.integers
    assert reader.passes == 0
    assert reader.why_not is None


def test_whole_numbers_that_no_layer_gets_are_not_measured() -> None:
    ids = torch.zeros(4, 7, dtype=torch.long)
    one_hot = torch.zeros(4, 7, 3)
    reader, _, _ = read([ids], ("fc", nn.Linear(3, 2), one_hot))
    assert not reader.integers
    assert reader.why_not is not None
    assert "whole numbers" in reader.why_not


def test_the_leaf_is_measured_where_the_first_layer_gets_something_else() -> None:
    x, noise = torch.full((4, 6), 3.0), torch.zeros(4, 100)
    generated = torch.zeros(4, 6)
    calls = [("g", nn.Linear(100, 6), noise), ("d", nn.Linear(6, 1), generated), ("d", nn.Linear(6, 1), x)]
    reader, inputs, _ = read([x], *calls)
    assert inputs == "[0]"
    assert measured(reader)["abs_max"] == 3.0


def test_the_order_of_a_pair_gives_way_to_what_the_first_layer_gets() -> None:
    labels, images = torch.zeros(4, dtype=torch.long), torch.rand(4, 6)
    _, inputs, targets = read((labels, images), ("fc", nn.Linear(6, 2), images))
    assert (inputs, targets) == ("[1]", "[0]")


def test_of_three_leaves_the_one_that_no_layer_gets_is_the_target() -> None:
    a, b, y = torch.rand(4, 3), torch.rand(4, 5), torch.rand(4, 2)
    _, inputs, targets = read((a, b, y), ("a", nn.Linear(3, 2), a), ("b", nn.Linear(5, 2), b))
    assert (inputs, targets) == ("[0]", "[2]")
    assert read((a, b, y), ("a", nn.Linear(3, 2), a))[1:] == ("[0]", None)


def test_two_views_of_one_sample_are_no_input_and_target() -> None:
    a, b = torch.rand(4, 3), torch.rand(4, 3)
    layer = nn.Linear(3, 2)
    assert read((a, b), ("a", layer, a), ("a", layer, b))[1:] == ("[0]", None)


def test_words_to_say_may_be_fed_too() -> None:
    source, words = torch.zeros(4, 5, dtype=torch.long), torch.ones(4, 5, dtype=torch.long)
    embed = nn.Embedding(3, 2)
    assert read((source, words), ("e", embed, source), ("e", embed, words[:, :-1]))[1:] == ("[0]", "[1]")


def test_what_was_decided_once_holds_and_a_layer_is_measured_once_a_pass() -> None:
    reader, x, layer = InputReader(), torch.rand(4, 3), nn.Linear(3, 3)
    read((x, x.sum(1)), ("fc", layer, x), ("fc", layer, x * 100), reader=reader)
    # A copy, as an uncompiled copy of a compiled model gets.
    read((x, x.sum(1)), ("fc", layer, x.clone()), reader=reader)
    assert reader.passes == 2
    assert measured(reader)["samples"] == 8
    assert measured(reader)["abs_max"] <= 1.0


@pytest.mark.parametrize(
    "batch",
    [
        (),
        (torch.rand(4, 3).to_sparse(), torch.zeros(4)),
        torch.rand(4, 3, dtype=torch.complex64),
        torch.tensor(1.0),
        (torch.zeros(0, 3), torch.zeros(0)),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    ],
)
def test_an_input_that_cannot_be_measured_says_why(batch: Any) -> None:
    first = leaves(batch)[0].tensor if leaves(batch) else None
    for calls in ([], [("fc", nn.Linear(3, 2), first)], [("fc", nn.Linear(3, 2), None)]):
        reader, *_ = read(batch, *calls)
        assert reader.why_not is not None
        assert reader.passes == 0
