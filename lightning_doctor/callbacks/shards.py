"""A plain copy of a model whose weights ranks hold in shards, as ``fully_shard`` (FSDP2) leaves them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_doctor.measure.norms import are_sharded

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import Trainer

Whole = Callable[[Tensor], Tensor]
"""Returns all of a tensor of which each rank may hold a part; every rank must call it, in the same order."""


def engine(trainer: Trainer) -> str | None:
    """Says that an engine keeps to itself what optimizers step, as a clause; None where none does.

    DeepSpeed's leaves no ``.grad`` on a parameter, and its optimizers hold flat copies of what the model has.
    """
    kinds = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    if "DeepSpeedStrategy" in kinds:
        return "under DeepSpeed the engine keeps gradients, and the weights that are stepped, to itself"
    return None


def shards_obstacle(trainer: Trainer, module: nn.Module) -> str | None:
    """Says why a sharded model cannot be put together on every rank, as a clause; None where it can.

    Args:
        trainer: The Trainer.
        module: The model.
    """
    mesh = getattr(trainer.strategy, "device_mesh", None)
    names = getattr(mesh, "mesh_dim_names", None) or ()
    if mesh is None or "tensor_parallel" not in names:
        return f"under {type(trainer.strategy).__name__} no rank holds the whole model"
    if mesh["tensor_parallel"].size() > 1:
        return "under tensor parallelism no rank runs the whole model"
    # Kept gathered after a backward pass, what the module shows is not what the optimizer steps.
    shown = set(module.parameters())
    stepped = [p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]]
    if any(parameter not in shown for parameter in stepped if are_sharded([parameter])):
        return "the model keeps its weights gathered between steps"
    return None


def put_together(module: nn.Module, memo: dict[int, Any], whole: Whole) -> None:
    """Prepares a deep copy of a sharded model: its weights come whole, its layers without what shards them.

    ``fully_shard`` gives a layer a class that refuses to be copied, hooks that gather its weights, and a state.

    Args:
        module: The model, between two steps.
        memo: That of the deep copy; what stands for the parts of ``module`` in it is entered.
        whole: Gathers a weight.
    """
    for parameter in module.parameters():
        if are_sharded([parameter]):
            memo[id(parameter)] = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
    sharding = [part for part in module.modules() if _shards(part)]
    for part in sharding:
        # `class FSDPLinear(FSDPModule, Linear)`.
        kind: Any = type(part).__bases__[1]
        memo[id(part)] = kind.__new__(kind)
    for part in sharding:
        memo[id(part)].__dict__.update(copy.deepcopy(_plain(part), memo))


def _shards(part: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(part).__bases__)


def _plain(part: nn.Module) -> dict[str, Any]:
    kept = {name: value for name, value in vars(part).items() if not name.startswith("__composable_api")}
    for name, value in kept.items():
        if name.endswith("_hooks") and isinstance(value, dict):
            kept[name] = type(value)((key, hook) for key, hook in value.items() if not _is_torchs(hook))
    return kept


def _is_torchs(hook: Any) -> bool:
    home = getattr(getattr(hook, "hook", hook), "__module__", None) or ""
    return str(home).startswith("torch.distributed.")
