"""Reads the snapshots of a log directory by TensorBoard's data provider, and nothing else."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import Any

from tensorboard.data.provider import RunTagFilter

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.sinks.snapshot_bytes import PLUGIN_NAME, TAG, unpack

# Runs whose snapshot is kept unpacked: some 50 kB each.
_KEPT = 1000

Stamp = tuple[int, float]


class Snapshots:
    """The newest snapshot of each run.

    Args:
        provider: TensorBoard's.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._kept: OrderedDict[tuple[str, str, Stamp], dict[str, Any] | MalformedError] = OrderedDict()
        self._lock = Lock()

    def stamps(self, ctx: Any, experiment: str) -> dict[str, Stamp]:
        """Returns step and time of the newest snapshot of each run that has any."""
        listed = self._provider.list_tensors(
            ctx, experiment_id=experiment, plugin_name=PLUGIN_NAME, run_tag_filter=RunTagFilter(tags=[TAG])
        )
        return {run: (tags[TAG].max_step, tags[TAG].max_wall_time) for run, tags in listed.items() if TAG in tags}

    def others(self, ctx: Any, experiment: str, known: Iterable[str]) -> list[str]:
        """Returns the runs that are not among the known ones."""
        known = set(known)
        return [
            run.run_name for run in self._provider.list_runs(ctx, experiment_id=experiment) if run.run_name not in known
        ]

    def read(self, ctx: Any, experiment: str, stamps: dict[str, Stamp]) -> dict[str, dict[str, Any] | MalformedError]:
        """Returns the snapshots of these runs; an error in place of one that cannot be read."""
        wanted = {run: (experiment, run, stamp) for run, stamp in stamps.items()}
        with self._lock:
            missing = [run for run, key in wanted.items() if key not in self._kept]
        fresh = self._fetch(ctx, experiment, missing) if missing else {}
        with self._lock:
            for run, table in fresh.items():
                self._kept[wanted[run]] = table
            found = {run: self._kept[key] for run, key in wanted.items() if key in self._kept}
            for key in wanted.values():
                if key in self._kept:
                    self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _fetch(self, ctx: Any, experiment: str, runs: list[str]) -> dict[str, dict[str, Any] | MalformedError]:
        # The last of a series is always among those that are kept.
        series = self._provider.read_tensors(
            ctx,
            experiment_id=experiment,
            plugin_name=PLUGIN_NAME,
            downsample=1,
            run_tag_filter=RunTagFilter(runs=runs, tags=[TAG]),
        )
        return {run: _unpacked(tags[TAG][-1].numpy) for run, tags in series.items() if tags.get(TAG)}


def fingerprint(stamps: dict[str, Stamp], others: Iterable[str]) -> str:
    """Returns a text that changes whenever there is anything new to show."""
    return hashlib.sha256(repr((sorted(stamps.items()), sorted(others))).encode("utf-8", "replace")).hexdigest()[:16]


def _unpacked(array: Any) -> dict[str, Any] | MalformedError:
    try:
        return unpack(array.item())
    except MalformedError as error:
        return error
    except ValueError:
        return MalformedError("a snapshot must be one text")
