from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor.callbacks.appointments import Appointments
from lightning_doctor.callbacks.curvature import CurvatureProbe
from lightning_doctor.callbacks.pace import Pace
from lightning_doctor.history import History
from tests.runs import IMAGES, LABELS, DigitsNet, Fitted, trainer

NOISE = ("curvature/gradient_noise", "curvature/least_noise_scale")


def line(rows: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 3, generator=generator)
    return inputs, inputs.sum(1, keepdim=True) + torch.randn(rows, 1, generator=generator)


def covariance(net: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """The trace of the covariance of one sample's gradient, and the squared gradient of all."""
    rows = torch.stack(
        [
            torch.autograd.grad(nn.functional.mse_loss(net(x[None]), y[None]), list(net.parameters()))[0].flatten()
            for x, y in zip(inputs, targets, strict=True)
        ]
    )
    return float(rows.var(0, correction=0).sum()), float(rows.mean(0).square().sum())


def accumulated(folder: Path, data: DataLoader[Any], *, count: int = 4, epochs: int = 50) -> History:
    torch.manual_seed(1)
    probe = CurvatureProbe()
    probe.settings.strict = True
    net = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(net.weight)
    run = trainer(folder, probe, max_epochs=epochs, accumulate_grad_batches=count)
    with pytest.MonkeyPatch.context() as patch:
        # A slow machine would leave steps out, and a probe would add figures of its own.
        patch.setattr(Pace, "_may_sample", lambda _: True)
        patch.setattr(Appointments, "wishes", lambda *_: [0.0, 0.0])
        run.fit(Fitted(net, nn.functional.mse_loss, lr=0.0), data)
    assert probe.report is not None
    return probe.report.history


def drawn(inputs: Tensor, targets: Tensor, batch_size: int = 4) -> DataLoader[Any]:
    """Batches drawn with replacement, so that micro-batches are independent."""
    data = TensorDataset(inputs, targets)
    generator = torch.Generator().manual_seed(2)
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=512, generator=generator)
    return DataLoader(data, batch_size, sampler=sampler)


def test_accumulated_steps_tell_the_noise_of_the_gradient_without_a_probe(tmp_path: Path) -> None:
    inputs, targets = line()
    history = accumulated(tmp_path, drawn(inputs, targets))
    net = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(net.weight)
    noise, signal = covariance(net, inputs, targets)
    values = history["curvature/gradient_noise"].values
    # 50 epochs of 32 steps, 32 a figure.
    assert len(values) == 50
    # The weights stand still: the figures scatter about the truth, and their mean is within three of its errors.
    assert fmean(values) == pytest.approx(noise, abs=3 * stdev(values) / len(values) ** 0.5)
    scales = history["curvature/noise_scale"].values
    # A ratio of means of 32 pairs, each with an error of about a third: the median of many is right within that.
    assert sorted(scales)[len(scales) // 2] == pytest.approx(noise / signal, rel=1 / 3)


def test_without_accumulation_and_with_batches_of_other_sizes_nothing_is_read_off(tmp_path: Path) -> None:
    inputs, targets = line(32)
    assert not accumulated(tmp_path, DataLoader(TensorDataset(inputs, targets), 4), count=1).names("curvature/")
    uneven = DataLoader(TensorDataset(inputs[:30], targets[:30]), 16)
    assert not accumulated(tmp_path, uneven, count=2).names("curvature/")


def test_watching_accumulated_steps_changes_no_weight(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(IMAGES[:320], LABELS[:320]), 16)
    weights = []
    for callbacks in ([], [CurvatureProbe()]):
        net = DigitsNet()
        torch.manual_seed(0)
        run = trainer(tmp_path, *callbacks, max_epochs=16, accumulate_grad_batches=2)
        run.fit(net, data)
        weights.append([parameter.detach().clone() for parameter in net.parameters()])
    report = callbacks[0].report
    assert report is not None
    assert all(name in report.history for name in NOISE)
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
