"""A deep copy of a module, the functions in it too."""

from __future__ import annotations

import copy
import random
from collections import deque
from functools import partial
from types import BuiltinMethodType, CellType, FunctionType, MethodType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

_CALLABLES = (FunctionType, MethodType, BuiltinMethodType, partial)
_SOURCES = (np.random.Generator, np.random.RandomState, random.Random)
# Tensors of a function's own that are larger than that are data rather than a state, and shared [bytes].
_STATE = 1 << 24


def twin(module: M, memo: dict[int, Any] | None = None, *, frozen: bool = False) -> M:
    """Returns a copy of a module that reaches nothing of the module it is of.

    ``copy.deepcopy`` shares functions. What one that a module holds, as a hook or a loss, has closed over, has as a
    default or as an attribute is the copy's here: parts of the module, and apart from them modules that train,
    collections, small tensors and sources of random numbers. What functions reach inside objects of one's own, or as
    globals, is shared.

    Args:
        module: To copy.
        memo: Of ``copy.deepcopy``: by the id of an object what stands for it.
        frozen: Whether modules in eval mode that functions have closed over are copied too, as an average of weights
            that a step renews.

    Raises:
        Exception: Whatever a part of the module raises when it is copied.
    """
    memo = {} if memo is None else memo
    made = copy.deepcopy(module, memo)
    binding = _Binding(memo, frozen)
    for part in made.modules():
        binding.renew(part.__dict__)
    return made


class _Binding:
    """Binds functions to a copy."""

    def __init__(self, memo: dict[int, Any], frozen: bool) -> None:
        self._memo = memo
        self._frozen = frozen
        # Kept alive, so that no other object comes by one of their ids.
        self._copies = {id(made): made for made in memo.values()}
        self._renewed: set[int] = set()
        self._made: dict[int, FunctionType] = {}
        # Several functions may share one, and set it.
        self._cells: dict[int, CellType] = {}

    def renew(self, value: Any) -> Any:
        """Binds the functions in a collection of the copy, to any depth; returns what is to stand in its place."""
        if isinstance(value, _CALLABLES):
            return self._callable(value)
        if type(value) is tuple:
            renewed = tuple(map(self.renew, value))
            return renewed if any(new is not old for new, old in zip(renewed, value, strict=True)) else value
        if not isinstance(value, (list, dict)) or id(value) in self._renewed:
            return value
        self._renewed.add(id(value))
        for key, each in list(value.items() if isinstance(value, dict) else enumerate(value)):
            renewed = self.renew(each)
            if renewed is not each:
                value[key] = renewed
        return value

    def bound(self, value: Any) -> Any:
        """Returns what stands for a value in the copy; itself where it reaches nothing that was copied."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if id(value) in self._copies:
            return value
        if isinstance(value, _CALLABLES):
            return self._callable(value)
        if type(value) is tuple:
            return tuple(map(self.bound, value))
        if isinstance(value, (list, dict, set, deque)):
            return self._collection(value)
        made = self._state(value)
        if made is not value:
            self._keep(value, made)
        return made

    def _callable(self, value: Any) -> Any:
        if isinstance(value, MethodType):
            return MethodType(self._function(value.__func__), self.bound(value.__self__))
        if isinstance(value, BuiltinMethodType):
            owner = self.bound(value.__self__)
            return value if owner is value.__self__ else getattr(owner, value.__name__)
        if isinstance(value, partial):
            return partial(self.bound(value.func), *map(self.bound, value.args), **self._values(value.keywords))
        return self._function(value)

    def _collection(self, value: Any) -> Any:
        made = copy.copy(value)
        # Before what is in it is looked at: it may hold itself.
        self._keep(value, made)
        if isinstance(value, dict):
            made.update(self._values(value))
        elif isinstance(value, set):
            made.clear()
            made.update(map(self.bound, value))
        else:
            for index, each in enumerate(value):
                made[index] = self.bound(each)
        return made

    def _state(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            small = value.numel() * value.element_size() <= _STATE
            return value.detach().clone().requires_grad_(value.requires_grad) if small else value
        if isinstance(value, torch.Generator):
            made = torch.Generator(value.device)
            made.set_state(value.get_state())
            return made
        # One in eval mode, as a teacher, has nothing that a pass changes.
        copied = isinstance(value, _SOURCES) or (isinstance(value, nn.Module) and (value.training or self._frozen))
        return copy.deepcopy(value, self._memo) if copied else value

    def _keep(self, value: Any, made: Any) -> None:
        self._memo[id(value)] = self._copies[id(made)] = made

    def _values(self, values: dict[Any, Any]) -> dict[Any, Any]:
        return {key: self.bound(value) for key, value in values.items()}

    def _function(self, function: Any) -> Any:
        if not isinstance(function, FunctionType):
            return function
        if id(function) in self._made:
            return self._made[id(function)]
        own, own_options = function.__defaults__ or (), function.__kwdefaults__ or {}
        defaults, options = tuple(map(self.bound, own)), self._values(own_options)
        pairs = zip((*defaults, *options.values()), (*own, *own_options.values()), strict=True)
        if not function.__closure__ and not function.__dict__ and all(new is old for new, old in pairs):
            return function
        closure = function.__closure__ or ()
        cells = tuple(self._cells.setdefault(id(cell), CellType()) for cell in closure)
        made = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells or None)
        # Before what it reaches is looked at: it may reach itself.
        self._made[id(function)] = made
        for name in ("__qualname__", "__module__", "__doc__", "__annotations__"):
            setattr(made, name, getattr(function, name))
        made.__kwdefaults__ = options
        made.__dict__.update(self._values(function.__dict__))
        for cell, theirs in zip(cells, closure, strict=True):
            if _is_filled(theirs) and not _is_filled(cell):
                cell.cell_contents = self.bound(theirs.cell_contents)
        return made


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
