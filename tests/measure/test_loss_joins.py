"""Likelihoods by hand whose two halves count differently, read off real graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.measure.loss_joins import weigh
from tests.measure.test_loss_head import BITS, LOGITS, SIGMOID, numbers, read

Loss = Callable[[Tensor], Tensor]
SOFT = 0.1 + 0.8 * BITS


def inside(positive: float, negative: float, targets: Tensor = BITS) -> Loss:
    return lambda p: -(positive * targets * p.log() + negative * (1 - targets) * (1 - p).log()).mean()


def outside(positive: float, negative: float) -> Loss:
    return lambda p: -positive * (BITS * p.log()).mean() - negative * ((1 - BITS) * (1 - p).log()).mean()


def of_scores(positive: float, negative: float) -> Loss:
    logs = functional.logsigmoid
    return lambda x: -(positive * BITS * logs(x) + negative * (1 - BITS) * logs(-x)).mean()


@pytest.mark.parametrize(
    ("loss", "last"),
    [(inside(9.0, 1.0), SIGMOID), (inside(0.5, 3.0), SIGMOID), (outside(9.0, 2.0), SIGMOID), (of_scores(4, 1), LOGITS)],
    ids=["of ones", "of zeros", "outside the means", "of scores"],
)
def test_the_weights_of_both_classes_are_told_from_targets_of_zero_and_one(loss: Loss, last: nn.Module | None) -> None:
    head, value = read(loss, last)
    known = weigh(head, None)
    assert known is not None
    assert head.weighted
    assert head.target is not None
    # Rounding of a product and a quotient.
    assert torch.allclose(head.target, BITS, atol=1e-6)
    found = numbers(head, value)
    assert found["doubt"] < 1e-4
    assert found["value"] == pytest.approx(float(value.detach()), rel=1e-5)
    assert head.extras["class_weights"] == pytest.approx(list(reversed(known)))


@pytest.mark.parametrize("targets", [BITS, SOFT], ids=["hard", "soft"])
def test_targets_that_count_alike_are_left_as_they_are(targets: Tensor) -> None:
    head, value = read(inside(1.0, 1.0, targets), SIGMOID)
    assert weigh(head, None) == (1.0, 1.0)
    assert not head.weighted
    assert numbers(head, value)["value"] == pytest.approx(float(value.detach()), rel=1e-5)


def test_soft_targets_that_count_differently_stay_in_doubt() -> None:
    head, value = read(inside(9.0, 1.0, SOFT), SIGMOID)
    weigh(head, None)
    assert numbers(head, value)["doubt"] > 0.1


def test_a_batch_of_one_class_is_read_by_what_others_told() -> None:
    none = torch.zeros_like(BITS)
    head, value = read(inside(1.0, 9.0, none), SIGMOID)
    assert weigh(head, None) is None
    head, value = read(inside(1.0, 9.0, none), SIGMOID)
    assert weigh(head, (1.0, 9.0)) == (1.0, 9.0)
    found = numbers(head, value)
    assert found["doubt"] < 1e-4
    assert found["value"] == pytest.approx(float(value.detach()), rel=1e-5)


def test_another_loss_tells_no_weights() -> None:
    head, _ = read(lambda x: functional.binary_cross_entropy_with_logits(x, BITS))
    assert weigh(head, None) is None
    assert weigh(head, (9.0, 1.0)) == (9.0, 1.0)
    assert not head.weighted
