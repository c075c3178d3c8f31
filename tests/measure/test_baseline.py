"""The best constant against a search for it by the losses themselves, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_doctor.measure.baseline import Baseline, Center, ClassEntropy, baseline_of

ROWS = 60

Loss = Callable[[Tensor, Tensor], Tensor]


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def searched(loss: Callable[[Tensor], Tensor], columns: int) -> float:
    """Minimises a convex loss over one row that is predicted for all."""
    row = torch.zeros(columns, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([row], lr=1.0, max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(row)
        value.backward()
        return value

    optimizer.step(closure)
    return float(loss(row.detach()))


def in_batches(baseline: Baseline, targets: Tensor, weights: Tensor | None = None) -> float:
    """Gives the targets in batches of several sizes."""
    for begin, end in pairwise((0, 7, 20, 21, ROWS)):
        baseline.add(targets[begin:end], None if weights is None else weights[begin:end])
    return float(baseline.loss())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_indices_score_the_entropy_of_their_weighted_and_smoothed_shares(
    weighted: bool, smoothing: float
) -> None:
    classes = torch.randint(0, 4, (ROWS,), generator=drawn()).clamp(max=2)
    weight = torch.tensor([0.5, 1.0, 3.0, 2.0], dtype=torch.float64) if weighted else None
    baseline = ClassEntropy(weight, smoothing)
    for part in (classes[:7], classes[7:20], classes[20:]):
        baseline.add_counts(torch.bincount(part, minlength=4).double())
    brute = searched(
        lambda row: functional.cross_entropy(row.expand(ROWS, 4), classes, weight=weight, label_smoothing=smoothing), 4
    )
    # The class that never comes has a share of zero, which logits only approach.
    assert float(baseline.loss()) == pytest.approx(brute, abs=1e-6)


def test_two_equal_classes_score_the_logarithm_of_two() -> None:
    baseline = ClassEntropy()
    baseline.add_counts(torch.tensor([30.0, 30.0], dtype=torch.float64))
    assert float(baseline.loss()) == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_shares_of_classes_score_the_entropy_of_their_mean(weighted: bool) -> None:
    shares = torch.rand(ROWS, 5, generator=drawn(), dtype=torch.float64)
    shares /= shares.sum(1, keepdim=True)
    weight = torch.rand(5, generator=drawn(1), dtype=torch.float64) + 0.5 if weighted else None
    brute = searched(lambda row: functional.cross_entropy(row.expand(ROWS, 5), shares, weight=weight), 5)
    assert in_batches(ClassEntropy(weight, shared=True), shares) == pytest.approx(brute, rel=1e-9)


def with_logits(pos_weight: Tensor | None) -> Loss:
    return lambda row, targets: functional.binary_cross_entropy_with_logits(row, targets, pos_weight=pos_weight)


def poisson(row: Tensor, targets: Tensor) -> Tensor:
    return functional.poisson_nll_loss(row, targets)


def divergence(row: Tensor, targets: Tensor) -> Tensor:
    return functional.kl_div(row.log_softmax(1), targets, reduction="sum") / targets.numel()


def huber(row: Tensor, targets: Tensor) -> Tensor:
    return functional.huber_loss(row, targets, delta=0.3)


def smooth(row: Tensor, targets: Tensor) -> Tensor:
    return functional.smooth_l1_loss(row, targets, beta=0.3)


FLAT = torch.rand(ROWS, 3, generator=drawn(), dtype=torch.float64)
REAL = torch.randn(ROWS, 3, generator=drawn(), dtype=torch.float64) * 3 + torch.tensor([100.0, -5.0, 0.0])
POSITIVE = torch.tensor([0.3, 1.0, 7.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("baseline", "loss", "targets"),
    [
        (baseline_of("mse"), functional.mse_loss, REAL),
        (baseline_of("bce_with_logits"), with_logits(None), FLAT),
        (baseline_of("bce"), with_logits(None), FLAT.round()),
        (baseline_of("bce_with_logits", pos_weight=POSITIVE), with_logits(POSITIVE), FLAT.round()),
        (baseline_of("poisson"), poisson, (FLAT * 9).floor()),
        (baseline_of("kl_div"), divergence, FLAT / FLAT.sum(1, keepdim=True)),
        (baseline_of("huber", bend=0.3), huber, REAL),
        (baseline_of("smooth_l1", bend=0.3), smooth, REAL),
    ],
    ids=["mse", "soft bce", "bce", "pos_weight", "poisson", "kl_div", "huber", "smooth_l1"],
)
def test_the_best_constant_scores_what_a_search_finds(baseline: Baseline | None, loss: Loss, targets: Tensor) -> None:
    assert baseline is not None
    columns = targets.shape[1]
    brute = searched(lambda row: loss(row.expand(ROWS, columns), targets), columns)
    # The interval is halved 24 times, and the search ends where the slope is 1e-12.
    assert in_batches(baseline, targets) == pytest.approx(brute, rel=1e-7)


def test_absolute_errors_are_least_about_the_median() -> None:
    baseline = baseline_of("l1")
    assert baseline is not None
    brute = sum(
        min(float((value - column).abs().mean()) for value in column) / REAL.shape[1] for column in REAL.unbind(1)
    )
    # An interval of about 20 halved 24 times is 1e-6 wide.
    assert in_batches(baseline, REAL) == pytest.approx(brute, abs=2e-6)


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize(
    ("name", "loss"), [("mse", functional.mse_loss), ("huber", functional.huber_loss), ("poisson", poisson)]
)
def test_weights_of_rows_and_elements_count(name: str, loss: Callable[..., Tensor], by_row: bool) -> None:
    targets = (FLAT * 9).floor()
    weights = torch.rand(ROWS, 3, generator=drawn(5), dtype=torch.float64)
    weights = weights[:, 0] if by_row else weights
    spread = weights[:, None].expand(ROWS, 3) if by_row else weights

    def weighted(row: Tensor) -> Tensor:
        errors = (
            functional.poisson_nll_loss(row.expand(ROWS, 3), targets, reduction="none")
            if name == "poisson"
            else loss(row.expand(ROWS, 3), targets, reduction="none")
        )
        return (errors * spread).sum() / spread.sum()

    baseline = baseline_of(name)
    assert baseline is not None
    assert in_batches(baseline, targets, weights) == pytest.approx(searched(weighted, 3), rel=1e-7)


def test_a_tiny_spread_far_from_zero_is_not_lost() -> None:
    baseline = baseline_of("mse")
    assert baseline is not None
    targets = (torch.randn(ROWS, 1, generator=drawn(), dtype=torch.float64) * 0.01 + 10_000).float()
    # The mean is a million standard deviations from zero: of float64's sixteen digits, four are left of the square.
    assert in_batches(baseline, targets) == pytest.approx(float(targets.double().var(0, correction=0)), rel=1e-3)


def test_nothing_is_best_for_binary_targets_beyond_one() -> None:
    baseline = baseline_of("bce")
    assert baseline is not None
    assert math.isnan(in_batches(baseline, torch.full((ROWS, 1), 2.0)))


def test_targets_of_another_length_begin_anew() -> None:
    for name in ("mse", "huber"):
        baseline = baseline_of(name)
        assert baseline is not None
        baseline.add(torch.full((4, 7), 100.0), None)
        baseline.add(REAL, None)
        alone = baseline_of(name)
        assert alone is not None
        alone.add(REAL, None)
        assert float(baseline.loss()) == float(alone.loss())


def test_very_many_targets_are_thinned_and_not_forgotten() -> None:
    baseline = Center("l1")
    for batch in range(40):
        baseline.add(torch.randn(200, 1, generator=drawn(batch), dtype=torch.float64), None)
    # The mean distance of a normal variable from its median, over the thousands that are kept: 3 % is two of their
    # standard errors.
    assert float(baseline.loss()) == pytest.approx(math.sqrt(2 / math.pi), rel=0.04)


@pytest.mark.parametrize("loss", ["multi_margin", "soft_margin", "ctc"])
def test_a_loss_whose_best_constant_is_not_known_has_no_baseline(loss: str) -> None:
    assert baseline_of(loss) is None
