from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.budget import Budget
from lightning_doctor.callbacks.allowance import Allowance
from lightning_doctor.callbacks.curvature import CurvatureProbe
from lightning_doctor.callbacks.gauges import GAUGES
from lightning_doctor.callbacks.hand_step import SEVERAL
from lightning_doctor.callbacks.meeting import Meeting
from lightning_doctor.callbacks.point import Point
from lightning_doctor.history import History
from lightning_doctor.measure.verdict import CriticalPoint
from lightning_doctor.sinks.curvature import DENSITY_TAG, LINE_TAG
from lightning_doctor.sinks.tensorboard import SPECTRUM_TAG
from tests.callbacks.test_scans import ByHand
from tests.runs import DigitsNet, digits, fit, trainer


def probed(folder: Path, module: LightningModule, **options: Any) -> History:
    """Trains under a probe that asks for a verdict after eight steps; returns what it left."""
    probe = options.pop("probe", None) or CurvatureProbe(samples=64, every_n_steps=8)
    probe.settings.strict = True
    probe.settings.overhead = 1.0
    data = options.pop("data", None)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # A slow machine would have its verdict at another step.
        patch.setattr(Budget, "left", lambda _: 1e9)
        patch.setattr(Budget, "has_earned", lambda *_: True)
        trainer(folder, probe, **options).fit(module, digits() if data is None else data)
    assert probe.report is not None
    return probe.report.history


def verdict(history: History) -> dict[str, Any]:
    assert "curvature" in history.facts, history.absent.get("curvature")
    return dict(history.facts["curvature"])


class Regression(LightningModule):
    """Any network under a squared error, on made data."""

    def __init__(self, net: nn.Module, lr: float = 0.01) -> None:
        super().__init__()
        self.net = net
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def made(inputs: Tensor, width: int, batch_size: int = 16) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(len(inputs), width, generator=generator)
    return DataLoader(TensorDataset(inputs, targets), batch_size)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_deep_linear_network_at_its_saddle_is_said_to_be_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(2)])
    for layer in net:
        nn.init.normal_(layer.weight, 0, 1e-4)  # type: ignore[arg-type]
    data = inputs(256, 6)
    loader = DataLoader(TensorDataset(data, data @ torch.diag(torch.arange(1.0, 7))), 16)
    found = verdict(probed(tmp_path, Regression(net, 1e-4), data=loader))
    assert found["kind"] == "saddle"
    assert found["gradient"]["near_zero"]
    assert found["escape"]["fall"] > 0
    assert found["low"]["value"] < 0
    # Two layers of zeros: the Hessian is that of pairs of weights, with eigenvalues ±2/6·σ for each σ of the map.
    assert found["low"]["value"] == pytest.approx(-found["high"]["value"], rel=0.05)
    assert (found["samples"], found["tested"], found["held_out"]) == (64, 64, True)


def test_a_linear_regression_has_the_curvature_of_its_inputs(tmp_path: Path) -> None:
    data = inputs(16, 3)
    loader = DataLoader(TensorDataset(data, data.sum(1, keepdim=True)), 16)
    net = nn.Linear(3, 1, bias=False)
    history = probed(tmp_path, Regression(net, 0.3), data=loader, max_epochs=400)
    found = verdict(history)
    exact = torch.linalg.eigvalsh(2 * data.T.double() @ data.double() / 16)
    # float32 products of a Hessian whose entries are of the order of one.
    assert found["low"]["value"] == pytest.approx(float(exact[0]), rel=1e-4)
    assert found["high"]["value"] == pytest.approx(float(exact[-1]), rel=1e-4)
    assert found["kind"] == "minimum"
    assert not found["held_out"]
    # A full batch: what the second order says of a step of 0.3 along its own gradient is lr·gᵀHg/2gᵀg.
    sharpness, ratio = history["curvature/sharpness"], history["curvature/step_ratio"]
    assert ratio.values[0] == pytest.approx(0.3 * sharpness.values[0] / 2, rel=0.5)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 24)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        result: Tensor = self.out(mixed[:, 0].mean(1))
        return result


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(8, 6, batch_first=True)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.cells(x)[0][:, -1])
        return result


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.first, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(checkpoint(self.body, self.first(x), use_reentrant=self.reentrant))
        return result


class Detached(torch.autograd.Function):
    """tanh whose backward pass is a constant to autograd: it drops the curvature."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.slope = (1 - y**2).detach()
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * ctx.slope


class Once(torch.autograd.Function):
    """tanh that can be differentiated once only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * (1 - ctx.saved_tensors[0] ** 2)


class Custom(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function
        self.first, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.function.apply(3 * self.first(x)))
        return result


class Tripled(nn.Module):
    """What :class:`Custom` is, of PyTorch's own functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return (3 * self.first(x)).tanh()  # type: ignore[no-any-return]


def sequence(*shape: int) -> DataLoader[Any]:
    return made(inputs(256, *shape), 2)


@pytest.mark.parametrize(
    ("net", "shape", "backend"),
    [
        (Attention, (5, 8), "exact"),
        (Recurrent, (5, 8), "exact"),
        (lambda: Checkpointed(reentrant=False), (8,), "exact"),
        (lambda: Checkpointed(reentrant=True), (8,), "finite differences"),
        (lambda: Custom(Once), (8,), "finite differences"),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)), (8,), "exact"),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)), (8,), "exact"),
        (
            lambda: nn.Sequential(nn.Conv1d(5, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(24, 2)),
            (5, 8),
            "exact",
        ),
    ],
    ids=["attention", "recurrent", "checkpoint", "reentrant", "once", "batch norm", "dropout", "group norm"],
)
def test_whatever_the_network_is_made_of_a_way_to_its_curvature_is_found(
    tmp_path: Path, net: Any, shape: tuple[int, ...], backend: str
) -> None:
    torch.manual_seed(0)
    found = verdict(probed(tmp_path, Regression(net()), data=sequence(*shape)))
    assert found["backend"].startswith(backend)
    assert found["kind"] in ("slope", "saddle", "minimum", "inconclusive")
    assert found["products"] > 1


def test_a_function_that_drops_curvature_is_found_out_and_differenced(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = verdict(probed(tmp_path, Regression(Custom(Detached)), data=sequence(8)))
    torch.manual_seed(0)
    honest = verdict(probed(tmp_path, Regression(nn.Sequential(Tripled(), nn.Linear(8, 2))), data=sequence(8)))
    assert found["backend"] == "finite differences"
    assert any("drops curvature" in note for note in found["notes"])
    assert honest["backend"] == "exact"
    # Both are the same function of the same weights; float64 differences against float32 products.
    assert found["high"]["value"] == pytest.approx(honest["high"]["value"], rel=1e-3)
    assert found["low"]["value"] == pytest.approx(honest["low"]["value"], rel=1e-3)


def test_a_compiled_model_is_probed_on_an_eager_copy(tmp_path: Path) -> None:
    module = DigitsNet()
    module.compile(backend="eager")
    found = verdict(probed(tmp_path, module))
    assert found["backend"] == "exact"


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_are_probed_too(tmp_path: Path, precision: str) -> None:
    found = verdict(probed(tmp_path, DigitsNet(), precision=precision))
    assert found["backend"] == "exact"
    assert found["high"]["value"] > 0


def test_fp16_under_a_scaler_is_probed_too(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    found = verdict(probed(tmp_path, DigitsNet(), plugins=[plugin]))
    assert found["backend"] == "exact"
    assert found["high"]["value"] > 0


class OnceInFloat32(Once):
    """Nor is it made for float64, in which it could be differenced."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise TypeError("no kernel for double")
        return Once.forward(ctx, x)


def test_where_there_is_no_way_to_curvature_the_operator_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    history = probed(tmp_path, Regression(Custom(OnceInFloat32)), data=sequence(8))
    assert "OnceInFloat32" in history.absent["curvature"]
    assert "no kernel for double" in history.absent["curvature"]
    assert "curvature" not in history.facts


def test_tensorboard_shows_numbers_spectrum_density_and_line(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path, name="run", version=0)
    found = probed(tmp_path, DigitsNet(), logger=board)
    assert "line" in verdict(found)
    board.finalize("success")
    # Images of any size.
    events = EventAccumulator(board.log_dir, size_guidance={"images": 0}).Reload()
    shown = {f"doctor/{name}" for name in GAUGES if name in found.names()}
    assert "doctor/curvature/high" in shown
    assert shown <= set(events.Tags()["scalars"])
    assert SPECTRUM_TAG in events.Tags()["histograms"]
    assert {DENSITY_TAG, LINE_TAG} <= set(events.Tags()["images"])


class Manual(DigitsNet):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
        optimizer.step()


def test_a_step_by_hand_is_probed_by_the_loss_that_it_sends_backward(tmp_path: Path) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(module.net(batch[0]), batch[1])

    probe = CurvatureProbe(samples=64, every_n_steps=8, probe_loss=loss)
    given = verdict(probed(tmp_path / "given", Manual(), probe=probe))
    assert given["backend"] == "exact"
    assert verdict(probed(tmp_path / "sent", Manual())) == given


def test_several_optimizers_have_no_curvature_in_common(tmp_path: Path) -> None:
    assert probed(tmp_path, ByHand()).absent["curvature"] == SEVERAL


class Raising(DigitsNet):
    """Fails wherever it is run apart from the run."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if type(self.trainer).__name__ != "Trainer":
            raise ValueError("not without the real Trainer")
        return super().training_step(batch, batch_idx)


def test_a_step_that_cannot_be_rehearsed_is_said_once_and_the_run_goes_on(tmp_path: Path) -> None:
    history = probed(tmp_path, Raising())
    assert "not without the real Trainer" in history.absent["curvature"]


@pytest.mark.parametrize(("lr", "keeps"), [(1e-4, True), (0.1, False)])
def test_a_verdict_that_time_cut_short_replaces_none_that_still_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lr: float, keeps: bool
) -> None:
    judged = []
    original = Point.judge

    def judge(self: Point, most: int) -> CriticalPoint:
        point = original(self, most)
        judged.append(point.kind)
        return point if len(judged) == 1 else replace(point, kind="inconclusive", cut_short=True)

    monkeypatch.setattr(Point, "judge", judge)
    net = nn.Linear(6, 6, bias=False)
    data = inputs(512, 6)
    loader = DataLoader(TensorDataset(data, data @ torch.diag(torch.arange(1.0, 7))), 16)
    found = verdict(probed(tmp_path, Regression(net, lr), data=loader))
    assert len(judged) > 2
    assert judged[0] == "slope"
    assert (found["kind"] == "slope") is keeps
    assert (found["step"] < 16) is keeps


def test_memory_that_runs_out_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_doctor.measure.landscape import Landscape

    rows = []
    original = Landscape.hessian

    def hessian(self: Landscape, batch: Any) -> Any:
        rows.append(sum(len(sample[0][0]) for sample in batch))
        if rows[-1] > 16:
            raise torch.OutOfMemoryError("no memory left")
        return original(self, batch)

    monkeypatch.setattr(Landscape, "hessian", hessian)
    found = verdict(probed(tmp_path, DigitsNet()))
    assert found["samples"] <= 16
    assert max(rows) > 16
    assert any("memory" in note for note in found["notes"])
    # Of whole batches, which products take no memory of.
    assert "too few" not in found["noise_scale"].get("reason", "")


def test_a_verdict_that_would_take_the_last_memory_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twice three vectors and six products of the 2,410 weights.
    weights = 4 * sum(parameter.numel() for parameter in DigitsNet().parameters())
    monkeypatch.setattr("lightning_doctor.callbacks.curvature.free_memory", lambda *_: 18 * weights)
    monkeypatch.setattr(Allowance, "_activations", lambda *_: (0.0, 0.0))
    history = probed(tmp_path, DigitsNet())
    assert "curvature" not in history.facts
    assert history.absent["curvature"] == "the vectors of a verdict do not fit into the memory that is free"
    assert len(history["curvature/sharpness"]) > 0


def test_memory_that_others_took_since_leaves_an_earlier_verdict_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([1 << 40])
    monkeypatch.setattr("lightning_doctor.callbacks.curvature.free_memory", lambda *_: next(free, 0))
    history = probed(tmp_path, DigitsNet(), probe=CurvatureProbe(samples=64, every_n_steps=4))
    assert len(history["curvature/high"]) == 1
    assert "curvature" in history.facts
    assert "curvature" not in history.absent


def test_where_hardly_any_memory_is_left_nothing_is_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_doctor.callbacks.curvature.free_memory", lambda *_: 0)
    history = probed(tmp_path, DigitsNet())
    assert "curvature/sharpness" not in history
    assert history.absent["curvature"] == "a probe does not fit into the memory that is free"


@pytest.mark.parametrize(("option", "value"), [("samples", 1), ("every_n_steps", 0)])
def test_options_that_cannot_be_are_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        CurvatureProbe(**{option: value})  # type: ignore[arg-type]


class Everything(DigitsNet):
    """Dropout, batch normalisation, a metric, an attribute that grows, and random numbers in the step."""

    def __init__(self, optimizer: type[torch.optim.Optimizer]) -> None:
        super().__init__(lr=1e-3, optimizer=optimizer)
        from torchmetrics.classification import MulticlassAccuracy

        self.net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))
        self.accuracy = MulticlassAccuracy(10)
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        scores = self.net(images + 0.1 * torch.randn_like(images))
        loss = nn.functional.cross_entropy(scores, labels)
        self.accuracy(scores.detach(), labels)
        self.log("train_acc", self.accuracy)
        self.seen.append(float(loss.detach()))
        return loss


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_watching_changes_nothing(tmp_path: Path, optimizer: type[torch.optim.Optimizer]) -> None:
    def run(*callbacks: Any) -> tuple[Everything, Tensor]:
        torch.manual_seed(3)
        module = Everything(optimizer)
        torch.manual_seed(4)
        fit(tmp_path, module, *callbacks, validate=False)
        return module, torch.get_rng_state()

    plain, state = run()
    probe = CurvatureProbe(samples=64, every_n_steps=4)
    probe.settings.strict = True
    watched, watched_state = run(probe)
    assert probe.report is not None
    assert verdict(probe.report.history)["products"] > 1
    assert torch.equal(state, watched_state)
    assert plain.seen == watched.seen
    theirs = watched.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())


class ByFunctions(DigitsNet):
    """Reaches its parts by functions that it holds: a hook that keeps features, a loss that runs the network."""

    def __init__(self) -> None:
        super().__init__(lr=0.05)
        self.net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10))
        self.features: list[Tensor] = []
        self.net[2].register_forward_hook(lambda _, inputs, outputs: self.features.append(outputs))

        def score(batch: Any) -> Tensor:
            images, labels = batch
            loss = nn.functional.cross_entropy(self.net(images), labels)
            return loss + 0.01 * self.features[-1].square().mean()

        self.score = score

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.score(batch)


def test_a_model_that_reaches_itself_by_functions_is_probed_on_a_copy_all_the_same(tmp_path: Path) -> None:
    def run(*callbacks: Any) -> ByFunctions:
        torch.manual_seed(3)
        module = ByFunctions()
        fit(tmp_path, module, *callbacks, validate=False)
        return module

    doctor = Doctor(strict=True, overhead=1.0)
    probe = CurvatureProbe(samples=64, every_n_steps=4)
    plain, watched = run(), run(doctor, probe)
    assert doctor.report is not None
    history = doctor.report.history
    assert verdict(history)["products"] > 1
    assert all(norm > 0 for norm in history["curvature/gradient_norm"].values)
    assert len(history["scan/1"]) >= 3
    assert len(watched.features) == len(plain.features)
    theirs = watched.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())


class Elsewhere(DigitsNet):
    """Runs a network that it finds by its name, of which a copy is none."""

    found: DigitsNet

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(Elsewhere.found.net(images), labels)


def test_a_copy_whose_loss_is_that_of_another_model_tells_no_curvature(tmp_path: Path) -> None:
    module = Elsewhere.found = Elsewhere(lr=1e-4)
    doctor = Doctor(strict=True, overhead=1.0)
    fit(tmp_path, module, doctor, CurvatureProbe(samples=64, every_n_steps=4), validate=False)
    assert doctor.report is not None
    history = doctor.report.history
    assert "the loss of a copy does not depend on its weights" in history.absent["curvature/gradient_norm"]
    assert "the loss of a copy does not change with its weights" in history.absent["scan_limit"]
    assert "flat_region" not in {finding.name for finding in doctor.report.findings}


def test_a_doctor_takes_the_probe_that_the_user_made(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), doctor, CurvatureProbe(samples=64, every_n_steps=8), validate=False)
    assert doctor.report is not None
    assert verdict(doctor.report.history)["samples"] == 64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doctor.report.notes == []


def test_the_preconditioned_curvature_comes_last_and_heeds_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    judge, scaled = Point.judge, Point.preconditioned
    monkeypatch.setattr(Point, "judge", lambda *args: asked.append("judge") or judge(*args))
    monkeypatch.setattr(Point, "preconditioned", lambda *args: asked.append("scaled") or scaled(*args))
    monkeypatch.setattr(Meeting, "may_go_on", lambda self: False)
    probe = CurvatureProbe(every_n_steps=20)
    probe.settings.strict = True
    trainer(tmp_path, probe, max_epochs=30).fit(DigitsNet(1e-3, torch.optim.Adam), digits(0, 320, 320))
    assert probe.report is not None
    history = probe.report.history
    assert asked[:2] == ["judge", "scaled"]
    assert "curvature/sharpness" in history
    assert "curvature/preconditioned" not in history
