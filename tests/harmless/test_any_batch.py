"""Whatever a batch is made of: nothing that looks at it raises, and the run goes on as without the doctor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_doctor import Doctor
from lightning_doctor.measure.batches import (
    Roles,
    at,
    dense,
    describe,
    fed_by,
    floats,
    leaves,
    roles_by_structure,
    rows,
)
from lightning_doctor.measure.fingerprints import Fingerprinter, count_non_finite, duplicate_share
from lightning_doctor.measure.label_order import LabelKind, LabelTally
from lightning_doctor.measure.rows import count_rows, cut_rows, join, take
from lightning_doctor.measure.target_order import NumberTally
from tests.runs import IMAGES, LABELS, DigitsNet, flat, trainer

NAN, INF = float("nan"), float("inf")


@dataclass
class Sample:
    image: Any
    label: Any = None


class Pair(NamedTuple):
    first: Any
    second: Any


class Holder:
    """An object of the user's, some of whose attributes cannot be had."""

    def __init__(self, x: Any) -> None:
        self.x = x

    @property
    def broken(self) -> Any:
        raise RuntimeError("not now")


_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32, torch.uint8,
    torch.bool, torch.int8, torch.uint16,
)  # fmt: skip
_VALUES = (0.0, 1.0, -1.0, 0.5, NAN, INF, -INF, 1e38, 1e-45, 3.0, 1000.0)
_LAYOUTS = ("plain", "plain", "plain", "sparse", "rows", "ragged", "strided", "quantized", "needs gradient")
shapes = st.one_of(
    st.sampled_from([(), (0,), (4,), (4, 1), (4, 3), (0, 3), (4, 0)]), st.lists(st.integers(0, 5), max_size=4)
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape, dtype, layout = tuple(draw(shapes)), draw(st.sampled_from(_DTYPES)), draw(st.sampled_from(_LAYOUTS))
    pattern = torch.tensor(draw(st.lists(st.sampled_from(_VALUES), min_size=1, max_size=6)))
    count = int(torch.tensor(shape).prod()) if shape else 1
    pattern = pattern if dtype.is_floating_point or dtype.is_complex else pattern.nan_to_num(0, 1, 1).clamp(-1, 9).abs()
    plain = pattern.repeat(count // len(pattern) + 1)[:count].reshape(shape).to(dtype)
    if layout == "ragged":
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    if layout == "quantized" and dtype == torch.float32:
        return torch.quantize_per_tensor(plain.nan_to_num(0, 1, 1), 0.1, 0, torch.quint8)
    if layout == "sparse" and dtype != torch.uint16:
        return plain.to_sparse()
    if layout == "rows" and plain.ndim == 2 and dtype != torch.uint16:
        return plain.to_sparse_csr()
    if layout == "strided" and plain.ndim:
        return plain.expand(2, *shape).transpose(0, -1)
    if layout == "needs gradient" and dtype.is_floating_point:
        return plain.requires_grad_()
    return plain


others = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3), st.just(object()),
    st.just(DigitsNet), st.just({1, 2}), st.just(iter(())), st.just(slice(3)),
)  # fmt: skip
_NAMES = ["x", "y", "inputs", "labels", "mask", "image", "", "a.b", 0, None, ("a", 1)]


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
        st.builds(Sample, inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(Holder, inner),
    )


batches = st.recursive(st.one_of(tensors(), tensors(), others), nested, max_leaves=12)
whole_pairs = st.tuples(tensors(), tensors())


def look(batch: Any) -> None:
    """Everything that the doctor asks of a batch as it comes."""
    found = leaves(batch)
    assert all(isinstance(leaf.tensor, Tensor) for leaf in found)
    solid = dense(found)
    values = floats(found, solid)
    counts = [int(count_non_finite(leaf.tensor)) for leaf in values]
    assert all(0 <= count <= leaf.tensor.numel() for count, leaf in zip(counts, values, strict=True))
    roles = roles_by_structure(found)
    json.dumps(describe(found, roles), allow_nan=False)
    assert rows(found, roles) is None or rows(found, roles) >= 0  # type: ignore[operator]
    rows(found, Roles())
    filled = [leaf.tensor for leaf in solid if leaf.tensor.numel()]
    if filled:
        prints = Fingerprinter(filled[0].device)
        assert prints.of_batch(filled).equal(prints.of_batch(filled))
        for tensor in filled:
            fed_by(tensor, found, exact=False)
            if tensor.ndim:
                assert duplicate_share(prints.of_rows([tensor])).ndim == 0
    targets = at(found, roles.targets)
    if targets is not None:
        _judge_targets(targets)
    count = count_rows(batch, 4, 12) or count_rows(batch)
    if count is not None:
        one, other = cut_rows(batch, count, 2)
        join([one, other], count // 2)
        take(batch, count, torch.tensor([0, 0]))


def _judge_targets(targets: Tensor) -> None:
    kind = LabelKind()
    evidence = kind.look(targets)
    if evidence is None:
        return
    kind.learn([float(number) for number in evidence])
    labels = kind.labels(targets)
    if labels is not None and len(labels):
        tally = NumberTally() if kind.form == "number" else LabelTally()
        assert tally.compare([labels, labels]).shape == (2, 2)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(batches | whole_pairs)
def test_nothing_that_looks_at_a_batch_raises(batch: Any) -> None:
    with torch.no_grad():
        look(batch)


class Served(DigitsNet):
    """Takes its numbers from elsewhere: what the batch holds does not matter to it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        part = slice(8 * batch_idx, 8 * batch_idx + 8)
        return nn.functional.cross_entropy(self.net(IMAGES[part]), LABELS[part])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 1.0 / (1 + batch_idx), batch_size=1)


def train(served: list[Any], *callbacks: Any) -> Tensor:
    with TemporaryDirectory() as folder:
        net = Served()
        loaders: list[Any] = [
            DataLoader(list(range(len(served))), batch_size=None, collate_fn=lambda i: served[i]) for _ in range(2)
        ]
        trainer(Path(folder), *callbacks, max_epochs=2).fit(net, *loaders)
        return flat(net)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(batches | whole_pairs, min_size=1, max_size=4))
def test_no_nesting_of_batches_raises_or_changes_a_weight(served: list[Any]) -> None:
    doctor = Doctor(strict=True, overhead=1.0, every_n_steps=2)
    assert torch.equal(train(served, doctor), train(served))
    assert doctor.report is not None
    assert doctor.report.notes == []
    json.dumps(doctor.report.to_dict(), allow_nan=False)
