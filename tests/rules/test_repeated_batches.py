from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader, Dataset

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rules.repeated_batches import repeated_batches
from tests.histories import LOGITS, headed, reading
from tests.runs import IMAGES, LABELS, DigitsNet, trainer, validation_digits
from tests.scored import scored


def run_of(
    repeats: list[float],
    *,
    skill: float = 0.95,
    accuracy: float | None = None,
    twins: float | None = None,
    share: float = 0.5,
    workers: int = 0,
) -> History:
    """A run that does so well on its own batches and has this accuracy in validation; ten classes."""
    history = headed(
        LOGITS,
        skill=skill,
        baseline=None,
        share=share,
        labels={"counts": {str(label): 100 for label in range(10)}, "samples": 1000},
        validation={"metric": "val_acc", "mode": "max"},
        data={"workers": workers},
    )
    reading(history, "batch_repeat", repeats, every=1)
    if accuracy is not None:
        reading(history, "val_metric", [accuracy] * 5)
    if twins is not None:
        reading(history, "duplicate_share", [twins] * 10)
    return history


ALWAYS, NEVER = [1.0] * 60, [0.0] * 60


@pytest.mark.parametrize(("accuracy", "severity"), [(None, "error"), (0.3, "error"), (0.7, "warning"), (0.95, "note")])
def test_sick_run_of_one_batch_is_judged_by_other_data(accuracy: float | None, severity: str) -> None:
    # Over the tenth that the most frequent class gives: gains of 0.22, 0.67 and 0.94.
    finding = repeated_batches(run_of(ALWAYS, accuracy=accuracy))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD605", severity, "confirmed")
    assert "__getitem__" in finding.remedy


def test_healthy_batches_do_not_come_again() -> None:
    assert repeated_batches(run_of(NEVER)) is None


def test_healthy_run_that_has_found_its_sampler_is_well() -> None:
    assert repeated_batches(run_of([*[1.0] * 20, *[0.0] * 60])) is None


@pytest.mark.parametrize(("share", "ill"), [(0.35, False), (0.45, True)])
def test_a_share_of_the_batches_must_be_repeats(share: float, ill: bool) -> None:
    repeats = [float((index * share) % 1 < share) for index in range(200)]
    assert (repeated_batches(run_of(repeats)) is not None) is ill


@pytest.mark.parametrize(("others", "said"), [(1, "one batch comes"), (2, "in a row")])
def test_one_batch_for_ever_is_told_from_batches_that_come_several_times(others: int, said: str) -> None:
    # In the newer half 1 or 2 of 50 do not repeat: 98 and 96 %, and always begins at 97 %.
    finding = repeated_batches(run_of([*[1.0] * 50, *[0.0] * others, *[1.0] * (50 - others)]))
    assert finding is not None
    assert said in finding.summary


@pytest.mark.parametrize(("skill", "severity"), [(0.9, "note"), (0.1, "warning")])
def test_workers_that_all_serve_everything_are_named(skill: float, severity: str) -> None:
    finding = repeated_batches(run_of([0.0, 1.0, 1.0, 1.0] * 20, skill=skill, workers=4))
    assert finding is not None
    assert finding.severity == severity
    assert "4.0 times in a row" in finding.summary
    assert "get_worker_info" in finding.remedy


def test_sick_copies_of_a_few_rows_that_teach_nothing_of_others() -> None:
    finding = repeated_batches(run_of(NEVER, twins=0.9, accuracy=0.3))
    assert finding is not None
    assert finding.severity == "warning"
    assert "90% of the rows" in finding.summary


@pytest.mark.parametrize(
    ("scores", "ended", "ill"),
    [
        pytest.param([2.0, 1.8, 1.6], False, False, id="falls"),
        pytest.param([2.0, 1.8, 1.9], False, True, id="rises"),
        pytest.param([2.0, 2.0], False, True, id="rests"),
        pytest.param([2.0], False, True, id="one pass"),
        pytest.param([2.0, 1.8, 1.6], True, True, id="is over"),
    ],
)
def test_healthy_copies_teach_of_others_as_long_as_the_validation_loss_falls(
    scores: list[float], ended: bool, ill: bool
) -> None:
    history = run_of(NEVER, twins=1.0, skill=0.95, accuracy=0.2)
    reading(history, "val_loss", scores)
    history.facts["run"] = {"ended": "completed"} if ended else {}
    assert (repeated_batches(history) is not None) is ill


@pytest.mark.parametrize(
    ("twins", "skill", "accuracy"),
    [
        # All that there is to learn; no more twins than chance has them; bad on its own rows too; nothing to tell by.
        (1.0, 0.95, 0.95),
        (0.3, 0.95, 0.3),
        (1.0, 0.2, 0.3),
        (1.0, 0.95, None),
    ],
)
def test_healthy_data_may_have_few_different_rows(twins: float, skill: float, accuracy: float | None) -> None:
    assert repeated_batches(run_of(NEVER, twins=twins, skill=skill, accuracy=accuracy)) is None


@pytest.mark.parametrize(("twins", "ill"), [(0.45, False), (0.55, True)])
def test_a_share_of_the_rows_must_have_a_twin(twins: float, ill: bool) -> None:
    assert (repeated_batches(run_of(NEVER, twins=twins, accuracy=0.3)) is not None) is ill


class Digits(Dataset[Any]):
    """Digits, of which only the first ``distinct`` are ever served."""

    def __init__(self, distinct: int) -> None:
        self.distinct = distinct

    def __len__(self) -> int:
        return 320

    def __getitem__(self, index: int) -> Any:
        return IMAGES[index % self.distinct], LABELS[index % self.distinct]


@pytest.mark.parametrize(("distinct", "ill"), [(1, True), (8, True), (320, False)])
def test_on_a_real_run(tmp_path: Path, distinct: int, ill: bool) -> None:
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    trainer(tmp_path, doctor, max_epochs=5).fit(DigitsNet(), DataLoader(Digits(distinct), 8), validation_digits())
    assert doctor.report is not None
    assert ("LD605" in {finding.code for finding in doctor.report.findings}) is ill


@pytest.mark.parametrize(("repeated", "ill"), [(1.0, True), (0.9, False)])
def test_sick_copies_are_found_by_fingerprint_too(repeated: float, ill: bool) -> None:
    history = run_of(NEVER, accuracy=0.3)
    history.facts["overlap"] = {"repeated": repeated}
    finding = repeated_batches(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.summary.startswith("100% of the rows of an epoch equal another row of it")


def unread(train: float, validation: float, **overlap: float) -> History:
    """A run of copies whose loss nobody can read, from 2 on, with what either sample scored at last."""
    history = headed({}, skill=None, baseline=None, losses=[2.0] * 20 + [0.1] * 380)
    reading(history, "batch_repeat", NEVER, every=1)
    reading(history, "duplicate_share", [1.0] * 10)
    history.facts["overlap"] = {"repeated": 1.0, "repeated_validation": 0.0, "exact": 0.0, **overlap}
    return scored(scored(history, "train", [1.0, train]), "validation", [1.9, validation])


@pytest.mark.parametrize(
    ("train", "validation", "overlap", "ill"),
    [
        pytest.param(0.1, 1.9, {}, True, id="nothing holds for others"),
        pytest.param(0.1, 0.9, {}, False, id="most does"),
        pytest.param(0.5, 1.9, {}, False, id="hardly learned"),
        pytest.param(0.1, 1.9, {"repeated_validation": 0.9}, False, id="few by nature"),
        pytest.param(0.1, 1.9, {"exact": 0.9}, False, id="the same rows"),
    ],
)
def test_sick_copies_under_a_loss_that_cannot_be_read(
    train: float, validation: float, overlap: dict[str, float], ill: bool
) -> None:
    assert (repeated_batches(unread(train, validation, **overlap)) is not None) is ill


def test_where_nobody_looked_for_twins_in_validation_nothing_is_said() -> None:
    history = unread(0.1, 1.9)
    history.facts["overlap"] = {"repeated": 1.0}
    assert repeated_batches(history) is None


def test_scores_of_another_loss_than_that_of_training_tell_nothing() -> None:
    history = unread(0.1, 1.9)
    history.facts["scored"]["step"] = "validation_step"
    assert repeated_batches(history) is None
