"""One ``Callback`` to derive from, whichever of ``lightning`` and ``pytorch_lightning`` is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

    __all__ = ["Callback", "LightningModule", "Trainer"]
else:

    def _callbacks() -> tuple[type, ...]:
        installed = [name for name in ("lightning", "pytorch_lightning") if find_spec(name) is not None]
        if not installed:
            raise ModuleNotFoundError("lightning-doctor needs lightning or pytorch_lightning: pip install lightning")
        homes = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
        return tuple(import_module(homes[name]).Callback for name in installed)

    # Each package's command line accepts only its own Callback; one class that derives from both suits both.
    Callback = type("Callback", _callbacks(), {"__doc__": "The Callback of every installed Lightning package."})
