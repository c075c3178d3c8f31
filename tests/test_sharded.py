"""Two processes over gloo that hold a model in shards, by ``fully_shard`` (FSDP2)."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.test_distributed import train

SHARDED = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    import torch
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
    from lightning_doctor import Doctor
    from lightning_doctor.budget import Budget
    from lightning_doctor.callbacks.curvature import CurvatureProbe
    from lightning_doctor.callbacks.meeting import Meeting
    from tests.runs import IMAGES, LABELS, DigitsNet, trainer

    folder, mode = Path(sys.argv[1]), sys.argv[2]
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    # A slow machine would probe at other steps.
    Budget.left, Budget.has_earned = lambda self: 1e9, lambda self, cost: True
    if mode == "failing" and rank == 1:
        whole, calls = Meeting.whole, []
        def failing(self, tensor):
            # Some weights have been gathered, others not.
            calls.append(tensor)
            return whole(self, tensor) if len(calls) < 3 else 1 / 0
        Meeting.whole = failing
    class Net(DigitsNet):
        def __init__(self):
            super().__init__(1e-3, torch.optim.Adam)
            # 33 rows are not shared out evenly.
            self.net = nn.Sequential(nn.Linear(64, 33), nn.BatchNorm1d(33), nn.Tanh(), nn.Linear(33, 10))
            # Statistics of a batch would be those of half of it.
            self.net[1].eval()
        def configure_model(self):
            if world > 1 and type(self.net) is nn.Sequential:
                mesh = self.device_mesh["data_parallel"]
                for layer in (self.net[0], self.net[3], self.net):
                    fully_shard(layer, mesh=mesh)
        def on_train_start(self):
            self.net[1].eval()
        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    net = Net()
    doctor = Doctor(strict=mode != "failing")
    callbacks = [] if mode == "plain" else [doctor, CurvatureProbe(samples=64, every_n_steps=8)]
    run = trainer(
        folder, *callbacks, max_epochs=3, devices=world, use_distributed_sampler=False,
        strategy=ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1) if world > 1 else "auto",
    )
    # Not shuffled: two ranks of 16 samples see the batches that one process of 32 sees.
    samples = TensorDataset(IMAGES[:320], LABELS[:320])
    data = DataLoader(samples, 32 // world, sampler=DistributedSampler(samples, world, rank, shuffle=False))
    run.fit(net, data)
    whole = lambda tensor: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    (folder / f"rank{rank}of{world}.json").write_text(json.dumps({
        "report": None if doctor.report is None else doctor.report.to_dict(),
        "steps": run.global_step,
        "weights": [whole(parameter.detach()).tolist() for parameter in net.parameters()],
    }))
    """
)


def test_ranks_that_hold_shards_say_of_the_curvature_what_one_process_does_and_change_no_weight(tmp_path: Path) -> None:
    first, second = train(tmp_path / "two", "probed", 2, SHARDED)
    (alone,) = train(tmp_path / "one", "probed", 1, SHARDED)
    plain, _ = train(tmp_path / "plain", "plain", 2, SHARDED)
    assert first["weights"] == second["weights"] == plain["weights"]
    histories = [result["report"]["history"] for result in (first, second, alone)]
    found = [history["facts"]["curvature"] for history in histories]
    assert found[0] == found[1]
    assert found[0]["backend"] == "exact"
    assert any("copy of the whole model" in note for note in found[0]["notes"])
    # float32 sums in another order, through 30 steps of Adam and some twenty products.
    for end in ("low", "high"):
        assert found[0][end]["value"] == pytest.approx(found[2][end]["value"], rel=1e-2)
    assert found[0]["gradient"]["fall"] == pytest.approx(found[2]["gradient"]["fall"], rel=1e-2)
    for name in ("kind", "samples", "tested", "parameters"):
        assert found[0][name] == found[2][name]
    for name in ("sharpness", "step_ratio", "preconditioned", "gradient_norm"):
        series = [history["series"][f"curvature/{name}"] for history in histories]
        assert series[0]["steps"] == series[2]["steps"]
        assert series[0]["values"] == series[1]["values"] == pytest.approx(series[2]["values"], rel=1e-2)
    assert first["report"]["notes"] == second["report"]["notes"] == []
    # What is gathered for a pass is not taken for parameters that nobody trains.
    assert first["report"]["history"]["facts"]["parameters"]["unregistered"] == []


def test_a_rank_that_fails_while_weights_are_gathered_keeps_nobody_waiting(tmp_path: Path) -> None:
    first, second = train(tmp_path, "failing", 2, SHARDED)
    assert first["steps"] == second["steps"] == 30
    assert first["weights"] == second["weights"]
    absent = [result["report"]["history"]["absent"]["curvature"] for result in (first, second)]
    assert absent == [
        "another rank could not go on",
        "the model cannot be copied (ZeroDivisionError: division by zero)",
    ]
