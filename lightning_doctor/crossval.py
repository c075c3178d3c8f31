"""N-fold cross-validation: a fresh module, a fresh Trainer and a doctor of its own for every fold."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lightning_doctor.callbacks.base import Callback
from lightning_doctor.callbacks.doctor import Doctor
from lightning_doctor.callbacks.fold_data import Source, listed, source
from lightning_doctor.fold_results import Candidate, CrossValidation, Fold, weighed
from lightning_doctor.folds import Split, split
from lightning_doctor.logs.runs import REPORT
from lightning_doctor.logs.tags import choose
from lightning_doctor.sinks.fold_progress import fold_progress
from lightning_doctor.sinks.report import write

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import Dataset

    from lightning_doctor.callbacks.base import LightningModule, Trainer

FILE_NAME = "crossval.json"

MakeModule = Callable[..., Any]


def cross_validate(
    make_module: MakeModule,
    dataset_or_datamodule: Dataset[Any] | LightningDataModule,
    folds: int = 3,
    *,
    trainer_kwargs: Mapping[str, Any] | None = None,
    group: Sequence[Hashable] | None = None,
    stratify: bool | Sequence[Hashable] | None = None,
    candidates: Mapping[str, Mapping[str, Any] | MakeModule] | None = None,
    metric: str | None = None,
    mode: Literal["min", "max"] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> CrossValidation:
    """Trains and validates on every fold, and says what that comes to and how sure it is.

    Every sample is validated on once, by a module that was not trained on it. Each fold logs to a folder of its own,
    ``crossval/version_…/fold_…`` under ``default_root_dir``, with the ``doctor.json`` of its own report and what was
    written to stderr meanwhile; the result is in ``crossval.json`` beside them. The figures are those of the module
    as training left it. It is for Trainers that train in this process.

    Args:
        make_module: Returns a new module with a ``validation_step`` that logs its figures.
        dataset_or_datamodule: A map-style dataset, or a datamodule whose ``train_dataloader`` has one; batch size,
            workers and collation are those of that loader, and its validation data are not used. What the dataset
            does to its samples, such as augmentation, it does to those that are validated on too.
        folds: How many, at least 2.
        trainer_kwargs: For each ``Trainer``. Callbacks are copied, so that none remembers another fold.
        group: What each sample belongs to; a group is never on both sides.
        stratify: The class of each sample, or True to read it off each sample's last item, or False for no
            stratification. None stratifies where the dataset shows its classes and each is large enough.
        candidates: What to compare on the same folds: by name the keyword arguments for ``make_module``, or a
            function to call in its place.
        metric: The logged figure to compare by; the usual one where it is None, an accuracy before a loss.
        mode: Whether a lower or a higher figure is better; known by the names of usual figures.
        batch_size: Of the loaders, where a dataset was given.
        seed: Of the split, and of each fold's random numbers, the same for all candidates.

    Raises:
        ValueError: Before any training, for data that cannot be split so and options that cannot be; after the first
            fold where nothing that can be compared was logged.
        ModuleNotFoundError: Where scikit-learn is not installed.
    """
    # A command line gives what was not asked for as None, which is the Trainer's own default too.
    options = {name: value for name, value in (trainer_kwargs or {}).items() if value is not None}
    if not isinstance(options.get("logger", True), bool):
        raise ValueError("logger must be true or false in trainer_kwargs: each fold logs to a folder of its own")
    if metric is not None:
        mode = mode or _direction(metric)
    makers = _makers(make_module, candidates)
    data = source(dataset_or_datamodule, batch_size)
    classes = data.classes(stratify)
    wanted = stratify if isinstance(stratify, bool) or stratify is None else True
    groups = None if group is None else listed(group)
    splits = split(data.samples, folds, classes=classes, stratify=wanted, groups=groups, seed=seed)
    study = _Study(data, splits, options, seed, metric)
    results = study.run(makers)
    metric = metric or study.metric
    result = weighed(results, metric, mode or _direction(metric), data.samples)
    (study.folder / FILE_NAME).write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    return result


class _Study:
    """All folds of all candidates, on the same splits."""

    def __init__(
        self, data: Source, splits: Sequence[Split], options: dict[str, Any], seed: int, metric: str | None
    ) -> None:
        self._data = data
        self._splits = splits
        self._options = options
        self._seed = seed
        self.metric = metric or ""
        self.folder = _new_folder(Path(options.get("default_root_dir") or ".") / "crossval")

    def run(self, makers: Mapping[str, MakeModule]) -> list[Candidate]:
        results = [Candidate(name=name) for name in makers]
        folders = _folders(list(makers))
        shown = self._options.get("enable_progress_bar", True) is not False
        with _quiet(), fold_progress(len(self._splits) * len(makers), self._epochs(), shown=shown) as bar:
            for number, each in enumerate(self._splits, start=1):
                for result, folder in zip(results, folders, strict=True):
                    bar.begin(f"{result.name} · fold {number}/{len(self._splits)}".removeprefix("module · "))
                    place = self.folder / folder / f"fold_{number}"
                    result.folds.append(self._fold(makers[result.name], each, number, place, bar.count))
                    bar.end()
        return results

    def _epochs(self) -> int:
        epochs = self._options.get("max_epochs")
        return epochs if isinstance(epochs, int) and epochs > 0 else 1

    def _fold(self, make: MakeModule, each: Split, number: int, place: Path, count: Callable[[], None]) -> Fold:
        place.mkdir(parents=True)
        # What the doctor and Lightning say of every single fold would bury the bar.
        with (
            open(place / "stderr.txt", "w", encoding="utf-8") as said,
            contextlib.redirect_stderr(said),
            _own_random_numbers(self._seed),
        ):
            module = make()
            _check_module(module)
            trainer, doctor = self._trainer(module, place, count)
            began = time.perf_counter()
            validation = self._data.loader(each.validation, training=False)
            try:
                trainer.fit(module, self._data.loader(each.training, training=True), validation)
            except SystemExit:
                # What Lightning makes of Ctrl-C.
                raise KeyboardInterrupt from None
            if trainer.interrupted:
                raise KeyboardInterrupt
            # By the trained module: the last pass of the fit may be many steps old.
            logged = trainer.validate(module, validation, verbose=False)
        if doctor.report is not None and not (place / REPORT).exists():
            # Without a logger a doctor writes nothing by itself.
            write(doctor.report, place)
        metrics = {name: float(value) for table in logged for name, value in table.items()}
        if not self.metric:
            self.metric = _usual(metrics)
        elif self.metric not in metrics:
            listed = ", ".join(metrics) or "nothing"
            raise ValueError(f"metric {self.metric!r} was not logged in validation, which logged {listed}")
        return Fold(
            number=number,
            train_samples=len(each.training),
            val_samples=len(each.validation),
            metrics=metrics,
            report=doctor.report,
            folder=str(place),
            seconds=time.perf_counter() - began,
        )

    def _trainer(self, module: LightningModule, place: Path, count: Callable[[], None]) -> tuple[Trainer, Doctor]:
        package = _package(module)
        options = {name: deepcopy(value) for name, value in self._options.items()}
        given = options.pop("callbacks", None) or []
        callbacks = list(given) if isinstance(given, (list, tuple)) else [given]
        doctor = next((callback for callback in callbacks if isinstance(callback, Doctor)), None)
        if doctor is None:
            doctor = Doctor()
            callbacks.append(doctor)
        if options.get("logger", True) is not False:
            loggers = import_module(f"{package}.loggers")
            options["logger"] = loggers.TensorBoardLogger(place.parent, name="", version=place.name)
        checkpoints = any("Checkpoint" in type(callback).__name__ for callback in callbacks)
        trainer: Trainer = import_module(package).Trainer(
            **{
                "enable_model_summary": False,
                "enable_checkpointing": checkpoints,
                **options,
                "enable_progress_bar": False,
                "default_root_dir": place,
                "callbacks": [*callbacks, _Counter(count)],
            }
        )
        return trainer, doctor


class _Counter(Callback):
    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what Lightning says of the machine, once for every Trainer."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Seeds everything for a while; the caller's random numbers go on afterwards as if nothing had been."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _makers(
    make_module: MakeModule, candidates: Mapping[str, Mapping[str, Any] | MakeModule] | None
) -> dict[str, MakeModule]:
    if candidates is None:
        return {"module": make_module}
    if not candidates:
        raise ValueError("candidates must name at least one, got none")

    def bound(arguments: Mapping[str, Any]) -> MakeModule:
        return lambda: make_module(**arguments)

    return {str(name): bound(each) if isinstance(each, Mapping) else each for name, each in candidates.items()}


def _check_module(module: Any) -> None:
    base = next((kind for kind in type(module).__mro__ if kind.__name__ == "LightningModule"), None)
    if base is None:
        raise ValueError(f"make_module must return a LightningModule, got {type(module).__name__}")
    if getattr(type(module), "validation_step") is getattr(base, "validation_step"):  # noqa: B009
        raise ValueError(f"{type(module).__name__} must have a validation_step that logs what is to be compared")


def _package(module: Any) -> str:
    """The package of the module's own base class: the Trainer of another would refuse it."""
    base = next(kind for kind in type(module).__mro__ if kind.__name__ == "LightningModule")
    return "pytorch_lightning" if base.__module__.startswith("pytorch_lightning") else "lightning.pytorch"


def _direction(metric: str) -> Literal["min", "max"]:
    """Whether a lower or a higher figure is better, by its name."""
    # Two points: a single one would be taken for a summary at the end of a log.
    choice = choose({f"val_{metric}": 2})
    if "val_loss" in choice.taken or "loss" in metric.lower():
        return "min"
    validation = choice.facts.get("validation")
    if isinstance(validation, dict):
        return "min" if validation["mode"] == "min" else "max"
    raise ValueError(f"whether a lower or a higher {metric} is better is not known by its name: pass mode")


def _usual(metrics: Mapping[str, float]) -> str:
    """Which of the figures to compare by: a metric of a usual name, else the loss."""
    choice = choose(dict.fromkeys(metrics, 2)) if metrics else None
    found = choice and (choice.taken.get("val_metric") or choice.taken.get("val_loss"))
    found = found or next((name for name in metrics if "loss" in name.lower()), None)
    if found is None:
        listed = ", ".join(metrics) or "nothing"
        raise ValueError(
            f"validation must log a figure of a usual name, such as val_loss or val_acc; it logged {listed}"
        )
    return found


def _new_folder(above: Path) -> Path:
    number = 0
    while True:
        folder = above / f"version_{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _folders(names: Sequence[str]) -> list[str]:
    """A folder for each candidate, none for one alone; a name may hold what a path must not."""
    if len(names) == 1:
        return [""]
    plain = [re.sub(r"[^\w.=+-]+", "_", name).strip(".") for name in names]
    return [name if name and plain.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(plain, start=1)]
