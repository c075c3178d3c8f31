from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_doctor.callbacks.updates import UpdateMonitor
from tests.callbacks.watched import EXAMINED, watch
from tests.runs import DigitsNet, digits, fit, flat, trainer


class Small(DigitsNet):
    """No tensor has over 1024 elements, so that samples are whole; what happens at each step is written down."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        self.weights: list[list[Tensor]] = []
        self.gradients: list[Tensor] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.weights.append([p.detach().double() for p in self.parameters()])
        gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in self.parameters()]
        self.gradients.append(torch.cat([gradient.double().reshape(-1) for gradient in gradients]))

    def on_train_end(self) -> None:
        self.weights.append([p.detach().double() for p in self.parameters()])


def norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([tensor.reshape(-1) for tensor in tensors]).norm())


def moves(net: Small, step: int, first: int = 0, last: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """The weights before a step and what it added, of some of the tensors."""
    before, after = net.weights[step][first:last], net.weights[step + 1][first:last]
    return before, [b - a for a, b in zip(before, after, strict=True)]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one, other, dim=0))


def test_plain_descent_moves_by_the_rate_times_the_gradient(tmp_path: Path) -> None:
    history = watch(tmp_path, net := Small(lr=0.3))
    expected = [0.3 * float(net.gradients[s].norm()) / norm(net.weights[s]) for s in EXAMINED]
    assert history["update_ratio"].steps == EXAMINED
    # A difference of float32 weights carries their rounding, 1e-7, over an update of 1e-3 or more.
    assert history["update_ratio"].values == pytest.approx(expected, rel=1e-3)
    assert history["weight_norm"].values == pytest.approx([norm(net.weights[s]) for s in EXAMINED], rel=1e-6)


def test_a_layer_has_a_ratio_of_its_own_over_all_its_tensors(tmp_path: Path) -> None:
    history = watch(tmp_path, net := Small(optimizer=torch.optim.Adam, lr=0.01))
    for name, first, last in [("net.0", 0, 2), ("net.2", 2, 4)]:
        pairs = [moves(net, s, first, last) for s in EXAMINED]
        assert history[f"update_ratio/{name}"].values == pytest.approx([norm(u) / norm(w) for w, u in pairs], rel=1e-4)
        assert history[f"weight_norm/{name}"].values == pytest.approx([norm(w) for w, _ in pairs], rel=1e-6)
    assert history.names("update_ratio/") == ["update_ratio/net.0", "update_ratio/net.2"]


def test_of_many_layers_64_are_kept_from_first_to_last(tmp_path: Path) -> None:
    class Deep(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 4), *(nn.Linear(4, 4) for _ in range(126)), nn.Linear(4, 10))

    names = watch(tmp_path, Deep(), max_epochs=1).names("update_ratio/")
    assert names == [f"update_ratio/net.{i}" for i in range(0, 128, 2)]


def test_a_large_layer_is_estimated_from_a_sample(tmp_path: Path) -> None:
    class Wide(Small):
        def __init__(self) -> None:
            super().__init__(lr=0.3)
            self.net = nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 10))

    history = watch(tmp_path, net := Wide())
    expected = [norm(moves(net, s)[1]) / norm(net.weights[s]) for s in EXAMINED]
    # 1024 of 32768 and of 5120 elements: squares of either sum err by about sqrt(2/1024), ratios by half of that each;
    # four of these.
    assert history["update_ratio"].values == pytest.approx(expected, rel=4 * 0.03)
    assert history["update_ratio"].values != pytest.approx(expected, rel=1e-6)
    cosines = [cosine(net.gradients[s - 1], net.gradients[s]) for s in EXAMINED[1:]]
    assert history["gradient_cosine"].values == pytest.approx(cosines, abs=4 * 0.03)


def test_successive_gradients_and_updates_are_compared(tmp_path: Path) -> None:
    history = watch(tmp_path, net := Small(lr=0.3, momentum=0.9), gradient_clip_val=0.1)
    expected = [cosine(net.gradients[s - 1], net.gradients[s]) for s in EXAMINED[1:]]
    # Step 0 has none before it.
    assert history["gradient_cosine"].steps == EXAMINED[1:]
    assert history["gradient_cosine"].values == pytest.approx(expected, abs=1e-4)
    updates = [torch.cat([u.reshape(-1) for u in moves(net, s)[1]]) for s in range(20)]
    expected = [cosine(updates[s - 1], updates[s]) for s in EXAMINED[1:]]
    assert history["update_cosine"].steps == EXAMINED[1:]
    assert history["update_cosine"].values == pytest.approx(expected, abs=1e-3)
    # Momentum turns more slowly than the gradient.
    assert min(history["update_cosine"].values) > max(history["gradient_cosine"].values)


def test_steps_are_compared_not_micro_batches(tmp_path: Path) -> None:
    history = watch(tmp_path, net := Small(lr=0.3), accumulate_grad_batches=3, max_epochs=3)
    assert len(net.gradients) == 12
    steps = [1, 3, 7]
    assert history["gradient_cosine"].steps == steps
    expected = [cosine(net.gradients[s - 1], net.gradients[s]) for s in steps]
    assert history["gradient_cosine"].values == pytest.approx(expected, abs=1e-4)
    ratios = [norm(moves(net, s)[1]) / norm(net.weights[s]) for s in [0, *steps]]
    assert history["update_ratio"].values == pytest.approx(ratios, rel=1e-3)
    assert history["gradients_kept"].values == [0.0, 0.0, 0.0]


def test_a_rate_past_the_edge_turns_the_gradient_round(tmp_path: Path) -> None:
    class Bowl(LightningModule):
        """Half the square of two weights: each step multiplies them by 1 - lr."""

        def __init__(self, lr: float) -> None:
            super().__init__()
            self.lr, self.w = lr, nn.Parameter(torch.tensor([3.0, 4.0]))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.w.square().sum() / 2

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    assert watch(tmp_path, Bowl(1.9))["gradient_cosine"].values == pytest.approx([-1.0] * 4)
    history = watch(tmp_path, Bowl(0.1))
    assert history["gradient_cosine"].values == pytest.approx([1.0] * 4)
    assert history["update_ratio"].values == pytest.approx([0.1] * 5, rel=1e-4)
    # A parameter of the module itself has no layer's name.
    assert history["weight_norm/(root)"].values[0] == 5.0


def test_a_layer_of_zeros_has_no_ratio(tmp_path: Path) -> None:
    class Zero(Small):
        def __init__(self) -> None:
            super().__init__(lr=0.0)
            nn.init.zeros_(self.net[2].weight)
            nn.init.zeros_(self.net[2].bias)

    history = watch(tmp_path, Zero())
    assert "update_ratio/net.2" not in history
    assert history["weight_norm/net.2"].values == [0.0] * 5
    assert history["update_ratio/net.0"].values == [0.0] * 5


def test_zero_shares_count_elements_that_are_exactly_zero(tmp_path: Path) -> None:
    class Blind(Small):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images = batch[0].clone()
            # These inputs never differ from zero, and their columns get no gradient.
            images[:, :32] = 0
            return super().training_step((images, batch[1]), batch_idx)

    history = watch(tmp_path, net := Blind())
    shares = [float((gradient == 0).double().mean()) for gradient in net.gradients]
    assert history["zero_gradient_share"].values == pytest.approx([shares[s] for s in EXAMINED])
    assert min(shares) > 0.4
    assert history["zero_gradient_share/net.2"].values == [0.0] * 5


def test_every_signal_is_there_or_has_a_reason(tmp_path: Path) -> None:
    history = watch(tmp_path, Small())
    missing = {name: history.absent.get(name) for name in UpdateMonitor.signals if name not in history}
    assert missing == {"loss_scale": "there is no fp16 scaler", "parameters": None}
    assert history.facts["parameters"]["steps"] == 5


def test_weights_that_are_not_finite_are_a_reason(tmp_path: Path) -> None:
    class Broken(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            nn.init.constant_(self.net[0].weight, float("nan"))

    history = watch(tmp_path, Broken())
    assert "update_ratio" not in history
    assert history.absent["update_ratio"] == "no examined step had trained weights that were finite and not zero"
    assert history.absent["gradient_cosine"] == "no two successive gradients were finite and not zero"


def scaler(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))


def test_under_a_scaler_its_scale_is_recorded_and_cosines_do_not_mind(tmp_path: Path) -> None:
    scaled = watch(tmp_path, DigitsNet(), plugins=[scaler(1024.0)])
    plain = watch(tmp_path, DigitsNet())
    assert scaled["loss_scale"].values == [1024.0] * 5
    # fp16 carries three digits.
    assert scaled["gradient_cosine"].values == pytest.approx(plain["gradient_cosine"].values, abs=2e-2)
    assert scaled["update_ratio"].values == pytest.approx(plain["update_ratio"].values, rel=2e-2)


def test_a_step_that_the_scaler_skips_says_nothing_of_updates(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), plugins=[scaler(2.0**60)])
    assert "update_ratio" not in history
    assert history.facts["parameters"]["unchanged"] == []
    scales = history["loss_scale"].values
    assert scales == sorted(scales, reverse=True)
    assert scales[-1] < scales[0]


def test_underflow_in_half_precision_shows_as_zeros(tmp_path: Path) -> None:
    class Tiny(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * 1e-6

    lost = watch(tmp_path, Tiny(), plugins=[scaler(1.0)])["zero_gradient_share"].values
    kept = watch(tmp_path, Tiny(), plugins=[scaler(2.0**16)])["zero_gradient_share"].values
    assert min(lost) > max(kept) + 0.1


def test_a_batch_without_a_loss_is_passed_over(tmp_path: Path) -> None:
    class Skipping(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return (
                None
                if self.trainer.fit_loop.epoch_loop._batches_that_stepped in (3, 6)
                else super().training_step(batch, batch_idx)
            )

    history = watch(tmp_path, Skipping())
    assert history["update_ratio"].steps == [0, 1, 7, 15]
    # The step before 7 had no gradient.
    assert history["gradient_cosine"].steps == [1, 15]
    assert history.facts["parameters"]["no_gradient"] == history.facts["parameters"]["unchanged"] == []


@pytest.mark.parametrize("too_late", [True, False])
def test_gradients_set_to_zero_between_backward_and_step_move_nothing(tmp_path: Path, too_late: bool) -> None:
    class Manual(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            if too_late:
                optimizer.zero_grad()
            optimizer.step()

    history = watch(tmp_path, Manual())
    parameters = history.facts["parameters"]
    assert parameters["steps"] >= 4
    assert parameters["counts"]["no_gradient"] == (parameters["trained"] if too_late else 0)
    assert any(history["update_ratio"].values) is not too_late


def test_lbfgs_is_measured_over_its_whole_step(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(optimizer=torch.optim.LBFGS, lr=0.1, max_iter=3))
    assert history["update_ratio"].steps == EXAMINED
    assert set(history["gradients_kept"].values) == {0.0}


def test_a_compiled_model_is_measured_but_for_the_gradients_kept(tmp_path: Path) -> None:
    class Compiled(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

    history = watch(tmp_path, Compiled())
    assert history["update_ratio/net.0"].steps == EXAMINED
    assert history.absent["gradients_kept"] == "the model is compiled"
    assert history.facts["parameters"]["last_layer"] == {"name": "net.2", "trained": True}


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": torch.optim.Adam, "lr": 0.01}, {"optimizer": torch.optim.LBFGS, "lr": 0.1, "max_iter": 3}],
)
def test_weights_gradients_and_random_numbers_are_the_same_with_and_without(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    def train(*callbacks: Any) -> tuple[Tensor, list[Any], Tensor]:
        net = DigitsNet(**options)
        net.net.insert(1, nn.Dropout(0.3))
        fit(tmp_path, net, *callbacks, validate=False, max_epochs=5)
        return flat(net), [p.grad for p in net.parameters()], torch.get_rng_state()

    monitor = UpdateMonitor()
    monitor.settings.strict, monitor.settings.every_n_steps, monitor.settings.overhead = True, 1, 1.0
    watched, plain = train(monitor), train()
    assert monitor.report is not None
    # The first windows are longer whatever was asked for.
    assert monitor.report.history["update_ratio"].steps == [0, 1, 3, 7, 15, *range(31, 50)]
    assert torch.equal(watched[0], plain[0])
    assert all(torch.equal(a, b) for a, b in zip(watched[1], plain[1], strict=True))
    assert torch.equal(watched[2], plain[2])


def test_the_model_is_let_go(tmp_path: Path) -> None:
    monitor, net = UpdateMonitor(), DigitsNet()
    run = trainer(tmp_path, monitor)
    run.fit(net, digits())
    there = weakref.ref(net.net[0].weight)
    # Lightning itself ties its callbacks and the model together.
    monitor.__dict__.pop("log", None)
    monitor.__dict__.pop("log_dict", None)
    del run, net
    gc.collect()
    assert there() is None
    assert monitor.report is not None


def test_nothing_is_read_from_the_device_until_the_window_closes(tmp_path: Path) -> None:
    class Reads(TorchDispatchMode):
        """On a CPU a blocking read is this operator."""

        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Reads.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    class Counted(UpdateMonitor):
        def before_step(self, *args: Any) -> None:
            with Reads():
                super().before_step(*args)

        def after_batch(self, *args: Any) -> None:
            with Reads():
                super().after_batch(*args)

        def examine_loss(self, *args: Any) -> None:
            with Reads():
                super().examine_loss(*args)

    monitor = Counted()
    fit(tmp_path, DigitsNet(lr=torch.tensor(0.1)), monitor, validate=False)
    assert monitor.report is not None
    assert monitor.report.history["update_ratio"].steps == EXAMINED
    assert Reads.count == 0


def test_it_works_where_only_deterministic_operations_are_allowed(tmp_path: Path) -> None:
    try:
        history = watch(tmp_path, DigitsNet(), deterministic=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert history["update_ratio"].steps == EXAMINED
