"""Which parameters are trained, which are not, and why: the fact ``parameters``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_doctor.measure.fresh import is_as_drawn
from lightning_doctor.measure.updates import TensorUpdate

if TYPE_CHECKING:
    from torch.optim import Optimizer

MOST_NAMES = 50
# A parameter is said to stay as it is when this many examined steps have left it alone that should have moved it.
_STEPS_TO_BE_UNCHANGED = 5
# The share of weights that may look unlike drawn ones where none was trained.
_BY_CHANCE = 0.1
# Of how many frozen tensors, evenly spread, it is told whether they look as drawn.
_FROZEN = 8


@dataclass
class _Record:
    size: int = 0
    seen: int = 0
    with_gradient: int = 0
    not_all_zero: int = 0
    with_rate: int = 0
    told: int = 0
    moved: bool = False


def plain_name(name: str) -> str:
    """Returns a parameter's name without what ``torch.compile`` wraps around it."""
    return name.replace("_orig_mod.", "")


class Census:
    """Counts the parameters of a module on examined steps, and composes the fact from all of them."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._steps = 0
        self._standing: dict[str, Any] = {}
        self._lists: dict[str, list[str]] = {}
        # Whether they look as drawn, and how often they had been changed by then.
        self._drawn: dict[str, tuple[bool | None, int]] = {}
        self._unregistered: dict[str, None] = {}
        self._obstacles: list[str | None] = []

    def look(
        self, module: nn.Module, optimizers: Iterable[Optimizer], unfrozen: Collection[Tensor], ran: Sequence[str]
    ) -> None:
        """Takes in how the module stands.

        Args:
            module: The model.
            optimizers: Its optimizers.
            unfrozen: Parameters that required a gradient during this step, whether or not they do now.
            ran: The layers with parameters that gradients flowed through, in order; empty where not known.
        """
        held = {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        # Tied parameters go by all of their names.
        places = [(plain_name(n), p) for n, p in module.named_parameters(remove_duplicate=False) if not is_lazy(p)]
        names: dict[Tensor, str] = {}
        for name, p in places:
            names.setdefault(p, name)
        trainable = {p for p in names if p.requires_grad or p in unfrozen}
        size = sum(p.numel() for p in names)
        share = sum(p.numel() for p in trainable) / size if size else 0.0
        self._standing = {
            "tensors": len(names),
            "trainable": len(trainable),
            "trained": len(trainable & held),
            "trainable_share": share,
            "frozen_share": 1.0 - share,
        }
        self._lists = {
            "frozen": [name for p, name in names.items() if p not in trainable],
            "not_in_optimizer": [name for p, name in names.items() if p in trainable and p not in held],
        }
        by_name = {name: p for p, name in names.items()}
        # Those that get gradients, as copies that follow the model do not.
        unheld = [name for name in self._lists["not_in_optimizer"] if by_name[name].grad is not None]
        self._lists["as_drawn"] = self._drawn_among({name: by_name[name] for name in unheld})
        own = {p.shape for p in trainable}
        frozen = {name: by_name[name] for name in self._lists["frozen"] if _may_be_told(by_name[name], own)}
        some = list(frozen)[:: ceil(len(frozen) / _FROZEN) or 1]
        drawn = self._drawn_among({name: frozen[name] for name in some})
        self._lists["frozen_as_drawn"] = drawn
        told = sum(p.numel() for p in frozen.values()) if drawn else 0
        self._standing["frozen_as_drawn_share"] = told / max(1, size)
        if (last := _last_layer(places, trainable & held, ran)) is not None:
            self._standing["last_layer"] = last

    def _drawn_among(self, untrained: dict[str, Tensor]) -> list[str]:
        """Returns those that look as they were drawn, if all in all they do.

        Each is judged once; what has changed since is trained by other means.
        """
        for name, p in untrained.items():
            if name not in self._drawn:
                self._drawn[name] = is_as_drawn(p), p._version
        if any(self._drawn[name][1] != p._version for name, p in untrained.items()):
            return []
        known = [(p.numel(), self._drawn[name][0]) for name, p in untrained.items()]
        tested = sum(size for size, drawn in known if drawn is not None)
        if sum(size for size, drawn in known if drawn is False) > _BY_CHANCE * tested:
            return []
        return [name for name in untrained if self._drawn[name][0]]

    def find(self, unregistered: Iterable[str]) -> None:
        """Takes in parameters that a loss depends on and the module does not know."""
        self._unregistered |= dict.fromkeys(unregistered)

    def meet(self, obstacle: str | None) -> None:
        """Takes in what keeps a loss from having a gradient, as ``without_slope`` names it."""
        self._obstacles.append(obstacle)

    def count(self, tensors: Iterable[TensorUpdate], *, skipped: bool) -> None:
        """Takes in an examined step; ``skipped`` where a scaler kept the optimizer from stepping."""
        for tensor in tensors:
            record = self._records.setdefault(tensor.name, _Record(tensor.size))
            record.moved |= tensor.moved
            if tensor.trainable:
                record.seen += 1
                record.with_gradient += tensor.has_gradient
                record.not_all_zero += tensor.nonzero is not False
                record.with_rate += tensor.rate != 0
                record.told += tensor.tells and not skipped

    def step(self) -> None:
        """Counts an examined step."""
        self._steps += 1

    def fact(self) -> dict[str, Any]:
        """Returns the fact, as plain JSON."""
        lists = {
            **self._lists,
            "unregistered": list(self._unregistered),
            "no_gradient": self._names(lambda r: not r.with_gradient),
            "zero_gradient": self._names(lambda r: bool(r.with_gradient) and not r.not_all_zero),
            "zero_learning_rate": self._names(lambda r: not r.with_rate),
            "unchanged": self._names(lambda r: not r.moved and r.told >= _STEPS_TO_BE_UNCHANGED),
        }
        size = sum(record.size for record in self._records.values())
        # Of every loss: one of several may belong to parameters that somebody steps by hand.
        obstacle = None if None in self._obstacles else next(iter(self._obstacles), None)
        return {
            **self._standing,
            **({} if obstacle is None else {"obstacle": obstacle, "obstructed_losses": len(self._obstacles)}),
            **{key: names[:MOST_NAMES] for key, names in lists.items()},
            "counts": {key: len(names) for key, names in lists.items()},
            "unchanged_share": sum(self._records[name].size for name in lists["unchanged"]) / max(1, size),
            "steps": self._steps,
        }

    def _names(self, which: Callable[[_Record], bool]) -> list[str]:
        return [name for name, record in self._records.items() if record.seen and which(record)]


def _may_be_told(weight: Tensor, trained: Collection[torch.Size]) -> bool:
    """Whether a frozen weight may tell that nothing has trained it: a copy that follows a trained one has its shape."""
    # Tensors that were made for inference do not tell whether they were changed.
    plain = type(weight) is nn.Parameter and weight.layout is torch.strided and not weight.is_inference()
    return plain and weight.dim() > 1 and weight.shape not in trained


def _last_layer(
    places: Sequence[tuple[str, Tensor]], trained: Collection[Tensor], ran: Sequence[str]
) -> dict[str, Any] | None:
    head = ran[-1] if ran else None
    own = [i for i, (name, _) in enumerate(places) if _layer(name) == head]
    if head is None or not own:
        return None
    if any(places[i][1] in trained for i in own):
        return {"name": head, "trained": True}
    # A trained parameter that is used outside of any layer, and may be used later, may be the real last layer.
    layers = set(ran)
    seen = {p for name, p in places if _layer(name) in layers}
    for i, (name, p) in enumerate(places):
        around = not _layer(name) or head.startswith(f"{_layer(name)}.")
        if p in trained and p not in seen and (around or i > own[-1]):
            return None
    return {"name": head, "trained": False}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
