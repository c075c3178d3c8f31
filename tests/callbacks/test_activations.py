from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_doctor.callbacks.activations import ActivationMonitor
from lightning_doctor.history import History
from tests.runs import DigitsNet, fit, flat


class Digits(DigitsNet):
    """Parts by name, and what is done with them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        del self.net
        for name, part in parts.items():
            self.add_module(name, part)
        object.__setattr__(self, "net", lambda values: forward(self, values))


def watched(folder: Path, module: Any, **options: Any) -> History:
    monitor = ActivationMonitor()
    monitor.settings.strict = True
    # Examined steps: 0, 1, 3, 7, 15; the 64 samples of a probe are two batches.
    fit(folder, module, monitor, validate=False, **options)
    assert monitor.report is not None
    assert monitor.report.notes == []
    return monitor.report.history


def layers(history: History) -> list[str]:
    return [entry["layer"] for entry in history.facts["activations"]]


def test_every_layer_has_its_scale_and_is_listed(tmp_path: Path) -> None:
    history = watched(tmp_path, DigitsNet())
    first, second, third = history.facts["activations"]
    # Linear layers say more than this.
    assert first.items() >= {"layer": "net.0", "class": "Linear", "kind": "linear", "units": 32, "last": False}.items()
    assert second == {"layer": "net.1", "class": "ReLU", "kind": "relu", "units": 32, "last": False}
    assert third.items() >= {"layer": "net.2", "class": "Linear", "kind": "linear", "units": 10, "last": True}.items()
    for name in layers(history):
        assert history[f"activation_std/{name}"].steps == [0, 1, 3, 7, 15]
        assert min(history[f"activation_std/{name}"].values) > 0
    assert min(history["activation_mean/net.1"].values) > 0
    assert history["activation_non_finite"].values == [0.0] * 5
    assert history["dead_share"].steps == [1, 7]
    assert "dead_share" not in history.absent
    assert history.absent["saturated_share"] == "the model has no sigmoid or tanh that could be seen"


@pytest.mark.parametrize("functional", [False, True])
def test_units_killed_by_their_bias_are_counted_exactly(tmp_path: Path, functional: bool) -> None:
    act = nn.ReLU(inplace=True)
    module = Digits(
        lambda net, values: net.out(F.relu(net.one(values)) if functional else net.act_(net.one(values))),
        one=nn.Linear(64, 40),
        out=nn.Linear(40, 10),
        **({} if functional else {"act_": act}),
    )
    with torch.no_grad():
        module.one.weight.abs_()
        module.one.bias.fill_(0.1)
        module.one.bias[:12] = -1e4
    history = watched(tmp_path, module)
    name = "relu after one" if functional else "act_"
    assert name in layers(history)
    # 12 / 40 in float32.
    assert history[f"dead_share/{name}"].values == pytest.approx([0.3] * 2, rel=1e-6)
    assert history[f"constant_share/{name}"].values == pytest.approx([0.3] * 2, rel=1e-6)
    assert history["dead_share"].values == pytest.approx([0.3] * 2, rel=1e-6)
    # Overwritten by now, if in place, but measured before.
    assert history["activation_mean/one"].values[0] == pytest.approx(-3000, rel=0.01)


def test_the_whole_share_weighs_layers_by_their_units(tmp_path: Path) -> None:
    module = Digits(
        lambda net, values: net.out(net.b(net.two(net.a(net.one(values))))),
        one=nn.Linear(64, 30),
        a=nn.ReLU(),
        two=nn.Linear(30, 10),
        b=nn.ReLU(),
        out=nn.Linear(10, 10),
    )
    with torch.no_grad():
        for layer in (module.one, module.two):
            layer.weight.abs_()
        module.two.bias[:5] = -1e4
    history = watched(tmp_path, module)
    assert history["dead_share/a"].values == [0.0, 0.0]
    assert history["dead_share/b"].values == [0.5, 0.5]
    assert history["dead_share"].values == pytest.approx([5 / 40] * 2, rel=1e-6)


def test_units_of_a_convolution_are_its_channels(tmp_path: Path) -> None:
    module = Digits(
        lambda net, values: net.out(F.relu(net.norm(net.conv(values.view(-1, 1, 8, 8)))).flatten(1)),
        conv=nn.Conv2d(1, 8, 3),
        norm=nn.BatchNorm2d(8),
        out=nn.Linear(8 * 36, 10),
    )
    with torch.no_grad():
        module.norm.bias[:2] = -1e4
    history = watched(tmp_path, module)
    assert history.facts["activations"][2] == {
        "layer": "relu after norm",
        "class": "relu",
        "kind": "relu",
        "units": 8,
        "last": False,
    }
    assert history["dead_share/relu after norm"].values == [0.25, 0.25]


def test_a_saturated_sigmoid_is_one_with_large_inputs(tmp_path: Path) -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        return net.out(torch.cat([net.act_(net.far(values)), torch.tanh(net.near(values))], 1))

    module = Digits(forward, far=nn.Linear(64, 20), act_=nn.Sigmoid(), near=nn.Linear(64, 20), out=nn.Linear(40, 10))
    with torch.no_grad():
        module.far.weight.mul_(1000)
        module.near.weight.mul_(0.1)
    history = watched(tmp_path, module)
    assert min(history["saturated_share/act_"].values) > 0.9
    assert history["preactivation_std/act_"].values == pytest.approx(history["activation_std/far"].values, rel=1e-5)
    assert max(history["saturated_share/tanh after near"].values) == 0.0
    # Inferred from the outputs, and only once a backward pass has gone well.
    inferred, given = history["preactivation_std/tanh after near"], history["activation_std/near"]
    assert inferred.steps == given.steps[1:]
    assert inferred.values == pytest.approx(given.values[1:], rel=1e-4)
    assert history.absent["dead_share"] == "the model has no ReLU that could be seen"


def test_units_that_all_start_alike_stay_alike(tmp_path: Path) -> None:
    module = DigitsNet()
    with torch.no_grad():
        module.net[0].weight.fill_(0.02)
        module.net[0].bias.zero_()
        module.net[2].weight.zero_()
        module.net[2].bias.zero_()
    history = watched(tmp_path, module)
    assert history["equal_share/net.0"].values == [1.0, 1.0]
    assert history["constant_share/net.0"].values == [0.0, 0.0]
    twin = watched(tmp_path, DigitsNet())
    assert twin["equal_share/net.0"].values == [0.0, 0.0]


def test_a_layer_that_ignores_its_input_is_constant(tmp_path: Path) -> None:
    module = DigitsNet(lr=0.0)
    with torch.no_grad():
        module.net[2].weight.zero_()
    history = watched(tmp_path, module)
    assert history["constant_share/net.2"].values == [1.0, 1.0]
    assert history["equal_share/net.2"].values == [0.0, 0.0]
    assert history["constant_share/net.0"].values == [0.0, 0.0]


def test_the_first_layer_that_is_not_finite_is_named_once(tmp_path: Path) -> None:
    class Late(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == 3:
                with torch.no_grad():
                    self.net[0].bias[0] = math.nan
            return super().training_step(batch, batch_idx)

    history = watched(tmp_path, Late())
    assert history["activation_non_finite"].values == [0.0, 0.0, 3.0, 3.0, 3.0]
    assert [event for event in history.events if event["name"] == "non_finite_activation"] == [
        {"name": "non_finite_activation", "step": 3, "layers": ["net.0", "net.1", "net.2"]}
    ]
    # A series with a NaN could not be judged by any rule.
    assert history["activation_std/net.0"].steps == [0, 1]
    assert all(math.isfinite(value) for name in history.names("activation") for value in history[name].values)


def test_infinity_as_a_mask_is_no_illness(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return torch.cat([values, torch.full_like(values[:, :1], -math.inf)], 1)

    module = Digits(lambda net, values: net.mask(net.out(values)), out=nn.Linear(64, 10), mask=Masked())
    history = watched(tmp_path, module)
    assert history.event("non_finite_activation") is None
    assert "activation_std/mask" not in history
    assert "activation_std/out" in history


def test_a_module_that_returns_a_dict_is_measured(tmp_path: Path) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 10) / 8)

        def forward(self, values: Tensor) -> dict[str, Any]:
            return {"scores": values @ self.weight, "note": "none"}

    history = watched(tmp_path, Digits(lambda net, values: net.head(values)["scores"], head=Head()))
    assert layers(history) == ["head"]
    assert len(history["activation_std/head"]) == 5


def test_a_linear_model_has_no_activations(tmp_path: Path) -> None:
    history = watched(tmp_path, Digits(lambda net, values: net.out(values), out=nn.Linear(64, 10)))
    assert layers(history) == ["out"]
    assert set(history.absent) >= {"dead_share", "saturated_share", "preactivation_std"}


def test_a_model_without_layers_says_so(tmp_path: Path) -> None:
    class Bare(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            del self.net
            self.weight = nn.Parameter(torch.zeros(64, 10))

        def net(self, values: Tensor) -> Tensor:
            return values @ self.weight

    history = watched(tmp_path, Bare())
    assert history.absent["activation_std"] == "no layer has run on an examined step"
    assert "activations" not in history.facts


def test_too_few_samples_are_no_probe(tmp_path: Path) -> None:
    history = watched(tmp_path, DigitsNet(), max_steps=1)
    assert history.absent["dead_share"] == "fewer than 64 samples have been seen"
    assert "activation_std/net.0" in history


def test_checkpointed_blocks_are_left_alone(tmp_path: Path) -> None:
    def build() -> Any:
        torch.manual_seed(0)

        def forward(net: Any, values: Tensor) -> Tensor:
            hidden = checkpoint(lambda values: net.two(F.relu(net.one(values))), values, use_reentrant=False)
            return net.out(F.relu(hidden))

        return Digits(forward, one=nn.Linear(64, 32), two=nn.Linear(32, 32), out=nn.Linear(32, 10))

    alone, beside = build(), build()
    fit(tmp_path, alone, validate=False)
    history = watched(tmp_path, beside)
    assert torch.equal(flat(alone), flat(beside))
    assert layers(history) == ["one", "relu after one", "two", "relu after two", "out"]
    assert "dead_share/relu after two" in history
    assert "dead_share/relu after one" not in history


def test_weights_are_the_same_with_and_without_and_no_hook_stays(tmp_path: Path) -> None:
    def build() -> Any:
        torch.manual_seed(0)

        return Digits(
            lambda net, values: net.out(F.dropout(torch.sigmoid(net.act_(net.one(values))))),
            one=nn.Linear(64, 32),
            act_=nn.ReLU(inplace=True),
            out=nn.Linear(32, 10),
        )

    alone, beside = build(), build()
    fit(tmp_path, alone, validate=False)
    watched(tmp_path, beside)
    assert torch.equal(flat(alone), flat(beside))
    assert not any(module._forward_hooks for module in beside.modules())


def test_nothing_of_the_model_is_kept_after_the_run(tmp_path: Path) -> None:
    monitor = ActivationMonitor()
    fit(tmp_path, DigitsNet(), monitor, validate=False)
    assert not [value for value in vars(monitor).values() if isinstance(value, (Tensor, nn.Module))]
    assert monitor._pass is None
    assert monitor._probes == {}


def test_what_changes_a_saved_output_in_place_fails_as_it_would_alone(tmp_path: Path) -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        hidden = torch.sigmoid(net.one(values))
        hidden += 1
        return net.out(hidden)

    module = Digits(forward, one=nn.Linear(64, 32), out=nn.Linear(32, 10))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        fit(tmp_path, module, ActivationMonitor(), validate=False)
    assert module.global_step == 0


def test_in_manual_optimization_the_first_of_several_losses_is_followed(tmp_path: Path) -> None:
    class Manual(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            images, labels = batch
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(images), labels))
            self.manual_backward(torch.tanh(self.net(images)).square().mean())
            optimizer.step()

    history = watched(tmp_path, Manual())
    # What runs after the first backward pass may be a checkpointed block again, and is not looked at.
    assert layers(history) == ["net.0", "net.1", "net.2"]
    assert len(history["activation_std/net.2"]) == 5


def test_only_so_many_layers_are_measured_from_the_first_to_the_last(tmp_path: Path) -> None:
    parts = [part for _ in range(50) for part in (nn.Linear(64, 64), nn.ReLU())]
    module = Digits(lambda net, values: net.deep(values), deep=nn.Sequential(*parts, nn.Linear(64, 10)))
    history = watched(tmp_path, module, max_steps=4)
    measured = [name.partition("/")[2] for name in history.names("activation_std/")]
    assert len(measured) == 64
    assert {"deep.0", "deep.1", "deep.99", "deep.100"} <= set(measured)
    assert len(layers(history)) == 101
    assert len(history.names("dead_share/")) == 32
