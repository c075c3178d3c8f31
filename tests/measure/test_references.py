from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure.references import References, task_of
from tests.runs import IMAGES, LABELS


def drawn(rows: int, columns: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def task(loss: str, outputs: int):  # type: ignore[no-untyped-def]
    found = task_of(loss, outputs)
    assert found is not None
    return found


def test_the_constant_scores_the_variance_of_targets_it_was_fitted_to() -> None:
    targets = drawn(400, 2) * 30 + 100
    models = References(task("mse", 2), drawn(400, seed=1), targets)
    # float32 squares of numbers around 100.
    assert float(models.losses("constant", drawn(400), targets).mean()) == pytest.approx(
        float(targets.var(0, unbiased=False).mean()), rel=1e-4
    )


@pytest.mark.parametrize(
    ("columns", "repeated", "expected"),
    # Of white noise nearly as many as there are columns, or rows.
    [(5, 1, 5.0), (5, 40, 5.0), (600, 1, 214.0)],
)
def test_directions_are_those_that_rows_vary_in_however_often_each_is_told(
    columns: int, repeated: int, expected: float
) -> None:
    rows = drawn(300, columns).repeat(1, repeated)
    found = References(task("mse", 1), rows, drawn(300, 1), lambda: False)
    assert found.fitted == 225
    assert found.directions == pytest.approx(expected, rel=0.05)


def test_rows_that_are_all_alike_vary_in_no_direction() -> None:
    assert References(task("mse", 1), torch.ones(80, 3), drawn(80, 1), lambda: False).directions == 0


def test_the_constant_of_absolute_errors_is_the_median() -> None:
    targets = torch.tensor([[0.0], [0.0], [1.0], [5.0], [100.0]]).repeat(20, 1)
    models = References(task("l1", 1), drawn(100), targets)
    assert float(models.losses("constant", drawn(1), torch.tensor([[1.0]]))) == 0.0


def test_a_linear_map_is_found_and_what_noise_leaves_is_left() -> None:
    inputs = drawn(1000) * torch.tensor([1.0, 50.0, 0.01, 3.0]) + 7
    noise = 0.5 * drawn(1000, 1, seed=2)
    targets = inputs @ torch.tensor([[2.0], [0.1], [300.0], [-1.0]]) + noise
    models = References(task("mse", 1), inputs[:500], targets[:500])
    found = float(models.losses("linear", inputs[500:], targets[500:]).mean())
    # The noise has a variance of 0.25, the sample of it 6 % of that around; what five weights cost of 500 rows is 1 %.
    assert found == pytest.approx(0.25, rel=0.3)
    variance = float(targets.var())
    assert found < 0.05 * variance


def test_the_hidden_layer_follows_what_bends_and_the_linear_model_does_not() -> None:
    inputs = drawn(600)
    targets = inputs[:, :1].abs() * 2
    models = References(task("mse", 1), inputs[:300], targets[:300])
    linear = float(models.losses("linear", inputs[300:], targets[300:]).mean())
    shallow = float(models.losses("shallow", inputs[300:], targets[300:]).mean())
    # The variance of 2|x| is 4 (1 − 2/π) = 1.45, of which no straight line takes anything.
    assert linear > 1.1
    assert shallow < 0.2


def test_noise_is_not_fitted() -> None:
    inputs, targets = drawn(200, 30), drawn(200, 1, seed=3)
    models = References(task("mse", 1), inputs[:100], targets[:100])
    constant = float(models.losses("constant", inputs[100:], targets[100:]).mean())
    # Least squares in 30 columns of 100 rows would double the variance.
    for name in ("linear", "shallow"):
        assert float(models.losses(name, inputs[100:], targets[100:]).mean()) < 1.25 * constant


def test_classes_are_scored_as_cross_entropy_scores_them() -> None:
    models = References(task("cross_entropy", 10), IMAGES[:250], LABELS[:250])
    constant = models.losses("constant", IMAGES[250:500], LABELS[250:500])
    # Ten classes, about as frequent: the logarithm of ten.
    assert float(constant.mean()) == pytest.approx(2.303, abs=0.05)
    linear = float(models.losses("linear", IMAGES[250:500], LABELS[250:500]).mean())
    # A regularised regression on 250 digits is right nine times in ten; unregularised it would score 1 and more.
    assert linear < 0.6


def test_two_classes_are_scored_as_binary_cross_entropy_scores_them() -> None:
    inputs = drawn(600)
    labels = (inputs[:, :1] > 0.5).float()
    models = References(task("bce_with_logits", 1), inputs[:300], labels[:300])
    logit = torch.logit(labels[:300].mean())
    expected = nn.functional.binary_cross_entropy_with_logits(logit.expand(300, 1), labels[300:])
    constant = float(models.losses("constant", inputs[300:], labels[300:]).mean())
    assert constant == pytest.approx(float(expected), rel=1e-5)
    assert float(models.losses("linear", inputs[300:], labels[300:]).mean()) < 0.5 * constant


def test_a_class_that_was_not_fitted_is_not_impossible() -> None:
    models = References(task("cross_entropy", 3), drawn(100), torch.arange(100) % 2)
    assert models.losses("constant", drawn(1), torch.tensor([2])).isfinite().all()


def test_constant_columns_and_constant_targets_are_borne() -> None:
    inputs = torch.cat([torch.full((100, 1), 3.0), drawn(100, 1)], 1)
    models = References(task("mse", 1), inputs, torch.full((100, 1), 5.0))
    for name in ("constant", "linear", "shallow"):
        # Nothing varies: everything but rounding is known.
        assert float(models.losses(name, inputs, torch.full((100, 1), 5.0)).mean()) < 1e-2


def test_out_of_time_they_are_left_as_they_are_and_no_random_number_is_drawn() -> None:
    state = torch.get_rng_state()
    asked = []

    def may_go_on() -> bool:
        asked.append(True)
        return False

    models = References(task("mse", 1), drawn(100), drawn(100, 1), may_go_on)
    assert len(asked) == 2
    assert models.losses("linear", drawn(5), drawn(5, 1)).isfinite().all()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("loss", "outputs"), [("poisson", 1), ("bce", 3), ("huber", 1), ("", 1)])
def test_other_losses_have_no_reference(loss: str, outputs: int) -> None:
    assert task_of(loss, outputs) is None
