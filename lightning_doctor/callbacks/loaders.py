"""What a loader says of itself, which it need not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

# How a loader makes its batches, whichever samples it serves.
_WORKING = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory_device",
    "in_order",
)


def first(loaders: Any) -> Any:
    """Returns the first of several loaders, or the only one."""
    return loaders[0] if isinstance(loaders, (list, tuple)) and loaders else loaders


def samples(loader: Any) -> int | None:
    """Returns how many samples a loader serves; None without a data set, or with one that streams or fails to say."""
    with suppress(Exception):
        return len(loader.dataset)
    return None


def loader_size(loader: Any) -> tuple[Any, int | None]:
    """Returns the size of a loader's batches and the number of its samples, None where it does not say."""
    return getattr(loader, "batch_size", None), samples(loader)


def working(loader: Any) -> dict[str, Any]:
    """Returns the options of a ``DataLoader`` that another one over a part of its samples takes over."""
    return {name: getattr(loader, name) for name in _WORKING if hasattr(loader, name)}
