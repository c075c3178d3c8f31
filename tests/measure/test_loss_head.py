"""Heads read off real graphs: what they are, and whether the loss computed from what was read is the loss itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_doctor.measure.head import Head
from lightning_doctor.measure.loss_graph import Graph, LayerOutputs, edge_of
from lightning_doctor.measure.loss_head import UnreadError, read_head
from lightning_doctor.measure.predictions import NUMBERS, Tally
from tests.clinic.programs.parts import binary, categorical

N, C = 12, 5
_drawn = torch.Generator().manual_seed(3)
LABELS = torch.randint(0, C, (N,), generator=_drawn)
HOT = functional.one_hot(LABELS, C).float()
REAL = torch.randn(N, C, generator=_drawn) + 2
BITS = (torch.rand(N, C, generator=_drawn) > 0.4).float()
SHARES = torch.rand(N, C, generator=_drawn).softmax(1)
ROW_WEIGHT = torch.rand(N, generator=_drawn)
CLASS_WEIGHT = torch.rand(C, generator=_drawn) + 0.5
IGNORED = torch.where(torch.arange(N) < 4, -100, LABELS)
LOGITS, SOFTMAX, SIGMOID = None, nn.Softmax(1), nn.Sigmoid()

Loss = Callable[[Tensor], Tensor]
f: Any = functional


def forward(loss: Loss, last: nn.Module | None, width: int = C) -> tuple[Tensor, LayerOutputs, nn.Module]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, width), *([] if last is None else [last]))
    outputs = LayerOutputs()
    values = torch.randn(N, 4)
    for layer in net:
        values = layer(values)
        outputs.keep(values)
    return loss(values), outputs, net


def read(loss: Loss, last: nn.Module | None = None, *, width: int = C, reads: bool = True) -> tuple[Head, Tensor]:
    value, outputs, _ = forward(loss, last, width)
    root = edge_of(value)
    assert root is not None
    return read_head(Graph(outputs, reads=reads), root), value


def numbers(head: Head, loss: Tensor) -> dict[str, float]:
    return dict(zip(NUMBERS, Tally(head).measure(head, loss).tolist(), strict=False))


def by_halves(o: Tensor) -> Tensor:
    return -(BITS * torch.log(o)).mean() - ((1 - BITS) * torch.log(1 - o)).mean()


# What was written, the activation before it, and: the loss, the activation found, the reduction, by hand, weighted.
HEADS: dict[str, tuple[Loss, nn.Module | None, tuple[str, str | None, str, bool, bool]]] = {
    "cross_entropy": (
        lambda o: f.cross_entropy(o, LABELS),
        LOGITS,
        ("cross_entropy", None, "mean", False, False),
    ),
    "cross_entropy, class weights": (
        lambda o: f.cross_entropy(o, LABELS, weight=CLASS_WEIGHT),
        LOGITS,
        ("cross_entropy", None, "mean", False, True),
    ),
    "cross_entropy, summed": (
        lambda o: f.cross_entropy(o, LABELS, reduction="sum"),
        LOGITS,
        ("cross_entropy", None, "sum", False, False),
    ),
    "cross_entropy, smoothed": (
        lambda o: f.cross_entropy(o, LABELS, label_smoothing=0.1),
        LOGITS,
        ("cross_entropy", None, "mean", False, False),
    ),
    "cross_entropy, smoothed, weighted, summed": (
        lambda o: f.cross_entropy(o, LABELS, weight=CLASS_WEIGHT, label_smoothing=0.1, reduction="sum"),
        LOGITS,
        ("cross_entropy", None, "sum", False, True),
    ),
    "cross_entropy, some ignored": (
        lambda o: f.cross_entropy(o, IGNORED),
        LOGITS,
        ("cross_entropy", None, "mean", False, False),
    ),
    "cross_entropy, weighted rows": (
        lambda o: (f.cross_entropy(o, LABELS, reduction="none") * ROW_WEIGHT).mean(),
        LOGITS,
        ("cross_entropy", None, "mean", False, True),
    ),
    "cross_entropy of sequences": (
        lambda o: f.cross_entropy(o.reshape(3, 4, C).transpose(1, 2), LABELS.reshape(3, 4)),
        LOGITS,
        ("cross_entropy", None, "mean", False, False),
    ),
    "cross_entropy of shares": (
        lambda o: f.cross_entropy(o, SHARES),
        LOGITS,
        ("cross_entropy", None, "sum", False, False),
    ),
    "cross_entropy of shares, weighted, smoothed": (
        lambda o: f.cross_entropy(o, SHARES, weight=CLASS_WEIGHT, label_smoothing=0.1),
        LOGITS,
        ("cross_entropy", None, "sum", False, True),
    ),
    "cross_entropy of a softmax": (
        lambda o: f.cross_entropy(o, LABELS),
        SOFTMAX,
        ("cross_entropy", "softmax", "mean", False, False),
    ),
    "nll_loss of a log_softmax": (
        lambda o: f.nll_loss(o, LABELS),
        nn.LogSoftmax(1),
        ("cross_entropy", None, "mean", False, False),
    ),
    "nll_loss of the logarithm of a softmax": (
        lambda o: f.nll_loss(o.clamp(min=1e-9).log(), LABELS),
        SOFTMAX,
        ("nll", "softmax", "mean", False, False),
    ),
    "Keras's categorical cross-entropy of sigmoids": (
        lambda o: categorical(o, LABELS),
        SIGMOID,
        ("nll", "sigmoid", "mean", False, False),
    ),
    "-(y * log(p)).sum()": (
        lambda o: -(HOT * torch.log(o + 1e-9)).sum(),
        SOFTMAX,
        ("cross_entropy", "softmax", "sum", True, False),
    ),
    "-1 * (y * log_softmax).sum(1).mean()": (
        lambda o: -1 * (HOT * f.log_softmax(o, -1)).sum(1).mean(),
        LOGITS,
        ("cross_entropy", None, "mean", True, False),
    ),
    "(-y * log_softmax).sum(-1).mean()": (
        lambda o: (-HOT * f.log_softmax(o, -1)).sum(-1).mean(),
        LOGITS,
        ("cross_entropy", None, "mean", True, False),
    ),
    "a gathered log_softmax": (
        lambda o: -f.log_softmax(o, -1).gather(1, LABELS[:, None]).mean(),
        LOGITS,
        ("cross_entropy", None, "mean", True, False),
    ),
    "an indexed log_softmax": (
        lambda o: -f.log_softmax(o, -1)[torch.arange(N), LABELS].mean(),
        LOGITS,
        ("cross_entropy", None, "mean", True, False),
    ),
    "the logarithm of an indexed softmax": (
        lambda o: -torch.log(o[torch.arange(N), LABELS]).mean(),
        SOFTMAX,
        ("cross_entropy", "softmax", "mean", True, False),
    ),
    "binary_cross_entropy": (
        lambda o: f.binary_cross_entropy(o, BITS),
        SIGMOID,
        ("bce", "sigmoid", "mean", False, False),
    ),
    "binary_cross_entropy, weighted": (
        lambda o: f.binary_cross_entropy(o, BITS, weight=CLASS_WEIGHT),
        SIGMOID,
        ("bce", "sigmoid", "mean", False, True),
    ),
    "binary_cross_entropy_with_logits": (
        lambda o: f.binary_cross_entropy_with_logits(o, BITS, pos_weight=CLASS_WEIGHT),
        LOGITS,
        ("bce_with_logits", None, "mean", False, True),
    ),
    "binary_cross_entropy_with_logits of sigmoids": (
        lambda o: f.binary_cross_entropy_with_logits(o, BITS),
        SIGMOID,
        ("bce_with_logits", "sigmoid", "mean", False, False),
    ),
    "Keras's binary cross-entropy": (
        lambda o: binary(o, BITS),
        SIGMOID,
        ("bce", "sigmoid", "mean", True, False),
    ),
    "a binary cross-entropy in two means": (by_halves, SIGMOID, ("bce", "sigmoid", "mean", True, False)),
    "a binary cross-entropy with its signs inside": (
        lambda o: (-BITS * torch.log(o + 1e-8) - (1 - BITS) * torch.log(1 - o + 1e-8)).sum(),
        SIGMOID,
        ("bce", "sigmoid", "sum", True, False),
    ),
    "a binary cross-entropy with log1p": (
        lambda o: -(BITS * torch.log(o) + (1 - BITS) * torch.log1p(-o)).mean(),
        SIGMOID,
        ("bce", "sigmoid", "mean", True, False),
    ),
    "a binary cross-entropy with logsigmoid": (
        lambda o: -(BITS * f.logsigmoid(o) + (1 - BITS) * f.logsigmoid(-o)).mean(),
        LOGITS,
        ("bce_with_logits", None, "mean", True, False),
    ),
    "mse_loss": (lambda o: f.mse_loss(o, REAL), nn.Tanh(), ("mse", "tanh", "mean", False, False)),
    "mse_loss, its arguments swapped": (
        lambda o: f.mse_loss(REAL, o),
        nn.ReLU(),
        ("mse", "relu", "mean", False, False),
    ),
    "mse_loss, summed": (
        lambda o: f.mse_loss(o, REAL, reduction="sum"),
        LOGITS,
        ("mse", None, "sum", False, False),
    ),
    "mse_loss, weighted columns": (
        lambda o: (f.mse_loss(o, REAL, reduction="none") * CLASS_WEIGHT).mean(),
        LOGITS,
        ("mse", None, "mean", False, True),
    ),
    "((o - t) ** 2).mean()": (lambda o: ((o - REAL) ** 2).mean(), LOGITS, ("mse", None, "mean", True, False)),
    "(t - o).square().sum(1).mean()": (
        lambda o: (REAL - o).square().sum(1).mean(),
        LOGITS,
        ("mse", None, "mean", True, False),
    ),
    "((o - t) * (o - t)).sum()": (
        lambda o: ((o - REAL) * (o - REAL)).sum(),
        LOGITS,
        ("mse", None, "sum", True, False),
    ),
    "half a square, the target first, through a view": (
        lambda o: 0.5 * ((REAL.reshape(-1) - o.reshape(-1)) ** 2).mean() / 3,
        LOGITS,
        ("mse", None, "mean", True, False),
    ),
    "squares of weighted rows": (
        lambda o: (ROW_WEIGHT * ((o - REAL) ** 2).mean(1)).sum() / ROW_WEIGHT.sum(),
        LOGITS,
        ("mse", None, "sum", True, True),
    ),
    "one column of several": (
        lambda o: (o[:, 2] - REAL[:, 0]).square().mean(),
        LOGITS,
        ("mse", None, "mean", True, False),
    ),
    "some columns, transposed": (
        lambda o: (o[:, 1:4].t() - REAL[:, :3].t()).square().mean(),
        LOGITS,
        ("mse", None, "mean", True, False),
    ),
    "a part that was split off": (
        lambda o: (o.chunk(2, 1)[1] - REAL[:, :2]).square().mean(),
        LOGITS,
        ("mse", None, "mean", True, False),
    ),
    "one of several parts of given sizes": (
        lambda o: (o.split([1, 3, 1], 1)[1] - REAL[:, :3]).square().mean(),
        LOGITS,
        ("mse", None, "mean", True, False),
    ),
    "one of several that were unbound": (
        lambda o: (o.unbind(1)[2] - REAL[:, 0]).square().mean(),
        LOGITS,
        ("mse", None, "mean", True, False),
    ),
    "a part of what was joined": (
        lambda o: (torch.cat([o[:, 3:], o], 1)[:, 2:] - REAL).square().mean(),
        LOGITS,
        ("mse", None, "mean", True, False),
    ),
    "sqrt(mse_loss)": (
        lambda o: torch.sqrt(f.mse_loss(o, REAL) + 1e-8),
        LOGITS,
        ("rmse", None, "mean", False, False),
    ),
    "norm(o - t)": (lambda o: 2 * torch.norm(o - REAL), LOGITS, ("rmse", None, "sum", True, False)),
    "l1_loss": (lambda o: f.l1_loss(o, REAL), LOGITS, ("l1", None, "mean", True, False)),
    "a masked absolute error": (
        lambda o: ((o - REAL).abs() * BITS).sum() / BITS.sum(),
        LOGITS,
        ("l1", None, "sum", True, True),
    ),
    "smooth_l1_loss": (
        lambda o: f.smooth_l1_loss(o, REAL, beta=0.5),
        LOGITS,
        ("smooth_l1", None, "mean", False, False),
    ),
    "huber_loss": (lambda o: f.huber_loss(o, REAL, delta=0.5), LOGITS, ("huber", None, "mean", False, False)),
    "poisson_nll_loss": (
        lambda o: f.poisson_nll_loss(o, BITS * 3),
        LOGITS,
        ("poisson", None, "mean", True, False),
    ),
    "kl_div": (
        lambda o: f.kl_div(f.log_softmax(o, 1), SHARES, reduction="batchmean"),
        LOGITS,
        ("kl_div", None, "sum", True, False),
    ),
    "kl_div of log targets": (
        lambda o: f.kl_div(f.log_softmax(o, 1), SHARES.log(), reduction="batchmean", log_target=True),
        LOGITS,
        ("kl_div", None, "sum", True, False),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_named_and_its_loss_computed_from_what_was_read_is_the_loss(name: str) -> None:
    loss, last, expected = HEADS[name]
    head, value = read(loss, last)
    assert (head.loss, head.activation, head.path.batch, head.by_hand, head.weighted) == expected
    found = numbers(head, value)
    # Both in float32, added up in another order.
    assert found["value"] == pytest.approx(float(value.detach()), rel=1e-5)
    assert not found["doubt"] > 1e-6


@pytest.mark.parametrize("name", HEADS)
def test_the_graph_alone_names_the_same_head(name: str) -> None:
    loss, last, expected = HEADS[name]
    blind, _ = read(loss, last, reads=False)
    seeing, _ = read(loss, last)
    assert (blind.loss, blind.activation) == expected[:2]
    assert blind.output_shape == seeing.output_shape
    assert blind.broadcast == seeing.broadcast


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_the_same_bit_for_bit_after_reading(name: str) -> None:
    loss, last, _ = HEADS[name]
    gradients = []
    for looks in (False, True):
        value, outputs, net = forward(loss, last)
        root = edge_of(value)
        assert root is not None
        if looks:
            head = read_head(Graph(outputs, reads=True), root)
            Tally(head).measure(head, value)
        value.backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for before, after in zip(*gradients, strict=True):
        assert before is not None
        assert after is not None
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cross_entropy", LABELS),
        ("cross_entropy of sequences", LABELS.reshape(3, 4)),
        ("cross_entropy of shares", SHARES),
        ("Keras's categorical cross-entropy of sigmoids", LABELS),
        ("(-y * log_softmax).sum(-1).mean()", HOT),
        ("-1 * (y * log_softmax).sum(1).mean()", HOT),
        ("an indexed log_softmax", LABELS),
        ("Keras's binary cross-entropy", BITS),
        ("a binary cross-entropy with its signs inside", BITS),
        ("mse_loss, its arguments swapped", REAL),
        ("(t - o).square().sum(1).mean()", REAL),
        ("one column of several", REAL[:, 0]),
        ("some columns, transposed", REAL[:, :3].t()),
        ("poisson_nll_loss", BITS * 3),
        ("kl_div of log targets", SHARES),
    ],
)
def test_the_targets_are_those_of_the_program(name: str, target: Tensor) -> None:
    loss, last, _ = HEADS[name]
    head, _ = read(loss, last)
    assert head.target is not None
    assert head.target_shape == tuple(target.shape)
    # Those that are rebuilt from a difference carry its rounding.
    assert torch.allclose(head.target.to(target.dtype), target, atol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy, smoothed", "cross_entropy, smoothed, weighted, summed"])
def test_label_smoothing_is_read(name: str) -> None:
    head, _ = read(*HEADS[name][:2])
    assert head.smoothing == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("loss", "output", "target"),
    [
        (lambda o: f.mse_loss(o[:, :1], REAL[:, 0]), (N, 1), (N,)),
        (lambda o: f.mse_loss(o[:, 0], REAL[:, :1]), (N,), (N, 1)),
        (lambda o: f.l1_loss(o[:, :1], REAL[:, 0]), (N, 1), None),
        (lambda o: f.huber_loss(o[:, :1], REAL[:, 0]), (N, 1), (N,)),
        (lambda o: (o[:, :1] - REAL[:, 0]).square().mean(), (N, 1), None),
        (lambda o: (REAL[:, 0] - o[:, :1]).abs().sum(), (N, 1), None),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_predictions_compared_with_every_target_are_seen(loss: Loss, output: Any, target: Any) -> None:
    head, value = read(loss)
    assert head.broadcast
    assert (head.output_shape, head.target_shape) == (output, target)
    found = numbers(head, value)
    assert found["value"] == pytest.approx(float(value.detach()), rel=1e-5)
    if head.loss == "mse":
        # One constant stands for all: the variance of the targets.
        assert found["baseline"] == pytest.approx(float(REAL[:, 0].var(correction=0)), rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o: f.mse_loss(o, REAL),
        lambda o: (o - 3.0).square().mean(),
        lambda o: (o - torch.tensor(3.0)).square().mean(),
        lambda o: (o - REAL[0]).square().mean(),
        lambda o: (o[:, 0] - REAL[:, 0]).square().mean(),
    ],
)
def test_targets_no_larger_than_the_predictions_are_not_broadcast(loss: Loss) -> None:
    assert not read(loss)[0].broadcast


def test_a_penalty_on_weights_is_counted_and_does_not_hide_the_head() -> None:
    weights = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(4))]

    def loss(o: Tensor) -> Tensor:
        value = f.cross_entropy(o, LABELS)
        for weight in weights:
            value = value + 0.01 * weight.norm() ** 2
        return value + 0.001 * sum(weight.abs().sum() for weight in weights)

    head, value = read(loss)
    assert (head.loss, head.terms) == ("cross_entropy", 4)
    assert numbers(head, value)["value"] == pytest.approx(float(f.cross_entropy(*_logits_and_labels())), rel=1e-5)


def coded(o: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer puts out, as two halves."""
    mean, log_variance = o[:, :4].chunk(2, 1)
    return mean, log_variance


@pytest.mark.parametrize(
    ("other", "terms"),
    [
        # The divergence of a variational autoencoder, as most write it.
        (lambda o: -0.5 * (1 + coded(o)[1] - coded(o)[0].pow(2) - coded(o)[1].exp()).sum(1).mean(), 3),
        (lambda o: 0.01 * o.abs().sum(), 1),
        (lambda o: o.square().mean() / 4, 1),
    ],
    ids=["divergence", "sparse", "small"],
)
def test_terms_of_what_layers_put_out_do_not_hide_the_head(other: Loss, terms: int) -> None:
    head, value = read(lambda o: f.cross_entropy(o, LABELS) + other(o))
    assert (head.loss, head.regularisers, head.terms) == ("cross_entropy", terms, terms + 1)
    found = numbers(head, value)
    # What the best constant scores is not what the loss as a whole can be set against.
    assert math.isnan(found["value"])
    assert math.isnan(found["baseline"])
    assert found["classified"] == N
    plain, alone = read(lambda o: f.cross_entropy(o, LABELS))
    assert found["own_value"] == pytest.approx(float(alone))
    assert found["own_baseline"] == pytest.approx(numbers(plain, alone)["baseline"])


def test_one_half_of_a_likelihood_by_hand_leaves_the_loss_unread() -> None:
    with pytest.raises(UnreadError, match="a sum of 2 terms"):
        read(lambda o: (o.exp() - REAL * o.exp().add(1e-3).log()).mean())


@pytest.mark.parametrize(
    "other",
    [
        lambda o: (o - REAL).exp().mean(),
        lambda o: (o.exp() * REAL).mean(),
        lambda o: torch.logsumexp(o, 1).mean(),
        lambda o: torch.add(o, REAL, alpha=-1).exp().mean(),
        lambda o: (o.exp() ** REAL).mean(),
        lambda o: o.exp().clamp(min=REAL).mean(),
    ],
    ids=["subtracted", "multiplied", "not known", "added", "exponent", "bound"],
)
def test_a_term_that_may_compare_with_data_leaves_the_loss_unread(other: Loss) -> None:
    with pytest.raises(UnreadError, match="a sum of 2 terms"):
        read(lambda o: f.cross_entropy(o, LABELS) + other(o))


def _logits_and_labels() -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []
    forward(lambda o: kept.append(o.detach()) or o.sum(), None)  # type: ignore[func-returns-value]
    return kept[0], LABELS


@pytest.mark.parametrize(
    ("scaled", "loss", "activation", "scale"),
    [
        (lambda o: 1.0 * o.tanh(), f.mse_loss, "tanh", 1.0),
        (lambda o: 6.0 * o.sigmoid() * 0.5, f.mse_loss, "sigmoid", 3.0),
        (lambda o: (2.0 * o.tanh()).reshape(N, C), f.l1_loss, "tanh", 2.0),
        # What each column is multiplied by, or what turns it round, tells no one reach.
        (lambda o: CLASS_WEIGHT * o.tanh(), f.mse_loss, None, 1.0),
        (lambda o: CLASS_WEIGHT[0] * o.tanh(), f.mse_loss, None, 1.0),
        (lambda o: -2.0 * o.tanh(), f.mse_loss, None, 1.0),
        # It has no upper end, and a loss of scores is another matter.
        (lambda o: 2.0 * o.relu(), f.mse_loss, None, 1.0),
        (lambda o: 2.0 * o.tanh(), lambda o, _: f.cross_entropy(o, LABELS), None, 1.0),
    ],
)
def test_an_activation_may_be_multiplied_by_a_number(scaled: Loss, loss: Any, activation: Any, scale: float) -> None:
    head, _ = read(lambda o: loss(scaled(o), REAL))
    assert (head.activation, head.scale) == (activation, scale)
    if head.loss != "cross_entropy":
        expected = scaled(forward(lambda o: o, None)[0])
        assert head.outputs is not None
        assert torch.allclose(head.outputs.reshape(N, C), expected.reshape(N, C))


LEVELS = torch.linspace(0.1, 0.9, C)


@pytest.mark.parametrize(
    "loss",
    [
        lambda errors: torch.maximum(0.9 * errors, -0.1 * errors).mean(),
        lambda errors: torch.max((LEVELS - 1) * errors, LEVELS * errors).sum(1).mean(),
        lambda errors: torch.where(errors > 0, 0.9 * errors, -0.1 * errors).mean(),
    ],
)
def test_the_loss_of_a_quantile_is_named(loss: Loss) -> None:
    head, _ = read(lambda o: loss(REAL - o))
    assert (head.loss, head.output_shape, head.broadcast, head.by_hand) == ("pinball", (N, C), False, True)
    assert head.target is None


def test_the_targets_of_a_quantile_are_known_where_they_broadcast() -> None:
    row = REAL[:, 0]
    head, _ = read(lambda o: torch.maximum(0.9 * (e := row - o[:, :1]), -0.1 * e).mean())
    assert head.broadcast
    assert head.target is not None
    assert torch.allclose(head.target, row.expand(N, N))


@pytest.mark.parametrize("level", [0.0, torch.linspace(0, 1, N)])
def test_the_targets_of_a_quantile_without_a_level_are_not_known(level: Any) -> None:
    head, _ = read(lambda o: torch.maximum(level * (e := REAL[:, 0] - o[:, :1]), (level - 1) * e).mean())
    assert head.broadcast
    assert head.target is None


def test_the_larger_of_two_errors_is_no_quantile_s() -> None:
    with pytest.raises(UnreadError, match="Maximum is not a step"):
        read(lambda o: torch.maximum(0.9 * (REAL - o), 0.1 * (o - BITS)).mean())


def test_an_attention_softmax_deeper_in_is_not_the_last_activation() -> None:
    scores = torch.randn(N, N)
    head, _ = read(lambda o: f.cross_entropy((o[:, :1] + scores).softmax(1) @ o, LABELS))
    assert (head.loss, head.activation) == ("cross_entropy", None)


@pytest.mark.parametrize("view", [lambda o: o.float(), lambda o: o.view(N, 1, C).squeeze(1), lambda o: o.clamp(0, 1)])
def test_views_casts_and_clamps_after_an_activation_are_passed(view: Loss) -> None:
    head, _ = read(lambda o: f.mse_loss(view(o), HOT), SOFTMAX)
    assert (head.loss, head.activation) == ("mse", "softmax")


def test_a_softmax_over_one_unit_is_seen_to_be_one() -> None:
    head, value = read(lambda o: f.binary_cross_entropy(o, BITS[:, :1]), SOFTMAX, width=1)
    found = numbers(head, value)
    assert (head.activation, found["output_min"], found["output_max"]) == ("softmax", 1.0, 1.0)


class _Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.square().mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda o: f.mse_loss(o, REAL) + f.cross_entropy(o, LABELS), "the loss is a sum of 2 terms"),
        (
            lambda o: f.mse_loss(o, REAL) + f.l1_loss(o, REAL) + f.cross_entropy(o, LABELS),
            "the loss is a sum of 3 terms",
        ),
        (
            lambda o: torch.stack([f.cross_entropy(o, LABELS), f.cross_entropy(2 * o, LABELS)]).mean(),
            "the loss is a sum of 2 terms",
        ),
        (_Doubling.apply, "the loss cannot be read: it is computed by a custom autograd Function (_Doubling)"),
        (
            # What weighs them is an output of its own.
            lambda o: (o[:, 0].sigmoid() * f.cross_entropy(o[:, 1:], LABELS % 4, reduction="none")).mean(),
            "the loss cannot be read: it is a product of things that depend on the model",
        ),
        (
            lambda o: ((o - REAL).square() / o.square()).mean(),
            "the loss cannot be read: it is a product of things that depend on the model",
        ),
        (lambda o: (o**4).mean(), "the loss cannot be read: Pow is not a step of a loss that is known here"),
        (
            lambda o: f.multilabel_soft_margin_loss(o, BITS) * o.sum(),
            "the loss cannot be read: it is a product of things that depend on the model",
        ),
    ],
)
def test_what_cannot_be_read_has_its_reason(loss: Loss, reason: str) -> None:
    with pytest.raises(UnreadError) as caught:
        read(loss)
    assert str(caught.value) == reason


def _focal_of_tags(o: Tensor) -> Tensor:
    likely, costs = o.sigmoid(), f.binary_cross_entropy_with_logits(o, BITS, reduction="none")
    right = likely * BITS + (1 - likely) * (1 - BITS)
    return ((0.25 * BITS + 0.75 * (1 - BITS)) * ((1 - right) ** 2 * costs)).mean()


def _focal_of_classes(o: Tensor) -> Tensor:
    costs = f.cross_entropy(o, LABELS, reduction="none")
    return (costs * (1 - (-costs).exp()) ** 2).mean()


def _focal_by_hand(o: Tensor) -> Tensor:
    likely = o.clamp(1e-6, 1 - 1e-6).gather(1, LABELS[:, None]).squeeze(1)
    return (-((1 - likely) ** 2) * likely.log()).mean()


@pytest.mark.parametrize(
    ("loss", "last", "name", "target", "weighted_rows"),
    [
        (_focal_of_tags, LOGITS, "bce_with_logits", BITS, True),
        (_focal_of_classes, LOGITS, "cross_entropy", LABELS, False),
        (_focal_by_hand, SOFTMAX, "cross_entropy", LABELS, False),
    ],
)
def test_of_a_focal_loss_predictions_and_targets_are_known(
    loss: Loss, last: nn.Module | None, name: str, target: Tensor, weighted_rows: bool
) -> None:
    head, value = read(loss, last)
    assert (head.loss, head.reweighted, head.weighted, head.path.batch) == (name, True, True, "mean")
    assert bool(head.path.weights) is weighted_rows
    assert head.target is not None
    assert torch.equal(head.target.reshape(target.shape), target)
    assert head.path.unclear == "its elements are weighted by how well they are predicted"
    found = numbers(head, value)
    assert math.isnan(found["baseline"])
    # It asks for probabilities that are nearer a half than the shares of the classes are.
    assert math.isnan(found["error"])


VARIANCE = (
    lambda o, y: f.gaussian_nll_loss(o[:, 0], y, f.softplus(o[:, 1])),
    lambda o, y: -torch.distributions.Normal(o[:, 0], f.softplus(o[:, 1])).log_prob(y).mean(),
    lambda o, y: (0.5 * (-o[:, 1]).exp() * (o[:, 0] - y).square() + 0.5 * o[:, 1]).mean(),
)


@pytest.mark.parametrize("loss", VARIANCE)
def test_errors_over_a_variance_that_is_predicted_too_are_read(loss: Any) -> None:
    head, value = read(lambda o: loss(o, REAL[:, 0]), width=2)
    assert (head.loss, head.terms, head.regularisers, head.broadcast) == ("gaussian_nll", 1, 0, False)
    assert head.target is not None
    assert torch.allclose(head.target, REAL[:, 0], atol=1e-6)
    found = numbers(head, value)
    assert math.isnan(found["baseline"])
    prediction = forward(loss=lambda o: o, last=None, width=2)[0][:, 0]
    assert found["error"] == pytest.approx(float((prediction - REAL[:, 0]).square().mean()))


def test_a_mean_compared_with_every_target_is_seen_beside_a_variance_too() -> None:
    def loss(o: Tensor) -> Tensor:
        mean, logarithm = o.chunk(2, 1)
        return (0.5 * (-logarithm).exp() * (mean - REAL[:, 0]).square() + 0.5 * logarithm).mean()

    head, _ = read(loss, width=2)
    assert (head.loss, head.broadcast, head.output_shape) == ("gaussian_nll", True, (N, 1))


def _dice(likely: Tensor, target: Tensor) -> Tensor:
    return 1 - (2 * (likely * target).sum() + 1) / (likely.sum() + target.sum() + 1)


def test_an_overlap_is_read_alone_and_beside_a_likelihood() -> None:
    head, value = read(lambda o: _dice(o.view(-1), BITS.view(-1)), SIGMOID)
    assert (head.loss, head.activation, head.path.number) == ("dice", "sigmoid", -1.0)
    found = numbers(head, value)
    assert (found["classified"], found["target_count"]) == (N * C, N * C)
    both, value = read(lambda o: f.binary_cross_entropy_with_logits(o, BITS) + _dice(o.sigmoid(), BITS))
    assert (both.loss, both.terms, both.activation) == ("bce_with_logits", 2, None)
    found = numbers(both, value)
    assert found["doubt"] == 0
    # Neither asks for the smallest squared error.
    assert math.isnan(found["error"])
    assert math.isnan(found["baseline"])
    classes, value = read(lambda o: f.cross_entropy(o, LABELS) + _dice(o.softmax(1), HOT))
    assert (classes.loss, numbers(classes, value)["doubt"]) == ("cross_entropy", 0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o: 1 - ((o * REAL).sum(1) / (o.norm(dim=1) * REAL.norm(dim=1))).mean(),
        lambda o: -((o * REAL).sum(1) / o.abs().sum(1)).mean(),
    ],
)
def test_a_cosine_by_hand_and_a_ratio_to_lengths_are_no_overlaps(loss: Loss) -> None:
    with pytest.raises(UnreadError, match="it is a product of things that depend on the model"):
        read(loss)


def test_an_overlap_with_targets_that_are_no_shares_is_doubted() -> None:
    head, value = read(lambda o: _dice(o, 5 * BITS), SIGMOID)
    assert numbers(head, value)["doubt"] == 4


@pytest.mark.parametrize(
    "loss",
    [
        lambda o: (o[:, 1].exp() * (o[:, 0] - REAL[:, 0]).square()).mean(),
        lambda o: ((-o[:, 1]).exp() * (o[:, 0] - REAL[:, 0]).square()).mean() + 0.1 * o[:, 2].abs().mean(),
    ],
)
def test_errors_that_are_weighted_without_the_logarithm_of_a_variance_are_not_read(loss: Loss) -> None:
    with pytest.raises(UnreadError, match="weighted by something that depends on the model"):
        read(loss)


def test_another_regulariser_beside_a_predicted_variance_is_counted() -> None:
    head, _ = read(lambda o: VARIANCE[0](o, REAL[:, 0]) + 0.1 * o[:, 2].abs().mean())
    assert (head.loss, head.regularisers, head.terms) == ("gaussian_nll", 1, 2)


def test_a_mask_that_is_larger_than_what_it_is_laid_upon_is_not_known() -> None:
    def loss(o: Tensor) -> Tensor:
        errors = (o[:, :1] - REAL[:, :1]).square()
        return errors.masked_select(BITS > 0).mean()

    head, _ = read(loss)
    assert head.path.unclear == "only some of its elements count"


def test_an_overlap_with_other_targets_is_doubted() -> None:
    head, value = read(lambda o: f.cross_entropy(o, LABELS) + _dice(o.softmax(1), HOT.roll(1, 1)))
    assert numbers(head, value)["doubt"] == 1


def test_losses_of_different_predictions_are_not_one() -> None:
    with pytest.raises(UnreadError, match="a sum of 2 terms"):
        read(
            lambda o: f.binary_cross_entropy_with_logits(o[:, :2], BITS[:, :2]) + _dice(o[:, 2:].sigmoid(), BITS[:, 2:])
        )


MASK = torch.arange(N) % 3 > 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda o: f.cross_entropy(o, LABELS, reduction="none")[MASK].mean(),
        lambda o: f.cross_entropy(o, LABELS, reduction="none").masked_select(MASK).mean(),
        lambda o: f.mse_loss(o, REAL, reduction="none")[MASK].mean(),
        lambda o: f.mse_loss(o, REAL, reduction="none").masked_select(MASK[:, None]).mean(),
        lambda o: f.mse_loss(o, REAL, reduction="none")[BITS > 0].sum() / (BITS > 0).sum(),
    ],
)
def test_what_a_mask_leaves_out_does_not_count(loss: Loss) -> None:
    head, value = read(loss)
    found = numbers(head, value)
    assert (head.path.unclear, head.weighted) == (None, True)
    assert found["value"] == pytest.approx(float(value.detach()))
    left = MASK if head.loss == "cross_entropy" or found["target_count"] != (BITS > 0).sum() else BITS > 0
    targets = (LABELS if head.loss == "cross_entropy" else REAL)[left]
    assert found["target_count"] == targets.numel()
    assert found["target_sum"] == pytest.approx(float(targets.sum()))
    assert (found["target_min"], found["target_max"]) == (targets.min(), targets.max())


def test_an_activation_is_found_of_which_a_mask_chose_some_rows() -> None:
    for choose in (lambda o: o[MASK], lambda o: o.index_select(0, MASK.nonzero()[:, 0])):
        head, _ = read(lambda o, choose=choose: f.cross_entropy(choose(o), LABELS[MASK]), SOFTMAX)  # type: ignore[misc]
        assert (head.loss, head.activation) == ("cross_entropy", "softmax")


def test_a_nested_product_is_walked_through_once() -> None:
    def loss(o: Tensor) -> Tensor:
        for _ in range(40):
            o = o * (o - 1)
        return o.mean()

    with pytest.raises(UnreadError, match="it is a product of things that depend on the model"):
        read(loss)


def test_a_weighted_binary_cross_entropy_by_hand_is_doubted() -> None:
    head, value = read(lambda o: -(3 * BITS * torch.log(o) + (1 - BITS) * torch.log(1 - o)).mean(), SIGMOID)
    # Three times a target and one less it do not make one.
    assert numbers(head, value)["doubt"] == pytest.approx(2.0)


def test_the_distance_of_rows_is_named_and_not_computed() -> None:
    head, value = read(lambda o: ((o - REAL).square().mean(1) + 1e-8).sqrt().mean())
    assert (head.loss, head.path.batch) == ("rmse", "mean")
    assert head.path.unclear == "it takes the square root of each row's error"
    assert math.isnan(numbers(head, value)["baseline"])


def test_likelihoods_of_things_that_are_no_logarithms_have_no_baseline() -> None:
    head, value = read(lambda o: f.nll_loss(o, LABELS), SOFTMAX)
    assert (head.loss, head.activation) == ("nll", "softmax")
    assert math.isnan(numbers(head, value)["baseline"])


@pytest.mark.parametrize(("targets", "known"), [(SHARES, True), (2 * SHARES, False), (SHARES - 0.5, False)])
def test_a_divergence_of_probabilities_is_one_if_its_targets_are_shares(targets: Tensor, known: bool) -> None:
    # `kl_div` leaves out the entropy of targets of zero.
    head, value = read(lambda o: f.kl_div(o, targets, reduction="batchmean"), SOFTMAX)
    assert (head.loss, head.activation) == ("kl_div", "softmax")
    assert (numbers(head, value)["doubt"] < 1e-3) is known
    assert math.isnan(numbers(head, value)["baseline"])


def test_two_outputs_compared_with_each_other_have_no_target() -> None:
    head, _ = read(lambda o: f.mse_loss(o[:, 0], o[:, 1]))
    assert head.loss == "mse"
    assert head.target is None


def test_without_the_layers_a_head_by_hand_is_named_and_its_targets_are_not() -> None:
    value, _, _ = forward(lambda o: (o - REAL).square().mean(), None)
    root = edge_of(value)
    assert root is not None
    head = read_head(Graph(LayerOutputs(), reads=True), root)
    assert (head.loss, head.output_shape, head.target) == ("mse", (N, C), None)


def test_an_output_changed_in_place_since_is_not_taken_for_the_prediction() -> None:
    layer = nn.Linear(4, C)
    outputs = LayerOutputs()
    values = layer(torch.randn(N, 4))
    outputs.keep(values)
    loss = (values - REAL).square().mean()
    with torch.no_grad():
        values.mul_(2)
    root = edge_of(loss)
    assert root is not None
    assert read_head(Graph(outputs, reads=True), root).target is None


@pytest.mark.parametrize("name", HEADS)
def test_a_checkpointed_head_is_left_alone(name: str) -> None:
    loss, last, expected = HEADS[name]
    gradients = []
    for looks in (False, True):
        runs = 0

        def whole(values: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            return loss(values if last is None else last(values))

        torch.manual_seed(0)
        layer = nn.Linear(4, C)
        value = checkpoint(whole, layer(torch.randn(N, 4)), use_reentrant=False)
        if looks:
            root = edge_of(value)
            assert root is not None
            head = read_head(Graph(LayerOutputs(), reads=True), root)
            assert head.loss == expected[0]
            assert head.prediction is None or head.target is None
            assert runs == 1
        value.backward()
        assert runs == 2
        gradients.append(layer.weight.grad)
    assert torch.equal(*gradients)


def test_hundreds_of_penalties_are_walked_through() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(300)]
    head, _ = read(lambda o: f.mse_loss(o, REAL) + sum(0.1 * weight.square().sum() for weight in weights))
    assert (head.loss, head.terms) == ("mse", 301)
