from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_doctor.measure.forward_pass import ForwardPass, Layer


def watch(
    model: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor] = torch.sum, **options: Any
) -> list[Layer]:
    """One pass with hooks on the leaf modules, whose loss is then looked at and sent backward."""
    seen = ForwardPass(0, **{"untold": (), "most": 64, **options})
    for name, module in model.named_modules():
        if module is not model and not list(module.children()):
            module.register_forward_hook(lambda module, given, output, name=name: seen.ran(name, module, given, output))
    final = loss(model(inputs))
    seen.lost(final, read=True)
    final.backward()
    return seen.layers()


class Net(nn.Module):
    """Parts by name, and what is done with them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, values: Tensor) -> Tensor:
        return self.act(self, values)


def sample(*shape: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(shape)


def test_functions_are_named_by_the_layer_before_them() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        values = F.dropout(torch.relu(net.one(values)), 0.5)
        return torch.tanh(net.two(F.silu(values))).sigmoid()

    layers = watch(Net(forward, one=nn.Linear(3, 4), two=nn.Linear(4, 2)), sample(8, 3))
    assert [(layer.name, layer.kind) for layer in layers] == [
        ("one", "linear"),
        ("relu after one", "relu"),
        ("silu after one", "other"),
        ("two", "linear"),
        ("tanh after two", "tanh"),
        ("sigmoid after two", "sigmoid"),
    ]
    assert [layer.name for layer in layers if layer.reading is None] == ["silu after one"]
    assert [layer.name for layer in layers if layer.last] == ["sigmoid after two"]
    assert [layer.units for layer in layers] == [4, 4, 4, 2, 2, 2]


def test_an_activation_module_is_found_once() -> None:
    layers = watch(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.0), nn.Linear(4, 1), nn.Sigmoid()), sample(8, 3)
    )
    assert [layer.name for layer in layers] == ["0", "1", "2", "3", "4"]
    assert [layer.kind for layer in layers] == ["linear", "relu", "dropout", "linear", "sigmoid"]
    assert layers[-1].last


def test_a_function_before_a_module_that_passes_on_what_it_got_is_found() -> None:
    # Dropout at 0 returns its very input.
    net = Net(lambda net, values: net.two(net.drop(F.relu(net.one(values)))), one=nn.Linear(3, 4), drop=nn.Dropout(0.0))
    net.two = nn.Linear(4, 1)
    assert [layer.name for layer in watch(net, sample(8, 3))] == ["one", "relu after one", "drop", "two"]


def test_what_is_overwritten_in_place_was_measured_before() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    values = sample(8, 3)
    expected = float(model[0](values).detach().mean())
    layers = watch(Net(lambda net, values: F.relu_(net.model(values)), model=model), values)
    assert [layer.name for layer in layers] == ["model.0", "model.1", "model.2", "relu after model.2"]
    readings = [layer.reading for layer in layers]
    assert all(reading is not None for reading in readings)
    # The same sum in another order.
    assert float(readings[0].mean) == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]
    assert float(readings[1].low.min()) == 0.0  # type: ignore[union-attr]


def test_channels_are_the_units_of_a_function_after_a_convolution() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        values = F.relu(net.norm(net.conv(values)))
        return F.relu(net.head(values.flatten(1)))

    parts = {"conv": nn.Conv2d(1, 5, 3), "norm": nn.BatchNorm2d(5), "head": nn.Linear(5 * 36, 7)}
    layers = {layer.name: layer for layer in watch(Net(forward, **parts), sample(4, 1, 8, 8))}
    assert layers["relu after norm"].units == 5
    assert layers["relu after norm"].reading.high.shape == (5,)  # type: ignore[union-attr]
    assert layers["relu after head"].units == 7


def test_features_are_the_units_of_a_function_in_a_transformer() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 24, batch_first=True)
    layers = {layer.name: layer for layer in watch(model, sample(4, 5, 8))}
    assert layers["relu after linear1"].units == 24
    assert layers["relu after linear1"].reading.high.shape == (24,)  # type: ignore[union-attr]


def test_an_activation_that_serves_several_layers_is_one_of_each() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        return net.act_(net.two(net.act_(net.one(values))))

    layers = watch(Net(forward, one=nn.Linear(3, 4), two=nn.Linear(4, 6), act_=nn.ReLU()), sample(8, 3))
    assert [(layer.name, layer.units) for layer in layers] == [("one", 4), ("act_", 4), ("two", 6), ("act_#2", 6)]


def test_a_layer_in_a_loop_is_measured_the_first_time() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        for _ in range(50):
            values = torch.tanh(net.cell(values)) + 1
        return net.head(values)

    net = Net(forward, cell=nn.Linear(3, 3), head=nn.Linear(3, 1))
    values = sample(8, 3)
    expected = float(torch.tanh(net.cell(values)).detach().mean())
    layers = watch(net, values)
    assert [layer.name for layer in layers] == ["cell", "tanh after cell", "head"]
    assert float(layers[1].reading.mean) == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]


def test_an_activation_module_in_a_loop_is_followed_sixteen_times() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        for _ in range(50):
            values = net.act_(values * 2 - 1)
        return net.head(values)

    layers = watch(Net(forward, act_=nn.ReLU(), head=nn.Linear(3, 1)), sample(8, 3))
    assert [layer.name for layer in layers] == ["act_", *[f"act_#{i}" for i in range(2, 17)], "head"]


def test_the_gates_of_a_recurrent_layer_are_its_own_business() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        _, (last, _) = net.lstm(torch.relu(net.embed(values)))
        return net.head(last[-1])

    parts = {"embed": nn.Linear(3, 4), "lstm": nn.LSTM(4, 6, batch_first=True), "head": nn.Linear(6, 1)}
    # Its graph alone has more nodes than are looked at.
    layers = watch(Net(forward, **parts), sample(2, 300, 3))
    assert [(layer.name, layer.units) for layer in layers] == [
        ("embed", 4),
        ("relu after embed", 4),
        ("lstm", 6),
        ("head", 1),
    ]


def test_branches_keep_their_own_functions() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        left, right = net.left(values), net.right(values)
        return torch.relu(left) + torch.relu(torch.relu(right + left))

    layers = watch(Net(forward, left=nn.Linear(3, 4), right=nn.Linear(3, 4)), sample(8, 3))
    names = [layer.name for layer in layers]
    assert names == ["left", "relu after left", "right", "relu after right", "relu after right#2"]


def test_a_module_of_the_users_own_is_what_it_ends_in() -> None:
    class Squash(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return torch.sigmoid(values)

    class Pass(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values

    layers = watch(nn.Sequential(nn.Linear(3, 4), Squash(), Pass()), sample(8, 3))
    assert [(layer.type, layer.kind) for layer in layers] == [
        ("Linear", "linear"),
        ("Squash", "sigmoid"),
        ("Pass", "other"),
    ]


def test_functions_without_any_module_are_found() -> None:
    weight = nn.Parameter(sample(3, 4))
    layers = watch(Net(lambda _, values: torch.relu(values @ weight)), sample(8, 3), loss=lambda t: t.square().mean())
    assert layers[-1].name == "relu after the input"
    assert layers[-1].units == 4


def test_a_checkpointed_block_is_named_but_not_read() -> None:
    def gradients(watched: bool) -> list[Tensor]:
        def forward(net: Any, values: Tensor) -> Tensor:
            block = lambda values: torch.relu(net.one(values)) @ net.two.weight  # noqa: E731
            return torch.tanh(checkpoint(block, values, use_reentrant=False))

        net = Net(forward, one=nn.Linear(3, 4), two=nn.Linear(2, 4))
        if watched:
            layers = watch(net, sample(8, 3))
            named = {layer.name: layer.reading is not None for layer in layers if "after" in layer.name}
            assert named == {"relu after one": False, "tanh after one": True}
        else:
            net(sample(8, 3)).sum().backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    watched, alone = gradients(True), gradients(False)
    assert len(watched) == 3
    assert all(torch.equal(one, other) for one, other in zip(watched, alone, strict=True))


def test_a_frozen_trunk_has_no_graph_but_is_seen() -> None:
    trunk = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).requires_grad_(False)
    layers = watch(nn.Sequential(trunk, nn.Linear(4, 1)), sample(8, 3))
    assert [(layer.name, layer.kind) for layer in layers] == [("0.0", "linear"), ("0.1", "relu"), ("1", "linear")]
    assert layers[1].reading is not None


def test_only_so_many_layers_are_measured() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        for layer in net.layers:
            values = torch.relu(layer(values))
        return values

    net = Net(forward, layers=nn.Sequential(*[nn.Linear(3, 3) for _ in range(6)]))
    layers = watch(net, sample(8, 3), most=9, untold={"layers.1"})
    assert len(layers) == 12
    measured = [layer.name for layer in layers if layer.reading is not None]
    assert [name for name in measured if "after" not in name] == [f"layers.{i}" for i in (0, 2, 3, 4, 5)]
    # Four are left, from the first to the last.
    assert [name for name in measured if "after" in name] == [f"relu after layers.{i}" for i in (0, 2, 3, 5)]


def test_of_two_losses_in_one_step_the_first_is_looked_at() -> None:
    def forward(net: Any, values: Tensor) -> Tensor:
        return net.two(torch.relu(net.one(values)))

    net = Net(forward, one=nn.Linear(3, 4), two=nn.Linear(4, 1))
    seen = ForwardPass(0, (), 64)
    for name, module in net.named_children():
        module.register_forward_hook(lambda module, given, output, name=name: seen.ran(name, module, given, output))
    for turn in range(2):
        scores = net(sample(8, 3) + turn)
        loss = (torch.tanh(scores) if turn else scores).sum()
        seen.lost(loss, read=True)
        loss.backward()
    assert [layer.name for layer in seen.layers()] == ["one", "relu after one", "two"]


def test_modules_that_return_anything_are_taken_as_they_come() -> None:
    class Odd(nn.Module):
        def __init__(self, result: Any) -> None:
            super().__init__()
            self.result = result

        def forward(self, values: Any) -> Any:
            return self.result

    seen = ForwardPass(0, (), 64)
    for name, result in {
        "none": None,
        "text": "text",
        "dict": {"scores": sample(8, 3), "loss": None},
        "integers": torch.arange(4),
        "complex": sample(8, 3).to(torch.complex64),
        "scalar": torch.tensor(1.0),
        "empty": torch.zeros(0, 3),
    }.items():
        seen.ran(name, Odd(result), ("text", None), result)
    seen.lost(None, read=True)
    seen.lost(torch.tensor(1.0), read=True)
    assert [layer.name for layer in seen.layers()] == ["dict", "integers", "complex", "scalar", "empty"]
    assert [layer.name for layer in seen.layers() if layer.reading is not None] == ["dict"]
    assert seen.layers()[0].units == 3
