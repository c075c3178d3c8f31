from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_doctor.measure.fresh import is_as_drawn
from tests.runs import IMAGES, LABELS

LAYERS: dict[str, Callable[[], Tensor]] = {
    "linear": lambda: nn.Linear(32, 16).weight,
    "convolution": lambda: nn.Conv2d(3, 8, 3).weight,
    "embedding": lambda: nn.Embedding(50, 16).weight,
    "padded": lambda: nn.Embedding(50, 16, padding_idx=0).weight,
    "recurrent": lambda: nn.LSTM(8, 32).weight_hh_l0,
    "Xavier": lambda: nn.Parameter(nn.init.xavier_normal_(torch.empty(32, 16))),
    "Kaiming": lambda: nn.Parameter(nn.init.kaiming_uniform_(torch.empty(64, 3, 3, 3))),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_new_layers_are_known_as_such(kind: str) -> None:
    drawn = 0
    for seed in range(50):
        torch.manual_seed(seed)
        drawn += is_as_drawn(LAYERS[kind]()) is True
    # Each statistic errs beyond four standard errors once in thousands, and more often for few numbers.
    assert drawn >= 48


@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_training_shows(scale: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        net[0].weight.normal_(0.0, scale)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        functional.cross_entropy(net(IMAGES[:640]), LABELS[:640]).backward()
        optimizer.step()
    assert is_as_drawn(net[2].weight) is False
    # So large ones hardly change by that.
    assert is_as_drawn(net[0].weight) is (scale == 1.0)


def test_what_no_initialization_draws_is_not_as_drawn() -> None:
    torch.manual_seed(0)
    rows, heavy = nn.Embedding(50, 16), nn.Linear(64, 64)
    with torch.no_grad():
        rows.weight *= torch.linspace(0.5, 1.5, 50)[:, None]
        heavy.weight.pow_(3)
    shifted = nn.Parameter(torch.randn(32, 16) + 1)
    assert [is_as_drawn(weight) for weight in (rows.weight, heavy.weight, shifted)] == [False] * 3


def test_vectors_small_weights_zeros_and_those_elsewhere_tell_nothing() -> None:
    weights = [
        nn.LayerNorm(128).weight,
        nn.Linear(7, 9).weight,
        nn.Parameter(torch.zeros(32, 16)),
        nn.Linear(32, 16, device="meta").weight,
        torch.randn(32, 16),
    ]
    assert [is_as_drawn(weight) for weight in weights] == [None] * 5
