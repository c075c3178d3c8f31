from __future__ import annotations

import json
import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_doctor import Doctor, Report, cross_validate
from lightning_doctor.callbacks.fold_data import source
from lightning_doctor.fold_results import Candidate, CrossValidation, Fold, weighed
from lightning_doctor.folds import split
from tests.runs import IMAGES, LABELS, DigitsNet
from tests.test_lightning_cli import DOCTOR_CLI
from tests.test_lightning_cli import run as run_script

DIGITS = TensorDataset(IMAGES, LABELS)
FEW = TensorDataset(IMAGES[:120], LABELS[:120])


class Logistic(LightningModule):
    """What scikit-learn's logistic regression with C = 1 minimises, over the whole training part at once."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 10)
        for parameter in self.net.parameters():
            nn.init.zeros_(parameter)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        pixels, labels = batch
        # It adds |w|²/2 to the sum of the losses; the intercept goes free.
        penalty = self.net.weight.square().sum() / (2 * len(labels))
        return nn.functional.cross_entropy(self.net(pixels), labels) + penalty

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pixels, labels = batch
        self.log("val_acc", (self.net(pixels).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), max_iter=100, line_search_fn="strong_wolfe")


def validated(folder: Path, make: Callable[..., Any] = DigitsNet, data: Any = FEW, **options: Any) -> CrossValidation:
    kwargs = {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": folder, "enable_progress_bar": False}
    return cross_validate(make, data, trainer_kwargs={**kwargs, **options.pop("trainer_kwargs", {})}, **options)


def never() -> Any:
    raise AssertionError("nothing should have been trained")


def test_digits_agree_with_scikit_learns_own_cross_validation(tmp_path: Path) -> None:
    result = validated(tmp_path, Logistic, DIGITS, batch_size=len(DIGITS), trainer_kwargs={"max_epochs": 3})
    theirs = cross_val_score(
        LogisticRegression(max_iter=1000),
        IMAGES.numpy(),
        LABELS.numpy(),
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    )
    assert result.metric == "val_acc"
    assert abs(result.mean - theirs.mean()) <= result.error
    # Both minimise one convex function over the same splits: for how near the minimum each stops, at most one of the
    # 599 samples of a fold falls on the other side.
    assert result.scores == pytest.approx(list(theirs), abs=1.01 / 599)
    assert result.error == pytest.approx(statistics.stdev(theirs) / math.sqrt(3), abs=1.01 / 599)


def test_every_fold_has_a_fresh_module_a_fresh_trainer_and_a_report_of_its_own(tmp_path: Path) -> None:
    modules: list[DigitsNet] = []
    trainers = []

    class Witness(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainers.append(trainer)

    def make() -> DigitsNet:
        modules.append(DigitsNet())
        return modules[-1]

    result = validated(tmp_path, make, folds=4, trainer_kwargs={"callbacks": [Witness()]})
    assert len({id(module) for module in modules}) == len({id(trainer) for trainer in trainers}) == 4
    folds = result.best.folds
    assert [fold.number for fold in folds] == [1, 2, 3, 4]
    assert sum(fold.val_samples for fold in folds) == 120
    assert all(fold.train_samples + fold.val_samples == 120 for fold in folds)
    assert all(isinstance(fold.report, Report) for fold in folds)
    assert len({id(fold.report) for fold in folds}) == 4
    root = tmp_path / "crossval" / "version_0"
    assert sorted(path.parent.name for path in root.rglob("doctor.json")) == [f"fold_{i}" for i in range(1, 5)]
    assert json.loads((root / "crossval.json").read_text()) == json.loads(json.dumps(result.to_dict()))


def test_without_a_logger_each_fold_leaves_its_report_all_the_same(tmp_path: Path) -> None:
    result = validated(tmp_path, trainer_kwargs={"logger": False})
    for fold in result.best.folds:
        assert sorted(path.name for path in Path(fold.folder).iterdir()) == ["doctor.json", "stderr.txt"]


def test_the_other_lightning_package_is_served_by_its_own_trainer(tmp_path: Path) -> None:
    import pytorch_lightning

    class Other(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(64, 10)

        training_step = DigitsNet.training_step
        validation_step = DigitsNet.validation_step

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    result = validated(tmp_path, Other)
    assert all(fold.report is not None and fold.report.notes == [] for fold in result.best.folds)


def test_a_second_time_gives_the_same_figures_in_another_folder(tmp_path: Path) -> None:
    first, second = validated(tmp_path), validated(tmp_path)
    assert first.scores == second.scores
    assert sorted(path.name for path in (tmp_path / "crossval").iterdir()) == ["version_0", "version_1"]
    assert validated(tmp_path, seed=1).scores != first.scores


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    validated(tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert str(np.random.get_state()) == before[2]


def test_no_callback_remembers_another_fold(tmp_path: Path) -> None:
    stopping = EarlyStopping("val_loss", patience=1)
    doctor = Doctor(select=["LD5"])
    result = validated(tmp_path, trainer_kwargs={"callbacks": [stopping, doctor], "max_epochs": 2})
    assert stopping.best_score == math.inf
    assert doctor.report is None
    # The options of the doctor that was given hold for the one of each fold.
    judged = [{*fold.report.healthy, *fold.report.unassessed} for fold in result.best.folds if fold.report is not None]
    assert len(judged) == 3
    assert all(code.startswith("LD5") for codes in judged for code in codes)


def test_candidates_train_on_the_same_folds_and_the_clearly_better_one_is_resolved(tmp_path: Path) -> None:
    result = validated(
        tmp_path,
        data=TensorDataset(IMAGES[:600], LABELS[:600]),
        candidates={"fast": {"lr": 0.3}, "still": lambda: DigitsNet(lr=1e-6)},
        trainer_kwargs={"max_epochs": 4},
        metric="val_loss",
    )
    assert (result.winner, result.mode, result.resolved) == ("fast", "min", True)
    (difference,) = result.differences
    assert difference.other == "still"
    assert len(difference.values) == 3
    assert min(difference.values) > 0
    assert "best: fast, resolved" in str(result)
    assert sorted(path.name for path in (tmp_path / "crossval" / "version_0").iterdir()) == [
        "crossval.json",
        "fast",
        "still",
    ]


def test_equal_candidates_are_not_resolved(tmp_path: Path) -> None:
    result = validated(tmp_path, candidates={"one": {}, "other": {}})
    assert result.resolved is False
    assert result.differences[0].values == [0.0, 0.0, 0.0]
    assert "best: one, not resolved" in str(result)


def made_up(**scores: list[float]) -> list[Candidate]:
    return [
        Candidate(
            name=name,
            folds=[
                Fold(number=i, train_samples=20, val_samples=10, metrics={"val_acc": value})
                for i, value in enumerate(values, start=1)
            ],
        )
        for name, values in scores.items()
    ]


def test_means_and_errors_are_those_of_the_formulas() -> None:
    result = weighed(made_up(one=[0.8, 0.9, 0.85]), "val_acc", "max", 30)
    assert result.mean == pytest.approx(0.85)
    assert result.error == pytest.approx(0.05 / math.sqrt(3))
    assert result.bar == pytest.approx(math.sqrt(math.log(40) / 60))
    assert result.resolved is None
    assert "0.85 ± 0.029  (0.8, 0.9, 0.85)" in str(result)


def test_a_winner_by_scattered_differences_is_not_resolved_and_one_by_steady_ones_is() -> None:
    # Student's 2.5 % with two degrees of freedom is 4.30, and the error is s·√(1/3 + 1/2) = 0.913 s.
    scattered = weighed(made_up(a=[0.9, 0.8, 0.85], b=[0.8, 0.82, 0.8]), "val_acc", "max", 30)
    assert (scattered.winner, scattered.resolved) == ("a", False)
    # ⌈2 ln(2 · 2 / 0.05) / 0.04333²⌉ samples would have bars that do not overlap.
    assert scattered.differences[0].samples_needed == math.ceil(2 * math.log(80) / 0.04333333**2)
    assert "which may be chance; 4,668 samples" in str(scattered)
    steady = weighed(made_up(a=[0.9, 0.8, 0.85], b=[0.8, 0.71, 0.75]), "val_acc", "max", 30)
    assert (steady.winner, steady.resolved) == ("a", True)


def test_equal_candidates_are_seldom_told_apart() -> None:
    # 5 % asked for; folds that share nothing, as here, make the corrected interval wider than it need be, by 1.58:
    # 2 % of 400, with a standard deviation of 3.
    source = random.Random(0)
    alarms = 0
    for _ in range(400):
        scores = {name: [source.gauss(0.8, 0.05) for _ in range(3)] for name in ("a", "b")}
        alarms += weighed(made_up(**scores), "val_acc", "max", 30).resolved is True
    assert alarms <= 20


def test_a_fold_that_is_not_finite_loses_and_is_said() -> None:
    result = weighed(made_up(a=[0.9, math.nan, 0.9], b=[0.5, 0.5, 0.5]), "val_acc", "max", 30)
    assert (result.winner, result.resolved) == ("b", False)
    assert "not every fold has a finite figure" in str(result)
    json.dumps(result.to_dict(), allow_nan=False)


class Loaders(LightningDataModule):
    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.loader = loader
        self.stages: list[str] = []

    def setup(self, stage: str) -> None:
        self.stages.append(stage)

    def train_dataloader(self) -> Any:
        return self.loader


def test_a_datamodules_loader_is_rebuilt_over_each_fold(tmp_path: Path) -> None:
    sizes: set[int] = set()

    def collate(rows: list[Any]) -> Any:
        sizes.add(len(rows))
        return torch.utils.data.default_collate(rows)

    data = Loaders(DataLoader(FEW, 25, shuffle=True, drop_last=True, collate_fn=collate))
    result = validated(tmp_path, data=data)
    assert data.stages == ["fit"]
    # 80 samples to train on are three batches of 25, less the last; 40 to validate on are 25 and 15.
    assert sizes == {25, 15}
    assert [fold.val_samples for fold in result.best.folds] == [40, 40, 40]


def test_batches_that_a_loader_was_given_whole_are_made_of_each_fold() -> None:
    batches = BatchSampler(RandomSampler(FEW), 8, drop_last=True)
    data = source(Loaders(DataLoader(FEW, batch_sampler=batches)), 32)
    assert [len(batch[0]) for batch in data.loader(range(20), training=True)] == [8, 8]
    assert [len(batch[0]) for batch in data.loader(range(20), training=False)] == [8, 8, 4]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(FEW)


class Dicts(Dataset[Any]):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        return {"x": IMAGES[index], "y": LABELS[index]}


WEIGHTED = WeightedRandomSampler([1.0] * 120, 120)


@pytest.mark.parametrize(
    ("data", "options", "complaint"),
    [
        (Stream(), {}, "Stream streams its samples: folds need a map-style dataset"),
        (Loaders(DataLoader(Stream())), {}, "Stream streams its samples"),
        (object(), {}, "data must be a map-style dataset, with __len__ and __getitem__"),
        (Loaders([DataLoader(FEW)]), {}, "must return one DataLoader to be cut into folds, got list"),
        (Loaders(DataLoader(FEW, 8, sampler=WEIGHTED)), {}, "draws its samples with a WeightedRandomSampler"),
        (Loaders(DataLoader(FEW, batch_size=None)), {}, "batch_size=None, where the TensorDataset makes its batches"),
        (TensorDataset(IMAGES[:2], LABELS[:2]), {}, "2 samples cannot be split into 3 folds: there must be at least 6"),
        (
            TensorDataset(IMAGES[:5], LABELS[:5]),
            {},
            "5 samples in 3 folds would leave a fold with 1 sample to validate on: .* at least 6, or folds=2",
        ),
        (FEW, {"folds": 1}, "folds must be a whole number of at least 2, got 1"),
        (FEW, {"folds": 2.0}, "folds must be a whole number of at least 2, got 2.0"),
        (
            TensorDataset(IMAGES[:30], torch.zeros(30, dtype=torch.long)),
            {},
            "fold 1 of 3 would be trained on class 0 alone: there is one class only",
        ),
        (
            TensorDataset(IMAGES[:30], torch.tensor([0] * 29 + [1])),
            {"stratify": False},
            "take fewer folds, or stratify=True",
        ),
        (
            TensorDataset(IMAGES[:30], torch.tensor([0] * 29 + [1])),
            {"stratify": False, "folds": 2},
            "on class 0 alone: stratify=True, or more samples",
        ),
        (
            TensorDataset(IMAGES[:30], torch.tensor([0] * 28 + [1] * 2)),
            {"stratify": True},
            "class 1 has 2 samples, fewer than the 3 folds",
        ),
        (FEW, {"stratify": [0, 1]}, "stratify must have one value for each of the 120 samples, got 2"),
        (FEW, {"group": torch.zeros(3)}, "group must have one value for each of the 120 samples, got 3"),
        (FEW, {"group": [0, 1] * 60}, "2 groups cannot be split into 3 folds"),
        (TensorDataset(IMAGES[:30]), {"stratify": True}, "that of sample 0 is a Tensor: pass the classes themselves"),
        (Dicts(), {"stratify": True}, "that of sample 0 is a dict: pass the classes themselves"),
        (FEW, {"candidates": {}}, "candidates must name at least one"),
        (FEW, {"metric": "val_thing"}, "whether a lower or a higher val_thing is better is not known"),
        (FEW, {"trainer_kwargs": {"logger": CSVLogger("here")}}, "logger must be true or false in trainer_kwargs"),
    ],
)
def test_what_cannot_be_split_is_refused_before_any_training(
    tmp_path: Path, data: Any, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        validated(tmp_path, never, data, **options)
    assert list(tmp_path.iterdir()) == []


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-doctor\[crossval\]"'):
        validated(tmp_path, never)


class Silent(DigitsNet):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return


class Unvalidated(LightningModule):
    pass


@pytest.mark.parametrize(
    ("make", "options", "complaint"),
    [
        (Silent, {}, "such as val_loss or val_acc; it logged nothing"),
        (Unvalidated, {}, "Unvalidated must have a validation_step"),
        (lambda: nn.Linear(1, 1), {}, "make_module must return a LightningModule, got Linear"),
        (DigitsNet, {"metric": "val_f1"}, "'val_f1' was not logged in validation, which logged val_loss, val_acc"),
    ],
)
def test_a_module_that_cannot_be_compared_is_refused(
    tmp_path: Path, make: Callable[[], Any], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        validated(tmp_path, make, **options)


def test_classes_are_shared_out_where_the_dataset_shows_them() -> None:
    classes = [0] * 90 + [1] * 10
    for each in split(100, 5, classes=classes):
        assert sum(classes[index] for index in each.validation) == 2


def test_without_classes_every_sample_is_validated_on_once() -> None:
    plain = split(100, 5)
    assert sorted(index for each in plain for index in each.validation) == list(range(100))


def test_a_group_is_never_on_both_sides() -> None:
    groups = [f"patient {index // 7}" for index in range(100)]
    for options in ({}, {"classes": [index % 2 for index in range(100)], "stratify": True}):
        for each in split(100, 3, groups=groups, **options):
            assert not {groups[i] for i in each.training} & {groups[i] for i in each.validation}


def test_the_example_finds_the_wide_network_better(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "examples" / "crossval.py"
    done = run_script(tmp_path, example.read_text())
    assert "best: 64 units, resolved" in done.stdout
    assert len(list(tmp_path.rglob("doctor.json"))) == 6


_STEP = """
    def validation_step(self, batch, batch_idx):
        scores = self.net(batch[0])
        self.log("val_acc", (scores.argmax(1) == batch[1]).float().mean())

    def train_dataloader"""
_SCRIPT = DOCTOR_CLI.replace("\n    def train_dataloader", _STEP)
# As most models keep their options; Lightning makes what they see from the configuration of the command line.
_SAVES = _SCRIPT.replace("self.lr = lr", "self.save_hyperparameters()").replace("lr=self.lr", "lr=self.hparams.lr")
_ON_CPU = ["crossval", "--folds=2", "--trainer.max_epochs=3", "--trainer.accelerator=cpu"]


@pytest.mark.parametrize("script", [_SCRIPT, _SAVES], ids=["attributes", "hyperparameters"])
def test_the_command_line_compares_candidates_by_options_and_by_configuration(tmp_path: Path, script: str) -> None:
    (tmp_path / "fast.yaml").write_text("model:\n  lr: 0.5\n")
    candidates = {"still": {"model.lr": 0.0}, "as given": {}, "fast": {"config": "fast.yaml"}}
    done = run_script(tmp_path, script, *_ON_CPU, "--model.lr=0.001", "--candidates", json.dumps(candidates))
    assert "best: fast, " in done.stdout
    assert "against still: better by" in done.stdout
    assert "fast · fold 2/2" in done.stderr
    rates = {}
    for path in tmp_path.rglob("doctor.json"):
        (optimizer,) = json.loads(path.read_text())["history"]["facts"]["optimizers"]
        rates.setdefault(path.parent.parent.name, []).append(optimizer["groups"][0]["lr"])
    assert rates == {"still": [0.0, 0.0], "as_given": [0.001, 0.001], "fast": [0.5, 0.5]}


def test_candidates_may_be_a_list_in_a_configuration_which_names_them_by_their_options(tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text("candidates:\n- model.lr: 0.5\n- model: {lr: 0.01}\n")
    done = run_script(tmp_path, _SCRIPT, *_ON_CPU, "--config=both.yaml")
    assert "best: model.lr=0.5, " in done.stdout
    assert 'against model={"lr": 0.01}: ' in done.stdout


@pytest.mark.parametrize(
    ("candidates", "complaint"),
    [
        ('[{"model.rate": 0.1}]', "candidate model.rate=0.1: "),
        ('[{"model.lr": 0.1}, {"model.lr": "fast"}]', "candidate model.lr=fast: "),
        ('{"long": {"trainer.max_epochs": 9}}', "candidate long: trainer must be the same for all candidates"),
        ("[]", "--candidates must be at least one, and no two alike, got []"),
        ("0.1", '"candidates"'),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_training(
    tmp_path: Path, candidates: str, complaint: str
) -> None:
    done = run_script(tmp_path, _SCRIPT, *_ON_CPU, "--candidates", candidates, code=2)
    assert complaint in done.stderr
    assert not (tmp_path / "crossval").exists()


def test_the_command_line_cross_validates_with_a_doctor_for_each_fold(tmp_path: Path) -> None:
    options = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--doctor.select", '["LD5"]', "--model.lr=0.2"]
    done = run_script(tmp_path, _SCRIPT, "crossval", "--folds=4", *options)
    assert "4-fold cross-validation on 320 samples, val_acc (higher is better)" in done.stdout
    assert "8/8 epochs" in done.stderr
    reports = sorted(tmp_path.rglob("doctor.json"))
    assert len(reports) == 4
    assert {code[:3] for code in json.loads(reports[0].read_text())["unassessed"]} == {"LD5"}
    (saved,) = tmp_path.rglob("crossval.json")
    assert len(json.loads(saved.read_text())["candidates"][0]["folds"]) == 4
