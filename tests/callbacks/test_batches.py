from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_doctor.callbacks.batches import BatchMonitor
from lightning_doctor.callbacks.pace import Pace
from lightning_doctor.history import History
from tests.callbacks.test_harmless import CountReads
from tests.runs import IMAGES, LABELS, DigitsNet, digits, fit, flat, trainer


def watch(folder: Path, module: LightningModule, data: Any, **options: Any) -> History:
    """Trains under the monitor alone, measuring every step, and returns what it has seen."""
    monitor = BatchMonitor()
    monitor.settings.strict = True
    monitor.settings.overhead = 1.0
    torch.manual_seed(0)
    trainer(folder, monitor, **options).fit(module, data)
    assert monitor.report is not None
    assert monitor.report.notes == []
    return monitor.report.history


def loader(*tensors: Tensor, batch_size: int = 32, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size, **options)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


class Serves:
    """A loader of any batches; in a list Lightning would see many loaders."""

    def __init__(self, batches: Any, seconds: float = 0.0, start: float = 0.0) -> None:
        self.batches = list(batches)
        self.seconds = seconds
        self.start = start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        time.sleep(self.start)
        for batch in self.batches:
            time.sleep(self.seconds)
            yield batch


class Loose(LightningModule):
    """Trains one weight on nothing, so that batches of any kind will do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.weight.square().sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Fed(Loose):
    """Feeds the first of a batch, or what ``shape`` makes of the batch, to a network of any kind."""

    def __init__(self, net: nn.Module, shape: Any = lambda batch: batch[0]) -> None:
        super().__init__()
        self.net = net
        self.shape = shape

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(self.shape(batch)).square().mean() + self.weight.sum()


# --- order and repeats ---------------------------------------------------------------------------------------------


def test_shuffled_data_runs_at_zero_drifts_at_one_and_comes_in_another_order(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), digits(last=1600), max_epochs=3)
    # 150 batches of 32: a batch's run spreads by 0.05 (its neighbours 0.3 · √31/31), its drift by √(2/9).
    assert mean(history["label_run"].values) == pytest.approx(0.0, abs=0.03)
    assert mean(history["label_drift"].values) == pytest.approx(1.0, abs=0.15)
    assert set(history["order_repeat"].values) == {0.0}
    assert set(history["batch_repeat"].values) == {0.0}
    assert set(history["duplicate_share"].values) == {0.0}
    assert history["batch_size"].values == [32.0] * 150
    assert history["batch_size"].steps == list(range(150))


def test_sorted_data_runs_at_one_and_comes_in_the_same_order(tmp_path: Path) -> None:
    order = LABELS[:1600].argsort()
    history = watch(tmp_path, DigitsNet(), loader(IMAGES[order], LABELS[order]), max_epochs=2)
    assert mean(history["label_run"].values) > 0.8
    assert mean(history["label_drift"].values) > 5
    assert history["order_repeat"].values == [1.0] * 50
    assert history["order_repeat"].steps == list(range(50, 100))
    assert set(history["batch_repeat"].values) == {0.0}


@pytest.mark.parametrize(("ordered", "run", "drift"), [(True, 1.0, 16.0), (False, 0.0, 1.0)])
def test_targets_that_are_numbers_have_an_order_too(tmp_path: Path, ordered: bool, run: float, drift: float) -> None:
    targets = torch.randn(1600, 1, generator=torch.Generator().manual_seed(0))
    if ordered:
        targets = targets.sort(0).values
    history = watch(tmp_path, Fed(nn.Linear(64, 1)), loader(IMAGES[:1600], targets), max_epochs=2)
    # From the second epoch on all numbers are known. Within batches of 32 nothing of the variance is left to a
    # batch's neighbours; the standard errors of 50 runs of 0.18 and of 50 values of χ²₁ are 0.03 and 0.2.
    assert mean(history["label_run"].values[-50:]) == pytest.approx(run, abs=0.1)
    drifts = history["label_drift"].values[-50:]
    assert mean(drifts) > drift if ordered else mean(drifts) == pytest.approx(drift, abs=0.6)


def test_one_hot_and_whole_float_labels_are_classes_too(tmp_path: Path) -> None:
    class OneHot(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((batch[0], batch[1].flatten(1).long().argmax(1)), batch_idx)

    order = LABELS[:640].argsort()
    plain = watch(tmp_path, DigitsNet(), loader(IMAGES[order], LABELS[order]))
    for labels in (nn.functional.one_hot(LABELS[order]), nn.functional.one_hot(LABELS[order]).float()):
        history = watch(tmp_path, OneHot(), loader(IMAGES[order], labels))
        assert history["label_run"].values == plain["label_run"].values
    history = watch(tmp_path, OneHot(), loader(IMAGES[order], LABELS[order].float()[:, None]))
    assert history["label_run"].values == plain["label_run"].values


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (1000 * torch.arange(320), "the targets are no class indices"),
        (torch.randn(320, 3), "the targets hold no single class a row"),
        (torch.zeros(320, 5, 5), "the targets, [32, 5, 5], hold no single class a row"),
        (torch.zeros(320, dtype=torch.long), "no batch had two rows side by side once two classes were known"),
    ],
)
def test_targets_without_an_order_of_classes_say_why(tmp_path: Path, targets: Tensor, reason: str) -> None:
    history = watch(tmp_path, Fed(nn.Linear(64, 1)), loader(IMAGES[:320], targets))
    assert "label_run" not in history
    assert history.absent["label_run"] == history.absent["label_drift"] == reason


def test_a_batch_served_again_and_again_is_a_repeat(tmp_path: Path) -> None:
    class Stuck(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from zip(IMAGES[:32].repeat(10, 1), LABELS[:32].repeat(10), strict=True)

    history = watch(tmp_path, DigitsNet(), DataLoader(Stuck(), 32), max_epochs=1)
    assert history["batch_repeat"].values == [1.0] * 9
    assert history.absent["order_repeat"] == "no second epoch was seen"


def test_rows_that_come_twice_in_a_batch_are_duplicates(tmp_path: Path) -> None:
    rows = torch.arange(320) // 2
    history = watch(tmp_path, DigitsNet(), loader(IMAGES[rows], LABELS[rows]), max_epochs=1)
    assert set(history["duplicate_share"].values) == {1.0}


def test_where_an_epoch_is_one_batch_its_order_says_nothing(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), loader(IMAGES[:320], LABELS[:320], batch_size=320), max_epochs=10)
    for name in ("label_run", "label_drift", "batch_repeat", "order_repeat"):
        assert name not in history
        assert history.absent[name] == "the whole data is one batch"
    assert history["batch_size"].values == [320.0] * 10
    assert "data_wait" not in history


def test_one_batch_an_epoch_of_a_stream_is_not_the_same_order_again(tmp_path: Path) -> None:
    class Once(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from zip(IMAGES[:32], LABELS[:32], strict=True)

    history = watch(tmp_path, DigitsNet(), DataLoader(Once(), 32), max_epochs=5)
    assert "order_repeat" not in history
    assert "batch_repeat" not in history


@pytest.mark.parametrize("batches", [1, 4])
def test_overfitting_few_batches_on_purpose_is_no_order(tmp_path: Path, batches: int) -> None:
    history = watch(tmp_path, DigitsNet(), digits(), overfit_batches=batches, max_epochs=3)
    assert "order_repeat" not in history
    assert "purpose" in history.absent["order_repeat"] or "one batch" in history.absent["order_repeat"]
    assert "label_run" not in history


def test_micro_batches_count_one_by_one(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), digits(shuffle=False), accumulate_grad_batches=4, max_epochs=2)
    assert history["batch_size"].steps == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 4 + [4] * 4 + [5] * 2
    assert history["order_repeat"].values == [1.0] * 10
    assert history["order_repeat"].steps == [3] * 4 + [4] * 4 + [5] * 2
    assert len(history["batch_non_finite"]) == 20


def test_the_smaller_last_batch_and_one_of_a_single_row_are_measured(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), digits(last=65), max_epochs=2)
    assert history["batch_size"].values == [32.0, 32.0, 1.0] * 2
    # One row has no neighbours.
    assert [step for step in history["label_run"].steps if step % 3 == 2] == []
    single = watch(tmp_path, DigitsNet(), digits(last=20, batch_size=1), max_epochs=2)
    assert "label_run" not in single
    assert "duplicate_share" not in single
    assert len(single["order_repeat"]) == 20


def test_few_measured_steps_still_show_the_order(tmp_path: Path) -> None:
    monitor = BatchMonitor()
    monitor.settings.strict = True

    class Rare(Pace):
        def heed(self, means: list[float]) -> None:
            super().heed(means)
            self._sample_every = 7

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_doctor.callbacks.case.Pace", Rare)
        trainer(tmp_path, monitor, max_epochs=20).fit(DigitsNet(), digits(shuffle=False))
    history = monitor.report.history
    assert len(history["batch_size"]) < 60
    assert set(history["order_repeat"].values) == {1.0}
    assert len(history["order_repeat"]) >= 19
    assert set(history["batch_repeat"].values) == {0.0}
    assert len(history["batch_repeat"]) >= 20


def test_a_resumed_run_compares_with_what_it_has_seen_itself(tmp_path: Path) -> None:
    first = trainer(tmp_path, BatchMonitor(), max_epochs=2)
    first.fit(DigitsNet(), digits(shuffle=False))
    first.save_checkpoint(tmp_path / "last.ckpt")
    monitor = BatchMonitor()
    monitor.settings.strict = True
    second = trainer(tmp_path, monitor, max_epochs=4)
    second.fit(DigitsNet(), digits(shuffle=False), ckpt_path=str(tmp_path / "last.ckpt"))
    history = monitor.report.history
    assert history["batch_size"].steps == list(range(40))
    # Epochs 1 and 3 had one before them in their own fit.
    assert history["order_repeat"].steps == [*range(10, 20), *range(30, 40)]
    assert history.fact("inputs.features") == 64


# --- the input -----------------------------------------------------------------------------------------------------


def test_the_facts_describe_the_batch_and_its_features(tmp_path: Path) -> None:
    images = IMAGES[:320].clone()
    images[:, 1] = 1000.0 * torch.arange(320) + 5.0
    history = watch(tmp_path, DigitsNet(1e-9), loader(images, LABELS[:320]), max_epochs=1)
    assert history.facts["batch"] == {
        "leaves": [
            {"key": "[0]", "shape": [32, 64], "dtype": "float32"},
            {"key": "[1]", "shape": [32], "dtype": "int64"},
        ],
        "inputs": "[0]",
        "targets": "[1]",
    }
    facts = history.facts["inputs"]
    # Steps 0, 1, 3 and 7 have been summed up: powers of two.
    rows = torch.cat([images[32 * step : 32 * step + 32] for step in (0, 1, 3, 7)]).double()
    std = rows.std(dim=0, correction=0)
    assert facts["features"] == 64
    assert facts["samples"] == 128
    assert facts["std_max"] == pytest.approx(float(std.max()), rel=1e-9)
    assert facts["std_min"] == pytest.approx(float(std[std > 0].min()), rel=1e-9)
    assert facts["constant_features"] == int((std == 0).sum())
    assert facts["largest"][0] == {
        "feature": 1,
        "mean": pytest.approx(float(rows[:, 1].mean())),
        "std": pytest.approx(float(std[1])),
    }
    assert facts["integers"] is False
    assert (facts["layer"], facts["layer_class"]) == ("net.0", "Linear")
    assert "inputs" not in history.absent


def test_images_have_channels_and_what_the_step_scales_is_measured_scaled(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    facts = watch(tmp_path, Fed(net, lambda batch: batch[0] / 255), loader(pixels, batch_size=16)).facts["inputs"]
    assert facts["features"] == 3
    assert facts["abs_max"] <= 1.0
    assert facts["layer_class"] == "Conv2d"
    flattened = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    facts = watch(tmp_path, Fed(flattened, lambda batch: batch[0] / 255), loader(pixels, batch_size=16)).facts["inputs"]
    assert facts["features"] == 192


def test_ids_that_are_embedded_have_no_scale(tmp_path: Path) -> None:
    ids = torch.randint(0, 50, (64, 7))
    net = Fed(nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 1)), lambda batch: batch["input_ids"])
    batches = [{"input_ids": ids[i : i + 16], "label": ids[i : i + 16, 0]} for i in range(0, 64, 16)]
    history = watch(tmp_path, net, Serves(batches))
    assert history.facts["inputs"] == {"integers": True, "layer": "net.0", "layer_class": "Embedding"}
    assert history.fact("batch.inputs") == "['input_ids']"
    assert history.fact("batch.targets") == "['label']"
    assert "label_run" in history


def test_the_input_is_the_leaf_that_reaches_the_first_layer(tmp_path: Path) -> None:
    class Swapped(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((batch[1], batch[0]), batch_idx)

    history = watch(tmp_path, Swapped(), loader(LABELS[:320], IMAGES[:320]))
    assert (history.fact("batch.inputs"), history.fact("batch.targets")) == ("[1]", "[0]")
    assert "label_run" in history


def test_a_compiled_model_has_its_input_measured_too(tmp_path: Path) -> None:
    torch._dynamo.reset()
    net = DigitsNet()
    net.net = torch.compile(net.net, backend="eager")
    facts = watch(tmp_path, net, digits()).facts["inputs"]
    assert (facts["features"], facts["layer"]) == (64, "net.0")


def test_an_adversary_has_its_real_samples_measured_not_its_noise(tmp_path: Path) -> None:
    class Adversaries(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.make, self.judge = nn.Linear(3, 64), nn.Linear(64, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            makes, judges = self.optimizers()
            noise = torch.full((len(batch[0]), 3), -100.0)
            for optimizer in (judges, makes):
                loss = self.judge(self.make(noise)).mean() - self.judge(batch[0]).mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), 1e-9) for part in (self.make, self.judge)]

    facts = watch(tmp_path, Adversaries(), digits()).facts["inputs"]
    assert facts["abs_max"] == 1.0
    assert facts["mean_min"] >= 0.0


# --- not finite ----------------------------------------------------------------------------------------------------


def test_the_first_batch_that_is_not_finite_is_named_and_all_are_counted(tmp_path: Path) -> None:
    images, targets = IMAGES[:320].clone(), torch.zeros(320)
    images[100, 3], images[101, 5], targets[250] = math.nan, math.inf, -math.inf
    history = watch(tmp_path, Fed(nn.Linear(64, 1)), loader(images, targets), max_epochs=2)
    expected = [0.0] * 10
    expected[3], expected[7] = 2.0, 1.0
    assert history["batch_non_finite"].values == expected * 2
    assert [event for event in history.events if event["name"] == "non_finite_batch"] == [
        {"name": "non_finite_batch", "step": 3, "key": "[0]", "batch_idx": 3, "epoch": 0}
    ]
    assert math.isfinite(history.fact("inputs.mean_max"))


def test_a_batch_without_floats_has_no_count(tmp_path: Path) -> None:
    history = watch(tmp_path, Loose(), loader(LABELS[:64]))
    assert history.absent["batch_non_finite"] == "the batch holds no floating-point tensor"


# --- waiting -------------------------------------------------------------------------------------------------------


def slow(seconds: float, start: float = 0.0) -> Serves:
    """Serves batches that are ready, each after a while."""
    return Serves([(IMAGES[i : i + 32], LABELS[i : i + 32]) for i in range(0, 320, 32)], seconds, start)


class Working(DigitsNet):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.seconds)
        return super().training_step(batch, batch_idx)


def test_waiting_for_a_slow_loader_is_most_of_the_time_and_for_a_fast_one_little(tmp_path: Path) -> None:
    waits = watch(tmp_path, Working(0.0), slow(0.05))
    assert mean(waits["data_wait"].values) > 0.6
    assert min(waits["data_wait_seconds"].values) > 0.045
    fast = watch(tmp_path, Working(0.05), slow(0.0))
    assert mean(fast["data_wait"].values) < 0.4
    assert fast["data_wait"].steps == fast["data_wait_seconds"].steps


def test_neither_validation_nor_the_start_of_an_epoch_is_waiting(tmp_path: Path) -> None:
    class Validated(DigitsNet):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            time.sleep(0.3)

    monitor = BatchMonitor()
    monitor.settings.strict = True
    run = trainer(tmp_path, monitor, max_epochs=3, val_check_interval=5)
    run.fit(Validated(), slow(0.0, start=0.3), digits(last=32))
    waits = monitor.report.history["data_wait_seconds"]
    assert len(waits) >= 3
    assert max(waits.values) < 0.2


# --- harm and odd batches ------------------------------------------------------------------------------------------


def test_watching_changes_nothing_and_keeps_nothing(tmp_path: Path) -> None:
    refs: list[weakref.ref[Tensor]] = []

    class Keeps(DigitsNet):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            refs.extend(weakref.ref(part) for part in batch)
            return batch

    def train(*callbacks: Any) -> tuple[Tensor, Tensor]:
        net = Keeps()
        fit(tmp_path, net, *callbacks)
        return flat(net), torch.get_rng_state()

    monitor = BatchMonitor()
    monitor.settings.strict = True
    watched, plain = train(monitor), train()
    assert torch.equal(watched[0], plain[0])
    assert torch.equal(watched[1], plain[1])
    assert len(monitor.report.history["batch_size"]) == 20
    assert [ref() for ref in refs if ref() is not None] == []


def test_no_batch_is_read_from_the_device_before_the_window_closes(tmp_path: Path) -> None:
    reads = []

    class Counted(BatchMonitor):
        def _count(self, hook: str, *args: Any) -> None:
            with CountReads() as mode:
                getattr(BatchMonitor, hook)(self, *args)
            reads.append(mode.reads)

        def before_batch(self, *args: Any) -> None:
            self._count("before_batch", *args)

        def layer_ran(self, *args: Any) -> None:
            self._count("layer_ran", *args)

        def after_batch(self, *args: Any) -> None:
            self._count("after_batch", *args)

        def before_close(self, *args: Any) -> None:
            self._count("before_close", *args)

    monitor = Counted()
    monitor.settings.strict = True
    trainer(tmp_path, monitor).fit(DigitsNet(), digits())
    assert sum(reads) == 0
    assert len(reads) > 40
    assert len(monitor.report.history["order_repeat"]) == 10


@dataclass
class Record:
    x: Tensor
    label: Tensor
    name: str = "a"


class Graph:
    def __init__(self) -> None:
        self._store = {"x": torch.randn(9, 3), "edge_index": torch.zeros(2, 20, dtype=torch.long), "y": torch.zeros(4)}

    def keys(self) -> Any:
        return self._store.keys()

    def __getitem__(self, name: str) -> Tensor:
        return self._store[name]


class Hostile(dict[str, Any]):
    def __getattribute__(self, name: str) -> Any:
        if name in ("items", "keys", "values"):
            raise RuntimeError("not for you")
        return super().__getattribute__(name)


def _jagged(*lengths: int) -> Tensor:
    return torch.nested.nested_tensor([torch.randn(n) for n in lengths], layout=torch.jagged)


ODD: dict[str, Any] = {
    "text": ["a", "b"],
    "one text": "a",
    "numbers": [1, 2.0],
    "sparse": (torch.eye(4).to_sparse(), torch.zeros(4)),
    "csr": (torch.eye(4).to_sparse_csr(), torch.zeros(4, dtype=torch.long)),
    "ragged list": [torch.randn(2), torch.randn(3), torch.randn(4)],
    "nested": (_jagged(2, 3), torch.zeros(2)),
    "nested strided": torch.nested.nested_tensor([torch.randn(2), torch.randn(3)]),
    "empty": (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
    "no elements": (torch.zeros(4, 0), torch.zeros(4, dtype=torch.long)),
    "scalar": torch.tensor(1.0),
    "scalars": (torch.tensor(1.0), torch.tensor(2)),
    "one row": (torch.randn(1, 3), torch.tensor([1])),
    "complex": (torch.randn(4, 3, dtype=torch.complex64), torch.zeros(4)),
    "complex target": (torch.randn(4, 3), torch.zeros(4, dtype=torch.complex64)),
    "bool": (torch.ones(4, 3, dtype=torch.bool), torch.ones(4, dtype=torch.bool)),
    "unsigned": (torch.ones(4, 3, dtype=torch.uint16), torch.ones(4, dtype=torch.uint8)),
    "eight bits": (torch.ones(4, 3).to(torch.float8_e4m3fn), torch.ones(4)),
    "half": (torch.ones(4, 3).half(), torch.ones(4).bfloat16()),
    "nan": (torch.full((4, 3), math.nan), torch.full((4,), math.nan)),
    "ignored": (torch.ones(4, 3), torch.full((4,), -100)),
    "expanded": (torch.ones(1, 3).expand(4, 3), torch.ones(1).expand(4)),
    "transposed": (torch.randn(3, 4).T, torch.zeros(8)[::2]),
    "with gradient": (torch.randn(4, 3, requires_grad=True), torch.zeros(4)),
    "record": Record(torch.randn(4, 3), torch.zeros(4, dtype=torch.long)),
    "graph": Graph(),
    "namespace": SimpleNamespace(x=torch.randn(4, 3), other=SimpleNamespace(y=torch.zeros(4))),
    "deep": {"a": [{"b": (torch.randn(4, 3), {"c": [torch.zeros(4)]})}]},
    "three": (torch.randn(4, 3), torch.randn(4, 2), torch.zeros(4)),
    "numpy": (torch.randn(4, 3).numpy(), torch.zeros(4).numpy()),
    "wide": {f"leaf{i}": torch.randn(4, 2) for i in range(100)},
    "hostile": [Hostile(), torch.randn(4, 3)],
    "pair and text": (torch.randn(4, 3), ["a", "b", "c", "d"]),
    "packed": nn.utils.rnn.pack_sequence([torch.randn(3, 2), torch.randn(2, 2)]),
    "multi-label": (torch.randn(4, 3), torch.tensor([[1, 1], [0, 1], [0, 0], [1, 0]])),
}


class Bare(Loose):
    """Moves nothing to its device, for not all that is served can be."""

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch


class Probing(Bare):
    """Feeds a layer with whatever tensor of the batch it will take."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Identity()
        self.net = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = batch if isinstance(batch, (list, tuple)) else [batch]
        for part in parts:
            self.look(part)
            plain = isinstance(part, Tensor) and part.layout == torch.strided and not part.is_nested
            if plain and part.dtype == torch.float32 and part.ndim and part.shape[-1] == 3:
                self.net(part)
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ODD)
def test_odd_batches_raise_nothing_and_what_is_missing_has_a_reason(tmp_path: Path, kind: str) -> None:
    for module in (Bare(), Probing()):
        history = watch(tmp_path, module, Serves([ODD[kind]] * 5))
        for name in BatchMonitor.signals:
            assert name in history or history.absent[name]
        for fact in ("batch", "inputs"):
            assert fact in history.facts or history.absent[fact]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_loader_that_serves_something_else_every_time_raises_nothing(tmp_path: Path) -> None:
    history = watch(tmp_path, Probing(), Serves([*ODD.values(), None, *reversed(ODD.values())]))
    assert len(history["batch_size"]) > 40
    assert history["batch_repeat"].values.count(1.0) < len(history["batch_repeat"]) / 2


def test_a_batch_without_tensors_is_lacking_with_that_reason(tmp_path: Path) -> None:
    history = watch(tmp_path, Loose(), Serves([["a", "b"]] * 5))
    for name in ("batch", "inputs", "batch_size", "label_run", "batch_repeat", "order_repeat", "duplicate_share"):
        assert history.absent[name] == "the batch holds no tensor"


def test_a_batch_whose_parts_are_ambiguous_says_so(tmp_path: Path) -> None:
    batch = (torch.randn(4, 3), torch.randn(5, 3), torch.zeros(6))
    history = watch(tmp_path, Loose(), Serves([batch] * 5))
    assert (history.fact("batch.inputs"), history.fact("batch.targets")) == (None, None)
    assert history.absent["inputs"] == "which part of the batch is the input cannot be told"
    assert history.absent["label_run"] == "which part of the batch is the target cannot be told"
    assert history.absent["batch_size"] == "which dimension of the batch counts samples cannot be told"
    # Repeats need no roles.
    assert history["batch_repeat"].values == [1.0] * 8
