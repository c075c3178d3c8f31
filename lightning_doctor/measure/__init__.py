"""Torch in, numbers out: no hooks and no rules.

The functions below are for a plain module, a batch and a loss, as in a notebook; they are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_doctor.measure.critical_point import classify_critical_point, escape_direction
    from lightning_doctor.measure.halves import noise_scale
    from lightning_doctor.measure.scanning import step_scan
    from lightning_doctor.measure.spectra import spectrum

# No module may have the name of a function: importing it would put it in the function's place.
_HOMES = {
    "classify_critical_point": "critical_point",
    "escape_direction": "critical_point",
    "noise_scale": "halves",
    "spectrum": "spectra",
    "step_scan": "scanning",
}

__all__ = ["classify_critical_point", "escape_direction", "noise_scale", "spectrum", "step_scan"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
