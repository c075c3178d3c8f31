"""Parameters that a loss depends on and its model does not know of, such as those of layers in a plain list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_doctor.measure.norms import are_sharded
from lightning_doctor.measure.slopes import leaves

# How deep plain containers are looked into for layers, and how many things they may hold.
_DEPTH = 3
_MOST = 1000
# What a module keeps of its own in dicts.
_OWN = frozenset(vars(nn.Module()))


def unregistered(loss: Tensor, module: nn.Module, held: Iterable[Tensor] = ()) -> dict[str, nn.Parameter]:
    """Returns the parameters that the loss depends on, that are none of the module's, and that no optimizer holds.

    Args:
        loss: A scalar with its autograd graph; nothing of it is unpacked.
        module: The model.
        held: The parameters that optimizers hold.

    Returns:
        Each by its name: where a plain list, tuple or dict of a submodule holds it, as in ``hidden[0].weight``, else
        its shape, with a number of its own.
    """
    known = {*module.parameters(), *held}
    if are_sharded([*known]):
        # What is gathered for a pass and let go again is nobody's parameter.
        return {}
    # Lazy parameters are of a class of their own.
    strange = {leaf: None for leaf in leaves(loss) if type(leaf) is nn.Parameter and leaf not in known}
    if not strange:
        return {}
    found: dict[str, nn.Parameter] = {}
    for name, parameter in _in_containers(module):
        if parameter in strange:
            found[name] = parameter
            del strange[parameter]
    for parameter in strange:
        found[f"a parameter of shape {list(parameter.shape)} ({len(found) + 1})"] = parameter
    return found


def _in_containers(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for place, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute not in _OWN and isinstance(value, (list, tuple, Mapping)):
                yield from _within(f"{place}.{attribute}" if place else attribute, value, _DEPTH)


def _within(name: str, value: Any, depth: int) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(value, nn.Parameter):
        yield name, value
    elif isinstance(value, nn.Module):
        yield from ((f"{name}.{inner}", parameter) for inner, parameter in value.named_parameters())
    elif depth and isinstance(value, (list, tuple, Mapping)) and len(value) <= _MOST:
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, entry in entries:
            yield from _within(f"{name}[{key!r}]", entry, depth - 1)
