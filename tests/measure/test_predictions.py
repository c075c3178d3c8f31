"""What is measured of a batch: odd shapes, large batches, and nothing that waits for the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.callbacks.head_record import HeadRecord, describe, signature
from lightning_doctor.history import History
from lightning_doctor.measure.loss_graph import Graph, LayerOutputs, edge_of
from lightning_doctor.measure.loss_head import read_head
from lightning_doctor.measure.predictions import NUMBERS, Tally
from tests.measure.test_loss_head import HEADS, forward

f: Any = functional
drawn = torch.Generator().manual_seed(0)


def outputs(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(0)
    layer = nn.Linear(6, shape[-1]).to(dtype)
    values: Tensor = layer(torch.randn(*shape[:-1], 6, dtype=dtype))
    return values


def real(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def measured(output: Tensor, loss: Tensor) -> dict[str, float]:
    kept = LayerOutputs()
    kept.keep(output)
    root = edge_of(loss)
    assert root is not None
    head = read_head(Graph(kept, reads=True), root)
    tally = Tally(head)
    numbers = tally.measure(head, loss).tolist()
    record = HeadRecord(signature(describe(head)))
    record.receive(History(), {**describe(head), "has_baseline": tally.has_baseline}, 0, numbers)
    return dict(zip(NUMBERS, numbers, strict=False))


@pytest.mark.parametrize(
    ("shape", "loss"),
    [
        ((1, 1), lambda o: f.mse_loss(o, real(1, 1))),
        ((1, 1), lambda o: f.mse_loss(o.squeeze(), real(1).squeeze())),
        ((1, 1), lambda o: (o.squeeze() - 3.0) ** 2),
        ((8, 1), lambda o: f.mse_loss(o.squeeze(1), real(8))),
        ((1, 5), lambda o: f.cross_entropy(o, torch.tensor([2]))),
        ((5,), lambda o: f.cross_entropy(o, torch.tensor(2))),
        ((4, 7, 5), lambda o: f.cross_entropy(o.transpose(1, 2), torch.arange(28).reshape(4, 7) % 5)),
        ((4, 7, 5), lambda o: f.cross_entropy(o.reshape(-1, 5), torch.arange(28) % 5, ignore_index=0)),
        ((2, 3, 4, 5), lambda o: f.cross_entropy(o.permute(0, 3, 1, 2), torch.arange(24).reshape(2, 3, 4) % 5)),
        ((2, 3, 4, 5), lambda o: f.cross_entropy(o.permute(0, 3, 1, 2), real(2, 5, 3, 4).softmax(1))),
        (
            (2, 3, 4, 5),
            lambda o: f.binary_cross_entropy_with_logits(
                o.permute(0, 3, 1, 2), (real(2, 5, 3, 4) > 0).float(), pos_weight=real(5, 1, 1).abs()
            ),
        ),
        ((8, 3), lambda o: f.mse_loss(o, torch.arange(24).reshape(8, 3))),
        ((8, 3), lambda o: f.mse_loss(o.chunk(3, 1)[1], real(8, 1))),
        ((8, 2000), lambda o: f.mse_loss(o, real(8, 2000))),
        ((70000, 1), lambda o: f.mse_loss(o, real(70000, 1))),
        ((64, 3000), lambda o: f.cross_entropy(o, torch.arange(64))),
    ],
)
def test_the_loss_is_found_again_in_any_shape(shape: tuple[int, ...], loss: Callable[[Tensor], Tensor]) -> None:
    output = outputs(*shape)
    value = loss(output)
    # 140,000 elements added up in float32, in another order.
    assert measured(output, value)["value"] == pytest.approx(float(value.detach()), rel=1e-4)
    value.backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_loss_is_found_again_in_any_precision(dtype: torch.dtype) -> None:
    output = outputs(8, 3, dtype=dtype)
    value = f.mse_loss(output, real(8, 3).to(dtype))
    # bfloat16 has eight bits.
    assert measured(output, value)["value"] == pytest.approx(float(value.detach()), rel=1e-2)


@pytest.mark.parametrize(
    ("shape", "loss"),
    [
        ((0, 1), lambda o: f.mse_loss(o, real(0, 1))),
        ((0, 5), lambda o: f.cross_entropy(o, torch.zeros(0, dtype=torch.long))),
        ((4, 5), lambda o: f.cross_entropy(o, torch.full((4,), -100))),
        ((4, 5), lambda o: f.cross_entropy(o * math.nan, torch.arange(4))),
        ((4, 5), lambda o: f.mse_loss(o * math.inf, real(4, 5))),
    ],
)
def test_batches_of_nothing_and_of_nonsense_are_taken(shape: tuple[int, ...], loss: Callable[[Tensor], Tensor]) -> None:
    output = outputs(*shape)
    assert not math.isfinite(measured(output, loss(output))["value"])


def test_ignored_targets_are_not_counted() -> None:
    output = outputs(6, 5)
    found = measured(output, f.cross_entropy(output, torch.tensor([4, -100, 1, -100, 3, 1])))
    assert (found["classified"], found["target_count"]) == (4.0, 4.0)
    assert (found["target_min"], found["target_max"], found["target_sum"]) == (1.0, 4.0, 9.0)


def test_what_weighs_nothing_tells_nothing() -> None:
    output, targets = outputs(6, 3), real(6, 3)
    mask = torch.tensor([1.0, 1, 0, 1, 1, 0])[:, None]
    padded = torch.where(mask > 0, targets, 1e6)
    kept = mask[:, 0] > 0
    found = measured(output, (mask * (output - padded) ** 2).sum() / (3 * mask.sum()))
    alone = measured(output[kept], f.mse_loss(output[kept], targets[kept]))
    for name in ("target_min", "target_max", "target_count", "target_sum", "target_squares", "typical_error"):
        assert found[name] == pytest.approx(alone[name], rel=1e-5)
    assert found["value"] == pytest.approx(alone["value"])
    # Means over all rows, which cancel in the skill.
    assert found["error"] / found["constant_error"] == pytest.approx(alone["error"] / alone["constant_error"], rel=1e-5)


def test_classes_that_weigh_nothing_are_not_missed() -> None:
    output = outputs(6, 5)
    labels = output.argmax(1)
    wrong = (labels + 1) % 5
    mask = torch.tensor([1.0, 1, 0, 1, 1, 0])
    losses = f.cross_entropy(output, torch.where(mask > 0, labels, wrong), reduction="none")
    found = measured(output, (losses * mask).sum() / mask.sum())
    assert (found["right"], found["classified"], found["missed"]) == (4, 4, 0)
    assert found["target_count"] == 4


def test_weights_of_positions_are_found_again_where_these_were_put_behind_each_other() -> None:
    output, labels = outputs(4, 7, 5), torch.arange(28).reshape(4, 7) % 5
    mask = (torch.arange(7) < torch.tensor([7, 5, 3, 4])[:, None]).float()
    losses = f.cross_entropy(output.reshape(-1, 5), labels.reshape(-1), reduction="none").view(4, 7)
    value = (losses * mask).sum() / mask.sum()
    found = measured(output, value)
    assert found["value"] == pytest.approx(float(value.detach()))
    assert (found["classified"], found["target_count"]) == (19, 19)


@pytest.mark.parametrize("hard", [lambda losses: losses[losses > 1.5], lambda losses: losses * (losses.detach() > 1.5)])
def test_where_only_the_hardest_are_trained_on_all_tell_how_well_a_network_does(
    hard: Callable[[Tensor], Tensor],
) -> None:
    output = outputs(40, 5)
    labels = torch.arange(40) % 5
    found = measured(output, hard(f.cross_entropy(output, labels, reduction="none")).mean())
    assert (found["classified"], found["right"]) == (40, float((output.argmax(1) == labels).sum()))
    column, targets = outputs(40, 1), real(40, 1)
    found = measured(column, hard(f.mse_loss(column, targets, reduction="none")).mean())
    assert found["error"] == pytest.approx(float(f.mse_loss(column, targets)), rel=1e-5)


def test_weights_under_zero_are_no_reason_to_leave_rows_out() -> None:
    output, labels = outputs(6, 5), torch.arange(6) % 5
    weights = torch.tensor([1.0, -1, 1, 1, 1, 1])
    found = measured(output, (f.cross_entropy(output, labels, reduction="none") * weights).mean())
    assert found["missed"] == float((output.argmax(1) != labels).sum())


def test_a_large_batch_is_measured_by_a_part_of_it_that_is_like_the_whole() -> None:
    output = outputs(70000, 4)
    targets = real(70000, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = measured(output, f.mse_loss(output, targets))
    assert found["target_count"] < 70000 * 4
    # Of 35,000 rows: a relative standard error of a variance of 0.8 %.
    assert found["baseline"] == pytest.approx((1 + 4 + 9 + 16) / 4, rel=0.03)


def waits(act: Callable[[], None]) -> list[str]:
    """Lists the operations that would wait for a device: a profiler sees them on the CPU too."""
    with torch.autograd.profiler.profile() as profile:
        act()
    names = {event.name for event in profile.function_events}
    return [name for name in names if any(part in name for part in ("local_scalar", "nonzero", "bincount", "unique"))]


@pytest.mark.parametrize("name", HEADS)
def test_nothing_waits_for_the_device(name: str) -> None:
    loss, last, _ = HEADS[name]
    value, kept, _ = forward(loss, last)
    root = edge_of(value)

    def look() -> None:
        assert root is not None
        head = read_head(Graph(kept, reads=True), root)
        assert head.target is not None
        tally = Tally(head)
        for _ in range(2):
            tally.measure(head, value)

    with torch.no_grad():
        assert waits(look) == []


def test_a_wait_would_be_seen() -> None:
    assert waits(lambda: print(float(torch.ones(())))) == ["aten::_local_scalar_dense"]
