from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure.activations import (
    COLUMNS,
    Reading,
    is_readable,
    kind,
    pack,
    read,
    spread,
    tells,
    tensors,
    units,
    units_in_second_axis,
)

NAMES = ("samples", "unfinite", "nan", "mean", "std", "dead", "constant", "equal", "saturated", "preactivation_std")


def told(*readings: Reading, joined: list[Reading] | None = None) -> list[dict[str, float]]:
    rows = pack(readings, joined or list(readings))
    assert rows.shape == (len(readings), COLUMNS)
    return [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()]


def normal(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_mean_and_standard_deviation_are_those_of_float64(dtype: torch.dtype) -> None:
    # Far from zero, where the difference of two squares would keep no digit of the standard deviation.
    values = (normal(64, 50) + 2000).to(dtype)
    (row,) = told(read(values, "linear", False))
    assert row["mean"] == pytest.approx(float(values.double().mean()), rel=1e-6)
    # The mean is known to seven digits of 2000, and is subtracted from each value.
    assert row["std"] == pytest.approx(float(values.double().std(correction=0)), rel=1e-3)


def test_half_precision_does_not_overflow() -> None:
    (row,) = told(read(torch.tensor([[6e4, -6e4]] * 8).half(), "linear", False))
    assert row["unfinite"] == 0
    assert row["std"] == pytest.approx(6e4, rel=1e-3)


@pytest.mark.parametrize("channels", [True, False])
def test_a_unit_is_dead_where_no_sample_and_no_position_reaches_it(channels: bool) -> None:
    values = torch.relu(normal(8, 5, 6, 4))
    values[:, 1] = 0
    values[:, 3] = 0
    values[7, 3, 5, 2] = 1e-3
    (row,) = told(read(values if channels else values.movedim(1, -1), "relu", channels))
    assert row["samples"] == 8
    assert row["dead"] == pytest.approx(1 / 5)
    assert row["constant"] == pytest.approx(1 / 5)


def test_a_unit_that_is_always_at_the_top_is_dead_too() -> None:
    values = normal(32, 4).clamp(0, 6)
    values[:, 2] = 6
    assert told(read(values, "relu", False, top=6.0))[0]["dead"] == pytest.approx(1 / 4)
    assert told(read(values, "relu", False))[0]["dead"] == 0


def test_batches_are_joined_before_units_are_called_dead() -> None:
    first, second = torch.zeros(10, 3), torch.zeros(20, 3)
    first[4, 0] = second[6, 1] = 1.0
    earlier, later = read(first, "relu", False), read(second, "relu", False)
    (row,) = told(later, joined=[later.joined(earlier)])
    assert row["samples"] == 30
    assert row["dead"] == pytest.approx(1 / 3)
    assert row["mean"] == pytest.approx(1 / 60)


def test_batches_of_different_width_are_not_joined() -> None:
    later = read(torch.ones(4, 3), "relu", False)
    assert later.joined(read(torch.ones(8, 2), "relu", False)) is later
    assert later.joined(None) is later


@pytest.mark.parametrize(("wobble", "share"), [(1e-7, 0.25), (1e-4, 0.0)])
def test_a_constant_unit_may_tremble_in_its_last_digit(wobble: float, share: float) -> None:
    values = normal(64, 4)
    values[:, 2] = 0.7 + wobble * normal(64, 1)[:, 0]
    assert told(read(values, "linear", False))[0]["constant"] == share


def test_units_that_put_out_the_same_are_equal_but_not_constant() -> None:
    values = normal(64, 5)
    values[:, 1] = values[:, 0]
    values[:, 4] = values[:, 3] = 1.0
    (row, other) = told(read(values, "linear", False), read(values[:, 1:2], "linear", False))
    # One of four pairs of neighbours.
    assert row["equal"] == pytest.approx(1 / 4)
    assert row["constant"] == pytest.approx(2 / 5)
    # The same values in the next layer are no pair.
    assert other["equal"] == 0


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_an_output_is_saturated_where_the_slope_is_under_a_hundredth(name: str) -> None:
    function = torch.sigmoid if name == "sigmoid" else torch.tanh
    source = torch.linspace(-9, 9, 2001, dtype=torch.float64, requires_grad=True)
    output = function(source)
    (slope,) = torch.autograd.grad(output.sum(), source)
    share = float((slope < 0.01 * slope.max()).double().mean())
    assert 0.1 < share < 0.9
    (row,) = told(read(output[:, None].float(), name, False))
    # One of 2001 values may lie on either side of the limit.
    assert row["saturated"] == pytest.approx(share, abs=1 / 2001)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_what_went_in_is_inferred_where_it_is_not_given(name: str) -> None:
    source = normal(200, 10) * 2
    output = torch.sigmoid(source) if name == "sigmoid" else torch.tanh(source)
    given, inferred = told(read(output, name, False, source), read(output, name, False))
    assert given["preactivation_std"] == pytest.approx(float(source.std(correction=0)), rel=1e-5)
    # The inverse of a tanh near one knows few digits.
    assert inferred["preactivation_std"] == pytest.approx(given["preactivation_std"], rel=1e-2)


def test_only_a_sigmoid_or_tanh_saturates() -> None:
    (row,) = told(read(normal(8, 3), "relu", False))
    assert math.isnan(row["saturated"])
    assert math.isnan(row["preactivation_std"])


def test_what_is_not_finite_is_counted_by_unit() -> None:
    values = normal(8, 6)
    values[3, 1] = math.nan
    values[2, 4] = -math.inf
    healthy, ill = told(read(normal(8, 6), "linear", False), read(values, "linear", False))
    assert (healthy["unfinite"], healthy["nan"]) == (0, 0)
    assert (ill["unfinite"], ill["nan"]) == (2, 1)


def test_a_large_output_is_thinned_out_by_position() -> None:
    values = normal(64, 16, 64, 50) * 3 + 1
    assert values.numel() > 3e6
    values[:, 5] = -1.0
    (row,) = told(read(values, "relu", True))
    assert row["samples"] == 64
    assert row["dead"] == pytest.approx(1 / 16)
    # Of 200,000 values the standard error is 3 / √200,000 = 0.007.
    assert row["mean"] == pytest.approx(float(values.mean()), abs=0.035)
    assert row["std"] == pytest.approx(float(values.std()), abs=0.035)


def test_a_large_output_without_positions_counts_the_samples_it_looked_at() -> None:
    (row,) = told(read(normal(3000, 2000), "relu", False))
    assert row["samples"] == 1000


def test_an_output_of_one_number_a_sample_is_one_unit() -> None:
    (row,) = told(read(normal(40), "linear", False))
    assert row["samples"] == 40
    assert row["constant"] == 0


def test_what_cannot_be_measured_is_not_readable() -> None:
    values = normal(4, 3)
    assert is_readable(values)
    seen = []

    def inside(row: Tensor) -> Tensor:
        seen.append(is_readable(row))
        return row

    torch.func.vmap(inside)(values)
    assert seen == [False]
    strange = [None, "text", values.long(), values.to(torch.complex64), values.to_sparse(), values.to("meta")]
    strange += [
        torch.nested.nested_tensor([values[0], values[1, :2]], layout=torch.jagged),
        values[0, 0],
        values[:0],
        values[0, :1],
    ]
    assert [is_readable(value) for value in strange] == [False] * len(strange)


def test_tensors_are_found_in_tuples_dicts_and_packed_sequences() -> None:
    one, two = torch.ones(1), torch.ones(2)
    assert [len(t) for t in tensors((one, [None, {"b": two}], "text"))] == [1, 2]
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 5), torch.ones(2, 5)])
    assert next(tensors(packed)).shape == (5, 5)


def test_modules_are_told_apart() -> None:
    modules = [
        nn.ReLU6(),
        nn.LeakyReLU(),
        nn.Hardtanh(),
        nn.GELU(),
        nn.Conv2d(1, 1, 1),
        nn.LSTM(1, 1),
        nn.Embedding(2, 1),
    ]
    assert [kind(module) for module in modules] == ["relu", "other", "other", "other", "linear", "recurrent", "other"]
    assert [tells(module) for module in (nn.Dropout(), nn.MaxPool2d(2), nn.Flatten(), nn.ELU())] == [False] * 3 + [True]


def test_units_are_channels_after_a_convolution() -> None:
    assert units_in_second_axis(nn.BatchNorm1d(3), 3, None)
    assert units_in_second_axis(nn.ReLU(), 3, True)
    assert units_in_second_axis(nn.ReLU(), 4, None)
    assert not units_in_second_axis(nn.ReLU(), 4, False)
    assert not units_in_second_axis(nn.Linear(2, 2), 4, True)
    assert not units_in_second_axis(nn.PReLU(), 3, None)
    assert (units((8, 3, 5), True), units((8, 3, 5), False), units((8,), True)) == (3, 5, 1)


def test_names_are_spread_from_first_to_last() -> None:
    assert spread("abcdefg", 3) == ["a", "d", "g"]
    assert spread("abc", 3) == ["a", "b", "c"]
