"""The programs of the clinic, by theme."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.clinic.patient import Pair

_themes = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
PAIRS: tuple[Pair, ...] = tuple(
    sorted((pair for theme in _themes for pair in getattr(theme, "PAIRS", ())), key=lambda pair: pair.number)
)
