"""The clinic's runs as a table, and their totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import fmean, median

from rich.table import Table

from tests.clinic.patient import Pair
from tests.clinic.run import Run, Said
from tests.clinic.verdicts import Totals, accepted, label


def programs(runs: list[Run], pairs: list[Pair]) -> Table:
    """Returns one line for every program, over its seeds."""
    table = Table("#", "program", "outcome", "gain", "expected", "found, when", "rank", "3 lines", "s")
    for pair in pairs:
        for sick in (True, False):
            own = [run for run in runs if run.number == pair.number and run.sick == sick]
            if own:
                table.add_row(*_line(own, pair, runs))
        table.add_section()
    return table


def _line(own: list[Run], pair: Pair, runs: list[Run]) -> list[str]:
    outcomes = [label(run, pair, runs) for run in own]
    ranks = [str(accepted(run, pair) or "–") for run, outcome in zip(own, outcomes, strict=True) if outcome == "sick"]
    counts = Counter(outcomes)
    gains = [run.gain for run in own]
    return [
        str(pair.number),
        pair.title if own[0].sick or pair.sick is None else "  its twin",
        ", ".join(outcome if count == len(own) else f"{outcome} {count}" for outcome, count in counts.items()),
        f"{min(gains):.2g}" if len(own) == 1 else f"{min(gains):.2g} … {max(gains):.2g}",
        "\n".join(pair.causes) if "sick" in counts else "",
        "\n".join(_found(own)),
        " ".join(ranks),
        f"{sum(run.yardstick for run in own)} of {len(own)}",
        f"{fmean(run.seconds for run in own):.1f}",
    ]


def _found(runs: list[Run]) -> Iterable[str]:
    """Yields each finding once, with the share of the run after which it was announced, root causes first."""
    said = [(rank, found, run) for run in runs for rank, found in enumerate(run.findings)]
    kinds = dict.fromkeys((found.severity, found.name) for _, found, _ in sorted(said, key=lambda each: each[0]))
    for severity, name in kinds:
        when = [(found, run) for _, found, run in said if (found.severity, found.name) == (severity, name)]
        yield f"{severity[0].upper()} {name}{_when(when, len(runs))}"
    for name in dict.fromkeys(found.name for run in runs for found in run.withdrawn):
        when = [(found, run) for run in runs for found in run.withdrawn if found.name == name]
        yield f"({name}{_when(when, len(runs))})"
    for note in dict.fromkeys(note for run in runs for note in run.notes):
        yield f"! {note}"


def _when(found: list[tuple[Said, Run]], runs: int) -> str:
    shares = [said.step / run.steps for said, run in found if said.step is not None]
    at = f" {median(shares):.0%}" if shares else ""
    return at if len(found) == runs else f"{at} in {len(found)}"


def totals(title: str, counted: Totals) -> Table:
    """Returns the totals as a table for the terminal."""
    table = Table("", "runs", title=title, title_justify="left")
    for name, part, whole in _rows(counted):
        table.add_row(name, _share(part, whole))
    table.add_row("unclear, left out", str(counted.unclear))
    return table


def markdown(counted: Totals) -> str:
    """Returns the totals as a table for the README."""
    lines = [
        "| | runs |",
        "|---|---|",
        *(f"| {name} | {_share(part, whole)} |" for name, part, whole in _rows(counted)),
    ]
    return "\n".join([*lines, f"| unclear, left out | {counted.unclear} |", ""])


def _rows(counted: Totals) -> list[tuple[str, int, int]]:
    return [
        ("sick: an accepted cause first", counted.first, counted.sick),
        ("sick: an accepted cause among the first three", counted.among_three, counted.sick),
        ("… announced before half of the run", counted.early, counted.sick),
        ("sick: flagged by three lines at the end of the run", counted.caught, counted.sick),
        ("healthy: a warning or an error in the final report", counted.false_alarms, counted.healthy),
        ("healthy: a warning given on the way and withdrawn", counted.withdrawn, counted.healthy),
        ("healthy: flagged by three lines at the end of the run", counted.false_catches, counted.healthy),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.0%})" if whole else "")
