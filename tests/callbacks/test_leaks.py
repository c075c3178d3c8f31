from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_doctor import Doctor
from lightning_doctor.callbacks.leaks import LeakProbe
from tests.runs import trainer

# Samples, positions, features.
BATCH, LONG, WIDE = 16, 6, 8


class Net(LightningModule):
    """Any body on sequences [N, 6, 8] with two classes, and a linear head."""

    def __init__(self, body: nn.Module, width: int, manual: bool = False) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 2)
        self.mean_loss = MeanMetric()
        self.automatic_optimization = not manual

    def forward(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(rows))
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows, labels = batch
        loss = nn.functional.cross_entropy(self(rows), labels)
        self.mean_loss.update(loss.detach())
        if not self.automatic_optimization:
            self.manual_backward(loss)
            optimizers: Any = self.optimizers()
            for optimizer in optimizers:
                optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        if self.automatic_optimization:
            return torch.optim.SGD(self.parameters(), lr=0.05)
        return [torch.optim.SGD(part.parameters(), lr=0.05) for part in (self.body, self.head)]


class Via(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function = function
        self.layer = layer

    def forward(self, rows: Tensor) -> Any:
        return self.function(rows) if self.layer is None else self.function(self.layer, rows)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(LONG * WIDE, 32), nn.ReLU())


def encoder(batch_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(WIDE, 2, 16, batch_first=batch_first)


def loader(samples: int = 6 * BATCH, batch_size: int = BATCH, **options: Any) -> DataLoader[Any]:
    source = torch.Generator().manual_seed(0)
    rows = torch.randn(samples, LONG, WIDE, generator=source)
    return DataLoader(TensorDataset(rows, (rows.mean((1, 2)) > 0).long()), batch_size, shuffle=True, **options)


def train(folder: Path, net: LightningModule, data: Any = None, epochs: int = 1) -> Any:
    """Returns the history of a run under a probe."""
    seed_everything(0, verbose=False)
    probe = LeakProbe()
    trainer(folder, probe, max_epochs=epochs).fit(net, loader() if data is None else data)
    assert probe.report is not None
    return probe.report.history


HEALTHY: dict[str, Any] = {
    "a perceptron": (perceptron, 32),
    "batch normalisation": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(LONG * WIDE, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5)),
        32,
    ),
    "attention over positions": (lambda: nn.Sequential(encoder(True), nn.Flatten()), LONG * WIDE),
    "a recurrent layer over positions": (
        lambda: Via(lambda lstm, rows: lstm(rows)[0][:, -1], nn.LSTM(WIDE, 12, batch_first=True)),
        12,
    ),
    # Inside, positions come first: what lies there in dimension 0 is no sample.
    "positions first inside": (
        lambda: Via(lambda lstm, rows: lstm(rows.transpose(0, 1))[0][-1], nn.LSTM(WIDE, 12)),
        12,
    ),
    "normalisation within a sample": (lambda: nn.Sequential(nn.LayerNorm([LONG, WIDE]), nn.Flatten()), LONG * WIDE),
    "as many units as samples": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(LONG * WIDE, BATCH)), BATCH),
}


def test_what_leaks_is_seen_in_batches_whose_halves_are_alike(tmp_path: Path) -> None:
    """One of two symbols a sample, and the mean over the batch beside it."""
    rows = torch.tensor([0.0, 1.0]).repeat(3 * BATCH)[:, None, None].expand(-1, LONG, WIDE).contiguous()
    data = DataLoader(TensorDataset(rows, rows[:, 0, 0].long()), BATCH)
    body = Via(lambda x: (x + x.mean(0)).flatten(1))
    assert train(tmp_path, Net(body, LONG * WIDE), data).facts["leak"] == {"tested": True, "changed": 1.0}


@pytest.mark.parametrize("kind", HEALTHY)
def test_samples_that_are_predicted_apart_do_not_depend_on_each_other(tmp_path: Path, kind: str) -> None:
    body, width = HEALTHY[kind]
    assert train(tmp_path, Net(body(), width)).facts["leak"] == {"tested": True, "changed": 0.0}


SICK: dict[str, Any] = {
    # Positions first, then taken for rows as they lie in memory; some rows get values of their own half only.
    "a view": (lambda: Via(lambda rows: rows.transpose(0, 1).reshape(len(rows), -1)), LONG * WIDE, 0.5),
    "a view between layers": (
        lambda: Via(lambda layer, rows: layer(rows).permute(2, 0, 1).reshape(len(rows), -1), nn.Linear(WIDE, WIDE)),
        LONG * WIDE,
        0.5,
    ),
    "attention over samples": (lambda: nn.Sequential(encoder(False), nn.Flatten()), LONG * WIDE, 1.0),
    # The first sample that it reads has none before it; of the others those in the first half have none replaced.
    "a recurrent layer over samples": (
        lambda: Via(lambda lstm, rows: lstm(rows)[0][:, -1], nn.LSTM(WIDE, 12)),
        12,
        0.2,
    ),
    # The order of the others does not matter to a softmax, what they are does.
    "softmax over samples": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(LONG * WIDE, 12), nn.Softmax(0)), 12, 1.0),
    "as many units as samples": (
        lambda: nn.Sequential(encoder(False), nn.Flatten(), nn.Linear(LONG * WIDE, BATCH)),
        BATCH,
        1.0,
    ),
}


@pytest.mark.parametrize("kind", SICK)
def test_samples_that_reach_each_other_are_found(tmp_path: Path, kind: str) -> None:
    body, width, least = SICK[kind]
    assert train(tmp_path, Net(body(), width)).facts["leak"]["changed"] >= least


class Scored(Net):
    """Its step takes the softmax itself, over the wrong dimension, without a layer for it."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows).softmax(0)


def test_what_the_model_itself_returns_counts_beyond_its_last_layer(tmp_path: Path) -> None:
    assert train(tmp_path, Scored(perceptron(), 32)).facts["leak"]["changed"] == 1.0


class Contrastive(Net):
    """Compares the samples of a batch, but only in its loss."""

    def __init__(self) -> None:
        super().__init__(perceptron(), 32)
        self.similarity = nn.CosineSimilarity(dim=2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        points = self(batch[0])
        scores = self.similarity(points[:, None], points[None]) / 0.1
        return nn.functional.cross_entropy(scores, torch.arange(len(points)))


class Clip(Contrastive):
    """Its forward pass returns the similarities."""

    def forward(self, rows: Tensor) -> Tensor:
        points = super().forward(rows)
        return points @ points.T

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), torch.arange(len(batch[0])))


@pytest.mark.parametrize("kind", [Contrastive, Clip])
def test_a_loss_that_compares_samples_is_no_leak(tmp_path: Path, kind: type[Contrastive]) -> None:
    assert train(tmp_path, kind()).facts["leak"] == {"tested": True, "changed": 0.0}


class Mixed(Net):
    """Mixes pairs of samples on purpose."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows, labels = batch
        order, share = torch.randperm(len(rows)), torch.rand(())
        scores = self(share * rows + (1 - share) * rows[order])
        losses = [nn.functional.cross_entropy(scores, wanted) for wanted in (labels, labels[order])]
        return share * losses[0] + (1 - share) * losses[1]


class Trains(Net):
    """Switches itself to train mode in its step, where batch normalisation mixes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.body.train()
        return super().training_step(batch, batch_idx)


class Strings(Net):
    """Reads its inputs from elsewhere by the names that the batch holds."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        names, labels = batch
        rows = torch.stack([torch.full((LONG, WIDE), float(len(name))) for name in names])
        return super().training_step((rows, labels), batch_idx)


class PositionsFirst(Net):
    """Turns batches of [positions, samples, features] round."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows, labels = batch
        return super().training_step((rows.transpose(0, 1), labels[0]), batch_idx)


def positions_first(pairs: Any) -> Any:
    return torch.stack([rows for rows, _ in pairs], 1), torch.stack([label for _, label in pairs]).expand(LONG, -1)


def names(pairs: Any) -> Any:
    return ["a" * int(1 + 9 * rows[0, 0].abs()) for rows, _ in pairs], torch.stack([label for _, label in pairs])


UNTESTED: dict[str, Any] = {
    "mixup": (lambda: Mixed(perceptron(), 32), None, "rows are mixed before the first layer"),
    "statistics of the batch": (
        lambda: Net(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48, track_running_stats=False)), 48),
        None,
        "without running statistics",
    ),
    "train mode by hand": (lambda: Trains(perceptron(), 32), None, "into train mode"),
    "two optimizers by hand": (lambda: Net(perceptron(), 32, manual=True), None, "several optimizers by hand"),
    "positions first": (
        lambda: PositionsFirst(perceptron(), 32),
        lambda: loader(collate_fn=positions_first),
        "not known to be that of its samples",
    ),
}


@pytest.mark.parametrize("kind", UNTESTED)
def test_what_cannot_be_tested_is_left_open_with_the_reason(tmp_path: Path, kind: str) -> None:
    net, data, reason = UNTESTED[kind]
    history = train(tmp_path, net(), None if data is None else data())
    assert "leak" not in history.facts
    assert reason in history.absent["leak"]


@dataclasses.dataclass
class Pairs:
    rows: Tensor
    labels: Tensor


class Unpacks(Net):
    """Takes its batch apart."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = vars(batch) if isinstance(batch, Pairs) else batch
        return super().training_step((parts["rows"], parts["labels"]), batch_idx)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [Pairs, dict])
def test_batches_may_be_packed_otherwise(tmp_path: Path, kind: Any, batch_first: bool) -> None:
    def packed(pairs: Any) -> Any:
        rows, labels = zip(*pairs, strict=True)
        return kind(rows=torch.stack(rows), labels=torch.stack(labels))

    net = Unpacks(nn.Sequential(encoder(batch_first), nn.Flatten()), LONG * WIDE)
    changed = 0.0 if batch_first else 1.0
    assert train(tmp_path, net, loader(collate_fn=packed)).facts["leak"] == {"tested": True, "changed": changed}


def test_a_head_of_zeros_is_tried_again_when_it_has_learned(tmp_path: Path) -> None:
    net = Net(nn.Sequential(encoder(False), nn.Flatten()), LONG * WIDE)
    nn.init.zeros_(net.head.weight)
    net.head.weight.requires_grad_(False)
    assert "do not" in train(tmp_path, net).absent["leak"]
    net = Net(nn.Sequential(encoder(False), nn.Flatten()), LONG * WIDE)
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    assert train(tmp_path, net, epochs=20).facts["leak"]["changed"] == 1.0


def test_watching_changes_neither_weights_nor_random_numbers_nor_metrics(tmp_path: Path) -> None:
    ends = []
    for probes in ([], [LeakProbe()]):
        seed_everything(0, verbose=False)
        net = Net(nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.BatchNorm1d(32), nn.Dropout(0.5)), 32)
        trainer(tmp_path, *probes, max_epochs=12).fit(net, loader())
        state = {**net.state_dict(), "metric": net.mean_loss.compute(), "random": torch.rand(4)}
        ends.append({name: value.clone() for name, value in state.items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert probes[0].report is not None
    assert probes[0].report.history.facts["leak"]["tested"]


def test_it_runs_twice_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr("lightning_doctor.callbacks.leaks.Rehearsal", lambda *_: runs.append(1))
    train(tmp_path, Net(perceptron(), 32), epochs=40)
    assert len(runs) == 2


def test_a_step_that_fails_apart_from_the_run_is_the_reason(tmp_path: Path) -> None:
    class Counts(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not self.training:
                raise RuntimeError("not in eval mode")
            return super().training_step(batch, batch_idx)

    history = train(tmp_path, Counts(perceptron(), 32))
    assert history.absent["leak"] == "a rehearsed training step failed (RuntimeError: not in eval mode)"


def test_beside_a_doctor_it_shares_the_history(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    trainer(tmp_path, doctor, LeakProbe(), max_epochs=1).fit(Net(perceptron(), 32), loader())
    assert doctor.report is not None
    assert doctor.report.history.facts["leak"]["tested"]


def test_rows_that_are_known_by_their_names_are_exchanged_with_them(tmp_path: Path) -> None:
    history = train(tmp_path, Strings(perceptron(), 32), loader(collate_fn=names))
    assert history.fact("leak.changed") == 0.0


class Reader(nn.Module):
    """A recurrent layer over sequences [N, 16, 8] whose last output is read."""

    def __init__(self, kind: type[nn.RNNBase], *, batch_first: bool, forget: float | None = None) -> None:
        super().__init__()
        self.layer = kind(WIDE, 16, batch_first=batch_first)
        if forget is not None:
            nn.init.constant_(self.layer.bias_hh_l0[16:32], forget)
            nn.init.constant_(self.layer.weight_hh_l0[16:32], 0.0)
            nn.init.constant_(self.layer.weight_ih_l0[16:32], 0.0)

    def forward(self, rows: Tensor) -> Tensor:
        states = self.layer(rows if self.layer.batch_first else rows.transpose(0, 1))[0]
        last: Tensor = states[:, -1] if self.layer.batch_first else states[-1]
        return last


def recurrence(folder: Path, body: nn.Module, rows: Tensor) -> Any:
    labels = (rows.mean((1, 2)) > 0).long()
    net = Net(body, 16)
    doctor = Doctor(overhead=1.0, strict=True)
    trainer(folder, doctor, max_epochs=30).fit(net, DataLoader(TensorDataset(rows, labels), BATCH, shuffle=True))
    assert doctor.report is not None
    history = doctor.report.history
    assert history.fact("leak.tested")
    return history.fact("recurrence") or history.absent["recurrence"]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("forget", "deaf"), [(-12.0, True), (12.0, False)], ids=["closed", "open"])
def test_what_a_recurrent_layer_forgets_of_its_first_time_steps_is_seen(
    tmp_path: Path, batch_first: bool, forget: float, deaf: bool
) -> None:
    seed_everything(0, verbose=False)
    body = Reader(nn.LSTM, batch_first=batch_first, forget=forget)
    fact = recurrence(tmp_path, body, torch.randn(6 * BATCH, 16, WIDE))
    assert (fact["layer"], fact["time_steps"]) == ("body.layer", 16)
    assert fact["late"] > 0.1
    assert (fact["early"] < 1e-3 * fact["late"]) is deaf


@pytest.mark.parametrize("rows", ["padded", "short", "packed"])
def test_time_steps_that_are_alike_few_or_packed_tell_nothing(tmp_path: Path, rows: str) -> None:
    seed_everything(0, verbose=False)
    values = torch.randn(6 * BATCH, 6 if rows == "short" else 16, WIDE)
    if rows == "padded":
        values[:, 8:] = 0.0
    body: nn.Module = Reader(nn.GRU, batch_first=True)
    if rows == "packed":
        layer = nn.GRU(WIDE, 16, batch_first=True)
        body = Via(
            lambda gru, x: gru(nn.utils.rnn.pack_padded_sequence(x, [16] * len(x), batch_first=True))[1][0], layer
        )
    assert recurrence(tmp_path, body, values) == (
        "the time steps of the recurrent layer are few, packed, or alike in all samples"
    )


def test_without_a_recurrent_layer_there_is_nothing_to_hear(tmp_path: Path) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(16 * WIDE, 16), nn.ReLU())
    assert recurrence(tmp_path, body, torch.randn(6 * BATCH, 16, WIDE)) == "the model has no recurrent layer"


class Touchy(Reader):
    """Takes the same values only, from the second trial on."""

    def __init__(self) -> None:
        super().__init__(nn.GRU, batch_first=True)
        self.layer.register_forward_pre_hook(self._check)

    def _check(self, layer: nn.Module, args: Any) -> None:
        if not layer.training and layer._forward_pre_hooks and len(layer._forward_pre_hooks) > 2:
            raise ValueError("other values")


def test_a_layer_that_takes_no_other_values_keeps_what_was_found_of_the_rows(tmp_path: Path) -> None:
    assert "other values" in recurrence(tmp_path, Touchy(), torch.randn(6 * BATCH, 16, WIDE))
