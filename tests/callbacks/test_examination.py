from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_doctor import Doctor
from lightning_doctor.callbacks.monitor import Monitor
from tests.runs import DigitsNet, digits, fit, flat, trainer


class Listener(Monitor):
    """Writes down what it is told, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.settings.strict = True
        self.settings.overhead = 1.0
        self.calls: list[tuple[int, str]] = []
        self.hooks: list[int] = []

    def before_batch(self, case: Any, batch: Any, batch_idx: int) -> None:
        self.calls.append((case.run.step, f"batch {batch_idx}"))

    def layer_ran(self, case: Any, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        assert not torch.is_grad_enabled()
        self.calls.append((case.run.step, layer))

    def examine_loss(self, case: Any, loss: Tensor) -> None:
        assert loss.grad_fn is not None
        self.hooks.append(sum(len(part._forward_hooks) for part in case.run.module.modules()))
        self.calls.append((case.run.step, "loss"))

    def steps(self, call: str) -> list[int]:
        return [step for step, what in self.calls if what == call]


LAYERS = ["net.0", "net.1", "net.2"]


def test_a_forward_pass_is_seen_layer_by_layer_and_then_its_loss(tmp_path: Path) -> None:
    fit(tmp_path, DigitsNet(), listener := Listener(), max_steps=1)
    assert listener.calls == [(0, "batch 0"), *((0, layer) for layer in LAYERS), (0, "loss")]


def test_first_steps_and_then_every_so_many_are_examined_whatever_validation_does(tmp_path: Path) -> None:
    listener = Listener()
    listener.settings.every_n_steps = 20
    fit(tmp_path, DigitsNet(), listener, max_epochs=10, val_check_interval=7)
    assert listener.steps("loss") == [0, 1, 3, 7, 15, 31, 51, 71, 91]
    assert listener.steps("net.0") == listener.steps("loss")
    assert len([what for _, what in listener.calls if what.startswith("batch")]) == 100


def test_no_hook_is_left_once_the_loss_is_there(tmp_path: Path) -> None:
    net = DigitsNet()
    fit(tmp_path, net, listener := Listener())
    assert listener.hooks == [0] * len(listener.steps("loss"))
    assert all(not part._forward_hooks for part in net.modules())


def test_the_monitors_know_one_step_before_that_a_step_will_be_examined(tmp_path: Path) -> None:
    class Watcher(Listener):
        def before_step(self, case: Any, optimizer: Any) -> None:
            self.calls.append((case.run.step, f"{case.examining} {case.examining_next}"))

    watcher = Watcher()
    watcher.settings.every_n_steps = 10
    fit(tmp_path, DigitsNet(), watcher, max_epochs=6)
    now, coming = (
        {step for step, what in watcher.calls if what.startswith("True")},
        {step for step, what in watcher.calls if what.endswith("True")},
    )
    assert now == {0, 1, 3, 7, 15, 31, 41, 51}
    assert coming == {step - 1 for step in now if step} - {60}


def test_of_several_micro_batches_the_first_is_examined(tmp_path: Path) -> None:
    fit(tmp_path, DigitsNet(), listener := Listener(), accumulate_grad_batches=3, max_steps=2)
    assert listener.steps("net.0") == [0, 1]
    assert listener.steps("loss") == [0, 1]


def test_a_step_that_returns_nothing_takes_the_hooks_off_too(tmp_path: Path) -> None:
    class Silent(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)

    net = Silent()
    fit(tmp_path, net, listener := Listener())
    assert listener.steps("net.0")[:2] == [0, 1]
    assert listener.steps("loss") == []
    assert all(not part._forward_hooks for part in net.modules())


def test_an_exception_in_the_forward_pass_takes_the_hooks_off_too(tmp_path: Path) -> None:
    class Broken(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            raise RuntimeError("the user's own")

    net = Broken()
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(tmp_path, net, Listener())
    assert all(not part._forward_hooks for part in net.modules())


def test_every_backward_pass_of_manual_optimization_shows_its_loss(tmp_path: Path) -> None:
    class Twice(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            for _ in range(2):
                optimizer.zero_grad()
                self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
                optimizer.step()

    fit(tmp_path, Twice(), listener := Listener(), max_epochs=1)
    assert [what for step, what in listener.calls if step == 0] == ["batch 0", *LAYERS, "loss", "loss"]


def test_layers_that_checkpointing_runs_again_are_seen_once(tmp_path: Path) -> None:
    class Saving(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            hidden = checkpoint(self.net[:2], batch[0], use_reentrant=False)
            return nn.functional.cross_entropy(self.net[2](hidden), batch[1])

    saving, plain = Saving(), DigitsNet()
    fit(tmp_path, saving, listener := Listener(), Doctor(strict=True))
    fit(tmp_path, plain)
    assert [what for step, what in listener.calls if step == 1] == ["batch 1", *LAYERS, "loss"]
    assert torch.equal(flat(saving), flat(plain))


def test_a_compiled_model_is_examined_on_an_eager_copy_and_its_graph_is_not_touched(tmp_path: Path) -> None:
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    def train(*callbacks: Any) -> Tensor:
        torch._dynamo.reset()
        graphs.clear()
        net = DigitsNet()
        net.net = torch.compile(net.net, backend=backend)
        run = trainer(tmp_path, *callbacks)
        torch.manual_seed(0)
        run.fit(net, digits(shuffle=False))
        return flat(net)

    watched, seen = train(listener := Listener()), len(graphs)
    plain = train()
    assert seen == len(graphs) > 0
    assert torch.equal(watched, plain)
    assert [what for step, what in listener.calls if step == 0] == ["batch 0", *LAYERS, "loss"]


def test_a_failing_monitor_inside_the_forward_pass_does_not_break_the_run(tmp_path: Path) -> None:
    class Failing(Listener):
        def layer_ran(self, case: Any, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            raise RuntimeError("a bug")

    failing, watched, plain = Failing(), DigitsNet(), DigitsNet()
    failing.settings.strict = False
    fit(tmp_path, watched, failing)
    fit(tmp_path, plain)
    assert torch.equal(flat(watched), flat(plain))
    assert failing.report is not None
    assert [note.splitlines()[0] for note in failing.report.notes] == [
        "Failing failed and is switched off, the run goes on: RuntimeError: a bug"
    ]
