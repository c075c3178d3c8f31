from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_doctor.measure.loss_values import recognise

_ROWS = torch.Generator().manual_seed(0)
OUTPUTS = torch.randn(32, 5, generator=_ROWS)
LABELS = torch.randint(0, 5, (32,), generator=_ROWS)
NUMBERS = torch.randn(32, 5, generator=_ROWS)
SHARES = torch.rand(32, 5, generator=_ROWS)
MAPS, MAP_LABELS = torch.randn(4, 3, 6, 6, generator=_ROWS), torch.randint(0, 3, (4, 6, 6), generator=_ROWS)
WORDS, WORD_LABELS = torch.randn(4, 7, 9, generator=_ROWS), torch.randint(0, 9, (4, 7), generator=_ROWS)
PADDED = WORD_LABELS.where(torch.rand(4, 7, generator=_ROWS) < 0.7, -100)


def recognised(output: Tensor, targets: list[Tensor], value: Tensor) -> str | None:
    found = recognise([output.clone().requires_grad_()], targets, float(value))
    return None if found is None or found.grad_fn is None else found.grad_fn.name()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("loss", "output", "target", "node"),
    [
        (functional.cross_entropy, OUTPUTS, LABELS, "NllLossBackward0"),
        (functional.cross_entropy, MAPS, MAP_LABELS, "NllLoss2DBackward0"),
        (functional.mse_loss, OUTPUTS, NUMBERS, "MseLossBackward0"),
        (functional.l1_loss, OUTPUTS, NUMBERS, "L1LossBackward0|MeanBackward0|SumBackward0"),
        (functional.smooth_l1_loss, OUTPUTS, NUMBERS, "SmoothL1LossBackward0"),
        (functional.binary_cross_entropy_with_logits, OUTPUTS, SHARES, "BinaryCrossEntropyWithLogitsBackward0"),
        (functional.binary_cross_entropy, OUTPUTS.sigmoid(), SHARES, "BinaryCrossEntropyBackward0"),
    ],
)
def test_a_known_loss_is_known_by_its_value(
    loss: Callable[..., Tensor], output: Tensor, target: Tensor, node: str, reduction: str
) -> None:
    value = loss(output, target, reduction=reduction)
    found = recognised(output, [NUMBERS[:3], target], value)
    assert found is not None
    assert any(name in found for name in node.split("|"))


@pytest.mark.parametrize("labels", [WORD_LABELS, PADDED], ids=["whole", "padded"])
def test_classes_may_come_last(labels: Tensor) -> None:
    value = functional.cross_entropy(WORDS.flatten(0, 1), labels.flatten())
    assert recognised(WORDS, [labels], value) is not None


def test_columns_and_rows_of_as_many_numbers_are_the_same_targets() -> None:
    column = OUTPUTS[:, :1]
    assert recognised(column, [NUMBERS[:, 0]], functional.mse_loss(column[:, 0], NUMBERS[:, 0])) == "MseLossBackward0"


def test_a_column_that_meets_a_row_is_compared_all_with_all() -> None:
    column, row = OUTPUTS[:, :1].clone().requires_grad_(), NUMBERS[:, 0]
    value = (column - row).square().mean()
    found = recognise([column], [row], float(value))
    assert found is not None
    assert torch.equal(torch.autograd.grad(found, column)[0], torch.autograd.grad(value, column)[0])


def test_half_precision_is_compared_in_float32() -> None:
    value = functional.cross_entropy(OUTPUTS.bfloat16().float(), LABELS)
    assert recognised(OUTPUTS.bfloat16(), [LABELS], value) is not None


@pytest.mark.parametrize(
    ("output", "targets", "value"),
    [
        (OUTPUTS, [LABELS], functional.cross_entropy(OUTPUTS, LABELS) * 1.001),
        (OUTPUTS, [LABELS + 5], torch.tensor(1.0)),
        (OUTPUTS, [LABELS[:8]], functional.cross_entropy(OUTPUTS, LABELS)),
        (OUTPUTS, [], torch.tensor(1.0)),
        (OUTPUTS, [LABELS], torch.tensor(torch.nan)),
    ],
    ids=["another value", "no labels", "other rows", "no batch", "no number"],
)
def test_what_has_no_such_value_is_not_known(output: Tensor, targets: list[Tensor], value: Tensor) -> None:
    assert recognised(output, targets, value) is None


def test_a_hinge_of_labels_of_plus_and_minus_one_is_no_distance() -> None:
    signs = torch.where(LABELS > 2, 1.0, -1.0)[:, None]
    output = 0.1 * OUTPUTS[:, :1]
    hinge = (1 - signs * output).relu()
    assert float((hinge.mean() - functional.l1_loss(output, signs)).abs()) < 1e-6
    assert recognised(output, [signs], hinge.mean()) is None
    assert recognised(output, [signs], hinge.square().mean()) is None


def test_many_rows_are_not_compared_all_with_all() -> None:
    column, row = torch.randn(2000, 1, generator=_ROWS), torch.randn(2000, generator=_ROWS)
    assert recognised(column, [row], (column - row).square().mean()) is None
