"""How much memory a piece of work takes at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def peak(work: Callable[[], object]) -> int:
    """The most memory that tensors made meanwhile take at once [bytes]."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with quiet(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    now = most = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps to itself what the profiler's own code says when it starts and stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
