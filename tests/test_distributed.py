"""Two processes over gloo, as torchrun starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TRAIN = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    import torch
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
    from lightning_doctor import Doctor, Finding
    from tests.runs import IMAGES, LABELS, DigitsNet, trainer, validation_digits, flat

    folder, mode = Path(sys.argv[1]), sys.argv[2]
    rank = int(os.environ.get("LOCAL_RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    if mode == "one rank" and rank == 1:
        os.environ["LIGHTNING_DOCTOR"] = "1"
    lr = 10.0 if mode in ("sick", "stop") else 0.1
    strict = mode not in ("broken", "broken late", "one validation")
    doctor = Doctor(
        strict=strict, stop_on="error" if mode == "stop" else None, holdout=0.1 if mode == "held out" else 0.0,
        # However slow the machine is, a probe that is asked for is made.
        overhead=1.0 if mode.startswith("probed") else 0.02,
    )
    callbacks = [] if mode in ("one rank", "plain", "plain, by hand") else [doctor]
    if mode.startswith("probed"):
        from lightning_doctor.callbacks.curvature import CurvatureProbe
        from lightning_doctor.callbacks.point import Point
        callbacks.append(CurvatureProbe(samples=64, every_n_steps=8))
        if mode == "probed badly" and rank == 1:
            Point.preconditioned = Point.line = Point.gauges = lambda *_: 1 / 0
    if mode == "broken" and rank == 1:
        from lightning_doctor.callbacks.losses import LossMonitor
        LossMonitor.after_batch = lambda *_: 1 / 0
    if mode == "broken late" and rank == 1:
        from lightning_doctor.callbacks.gradients import GradientMonitor
        GradientMonitor._receive = lambda *_: 1 / 0
    if mode == "uneven" and rank == 1:
        from lightning_doctor.budget import Budget
        Budget.left = lambda self: -1.0
    class Net(DigitsNet):
        def validation_step(self, batch, batch_idx):
            if mode != "one validation" or rank == 0:
                super().validation_step(batch, batch_idx)
        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            if self.automatic_optimization:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
    net = Net(100.0 if mode in ("sick", "stop") else 0.1)
    net.automatic_optimization = not mode.endswith("by hand")
    logger = CSVLogger(folder) if mode == "sick" else False
    run = trainer(
        folder, *callbacks, max_epochs=20 if mode in ("sick", "stop") else 3, devices=world, logger=logger,
        strategy="ddp" if world > 1 else "auto", use_distributed_sampler=False,
    )
    # Not shuffled: two ranks of 16 samples see the batches that one process of 32 sees.
    samples = TensorDataset(IMAGES[:320], LABELS[:320])
    sampler = DistributedSampler(samples, world, rank, shuffle=False)
    data = DataLoader(samples, 32 // world, sampler=sampler)
    run.fit(net, data, validation_digits())
    report = doctor.report
    (folder / f"rank{rank}of{world}.json").write_text(json.dumps({
        "report": None if report is None else report.to_dict(),
        "steps": run.global_step,
        "weights": flat(net).tolist(),
        "callbacks": [type(callback).__name__ for callback in run.callbacks],
    }))
    """
)


def train(folder: Path, mode: str, world: int, script: str = TRAIN) -> list[dict]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder.mkdir(exist_ok=True)
    processes = []
    for rank in range(world):
        variables = {key: value for key, value in os.environ.items() if key != "LIGHTNING_DOCTOR"}
        variables |= {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        if world > 1:
            variables |= {
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "RANK": str(rank),
                "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0", "NODE_RANK": "0",
                "TORCHELASTIC_RUN_ID": "test",
            }  # fmt: skip
        command = [sys.executable, "-c", script, str(folder), mode]
        processes.append(
            subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        outputs = [process.communicate(timeout=180)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, outputs[0][-3000:] + outputs[-1][-3000:]
    results = [json.loads((folder / f"rank{rank}of{world}.json").read_text()) for rank in range(world)]
    for result, output in zip(results, outputs, strict=True):
        result["output"] = output
    return results


def test_two_ranks_see_what_one_process_sees_on_the_union_batch(tmp_path: Path) -> None:
    first, second = train(tmp_path / "two", "healthy", 2)
    (alone,) = train(tmp_path / "one", "healthy", 1)
    series = [result["report"]["history"]["series"] for result in (first, second, alone)]
    # float32 sums in another order, over thirty steps.
    for name in ("train_loss", "grad_norm"):
        assert series[0][name]["steps"] == series[2][name]["steps"] == list(range(30))
        assert series[0][name]["values"] == pytest.approx(series[2][name]["values"], rel=1e-4)
        assert series[0][name]["values"] == series[1][name]["values"]
    assert series[0]["val_loss"]["values"] == series[1]["val_loss"]["values"]
    assert first["report"]["notes"] == second["report"]["notes"] == []


def test_only_rank_zero_speaks_and_writes_and_both_judge_alike(tmp_path: Path) -> None:
    first, second = train(tmp_path, "sick", 2)
    assert "ERROR LD102" in first["output"]
    assert "LD102" not in second["output"]
    assert len(list(tmp_path.rglob("doctor.json"))) == 1
    codes = [[finding["code"] for finding in result["report"]["findings"]] for result in (first, second)]
    assert codes[0] == codes[1]
    assert "LD102" in codes[0]


def test_both_ranks_stop_at_the_same_step(tmp_path: Path) -> None:
    first, second = train(tmp_path, "stop", 2)
    assert first["steps"] == second["steps"] < 200


def test_a_doctor_on_one_rank_only_does_not_hang(tmp_path: Path) -> None:
    first, second = train(tmp_path, "one rank", 2)
    (plain, _) = train(tmp_path, "plain", 2)
    assert "Doctor" not in first["callbacks"]
    assert "Doctor" in second["callbacks"]
    assert first["weights"] == second["weights"] == plain["weights"]


def test_two_ranks_hold_out_the_rows_that_one_process_does(tmp_path: Path) -> None:
    first, second = train(tmp_path / "two", "held out", 2)
    (alone,) = train(tmp_path / "one", "held out", 1)
    histories = [result["report"]["history"] for result in (first, second, alone)]
    for history in histories:
        assert history["facts"]["holdout"] == {"rows": 32, "share": 0.1}
    series = [history["series"]["eval_loss/holdout"] for history in histories]
    scored = [dict(zip(each["steps"], each["values"], strict=True)) for each in series]
    # Of 288 rows nine batches are left; after three epochs the ranks have scored once, after the first.
    assert scored[0] == scored[1]
    assert 8 in scored[0]
    # float32 sums in another order, over nine steps.
    assert scored[0][8] == pytest.approx(scored[2][8], rel=1e-4)
    assert first["report"]["notes"] == second["report"]["notes"] == []


def test_a_rank_that_fails_inside_the_doctor_does_not_hang_the_others(tmp_path: Path) -> None:
    first, second = train(tmp_path, "broken", 2)
    (plain, _) = train(tmp_path, "plain", 2)
    assert first["steps"] == second["steps"] == 30
    assert first["weights"] == plain["weights"]
    assert any("LossMonitor failed" in note for note in second["report"]["notes"])


def test_a_rank_that_fails_after_the_ranks_have_met_does_not_hang_the_others(tmp_path: Path) -> None:
    first, second = train(tmp_path, "broken late", 2)
    assert first["steps"] == second["steps"] == 30
    assert len(first["report"]["history"]["series"]["grad_norm"]["steps"]) == 30
    assert any("reading the window failed" in note for note in second["report"]["notes"])


def test_a_validation_that_only_one_rank_logs_costs_that_window_its_mean_and_nothing_else(tmp_path: Path) -> None:
    first, second = train(tmp_path, "one validation", 2)
    assert first["report"]["history"]["series"]["train_loss"]["steps"] == list(range(30))
    assert second["report"]["history"]["series"]["train_loss"]["steps"] == list(range(30))
    assert len(first["report"]["history"]["series"]["val_loss"]["steps"]) == 3


def test_ranks_whose_budgets_differ_measure_the_same_steps_and_rest_on_the_same(tmp_path: Path) -> None:
    first, second = train(tmp_path, "uneven", 2)
    (plain, _) = train(tmp_path, "plain", 2)
    assert first["weights"] == second["weights"] == plain["weights"]
    series = [result["report"]["history"]["series"] for result in (first, second)]
    assert series[0]["train_loss"]["steps"] == series[1]["train_loss"]["steps"] == list(range(30))
    assert series[0]["train_loss"]["values"] == series[1]["train_loss"]["values"]
    measured = series[0]["grad_norm"]["steps"]
    assert measured == series[1]["grad_norm"]["steps"]
    # The first step, before they have met, and few after that: a step of digits earns some microseconds.
    assert measured[0] == 0
    assert len(measured) < 30
    assert first["report"]["notes"] == second["report"]["notes"] == []


SPAWN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from lightning_doctor import Doctor
    from tests.runs import DigitsNet, digits, trainer

    if __name__ == "__main__":
        doctor = Doctor(strict=True)
        run = trainer(Path(sys.argv[1]), doctor, strategy="ddp_spawn", devices=2)
        run.fit(DigitsNet(), digits())
        assert doctor.report.history["train_loss"].steps == list(range(10)), doctor.report
        assert doctor.report is doctor.report
    """
)


def launch(folder: Path, script: str, *, timeout: int, **variables: str) -> None:
    """Runs a script that starts its other ranks itself, in a folder that it is told of."""
    (folder / "train.py").write_text(script)
    inherited = {name: value for name, value in os.environ.items() if name != "LIGHTNING_DOCTOR"}
    done = subprocess.run(
        [sys.executable, "train.py", str(folder)], capture_output=True, text=True, timeout=timeout, check=False,
        env={**inherited, "PYTHONPATH": str(Path(__file__).parents[1]), **variables}, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_that_was_spawned_hands_its_report_over(tmp_path: Path) -> None:
    launch(tmp_path, SPAWN, timeout=180, TMPDIR=str(tmp_path))
    assert list(tmp_path.glob("lightning-doctor-*")) == []


@pytest.mark.parametrize("by_hand", ["", ", by hand"])
def test_ranks_probe_the_curvature_of_the_union_batch(tmp_path: Path, by_hand: str) -> None:
    first, second = train(tmp_path / "two", f"probed{by_hand}", 2)
    (alone,) = train(tmp_path / "one", f"probed{by_hand}", 1)
    (plain, _) = train(tmp_path / "plain", f"plain{by_hand}", 2)
    assert first["weights"] == second["weights"] == plain["weights"]
    histories = [result["report"]["history"] for result in (first, second, alone)]
    found = [history["facts"]["curvature"] for history in histories]
    assert found[0] == found[1]
    # float32 sums in another order, through some twenty products.
    for end in ("low", "high"):
        assert found[0][end]["value"] == pytest.approx(found[2][end]["value"], rel=1e-2)
    assert (found[0]["samples"], found[0]["kind"]) == (found[2]["samples"], found[2]["kind"])
    for name in ("curvature/gradient_norm", "curvature/sharpness"):
        series = [history["series"][name] for history in histories]
        assert series[0]["steps"] == series[2]["steps"]
        assert series[0]["values"] == series[1]["values"] == pytest.approx(series[2]["values"], rel=1e-2)
    assert first["report"]["notes"] == second["report"]["notes"] == []


def test_a_rank_whose_probe_fails_keeps_nobody_waiting(tmp_path: Path) -> None:
    first, second = train(tmp_path, "probed badly", 2)
    assert first["steps"] == second["steps"] == 30
    assert first["weights"] == second["weights"]
    absent = [result["report"]["history"]["absent"]["curvature"] for result in (first, second)]
    assert absent == [
        "another rank could not go on",
        "a rehearsed training step failed (ZeroDivisionError: division by zero)",
    ]
