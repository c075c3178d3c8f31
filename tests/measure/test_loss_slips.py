from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from lightning_doctor.measure.loss_graph import Graph, LayerOutputs, edge_of
from lightning_doctor.measure.loss_slips import Slips, find_slips

ROWS, CLASSES = 16, 5


def slips(loss: Callable[[Tensor, Tensor], Tensor], outputs: int = CLASSES) -> Slips:
    torch.manual_seed(0)
    inputs, signs = torch.randn(ROWS, 4), torch.randn(ROWS).sign()
    scores = nn.Linear(4, outputs)(inputs)
    kept = LayerOutputs()
    kept.keep(scores)
    root = edge_of(loss(scores, signs))
    assert root is not None
    return find_slips(Graph(kept, reads=True), root)


def acted(logits: Tensor, signs: Tensor) -> Tensor:
    chosen = Categorical(logits=logits)
    return -(chosen.log_prob(chosen.sample()) * signs).mean()


@pytest.mark.parametrize(
    ("loss", "classes"),
    [
        (lambda scores, signs: acted(scores.softmax(1), signs), CLASSES),
        (lambda scores, signs: acted(scores, signs), 0),
        (lambda scores, signs: (scores.softmax(1).log_softmax(1)[:, 0] * signs).mean(), CLASSES),
        (lambda scores, signs: (scores.softmax(1).softmax(1)[:, 0] * signs).mean(), CLASSES),
        (lambda scores, signs: (scores.softmax(1).log()[:, 0] * signs).mean(), 0),
        # Over samples and then over classes, as where rows are put to clusters of one size.
        (lambda scores, signs: (scores.softmax(0).softmax(1)[:, 0] * signs).mean(), 0),
    ],
)
def test_a_softmax_that_is_given_to_another_is_found(loss: Callable[[Tensor, Tensor], Tensor], classes: int) -> None:
    assert slips(loss).classes == classes


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda one, signs: nn.functional.softplus(-signs * one).mean(), True),
        (lambda one, signs: nn.functional.softplus(-signs * one.squeeze(1)).mean(), False),
        (lambda one, signs: nn.functional.softplus(-signs[:, None] * one).mean(), False),
        # All with all on purpose, as in a Cox likelihood.
        (lambda one, signs: (one.exp() * (signs[:, None] >= signs)).sum(0).log().mean(), False),
        (lambda one, signs: (one * signs[None]).mean(), False),
        (lambda one, signs: (one * 3.0).mean(), False),
    ],
)
def test_a_column_of_outputs_times_a_row_of_data_is_found(
    loss: Callable[[Tensor, Tensor], Tensor], found: bool
) -> None:
    rows = slips(loss, 1).rows
    assert [row.abs().tolist() for row in rows] == [[1.0] * ROWS] * found


def test_a_row_of_outputs_times_a_column_of_data_is_found() -> None:
    rows = slips(lambda one, signs: (one.squeeze(1) * signs[:, None]).mean(), 1).rows
    assert [(row.shape, row.abs().sum()) for row in rows] == [((ROWS, 1), ROWS)]
    assert slips(lambda one, signs: (one.squeeze(1) * signs).mean(), 1).rows == []


def log_cosh(error: Tensor) -> Tensor:
    return error + nn.functional.softplus(-2 * error)


@pytest.mark.parametrize(
    ("loss", "compared"),
    [
        (lambda one, signs: log_cosh(one - signs).mean(), ROWS),
        (lambda one, signs: log_cosh(signs - one).sum() / ROWS, ROWS),
        (lambda one, signs: (one - signs).cosh().log().mean() + one.square().mean(), ROWS),
        (lambda one, signs: log_cosh(one - signs[:, None]).mean(), 0),
        (lambda one, signs: log_cosh(one.squeeze(1) - signs).mean(), 0),
        # All with all on purpose: the nearest, or each in its share.
        (lambda one, signs: (one - signs).abs().amin(1).mean(), 0),
        (lambda one, signs: ((one - signs).abs() * (one - signs).abs().neg().softmax(1)).sum(), 0),
        (lambda one, signs: (one - one.T).cosh().mean(), 0),
        # As where kernels compare two samples of numbers.
        (lambda one, signs: (1 + (one - one.T).square()).log().mean() - (1 + (one - signs) ** 2).log().mean(), 0),
        (lambda one, signs: (-(one - signs).square()).exp().mean(), 0),
        (lambda one, signs: (one - signs[:5]).cosh().mean(), 0),
    ],
)
def test_a_column_of_outputs_less_a_row_of_data_is_found(
    loss: Callable[[Tensor, Tensor], Tensor], compared: int
) -> None:
    assert slips(loss, 1).compared == compared


def focal(logits: Tensor, signs: Tensor) -> Tensor:
    probability = logits.sigmoid()
    no = (probability.square() * nn.functional.logsigmoid(-logits)).sum(1)
    yes = ((1 - probability).square() * nn.functional.logsigmoid(logits)).sum(1)
    return -((signs > 0) * yes + (signs <= 0) * no).mean()


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (focal, False),
        (lambda scores, signs: focal(scores.sigmoid(), signs), True),
        (lambda scores, signs: focal(scores.softmax(1), signs), False),
        (lambda scores, signs: (nn.functional.logsigmoid(-scores.sigmoid()[:, 0]) * signs).mean(), True),
        (lambda scores, signs: (scores.sigmoid()[:, :2].sigmoid().diff() * signs[:, None]).mean(), True),
        # With a temperature, or as a gate.
        (lambda scores, signs: ((4 * (scores.sigmoid() - 0.5)).sigmoid()[:, 0] * signs).mean(), False),
        (lambda scores, signs: ((scores * scores.sigmoid()).sigmoid()[:, 0] * signs).mean(), False),
    ],
)
def test_a_sigmoid_that_is_given_to_another_is_found(loss: Callable[[Tensor, Tensor], Tensor], found: bool) -> None:
    assert slips(loss).sigmoids is found


def test_targets_that_are_a_sigmoid_are_no_slip() -> None:
    def loss(scores: Tensor, _: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(scores, scores.sigmoid())

    assert not slips(loss).sigmoids


def test_a_sigmoid_given_to_a_term_of_logits_is_found() -> None:
    def loss(scores: Tensor, signs: Tensor) -> Tensor:
        targets = (signs > 0).float()[:, None].expand(-1, CLASSES)
        errors = nn.functional.binary_cross_entropy_with_logits(scores.sigmoid(), targets, reduction="none")
        return ((1 - (-errors).exp()).square() * errors).mean()

    assert slips(loss).sigmoids


def test_a_softmax_of_which_some_rows_are_given_to_another_is_found() -> None:
    chosen = torch.arange(ROWS) % 2 > 0
    assert slips(lambda scores, _: nn.functional.softmax(scores, 1)[chosen].log_softmax(1).mean()).classes == CLASSES


def test_what_lies_under_the_layers_outputs_is_not_looked_at() -> None:
    attention = torch.randn(ROWS, CLASSES, requires_grad=True).softmax(1).log_softmax(1)
    scores, kept = nn.Linear(CLASSES, 3)(attention), LayerOutputs()
    kept.keep(scores)
    root = edge_of(scores.square().mean())
    assert root is not None
    assert find_slips(Graph(kept, reads=True), root).classes == 0
