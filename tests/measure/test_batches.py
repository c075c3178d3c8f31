from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_doctor.measure.batches import (
    Leaf,
    Roles,
    at,
    dense,
    describe,
    fed_by,
    floats,
    is_dense,
    key,
    leaves,
    roles_by_structure,
    rows,
)

X, Y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
Pair = namedtuple("Pair", ["image", "label"])


@dataclass
class Sample:
    x: Tensor
    names: list[str] = field(default_factory=lambda: ["a", "b"])
    y: Tensor | None = None


class Graph:
    """Keeps its tensors out of sight, as graph libraries do, and shows them as a mapping would."""

    def __init__(self, **tensors: Tensor) -> None:
        self._store = tensors

    def keys(self) -> list[str]:
        return list(self._store)

    def __getitem__(self, name: str) -> Tensor:
        return self._store[name]


class Slotted:
    __slots__ = ("x",)


class Hostile(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("not for you")


def keys(batch: Any) -> list[str]:
    return [key(leaf.path) for leaf in leaves(batch)]


def named(batch: Any) -> tuple[str | None, str | None]:
    roles = roles_by_structure(leaves(batch))
    return (
        None if roles.inputs is None else key(roles.inputs),
        None if roles.targets is None else key(roles.targets),
    )


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (X, ["batch"]),
        ((X, Y), ["[0]", "[1]"]),
        ([X], ["[0]"]),
        ({"image": X, "label": Y, "path": ["a", "b"]}, ["['image']", "['label']"]),
        (UserDict(input_ids=Y), ["['input_ids']"]),
        (((X, X), {"y": Y}), ["[0][0]", "[0][1]", "[1]['y']"]),
        (Pair(X, Y), [".image", ".label"]),
        (Sample(X, y=Y), [".x", ".y"]),
        (SimpleNamespace(x=X, _hidden=Y), [".x"]),
        (Graph(x=X, edge_index=Y), [".x", ".edge_index"]),
        ([Sample(X), Sample(X)], ["[0].x", "[1].x"]),
    ],
)
def test_tensors_are_found_in_every_kind_of_batch(batch: Any, expected: list[str]) -> None:
    assert keys(batch) == expected


@pytest.mark.parametrize(
    "batch", [None, "text", ["a", "b"], 3, [], {}, Slotted(), object(), Tensor, iter([X]), Hostile(x=X), [[1, 2], [3]]]
)
def test_what_holds_no_tensor_has_no_leaves(batch: Any) -> None:
    assert leaves(batch) == []


def test_one_part_that_raises_leaves_the_others() -> None:
    assert keys([Hostile(x=X), X]) == ["[1]"]


def test_a_huge_a_deep_and_a_circular_batch_are_opened_only_so_far() -> None:
    visited = []

    class Counts(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            visited.append(index)
            return super().__getitem__(index)

    assert len(leaves([Counts(["text"] * 10_000) for _ in range(10_000)])) == 0
    assert len(visited) <= 256
    assert len(leaves([X] * 10_000)) == 64
    circle: list[Any] = [X]
    circle.append(circle)
    assert keys(circle)[:2] == ["[0]", "[1][0]"]
    assert len(keys(circle)) < 10


def test_objects_do_not_lead_to_other_objects() -> None:
    loader = SimpleNamespace(cached=X)
    assert keys(SimpleNamespace(x=X, loader=loader)) == [".x"]


@pytest.mark.parametrize(
    ("batch", "inputs", "targets"),
    [
        (X, "batch", None),
        ([X], "[0]", None),
        ((X, Y), "[0]", "[1]"),
        ((X, ["text"], Y), "[0]", "[2]"),
        ((X, Y, Y), None, None),
        (((X, X), Y), None, "[1]"),
        ({"image": X, "label": Y}, "['image']", "['label']"),
        ({"Image": X, "index": Y, "target": Y}, "['Image']", "['target']"),
        ({"inputs": {"ids": Y, "mask": Y}, "labels": Y}, None, "['labels']"),
        ({"inputs": {"input_ids": Y, "mask": Y}, "labels": Y}, "['inputs']['input_ids']", "['labels']"),
        ({"sound": X, "labels": Y}, "['sound']", "['labels']"),
        ({"image": X, "index": Y}, "['image']", None),
        ({"labels": Y}, None, "['labels']"),
        ({"image": X, "features": X, "y": Y}, None, "['y']"),
        ({"left": X, "right": X}, None, None),
        (Pair(X, Y), ".image", ".label"),
        (Graph(x=X, edge_index=X, y=Y), ".x", ".y"),
    ],
)
def test_roles_follow_from_names_and_places_or_stay_open(batch: Any, inputs: str | None, targets: str | None) -> None:
    assert named(batch) == (inputs, targets)


def test_a_layer_is_fed_by_the_leaf_whose_memory_it_shares() -> None:
    a, b = torch.zeros(4, 6), torch.zeros(4, 6)
    found = leaves((a, b))
    assert fed_by(b.reshape(4, 2, 3), found, exact=True) == ("[1]",)
    assert fed_by(b[1:], found, exact=True) == ("[1]",)
    # Both have its shape.
    assert fed_by(torch.zeros(4, 6), found, exact=False) is None


def test_a_layer_is_fed_by_the_only_leaf_of_its_size() -> None:
    found = leaves((torch.zeros(4, 1, 6, dtype=torch.uint8), Y))
    assert fed_by(torch.zeros(4, 1, 6), found, exact=False) == ("[0]",)
    assert fed_by(torch.zeros(4, 6), found, exact=False) == ("[0]",)
    assert fed_by(torch.zeros(4, 6), found, exact=True) is None
    # As many numbers, but of other samples.
    assert fed_by(torch.zeros(6, 4), found, exact=False) is None


def test_a_layer_is_fed_by_the_view_that_begins_where_its_input_does() -> None:
    words = torch.zeros(4, 6, dtype=torch.long)
    found = leaves((words[:, :-1], words[:, 1:]))
    assert fed_by(words[:, :-1], found, exact=True) == ("[0]",)
    assert fed_by(words[:, 1:], found, exact=True) == ("[1]",)
    found = leaves((words, words[:, 0]))
    assert fed_by(words.flatten(), found, exact=True) == ("[0]",)
    assert fed_by(words[:, 0], found, exact=True) == ("[1]",)


def test_odd_tensors_feed_nothing() -> None:
    found = leaves((torch.zeros(4, 3).to_sparse(), torch.zeros(0, 3)))
    assert fed_by(torch.zeros(4, 3), found, exact=False) is None
    assert fed_by(torch.zeros(0, 3), found, exact=False) is None
    assert fed_by(torch.zeros(4, 3).to_sparse(), leaves((X, Y)), exact=False) is None


def test_rows_are_those_of_the_target_then_of_the_input_then_of_all() -> None:
    graph = leaves(Graph(x=torch.zeros(9, 3), edge_index=torch.zeros(2, 20), y=Y))
    assert rows(graph, roles_by_structure(graph)) == 4
    assert rows(graph, Roles(inputs=(".x",))) == 9
    assert rows(graph, Roles()) is None
    assert rows(leaves((X, Y, Y)), Roles()) == 4
    assert rows(leaves(torch.tensor(1.0)), Roles(inputs=())) is None


class Wrapper(Tensor):
    """A tensor whose numbers lie in others, like a sharded one."""

    @staticmethod
    def __new__(cls) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, (4, 3))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("was computed with")


class Marked(Tensor):
    """A tensor with a name of its own, like an image."""


def test_only_plain_numbers_are_dense() -> None:
    ragged = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    jagged = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    odd = [
        X.to_sparse(),
        X.to_sparse_csr(),
        ragged,
        jagged,
        Wrapper(),
        torch.quantize_per_tensor(X, 1.0, 0, torch.qint8),
    ]
    assert [is_dense(tensor) for tensor in odd] == [False] * len(odd)
    assert keys(odd) == [f"[{i}]" for i in range(len(odd))]
    marked = dense(leaves((X.as_subclass(Marked), torch.nn.Parameter(X))))
    assert [type(leaf.tensor) for leaf in marked] == [Tensor, Tensor]
    assert dense(leaves(odd)) == []


def test_floats_are_leaves_that_could_hold_nan_and_values_of_sparse_ones() -> None:
    sparse = torch.eye(3).to_sparse()
    batch = (X, Y, sparse, torch.eye(3).to_sparse_csr(), X.bool(), X.half(), X.to(torch.complex64), torch.zeros(0))
    found = leaves(batch)
    assert [key(leaf.path) for leaf in floats(found, dense(found))] == ["[0]", "[5]", "[6]", "[2]", "[3]"]
    assert floats(found, dense(found))[-1].tensor.shape == (3,)


def test_leaves_of_another_device_are_left_alone() -> None:
    found = leaves((X, torch.zeros(4, device="meta")))
    assert dense(found) == [Leaf(("[0]",), X)]


def test_a_description_is_plain_json() -> None:
    ragged = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    found = leaves({"x": X, "y": Y, "ragged": ragged})
    assert describe(found, roles_by_structure(found)) == {
        "leaves": [
            {"key": "['x']", "shape": [4, 3], "dtype": "float32"},
            {"key": "['y']", "shape": [4], "dtype": "int64"},
            {"key": "['ragged']", "shape": None, "dtype": "float32"},
        ],
        "inputs": "['x']",
        "targets": "['y']",
    }


def test_a_packed_sequence_is_its_parts() -> None:
    packed = pack_padded_sequence(torch.zeros(3, 5, 2), torch.tensor([5, 3, 2]), batch_first=True)
    assert keys((packed, Y))[:2] == ["[0].data", "[0].batch_sizes"]


def test_a_path_that_is_not_there_leads_nowhere() -> None:
    found = leaves((X, Y))
    assert at(found, ("[1]",)) is Y
    assert at(found, ("[2]",)) is None
    assert at(found, None) is None
