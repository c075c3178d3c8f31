"""A deep copy of a module, the functions in it too."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from functools import update_wrapper
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def twin(module: M, memo: dict[int, Any] | None = None) -> M:
    """Returns a copy of a module that reaches nothing of the module it is of.

    ``copy.deepcopy`` shares functions. What one that a module holds, as a hook or a loss, has closed over or has as a
    default is the copy's here: its parts, and modules, lists and dictionaries apart from it. What functions reach
    inside objects of one's own, or as globals, is shared.

    Args:
        module: To copy.
        memo: Of ``copy.deepcopy``: by the id of an object what stands for it.

    Raises:
        Exception: Whatever a part of the module raises when it is copied.
    """
    memo = {} if memo is None else memo
    made = copy.deepcopy(module, memo)
    binding = _Binding(memo)
    for part in made.modules():
        for holder in _holders(part):
            for key, value in list(holder.items() if isinstance(holder, MutableMapping) else enumerate(holder)):
                if isinstance(value, (FunctionType, MethodType)):
                    holder[key] = binding.bound(value)
    return made


class _Binding:
    """Binds functions to a copy."""

    def __init__(self, memo: dict[int, Any]) -> None:
        self._memo = memo
        self._copies = {id(made) for made in memo.values()}
        self._made: dict[int, FunctionType] = {}
        # Several functions may share one, and set it.
        self._cells: dict[int, CellType] = {}

    def bound(self, value: Any) -> Any:
        """Returns what stands for a value in the copy; itself where it reaches nothing that was copied."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return MethodType(self._function(value.__func__), self.bound(value.__self__))
        if id(value) not in self._copies and isinstance(value, (nn.Module, list, dict, set)):
            return copy.deepcopy(value, self._memo)
        return value

    def _function(self, function: Any) -> Any:
        if not isinstance(function, FunctionType):
            return function
        if id(function) in self._made:
            return self._made[id(function)]
        own, own_options = function.__defaults__ or (), function.__kwdefaults__ or {}
        defaults, options = tuple(map(self.bound, own)), {key: self.bound(each) for key, each in own_options.items()}
        pairs = zip((*defaults, *options.values()), (*own, *own_options.values()), strict=True)
        if not function.__closure__ and all(new is old for new, old in pairs):
            return function
        closure = function.__closure__ or ()
        cells = tuple(self._cells.setdefault(id(cell), CellType()) for cell in closure)
        made = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells or None)
        made.__kwdefaults__ = options
        # Before what it reaches is looked at: it may reach itself.
        self._made[id(function)] = made
        for cell, theirs in zip(cells, closure, strict=True):
            if _is_filled(theirs) and not _is_filled(cell):
                cell.cell_contents = self.bound(theirs.cell_contents)
        return update_wrapper(made, function)


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _holders(part: nn.Module) -> list[Any]:
    """Returns where a module may hold functions: itself, its lists and its dictionaries, those of its hooks too."""
    return [part.__dict__, *(value for value in part.__dict__.values() if isinstance(value, (list, MutableMapping)))]
