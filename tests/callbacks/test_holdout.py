from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, seed_everything
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_doctor import Doctor
from lightning_doctor.callbacks.holdout import HoldoutProbe
from lightning_doctor.callbacks.thinned_loader import CannotThin, thinned
from lightning_doctor.environment import parse
from tests.runs import IMAGES, LABELS, DigitsNet, digits, fit, trainer, validation_digits

NUMBERS = TensorDataset(torch.arange(100.0)[:, None])


def served(loader: DataLoader[Any]) -> list[int]:
    return [int(number) for batch in loader for number in batch[0][:, 0]]


def test_what_is_left_is_served_in_order_and_what_is_held_out_never() -> None:
    result = thinned(DataLoader(NUMBERS, 16), 0.1)
    assert len(result.held_out) == 10
    assert served(result.loader) == [n for n in range(100) if n not in result.held_out]
    assert thinned(DataLoader(NUMBERS, 16), 0.1).held_out == result.held_out


def test_a_shuffled_loader_shuffles_what_is_left() -> None:
    result = thinned(DataLoader(NUMBERS, 16, shuffle=True, drop_last=True), 0.1)
    numbers = served(result.loader)
    assert len(numbers) == 80
    assert numbers != sorted(numbers)
    assert not set(numbers) & set(result.held_out)


def test_weights_stay_with_their_rows() -> None:
    weights = [1.0 if n % 2 else 0.0 for n in range(100)]
    result = thinned(DataLoader(NUMBERS, 10, sampler=WeightedRandomSampler(weights, 200)), 0.2)
    numbers = served(result.loader)
    assert len(numbers) == 160
    assert all(n % 2 for n in numbers)
    assert not set(numbers) & set(result.held_out)


def test_rows_without_weight_are_not_held_out_and_draws_without_replacement_suffice() -> None:
    weights = [1.0 if n % 2 else 0.0 for n in range(100)]
    sampler = WeightedRandomSampler(weights, 50, replacement=False)
    result = thinned(DataLoader(NUMBERS, 10, sampler=sampler), 0.3)
    assert sorted(served(result.loader) + result.held_out) == [n for n in range(100) if n % 2]


def test_batches_that_were_given_whole_keep_their_size_and_their_order() -> None:
    batches = BatchSampler(RandomSampler(NUMBERS), 16, drop_last=True)
    result = thinned(DataLoader(NUMBERS, batch_sampler=batches), 0.1)
    assert [len(batch[0]) for batch in result.loader] == [16] * 5
    numbers = served(result.loader)
    assert numbers != sorted(numbers)
    assert not set(numbers) & set(result.held_out)


def test_of_a_subset_only_its_own_rows_are_held_out() -> None:
    sampler = SubsetRandomSampler(range(50, 100))
    result = thinned(DataLoader(NUMBERS, 10, sampler=sampler), 0.2)
    assert min(result.held_out) >= 50
    assert sorted(served(result.loader) + result.held_out) == list(range(50, 100))


def test_a_distributed_sampler_shares_out_what_is_left() -> None:
    both = []
    for rank in range(2):
        sampler: Any = DistributedSampler(NUMBERS, 2, rank, shuffle=False)
        result = thinned(DataLoader(NUMBERS, 10, sampler=sampler), 0.2)
        both += served(result.loader)
    assert sorted(both + result.held_out) == list(range(100))


def test_replacement_and_the_number_of_draws_stay() -> None:
    loader = DataLoader(NUMBERS, 10, sampler=RandomSampler(NUMBERS, replacement=True, num_samples=30))
    assert len(served(thinned(loader, 0.2).loader)) == 30


def test_collation_and_workers_stay_and_the_data_set_answers_for_its_rows() -> None:
    class Named(TensorDataset):
        classes = ("zero", "one")

    def collate(rows: list[Any]) -> list[Any]:
        return ["mine", *rows]

    loader = thinned(DataLoader(Named(torch.zeros(100, 1)), 5, collate_fn=collate, num_workers=0), 0.1).loader
    assert next(iter(loader))[0] == "mine"
    assert loader.dataset.classes == ("zero", "one")
    assert len(loader.dataset) == 90


class Odd(SequentialSampler):
    """One that nobody here knows."""


class OddLoader(DataLoader[Any]):
    """Another."""


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(NUMBERS)


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        (OddLoader(NUMBERS), "the training data comes from a OddLoader, no plain DataLoader"),
        ([1, 2, 3], "comes from a list"),
        (DataLoader(Stream(), 8), "a Stream has no rows that could be left out by their index"),
        (DataLoader(NUMBERS, sampler=Odd(NUMBERS)), "a Odd cannot be rebuilt over fewer rows"),
        (DataLoader(NUMBERS, batch_size=None), "with batch_size=None it is the TensorDataset that makes batches"),
        (DataLoader(NUMBERS, sampler=RandomSampler(range(60))), "draws among 60 rows of 100"),
        (DataLoader(NUMBERS, sampler=SequentialSampler(range(60))), "draws among 60 rows of 100"),
        (DataLoader(NUMBERS, sampler=RandomSampler(NUMBERS, num_samples=30)), "draws a part of the rows"),
        (DataLoader(TensorDataset(torch.zeros(20, 1))), "a share of 0.1 of 20 rows is 2: 8 at least are needed"),
        (
            DataLoader(NUMBERS, batch_sampler=type("Mine", (BatchSampler,), {})(SequentialSampler(NUMBERS), 4, False)),
            "its batches come from a Mine",
        ),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_with_the_reason(loader: Any, reason: str) -> None:
    with pytest.raises(CannotThin) as caught:
        thinned(loader, 0.1)
    assert reason in str(caught.value)


class Recording(DigitsNet):
    """Keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.rows.append(batch[0].clone())
        return super().training_step(batch, batch_idx)


def watched(folder: Path, net: Any, *data: Any, share: float = 0.1, **options: Any) -> Any:
    seed_everything(0, verbose=False)
    doctor = Doctor(strict=True, holdout=share, overhead=1.0)
    run = trainer(folder, doctor, **options)
    run.fit(net, *(data or (digits(), validation_digits())))
    assert doctor.report is not None
    return run, doctor.report.history


def test_rows_held_out_are_never_trained_on_and_are_scored_as_the_model_scores_them(tmp_path: Path) -> None:
    net = Recording()
    _, history = watched(tmp_path, net)
    trained = torch.cat(net.rows).unique(dim=0)
    # None of the first 320 digits is there twice.
    assert len(trained) == 288
    held = [n for n in range(320) if not (trained == IMAGES[n]).all(1).any()]
    assert history.fact("holdout") == {"rows": 32, "share": 0.1}
    assert history.fact("data.train_samples") == 288
    with torch.no_grad():
        loss = nn.functional.cross_entropy(net.net(IMAGES[held]), LABELS[held])
    # All 32 in eight batches of four; float32 sums in another order differ in the seventh digit.
    assert history["eval_loss/holdout"].values[-1] == pytest.approx(float(loss), rel=1e-5)
    assert history.fact("scored.holdout") == 32
    assert history["eval_loss/holdout"].steps == history["eval_loss/train"].steps


def test_the_trainer_has_its_own_source_back_and_a_second_fit_holds_out_as_many(tmp_path: Path) -> None:
    run, _ = watched(tmp_path, DigitsNet())
    assert type(run.fit_loop._data_source).__name__ == "_DataLoaderSource"
    run.fit_loop.max_epochs = 4
    net = Recording()
    run.fit(net, digits(), validation_digits())
    assert len(torch.cat(net.rows).unique(dim=0)) == 288


class Module(LightningDataModule):
    def train_dataloader(self) -> Any:
        return digits()

    def val_dataloader(self) -> Any:
        return validation_digits()


def test_a_data_module_is_held_out_of_too(tmp_path: Path) -> None:
    _, history = watched(tmp_path, DigitsNet(), Module())
    assert history.fact("holdout.rows") == 32
    assert len(history["eval_loss/holdout"]) == 2


def test_what_cannot_be_rebuilt_is_trained_on_whole_and_says_so(tmp_path: Path) -> None:
    net, plain = DigitsNet(), DigitsNet()
    _, history = watched(tmp_path, net, OddLoader(TensorDataset(IMAGES[:320], LABELS[:320]), 32), validation_digits())
    trainer(tmp_path).fit(plain, OddLoader(TensorDataset(IMAGES[:320], LABELS[:320]), 32))
    assert "no plain DataLoader" in history.absent["eval_loss/holdout"]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))


def test_without_validation_no_row_is_given_up(tmp_path: Path) -> None:
    net = Recording()
    _, history = watched(tmp_path, net, digits())
    assert sum(map(len, net.rows)) == 2 * 320
    assert history.absent["eval_loss/holdout"] == "there is no validation to compare with, so that nothing was held out"


class ReadOnce(TensorDataset):
    """Serves a row to the loader only, as a file that a worker holds open."""

    def __getitem__(self, index: int) -> Any:
        raise OSError("the file is closed")

    def __getitems__(self, indices: list[int]) -> Any:
        return [super(ReadOnce, self).__getitem__(index) for index in indices]


def test_held_out_rows_that_cannot_be_read_leave_the_other_scores(tmp_path: Path) -> None:
    rows = DataLoader(ReadOnce(IMAGES[:320], LABELS[:320]), 32, shuffle=True)
    _, history = watched(tmp_path, DigitsNet(), rows, validation_digits())
    assert "eval_loss/train" in history
    reason = "the held-out rows cannot be read (OSError: the file is closed)"
    assert history.absent["eval_loss/holdout"] == reason


def test_by_default_nothing_is_held_out(tmp_path: Path) -> None:
    fit(tmp_path, net := Recording(), doctor := Doctor(strict=True))
    assert len(torch.cat(net.rows).unique(dim=0)) == 320
    assert "eval_loss/holdout" not in doctor.report.history


def test_it_works_as_a_callback_of_its_own(tmp_path: Path) -> None:
    probe = HoldoutProbe(0.1)
    probe.settings.strict = True
    probe.settings.overhead = 1.0
    fit(tmp_path, DigitsNet(), probe)
    assert probe.report is not None
    assert len(probe.report.history["eval_loss/holdout"]) == 2


@pytest.mark.parametrize("share", [1, -0.1, "much", True])
def test_what_is_no_share_is_refused(share: Any) -> None:
    with pytest.raises(ValueError, match=r"the share to hold out must be in \(0, 1\), got"):
        Doctor(holdout=share)


def test_the_environment_takes_it() -> None:
    assert parse("holdout=0.02") == {"holdout": 0.02}
