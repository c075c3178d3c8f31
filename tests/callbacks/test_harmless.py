from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_doctor import Doctor
from tests.reads import CountReads
from tests.runs import DigitsNet, fit, flat


class Stochastic(DigitsNet):
    """Dropout, batch normalisation, random noise in the step, and a list the user appends to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        loss = super().training_step((images + 0.1 * torch.randn_like(images), labels), batch_idx)
        self.seen.append(float(loss.detach()))
        return loss


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ({}, {}),
        ({"optimizer": torch.optim.Adam, "lr": 0.01}, {"gradient_clip_val": 0.5}),
        ({"momentum": 0.9}, {"accumulate_grad_batches": 2, "precision": "bf16-mixed"}),
        ({"optimizer": torch.optim.LBFGS, "lr": 0.1, "max_iter": 3}, {}),
        ({"optimizer": torch.optim.Adagrad}, {"val_check_interval": 3}),
    ],
)
def test_weights_buffers_rng_and_metrics_are_the_same_with_and_without(
    tmp_path: Path, module: dict[str, Any], options: dict[str, Any]
) -> None:
    def train(*callbacks: Any) -> tuple[Any, ...]:
        torch.manual_seed(1)
        net = Stochastic(**module)
        run = fit(tmp_path, net, *callbacks, **options)
        state = net.state_dict()
        metrics = {name: float(value) for name, value in run.callback_metrics.items()}
        return state, torch.get_rng_state(), metrics, net.seen, [p.grad for p in net.parameters()]

    with_doctor = train(doctor := Doctor(strict=True, every_n_steps=1, overhead=1.0))
    without = train()
    # A doctor that measured nothing would be harmless too.
    assert len(doctor.report.history["grad_norm"]) == len(doctor.report.history["train_loss"]) > 0
    assert len(doctor.report.history["val_loss"]) >= 2
    assert with_doctor[0].keys() == without[0].keys()
    assert all(torch.equal(with_doctor[0][key], without[0][key]) for key in without[0])
    assert torch.equal(with_doctor[1], without[1])
    assert with_doctor[2:4] == without[2:4]
    pairs = zip(with_doctor[4], without[4], strict=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in pairs)


def test_a_step_inside_a_window_reads_nothing_from_the_device(tmp_path: Path) -> None:
    class Counting(DigitsNet):
        """Logs nothing, for Lightning's own logging reads too."""

        def __init__(self) -> None:
            super().__init__()
            self.reads: dict[int, int] = {}

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.mode = CountReads()
            self.mode.__enter__()

        def on_train_batch_end(self, *_: Any) -> None:
            self.mode.__exit__(None, None, None)
            self.reads[self.trainer.fit_loop.epoch_loop._batches_that_stepped] = self.mode.reads

    def reads(*callbacks: Any) -> dict[int, int]:
        net = Counting()
        fit(tmp_path, net, *callbacks, validate=False, max_epochs=12, gradient_clip_val=0.5)
        return net.reads

    watched, plain = reads(doctor := Doctor(strict=True)), reads()
    # Between an ordinary step and the next one a probe may run, which reads.
    probed = doctor.report.history["curvature/loss"].steps
    ordinary = [step for step in watched if step >= 32 and (step + 1 - 32) % 50 and step not in probed]
    assert len(ordinary) > 80
    assert [watched[step] - plain[step] for step in ordinary] == [0] * len(ordinary)
    assert doctor.report.history["grad_norm"].steps == list(range(120))


def test_only_one_callback_is_added_and_it_draws_no_random_number(tmp_path: Path) -> None:
    net = DigitsNet()
    before = flat(net).clone()
    doctor = Doctor(strict=True)
    run = fit(tmp_path, net, doctor)
    assert [type(callback).__name__ for callback in run.callbacks].count("Doctor") == 1
    assert not torch.equal(flat(net), before)
