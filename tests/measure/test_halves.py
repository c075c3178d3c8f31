from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure import noise_scale
from lightning_doctor.measure.halves import half_norms
from tests.measure.dense import waves


class Mean(nn.Module):
    """Its loss has, for each sample, the gradient weights − sample."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(size, dtype=torch.float64))


def loss(module: Any, batch: Tensor) -> Tensor:
    return ((module.weights - batch) ** 2).sum(dim=1).mean() / 2


def test_norms_of_halves_and_of_both() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])]
    small, big = half_norms(lambda index: gradients[index], range(4))
    assert (small, big) == ([12.5, 1.0], [6.25, 1.0])


def test_the_noise_scale_of_a_known_gradient_is_found_within_its_error() -> None:
    # Samples of mean 1 and variance 9 in each of 50 directions: |G|² = 50, tr(Σ) = 450, and their ratio 9.
    misses, found_scales = [], []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        batch = 1 + 3 * torch.randn(1024, 50, generator=generator, dtype=torch.float64)
        found = noise_scale(Mean(50), batch, loss)
        assert found.samples is not None
        assert found.error is not None
        found_scales.append(found.samples)
        misses.append((found.samples - 9) / found.error)
    # Each errs by some 15 %, and is a ratio, whose mean is a little high; thirty of them by a fifth of that.
    assert sum(found_scales) / 30 == pytest.approx(9, rel=0.12)
    # Student's t with seven degrees of freedom: variance 7/5, and thirty of them tell it to a third or so.
    assert 0.5 < float(torch.tensor(misses).square().mean()) < 3


def test_a_gradient_that_is_lost_in_noise_has_no_noise_scale_and_says_so() -> None:
    undefined = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = noise_scale(Mean(50), torch.randn(256, 50, generator=generator, dtype=torch.float64), loss)
        undefined += found.samples is None and "not over zero beyond its noise" in found.reason
    # Two standard errors of seven degrees of freedom are exceeded in 4 % by chance.
    assert undefined >= 17


def test_too_few_samples_raise() -> None:
    with pytest.raises(ValueError, match="batch must have at least 16 samples in its first axis, got 15"):
        noise_scale(Mean(2), waves(15)[0], loss)
