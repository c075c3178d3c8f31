"""Whether every rank has a doctor: only then may it communicate."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

_KEY = "lightning_doctor/rank"


def announce(present: bool) -> None:
    """Tells the other ranks, without waiting for them, whether this one has a doctor in the coming fit."""
    store = _store()
    if store is not None:
        store.set(f"{_KEY}{dist.get_rank()}", "1" if present else "0")


def everyone() -> bool:
    """Says whether every rank has announced a doctor; the same answer on all that ask.

    Ask only after a barrier that every rank passes after its :func:`announce`, as Lightning's after the setup hooks.
    """
    store = _store()
    if store is None:
        return False
    keys = [f"{_KEY}{rank}" for rank in range(dist.get_world_size())]
    return bool(store.check(keys)) and all(store.get(key) == b"1" for key in keys)


def _store() -> Any:
    if not (dist.is_available() and dist.is_initialized()):
        return None
    # The store, not a collective: a rank without a doctor would never join that.
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()
