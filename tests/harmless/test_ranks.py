"""Several ranks: a checkpoint does for any number of them, and what none of them can tell is unassessed."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests.test_distributed import launch, train

RESUMED = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
    from lightning_doctor import Doctor
    from tests.runs import IMAGES, LABELS, DigitsNet, trainer, validation_digits

    folder, mode = Path(sys.argv[1]), sys.argv[2]
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    announced = []
    doctor = Doctor(strict=True, overhead=1.0, on_finding=lambda finding: announced.append(finding.code))
    keeps = ModelCheckpoint(folder.parent / "kept", filename="run")
    run = trainer(
        folder, doctor, keeps, max_epochs=10 if mode == "first" else 12, devices=world, enable_checkpointing=True,
        strategy="ddp" if world > 1 else "auto", use_distributed_sampler=False,
    )
    # Not shuffled: two ranks of 16 samples see the batches that one process of 32 sees.
    samples = TensorDataset(IMAGES[:320], LABELS[:320])
    data = DataLoader(samples, 32 // world, sampler=DistributedSampler(samples, world, rank, shuffle=False))
    kept = None if mode == "first" else str(folder.parent / "kept" / "run.ckpt")
    run.fit(DigitsNet(50.0), data, validation_digits(), ckpt_path=kept)
    (folder / f"rank{rank}of{world}.json").write_text(json.dumps({
        "report": doctor.report.to_dict(), "steps": run.global_step, "announced": announced,
    }))
    """
)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_checkpoint_of_some_ranks_goes_on_with_any_other_number(tmp_path: Path, before: int, after: int) -> None:
    first = train(tmp_path / "first", "first", before, RESUMED)
    second = train(tmp_path / "second", "second", after, RESUMED)
    earlier, later = first[0]["report"], [result["report"] for result in second]
    losses = earlier["history"]["series"]["train_loss"]
    assert losses["steps"] == list(range(100))
    announced = {finding["code"]: finding["step"] for finding in [*earlier["findings"], *earlier["recovered"]]}
    # The last checkpoint was written before the rules were asked once more at the end.
    found = {code: step for code, step in announced.items() if step < 99}
    assert found
    for report in later:
        series = report["history"]["series"]
        assert series["train_loss"]["steps"] == list(range(120))
        assert series["train_loss"]["values"][:100] == losses["values"]
        assert series["grad_norm"]["steps"] == list(range(120))
        assert len(series["val_loss"]["values"]) == 12
        assert report["notes"] == []
        assert report["history"]["facts"]["trainer"]["world_size"] == after
        goes_on = {finding["code"]: finding["step"] for finding in [*report["findings"], *report["recovered"]]}
        assert found.items() <= goes_on.items()
    assert first[0]["announced"]
    assert not set(second[0]["announced"]) & set(found)
    assert all(result["announced"] == [] for result in [*first[1:], *second[1:]])
    assert [result["steps"] for result in second] == [120] * after


def test_what_a_rank_with_shards_cannot_tell_is_unassessed_and_says_why(tmp_path: Path) -> None:
    from tests.test_sharded import SHARDED

    first, second = train(tmp_path, "healthy", 2, SHARDED)
    assert first["steps"] == second["steps"] == 30
    for result in (first, second):
        history = result["report"]["history"]
        assert len(history["series"]["train_loss"]["steps"]) == 30
        assert "sharded over ranks" in history["absent"]["grad_norm"]
        assert "sharded over ranks" in history["absent"]["update_ratio"]
        for name in ("scan/1", "leak", "eval_loss/train"):
            assert history["absent"][name] == "under ModelParallelStrategy no rank holds the whole model"
        assert result["report"]["notes"] == []
        assert "sharded over ranks" in result["report"]["unassessed"]["LD202"]
        assert all(reason.strip() for reason in result["report"]["unassessed"].values())


LAUNCHED = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    from lightning.pytorch.loggers import CSVLogger
    from lightning_doctor import Doctor
    from tests.runs import DigitsNet, digits, trainer

    folder = Path(sys.argv[1])
    doctor = Doctor(strict=True)
    run = trainer(folder, doctor, strategy="ddp", devices=2, logger=CSVLogger(folder))
    run.fit(DigitsNet(), digits())
    (folder / f"rank{run.global_rank}.json").write_text(json.dumps(doctor.report.to_dict()))
    """
)


def test_a_script_that_lightning_starts_a_second_time_has_one_report_on_both_ranks(tmp_path: Path) -> None:
    launch(tmp_path, LAUNCHED, timeout=300)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    # Of 320 rows each rank sees half, in batches of 32, for two epochs.
    assert first["history"]["series"]["train_loss"]["steps"] == list(range(10))
    assert first["history"]["series"]["train_loss"] == second["history"]["series"]["train_loss"]
    assert first["notes"] == second["notes"] == []
    assert len(list(tmp_path.rglob("doctor.json"))) == 1
