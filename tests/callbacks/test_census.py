from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from tests.callbacks.watched import watch
from tests.runs import DigitsNet


def parameters(folder: Path, module: LightningModule, **options: Any) -> dict[str, Any]:
    return dict(watch(folder, module, **options).facts["parameters"])


def test_a_plain_network_trains_all_it_has(tmp_path: Path) -> None:
    fact = parameters(tmp_path, DigitsNet())
    assert fact["tensors"] == fact["trainable"] == fact["trained"] == 4
    assert fact["trainable_share"] == 1.0
    assert fact["last_layer"] == {"name": "net.2", "trained": True}
    assert set(fact["counts"].values()) == {0}
    assert [fact[key] for key in fact["counts"]] == [[]] * len(fact["counts"])
    assert fact["steps"] == 5


def test_frozen_layers_are_named_and_do_not_count_as_ill(tmp_path: Path) -> None:
    net = DigitsNet()
    net.net[0].requires_grad_(False)
    history = watch(tmp_path, net)
    fact = history.facts["parameters"]
    assert fact["frozen"] == ["net.0.weight", "net.0.bias"]
    assert fact["frozen_share"] == pytest.approx((64 * 32 + 32) / 2410)
    assert fact["no_gradient"] == fact["unchanged"] == fact["not_in_optimizer"] == []
    assert fact["last_layer"]["trained"]
    assert history.names("update_ratio/") == ["update_ratio/net.2"]


def test_what_the_optimizer_was_not_given_is_named(tmp_path: Path) -> None:
    class HeadOnly(DigitsNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net[2].parameters(), lr=0.1)

    fact = parameters(tmp_path, HeadOnly())
    assert fact["not_in_optimizer"] == ["net.0.weight", "net.0.bias"]
    assert fact["as_drawn"] == ["net.0.weight"]
    assert fact["trained"] == 2
    assert fact["last_layer"]["trained"]
    assert fact["frozen"] == fact["unchanged"] == []


def test_what_is_trained_by_hand_is_not_called_as_drawn(tmp_path: Path) -> None:
    class ByHand(DigitsNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net[2].parameters(), lr=0.1)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            with torch.no_grad():
                for parameter in self.net[0].parameters():
                    parameter -= 1e-4 * parameter.grad

    fact = parameters(tmp_path, ByHand())
    assert "net.0.weight" in fact["not_in_optimizer"]
    assert fact["as_drawn"] == []


@pytest.mark.parametrize("how", ["trained elsewhere", "without gradients"])
def test_what_was_trained_elsewhere_or_gets_no_gradients_is_not_called_as_drawn(tmp_path: Path, how: str) -> None:
    class HeadOnly(DigitsNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net[2].parameters(), lr=0.1)

    net = HeadOnly()
    if how == "trained elsewhere":
        with torch.no_grad():
            net.net[0].weight *= torch.linspace(0.5, 1.5, 32)[:, None]
    else:
        # A copy that follows the model is called under `no_grad`, if at all.
        net.teacher = nn.Linear(64, 32)
    fact = parameters(tmp_path, net)
    assert "net.0.weight" in fact["not_in_optimizer"]
    assert ("teacher.weight" in fact["not_in_optimizer"]) is (how == "without gradients")
    assert fact["as_drawn"] == ([] if how == "trained elsewhere" else ["net.0.weight"])


def test_layers_in_a_plain_list_are_named_by_the_list(tmp_path: Path) -> None:
    class Listed(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self._hidden = [nn.Linear(64, 64)]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((self._hidden[0](batch[0]), batch[1]), batch_idx)

    fact = parameters(tmp_path, Listed())
    assert fact["unregistered"] == ["_hidden[0].weight", "_hidden[0].bias"]
    assert fact["tensors"] == fact["trained"] == 4


def test_a_head_that_no_optimizer_holds_is_the_last_layer_untrained(tmp_path: Path) -> None:
    class TrunkOnly(DigitsNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net[0].parameters(), lr=0.1)

    assert parameters(tmp_path, TrunkOnly())["last_layer"] == {"name": "net.2", "trained": False}


def test_a_frozen_head_is_the_last_layer_untrained_though_the_optimizer_holds_it(tmp_path: Path) -> None:
    net = DigitsNet()
    net.net[2].requires_grad_(False)
    assert parameters(tmp_path, net)["last_layer"] == {"name": "net.2", "trained": False}


def test_a_trained_parameter_outside_of_any_layer_may_be_the_head(tmp_path: Path) -> None:
    class Functional(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Parameter(torch.randn(10, 10) / 3)
            self.net.requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]) @ self.head, batch[1])

    fact = parameters(tmp_path, Functional())
    assert "last_layer" not in fact
    assert fact["trained"] == 1


def test_a_teacher_that_runs_last_is_not_the_last_layer(tmp_path: Path) -> None:
    class Distilled(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.Linear(64, 10).requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), self.teacher(batch[0]))

    fact = parameters(tmp_path, Distilled())
    assert fact["last_layer"] == {"name": "net.2", "trained": True}
    assert fact["frozen"] == ["teacher.weight", "teacher.bias"]


def test_of_many_names_the_first_fifty_are_told_and_all_are_counted(tmp_path: Path) -> None:
    class Hoarder(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.ModuleList(nn.Linear(1, 1) for _ in range(40))

    fact = parameters(tmp_path, Hoarder())
    assert fact["no_gradient"] == [f"unused.{i}.{kind}" for i in range(25) for kind in ("weight", "bias")]
    assert fact["counts"]["no_gradient"] == fact["counts"]["unchanged"] == 80


def test_a_detached_branch_never_has_a_gradient_and_never_changes(tmp_path: Path) -> None:
    class Detached(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            hidden = self.net[1](self.net[0](batch[0])).detach()
            return nn.functional.cross_entropy(self.net[2](hidden), batch[1])

    fact = parameters(tmp_path, Detached())
    assert fact["no_gradient"] == fact["unchanged"] == ["net.0.weight", "net.0.bias"]
    assert fact["unchanged_share"] == pytest.approx((64 * 32 + 32) / 2410)
    assert fact["zero_gradient"] == fact["frozen"] == []


def test_five_steps_must_leave_a_parameter_alone_before_it_is_unchanged(tmp_path: Path) -> None:
    class Unused(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)

    early, late = (parameters(tmp_path, Unused(), max_epochs=epochs) for epochs in (1, 2))
    assert early["steps"] == 4
    assert early["no_gradient"] == ["unused.weight", "unused.bias"]
    assert early["unchanged"] == []
    assert late["unchanged"] == ["unused.weight", "unused.bias"]


def test_a_dead_layer_has_gradients_of_nothing_but_zeros(tmp_path: Path) -> None:
    class Dead(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            nn.init.constant_(self.net[0].bias, -1e3)

    fact = parameters(tmp_path, Dead())
    assert fact["zero_gradient"] == ["net.0.weight", "net.0.bias", "net.2.weight"]
    assert fact["unchanged"] == ["net.0.weight", "net.0.bias", "net.2.weight"]
    assert fact["no_gradient"] == []


def test_updates_too_small_for_their_weights_leave_them_unchanged(tmp_path: Path) -> None:
    # 1e-12 of a weight of 0.1 is under float32's rounding.
    fact = parameters(tmp_path, DigitsNet(lr=1e-12))
    assert "net.0.weight" in fact["unchanged"]
    assert fact["zero_gradient"] == fact["no_gradient"] == fact["zero_learning_rate"] == []


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)])
def test_a_rate_of_zero_is_told_apart_from_parameters_that_do_not_change(tmp_path: Path, lr: Any) -> None:
    history = watch(tmp_path, DigitsNet(lr=lr))
    fact = history.facts["parameters"]
    assert history["update_ratio"].values == [0.0] * 5
    assert fact["unchanged"] == []
    assert fact["zero_learning_rate"] == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]


def test_rare_rows_of_a_table_that_the_sample_misses_are_not_unchanged(tmp_path: Path) -> None:
    class Words(LightningModule):
        def __init__(self, sparse: bool = False) -> None:
            super().__init__()
            self.table = nn.Embedding(100_000, 10, sparse=sparse)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            # One row in 100,000 is ever used: the sample of 1024 elements hardly meets it.
            return nn.functional.cross_entropy(self.table(torch.full_like(batch[1], 12345)), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    history = watch(tmp_path, Words())
    assert history["zero_gradient_share"].values == [1.0] * 5
    assert history.facts["parameters"]["zero_gradient"] == history.facts["parameters"]["unchanged"] == []

    history = watch(tmp_path, Words(sparse=True))
    assert history.absent["gradient_cosine"] == history.absent["zero_gradient_share"] == "gradients are sparse"
    assert len(history["update_ratio"]) == 5
    fact = history.facts["parameters"]
    assert fact["zero_gradient"] == fact["no_gradient"] == fact["unchanged"] == []


def test_layers_that_are_freed_in_mid_run_are_counted_from_there(tmp_path: Path) -> None:
    class Thawing(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.net[0].requires_grad_(False)

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.net[0].requires_grad_(True)
                self.trainer.optimizers[0].add_param_group({"params": self.net[0].parameters(), "lr": 0.1})

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net[2].parameters(), lr=0.1)

    history = watch(tmp_path, Thawing(), max_epochs=4)
    fact = history.facts["parameters"]
    assert fact["frozen"] == fact["not_in_optimizer"] == fact["unchanged"] == fact["no_gradient"] == []
    assert fact["trained"] == 4
    assert history["update_ratio/net.0"].steps == [15, 31]


def test_tied_and_lazy_parameters_are_followed(tmp_path: Path) -> None:
    class Tied(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.LazyLinear(10, bias=False), nn.Tanh(), nn.Linear(10, 10, bias=False))
            self.again = nn.Linear(10, 10, bias=False)
            self.again.weight = self.net[2].weight

        def forward(self, images: Tensor) -> Tensor:
            return self.again(self.net(images))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    history = watch(tmp_path, Tied())
    assert history.names("update_ratio/") == ["update_ratio/net.0", "update_ratio/net.2"]
    assert history.facts["parameters"]["last_layer"] == {"name": "again", "trained": True}


@pytest.mark.parametrize("how", ["sparse", "a copy"])
def test_frozen_weights_that_tell_nothing_are_not_judged(tmp_path: Path, how: str) -> None:
    net = DigitsNet()
    if how == "sparse":
        net.adjacency = nn.Parameter(torch.eye(64).to_sparse(), requires_grad=False)
    else:
        # One that follows what is trained, by whatever means.
        net.average = deepcopy(net.net).requires_grad_(False)
    fact = parameters(tmp_path, net)
    assert fact["frozen"] != []
    assert (fact["frozen_as_drawn"], fact["frozen_as_drawn_share"]) == ([], 0.0)


@pytest.mark.parametrize("how", ["drawn", "trained elsewhere", "following"])
def test_frozen_layers_may_look_as_they_were_drawn(tmp_path: Path, how: str) -> None:
    class Frozen(DigitsNet):
        def on_train_batch_end(self, *args: Any) -> None:
            if how == "following":
                with torch.no_grad():
                    self.net[0].weight.lerp_(torch.ones(32, 64), 1e-4)

    net = Frozen()
    net.net[0].requires_grad_(False)
    if how == "trained elsewhere":
        with torch.no_grad():
            net.net[0].weight *= torch.linspace(0.5, 1.5, 32)[:, None]
    fact = parameters(tmp_path, net)
    assert fact["frozen_as_drawn"] == (["net.0.weight"] if how == "drawn" else [])
    assert fact["frozen_as_drawn_share"] == pytest.approx(64 * 32 / 2410 if how == "drawn" else 0.0)


def test_of_many_frozen_layers_some_tell_how_they_look(tmp_path: Path) -> None:
    net = DigitsNet()
    net.trunk = nn.ModuleList(nn.Linear(16, 16) for _ in range(30)).requires_grad_(False)
    fact = parameters(tmp_path, net)
    # Every fourth one.
    assert fact["frozen_as_drawn"] == [f"trunk.{index}.weight" for index in range(0, 30, 4)]


def test_frozen_layers_that_were_made_for_inference_are_not_judged(tmp_path: Path) -> None:
    net = DigitsNet()
    with torch.inference_mode():
        net.trunk = nn.Linear(16, 16).requires_grad_(False)
    fact = parameters(tmp_path, net)
    assert fact["frozen"] == ["trunk.weight", "trunk.bias"]
    assert fact["frozen_as_drawn"] == []
