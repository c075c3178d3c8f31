"""Names that tell runs apart which are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from lightning_doctor.compared_run import RunSummary


def renamed(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Returns the runs with names that differ: where two have one name, the parts of their places that differ.

    ``logs/2_layers/version_0`` and ``logs/3_layers/version_0`` are ``2_layers`` and ``3_layers``.
    """
    names = [run.name for run in runs]
    alike = [run.place for run in runs if names.count(run.name) > 1]
    short = dict(zip(alike, _differing(alike), strict=True))
    apart_by_place = [replace(run, name=short.get(run.place, run.name)) for run in runs]
    seen: dict[str, int] = {}
    result = []
    for run in apart_by_place:
        seen[run.name] = seen.get(run.name, 0) + 1
        # The same log given twice.
        result.append(run if seen[run.name] == 1 else replace(run, name=f"{run.name} ({seen[run.name]})"))
    return result


def _differing(places: Sequence[str]) -> list[str]:
    """Returns the paths less the folders that all begin and end with; whole where one is nothing else."""
    parts = [PurePath(place).parts for place in places]
    begin = _common(parts)
    end = _common([each[begin:][::-1] for each in parts])
    kept = ["/".join(each[begin : len(each) - end]) for each in parts]
    return kept if all(kept) else list(places)


def _common(parts: Sequence[Sequence[str]]) -> int:
    """Returns how many of their first items are the same in all."""
    shared = 0
    for items in zip(*parts, strict=False):
        if len(set(items)) > 1:
            break
        shared += 1
    return shared
