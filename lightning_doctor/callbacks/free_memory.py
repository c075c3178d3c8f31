"""How much memory is free where a model is trained: a process that takes more is killed, and the run with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

_ROOT = Path("/")


def free_memory(device: torch.device, processes: int = 1, root: Path = _ROOT) -> int | None:
    """Returns what each of some processes may take [bytes]; None where that is unknown.

    Args:
        device: Where the model is.
        processes: How many on this machine share its memory, where the device has none of its own.
        root: Where the system's files are.
    """
    if device.type == "cuda":
        # PyTorch keeps for itself what it has no use for now.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    known = [free for free in (_available(root), *_left_to_groups(root)) if free is not None]
    return max(0, min(known)) // processes if known else None


def _available(root: Path) -> int | None:
    """Returns what the machine has, the pages of files apart that it would give up."""
    found = _fields(root / "proc/meminfo").get("MemAvailable:")
    if found is not None:
        return 1024 * found
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _left_to_groups(root: Path) -> Iterator[int | None]:
    """Yields what is left of the limits of the control groups that this process is in, as containers set them."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        pages: tuple[str, ...]
        if not controllers:
            names, pages = ("memory.max", "memory.current"), ("active_file", "inactive_file", "slab_reclaimable")
        elif "memory" in controllers.split(","):
            names, pages = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes"),
                ("total_active_file", "total_inactive_file"),
            )
        else:
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = top / path.lstrip("/")
        # A limit of a group above holds too.
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            limit, used = (_text(folder / name).strip() for name in names)
            if limit.isdigit() and used.isdigit():
                # The pages of files are given up before anything is killed.
                stat = _fields(folder / "memory.stat")
                yield int(limit) - int(used) + sum(stat.get(name, 0) for name in pages)


def _fields(path: Path) -> dict[str, int]:
    lines = [line.split() for line in _text(path).splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
