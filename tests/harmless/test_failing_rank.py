"""What fails on one of several ranks before they meet for a probe of the curvature: none waits for it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.test_distributed import train

FAILING = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
    from lightning_doctor import CurvatureProbe
    from lightning_doctor.callbacks import curvature
    from tests.runs import IMAGES, LABELS, DigitsNet, trainer

    folder, name = Path(sys.argv[1]), sys.argv[2]
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank == 1 and name != "plain":
        def fails(*_):
            raise MemoryError("on one rank alone")
        setattr(curvature, name, fails)
    net = DigitsNet()
    probe = CurvatureProbe(samples=32, every_n_steps=8)
    probe.settings.every_n_steps, probe.settings.overhead = 2, 1.0
    run = trainer(folder, probe, max_epochs=3, devices=world, use_distributed_sampler=False, strategy="ddp")
    samples = TensorDataset(IMAGES[:320], LABELS[:320])
    run.fit(net, DataLoader(samples, 32 // world, sampler=DistributedSampler(samples, world, rank, shuffle=False)))
    (folder / f"rank{rank}of{world}.json").write_text(json.dumps({
        "report": probe.report.to_dict(),
        "steps": run.global_step,
        "weights": [parameter.tolist() for parameter in net.parameters()],
    }))
    """
)


# A batch that cannot be copied, and weights for which there is no memory.
@pytest.mark.parametrize("name", ["_copied", "_kept"])
def test_a_rank_that_fails_before_the_others_meet_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    plain, _ = train(tmp_path / "plain", "plain", 2, FAILING)
    first, second = train(tmp_path / name, name, 2, FAILING)
    assert "curvature/loss" in plain["report"]["history"]["series"]
    assert first["steps"] == second["steps"] == 30
    assert first["weights"] == second["weights"] == plain["weights"]
    assert "on one rank alone" in second["report"]["history"]["absent"]["curvature/loss"]
    assert "curvature/loss" not in first["report"]["history"]["series"]
