from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.diagnose import rank
from lightning_doctor.history import History
from lightning_doctor.rules.unshuffled_data import unshuffled_data
from tests.histories import HEAD, LOGITS, headed, reading
from tests.runs import IMAGES, LABELS, DigitsNet, trainer, validation_digits
from tests.scored import scored


def run_of(
    drift: float,
    run: float,
    *,
    size: float = 32.0,
    repeat: float | None = 1.0,
    sampler: str | None = "SequentialSampler",
    level: float = 2.0,
    accuracy: float | None = None,
    skill: float | None = 0.2,
    baseline: float | None = 2.3,
    head: dict[str, Any] = LOGITS,
    share: float = 0.5,
) -> History:
    """A run at this training loss, where guessing costs 2.3; ten classes."""
    history = headed(
        head,
        share=share,
        skill=skill,
        losses=[level] * 200,
        baseline=baseline,
        labels={"counts": {str(label): 100 for label in range(10)}, "samples": 1000},
        validation={"metric": "val_acc", "mode": "max"},
        data={} if sampler is None else {"sampler": sampler},
    )
    for name, value in (("label_drift", drift), ("label_run", run), ("batch_size", size)):
        reading(history, name, [value] * 20)
    if repeat is not None:
        reading(history, "order_repeat", [float(index < 20 * repeat) for index in range(20)])
    if accuracy is not None:
        reading(history, "val_metric", [accuracy] * 5)
    return history


def test_sick_data_sorted_by_label_are_confirmed_by_their_sampler() -> None:
    finding = unshuffled_data(run_of(31.0, 1.0))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence, finding.onset) == ("LD604", "warning", "confirmed", 0)
    assert "shuffle=True" in finding.remedy


@pytest.mark.parametrize(("code", "name"), [("LD104", "learning_rate_too_low"), ("LD201", "vanishing_gradients")])
def test_what_scans_and_gradients_of_one_class_at_a_time_say_goes_under_it(code: str, name: str) -> None:
    finding = unshuffled_data(run_of(31.0, 1.0))
    assert finding is not None
    ranked = rank([replace(finding, code=code, name=name), finding])
    assert [(each.code, each.explained_by) for each in ranked] == [("LD604", None), (code, "LD604")]


def test_healthy_shuffled_batches_are_as_unlike_as_chance_makes_them() -> None:
    assert unshuffled_data(run_of(1.0, 0.0, repeat=0.0, sampler="RandomSampler")) is None


@pytest.mark.parametrize(("drift", "ill"), [(9.0, False), (12.0, True)])
def test_batches_must_be_well_on_the_way_to_a_single_class(drift: float, ill: bool) -> None:
    # From 1 when shuffled to 32 with one class in each batch of 32: three tenths of the way are 10.3.
    finding = unshuffled_data(run_of(drift, 0.5))
    assert (finding is not None and finding.severity == "warning") is ill


def test_healthy_batches_of_a_few_classes_each_drawn_anew_are_often_meant() -> None:
    # Four samples each of eight of a hundred classes, one after the other, as for a triplet loss.
    assert unshuffled_data(run_of(3.7, 0.75, repeat=0.0, sampler=None)) is None


@pytest.mark.parametrize(("skill", "level", "severity"), [(0.7, 0.8, "note"), (0.1, 2.2, "warning")])
def test_batches_by_class_in_random_order_are_suspected_where_the_run_does_badly(
    skill: float, level: float, severity: str
) -> None:
    finding = unshuffled_data(run_of(25.0, 0.9, repeat=0.0, sampler=None, skill=skill, level=level))
    assert finding is not None
    assert (finding.severity, finding.confidence) == (severity, "suspected")


@pytest.mark.parametrize(("accuracy", "severity"), [(0.95, "note"), (0.3, "warning")])
def test_validation_tells_what_batches_of_the_class_just_learned_do_not(accuracy: float, severity: str) -> None:
    finding = unshuffled_data(run_of(31.0, 1.0, level=0.1, skill=1.0, accuracy=accuracy))
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("level", "severity"), [(0.2, "note"), (0.9, "warning")])
def test_without_validation_the_mean_loss_tells(level: float, severity: str) -> None:
    finding = unshuffled_data(run_of(31.0, 1.0, level=level, skill=1.0))
    assert finding is not None
    assert finding.severity == severity


def test_the_same_order_in_every_epoch_is_a_note_where_labels_are_mixed() -> None:
    finding = unshuffled_data(run_of(1.0, 0.0))
    assert finding is not None
    assert (finding.severity, finding.summary) == (
        "note",
        "the batches are the same ones in the same order in every epoch",
    )


@pytest.mark.parametrize(("repeat", "noted"), [(0.9, False), (1.0, True), (None, False)])
def test_nearly_every_batch_must_come_at_its_place(repeat: float | None, noted: bool) -> None:
    assert (unshuffled_data(run_of(1.0, 0.0, repeat=repeat)) is not None) is noted


def test_healthy_run_that_does_well_in_a_fixed_order_is_left_alone() -> None:
    assert unshuffled_data(run_of(1.0, 0.0, skill=0.9)) is None


def test_batches_of_one_sample_have_no_order() -> None:
    assert unshuffled_data(run_of(1.0, 0.0, size=1.0, repeat=0.0, sampler=None)) is None


def test_sick_table_in_the_order_of_its_targets_teaches_nothing() -> None:
    finding = unshuffled_data(run_of(15.0, 1.0, head=HEAD))
    assert finding is not None
    assert (finding.severity, finding.confidence) == ("warning", "confirmed")


@pytest.mark.parametrize(
    ("level", "skill", "ill"), [(2.0, 0.1, True), (2.0, 0.4, False), (1.7, 0.0, False)], ids=["none", "scored", "loss"]
)
def test_healthy_a_table_in_order_is_learned_where_scored_rows_say_so_or_the_loss(
    level: float, skill: float, ill: bool
) -> None:
    history = run_of(15.0, 1.0, head=HEAD, level=level)
    reading(history, "eval_loss/validation", [1.4] * 2, every=199)
    reading(history, "eval_skill/validation", [skill] * 2, every=199)
    assert (unshuffled_data(history) is not None) is ill


def test_rows_that_were_scored_before_all_was_forgotten_tell_nothing() -> None:
    history = run_of(15.0, 1.0, head=HEAD)
    history["train_loss"].values[:40] = [0.2] * 40
    reading(history, "eval_loss/validation", [0.2])
    reading(history, "eval_skill/validation", [0.9])
    assert unshuffled_data(history) is not None


@pytest.mark.parametrize(
    ("level", "loss", "skill", "ill"),
    [(0.5, 2.6, -0.15, True), (0.5, 2.6, 0.15, False), (1.6, 2.6, -0.15, False), (0.5, 2.6, -0.005, False)],
    ids=["forgotten", "learned", "as poor as it comes", "not for sure"],
)
def test_sick_numbers_that_are_learned_as_they_come_and_forgotten_again(
    level: float, loss: float, skill: float, ill: bool
) -> None:
    history = run_of(15.0, 1.0, head=HEAD, level=level)
    scored(history, "train", [2.6, loss], skills=[0.0, skill], every=199)
    finding = unshuffled_data(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.evidence["learned"] == skill


@pytest.mark.parametrize(
    ("validated", "gap", "ill"),
    [(0.25, 0.0, True), (0.9, 0.0, False), (0.25, -0.6, False)],
    ids=["poor", "well", "mode"],
)
def test_healthy_rows_of_other_times_score_badly_where_validation_does_well_or_the_mode_is_why(
    validated: float, gap: float, ill: bool
) -> None:
    history = run_of(15.0, 1.0, head=HEAD, level=0.5)
    scored(history, "train", [2.6, 2.6], skills=[0.0, -0.15], every=199)
    scored(history, "validation", [2.0, 2.0], skills=[validated] * 2, every=199)
    reading(history, "mode_gap", [gap] * 5)
    assert (unshuffled_data(history) is not None) is ill


@pytest.mark.parametrize(("level", "ill"), [(1.7, False), (1.95, True)])
def test_healthy_series_in_time_comes_in_its_order_and_is_learned(level: float, ill: bool) -> None:
    # A quarter and a sixth of the 2.3 that guessing costs are learned, a fifth is asked for.
    assert (unshuffled_data(run_of(15.0, 1.0, head=HEAD, level=level)) is not None) is ill


@pytest.mark.parametrize(("share", "ill"), [(0.2, False), (0.3, True)])
def test_a_series_in_time_is_given_a_quarter_of_the_run(share: float, ill: bool) -> None:
    assert (unshuffled_data(run_of(15.0, 1.0, head=HEAD, share=share)) is not None) is ill


def test_numbers_in_another_order_each_time_or_in_a_mixed_one_are_left_alone() -> None:
    assert unshuffled_data(run_of(15.0, 1.0, head=HEAD, repeat=0.0, sampler="RandomSampler")) is None
    assert unshuffled_data(run_of(1.0, 0.0, head=HEAD)) is None


@pytest.mark.parametrize(("dtype", "ill"), [("int64", True), ("float32", False)])
def test_under_a_loss_that_cannot_be_read_whole_numbers_are_classes(dtype: str, ill: bool) -> None:
    history = run_of(31.0, 1.0, level=0.9)
    del history.facts["loss_head"]
    history.facts["batch"] = {"leaves": [{"key": "[1]", "shape": [32], "dtype": dtype}], "targets": "[1]"}
    # Half of it is learned: enough for numbers, not for classes.
    assert (unshuffled_data(history) is not None) is ill


@pytest.mark.parametrize(("loss", "ill"), [(1.3, True), (0.9, False)])
def test_sick_numbers_under_a_loss_without_a_constant_of_which_each_is_forgotten_again(loss: float, ill: bool) -> None:
    history = run_of(15.0, 1.0, head={**HEAD, "loss": "pinball", "targets": None}, level=0.5, skill=None, baseline=None)
    scored(history, "train", [2.6, loss], every=199)
    assert (unshuffled_data(history) is not None) is ill
    # Rows cost more in eval mode, for another reason.
    assert unshuffled_data(reading(history, "mode_gap", [-0.9] * 4)) is None


def test_the_remedy_for_a_stream_is_a_buffer() -> None:
    finding = unshuffled_data(run_of(31.0, 1.0, sampler="_InfiniteConstantSampler"))
    assert finding is not None
    assert "buffer" in finding.remedy


@pytest.mark.parametrize(("by_label", "shuffle"), [(True, False), (True, True), (False, True)])
def test_on_a_real_run(tmp_path: Path, by_label: bool, shuffle: bool) -> None:
    order = LABELS[:800].argsort(stable=True) if by_label else slice(None)
    data: Any = TensorDataset(IMAGES[:800][order], LABELS[:800][order])
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    trainer(tmp_path, doctor, max_epochs=4).fit(DigitsNet(), DataLoader(data, 32, shuffle=shuffle), validation_digits())
    assert doctor.report is not None
    found = {finding.code: finding.severity for finding in doctor.report.findings}
    assert found.get("LD604") == ("warning" if by_label and not shuffle else None)
