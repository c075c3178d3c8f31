from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_doctor.measure.forward_pass import ForwardPass


def feeding(net: nn.Module, inputs: Tensor) -> dict[str, str | None]:
    """Which layer feeds each linear one, as hooks on a forward pass see it."""
    forward = ForwardPass(0, (), 64)
    for name, layer in net.named_modules():
        if layer is not net and not any(True for _ in layer.children()):

            def ran(layer: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                forward.ran(name, layer, inputs, output)

            layer.register_forward_hook(ran)
    forward.lost(net(inputs).square().mean(), read=False)
    return {layer.name: layer.fed_by for layer in forward.layers() if layer.kind == "linear"}


def test_a_layer_is_fed_by_the_linear_one_before_it() -> None:
    assert feeding(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(3, 4)) == {"0": "", "1": "0"}


def test_an_activation_between_ends_the_chain() -> None:
    for between in (nn.ReLU(), nn.ReLU(inplace=True), nn.Tanh(), nn.GELU(), nn.LayerNorm(8), nn.Softmax(1)):
        net = nn.Sequential(nn.Linear(4, 8), between, nn.Linear(8, 2))
        assert feeding(net, torch.randn(3, 4)) == {"0": "", "2": None}


def test_dropout_batch_normalisation_and_changes_of_shape_do_not() -> None:
    net = nn.Sequential(
        nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 2)
    )
    assert feeding(net, torch.randn(3, 4))["5"] == "0"


def test_averages_over_positions_do_not_either() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert feeding(net, torch.randn(3, 1, 8, 8)) == {"0": "", "4": "0"}
    largest = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(6), nn.Flatten(), nn.Linear(4, 2))
    assert feeding(largest, torch.randn(3, 1, 8, 8)) == {"0": "", "3": None}


def test_a_normalised_input_is_still_data() -> None:
    assert feeding(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.randn(3, 4)) == {"1": ""}


def test_convolutions_count_but_depthwise_ones_do_not() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1))
    apart = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1))
    assert feeding(plain, torch.randn(2, 1, 8, 8)) == {"0": "", "1": "0"}
    assert feeding(apart, torch.randn(2, 4, 8, 8))["1"] is None


class Branching(nn.Module):
    """Passes the output of a linear layer on in some way, by functions that no hook sees."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how = how
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.how(self, inputs)
        return outputs


def test_functions_between_end_the_chain_unless_they_only_move_numbers() -> None:
    def activated(net: Any, inputs: Tensor) -> Any:
        return net.second(torch.relu(net.first(inputs)))

    def squared(net: Any, inputs: Tensor) -> Any:
        return net.second(net.first(inputs) ** 2)

    def moved(net: Any, inputs: Tensor) -> Any:
        return net.second(net.first(inputs).reshape(3, 2, 2).transpose(1, 2).reshape(3, 4))

    assert feeding(Branching(activated), torch.randn(3, 4))["second"] is None
    assert feeding(Branching(squared), torch.randn(3, 4))["second"] is None
    assert feeding(Branching(moved), torch.randn(3, 4))["second"] == "first"


def test_layers_side_by_side_do_not_feed_each_other() -> None:
    def beside(net: Any, inputs: Tensor) -> Any:
        hidden = torch.relu(net.first(inputs))
        return net.second(hidden) + net.third(hidden)

    assert feeding(Branching(beside), torch.randn(3, 4)) == {"first": "", "second": None, "third": None}


def test_what_also_goes_round_the_next_layer_does_not_feed_it() -> None:
    # A residual block: x + W x is more than W x.
    def round_it(net: Any, inputs: Tensor) -> Any:
        hidden = net.first(inputs)
        return hidden + net.second(hidden)

    assert feeding(Branching(round_it), torch.randn(3, 4))["second"] is None


def test_frozen_layers_are_taken_for_data() -> None:
    def head(net: Any, inputs: Tensor) -> Any:
        with torch.no_grad():
            hidden = net.first(inputs)
        return net.third(net.second(hidden))

    assert feeding(Branching(head), torch.randn(3, 4)) == {"first": "", "second": "", "third": "second"}
