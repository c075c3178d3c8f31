from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lightning_doctor.callbacks.shards import shards_obstacle


class Mesh(dict[str, Any]):
    mesh_dim_names = ("data_parallel", "tensor_parallel")


class Shard(nn.Parameter):
    """A parameter as ``fully_shard`` makes it: it can be gathered."""

    def full_tensor(self) -> None: ...


def trainer(tensor_parallel: int, stepped: nn.Parameter) -> Any:
    sizes = {"data_parallel": 2, "tensor_parallel": tensor_parallel}
    mesh = Mesh({name: SimpleNamespace(size=lambda size=size: size) for name, size in sizes.items()})
    optimizer = torch.optim.SGD([stepped], lr=0.1)
    return SimpleNamespace(strategy=SimpleNamespace(device_mesh=mesh), optimizers=[optimizer])


def model(parameter: nn.Parameter) -> nn.Module:
    net = nn.Linear(1, 1, bias=False)
    net.weight = parameter
    return net


def test_shards_of_whole_layers_can_be_gathered() -> None:
    shard = Shard(torch.ones(1, 1))
    assert shards_obstacle(trainer(1, shard), model(shard)) is None


def test_layers_that_ranks_compute_parts_of_are_not_put_together() -> None:
    shard = Shard(torch.ones(1, 1))
    assert "tensor parallelism" in (shards_obstacle(trainer(2, shard), model(shard)) or "")


def test_weights_that_are_not_those_that_the_optimizer_steps_are_not_looked_at() -> None:
    gathered = nn.Parameter(torch.ones(1, 1))
    assert "gathered between steps" in (shards_obstacle(trainer(1, Shard(torch.ones(1, 1))), model(gathered)) or "")


def test_a_strategy_without_a_mesh_has_no_way_to_the_whole_model() -> None:
    strategy = type("OtherStrategy", (), {})()
    run: Any = SimpleNamespace(strategy=strategy, optimizers=[])
    assert shards_obstacle(run, nn.Linear(1, 1)) == "under OtherStrategy no rank holds the whole model"
