from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.curves import Curves
from lightning_doctor.logs.runs import NothingToJudgeError, find_runs, read_run, to_history
from lightning_doctor.rules import all_rules


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def curves(**points: list[tuple[int, float]]) -> Curves:
    return Curves(dict(points))


def falling(count: int, every: int = 1) -> list[tuple[int, float]]:
    return [(step * every, 1.0 / (step + 1)) for step in range(count)]


def test_every_run_below_a_folder_is_found_in_natural_order(tmp_path: Path) -> None:
    for version in (10, 2, 1):
        touch(tmp_path / f"logs/version_{version}/metrics.csv")
    assert [run.name for run in find_runs(tmp_path)] == [f"logs/version_{version}" for version in (1, 2, 10)]


def test_of_several_records_of_one_run_the_richest_is_read(tmp_path: Path) -> None:
    touch(tmp_path / "metrics.csv")
    assert [run.kind for run in find_runs(tmp_path)] == ["table"]
    touch(tmp_path / "events.out.tfevents.1")
    assert [run.kind for run in find_runs(tmp_path)] == ["events"]
    touch(tmp_path / "doctor.json")
    assert [run.kind for run in find_runs(tmp_path)] == ["report"]


def test_hidden_folders_and_links_to_folders_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/metrics.csv")
    touch(tmp_path / "top/.cache/metrics.csv")
    (tmp_path / "top/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MalformedError, match=r"no doctor\.json, no event file"):
        find_runs(tmp_path / "top")


def test_the_event_files_of_one_run_are_read_from_oldest_to_newest(tmp_path: Path) -> None:
    names = ["events.out.tfevents.99.host.5.0", "events.out.tfevents.100.host.4.0"]
    for name in names:
        touch(tmp_path / name)
    (run,) = find_runs(tmp_path)
    assert [file.name for file in run.files] == names


def test_the_curves_of_add_scalars_are_one_run(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(12):
            writer.add_scalars("loss", {"train": 1.0 / (step + 1), "val": 2.0 / (step + 1)}, step)
            writer.add_scalar("lr", 0.1, step)
    (run,) = find_runs(tmp_path)
    history, _ = read_run(run)
    assert history["train_loss"].values[1] == pytest.approx(0.5)
    assert history["val_loss"].values[1] == pytest.approx(1.0)
    assert len(history["learning_rate"]) == 12


def test_the_two_sides_that_keras_writes_are_one_run(tmp_path: Path) -> None:
    for side, value in (("train", 1.0), ("validation", 2.0)):
        with SummaryWriter(str(tmp_path / "run" / side)) as writer:
            for step in range(4):
                writer.add_scalar("epoch_loss", value, step)
    (run,) = find_runs(tmp_path)
    history, _ = read_run(run)
    assert run.name == "run"
    assert (history["train_loss"].values[0], history["val_loss"].values[0]) == (1.0, 2.0)


def test_a_lone_folder_named_train_is_a_run_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path / "train/events.out.tfevents.1")
    assert [run.name for run in find_runs(tmp_path)] == ["train"]


def test_the_history_says_which_tags_were_taken_and_which_were_left() -> None:
    history, _ = to_history(curves(loss=falling(9), val_loss=falling(3, 4), throughput=falling(9)))
    assert history.facts["log"] == {
        "tags": {"train_loss": "loss", "val_loss": "val_loss"},
        "points": {"train_loss": 9, "val_loss": 3},
        "others": ["throughput"],
    }


def test_every_signal_that_a_rule_needs_and_the_log_lacks_has_a_reason() -> None:
    history, _ = to_history(curves(loss=falling(9)))
    for rule in all_rules():
        for signal in rule.needs:
            assert signal in history or history.absent[signal]
    assert history.absent["val_loss"] == "the log has no validation loss"


def test_steps_are_kept_where_only_every_fiftieth_was_logged() -> None:
    history, _ = to_history(curves(train_loss=falling(40, 50)))
    assert history["train_loss"].steps[:3] == [0, 50, 100]
    assert history.last_step == 39 * 50


def test_a_validation_loss_counted_in_epochs_is_spread_over_the_steps() -> None:
    history, notes = to_history(curves(train_loss=falling(1001), val_loss=falling(5)))
    assert history["val_loss"].steps == [200, 400, 600, 800, 1000]
    assert any("counted in epochs" in note for note in notes)


def test_a_validation_loss_on_the_axis_of_the_training_loss_is_left_there() -> None:
    both = curves(train_loss=falling(40), val_loss=falling(5))
    history, notes = to_history(both)
    assert history["val_loss"].steps == [0, 1, 2, 3, 4]
    assert notes == []


def test_values_logged_without_a_step_are_counted(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for value in (3.0, 2.0, 1.0):
            writer.add_scalar("train_loss", value)
    (run,) = find_runs(tmp_path)
    history, notes = read_run(run)
    assert history["train_loss"].steps == [0, 1, 2]
    assert any("without a step" in note for note in notes)


def test_a_log_without_a_loss_lists_what_it_has() -> None:
    with pytest.raises(NothingToJudgeError, match="its tags are speed, heat; name them with --train-loss"):
        to_history(curves(speed=falling(3), heat=falling(3)))


def test_a_named_column_of_words_is_refused_with_what_was_seen() -> None:
    table = Curves({"loss": falling(3)}, {"stage": "'fit' in row 2"})
    with pytest.raises(MalformedError, match="'stage' must hold numbers, got 'fit' in row 2"):
        to_history(table, {"train_loss": "stage"})


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    # Opening it would wait for ever for somebody to write.
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(MalformedError, match="a pipe or a device"):
        find_runs(tmp_path / "metrics.csv")
    (run,) = find_runs(tmp_path)
    with pytest.raises(MalformedError, match="a pipe or a device"):
        read_run(run)
