"""Which of several runs is the larger network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_doctor.compared_run import RunSummary

# A name says a size where it has one number and nothing else than words like these. version_3 and run_3 say none.
_SIZE = re.compile(
    r"(?:plain|res|mlp|cnn|net|hidden|layers?|depth|deep|l|d|width|units|wide|w)*(\d+)"
    r"(?:layers?|deep|hidden|units|wide|l|d|w)*"
)


@dataclass(frozen=True)
class Order:
    """Runs from small to large.

    Attributes:
        runs: In that order.
        sentence: What it goes by.
        known: Whether sizes are known, rather than taken from the names or from how the runs were given.
        ranks: The sizes by run: one is larger than another where none of its numbers is smaller and one is larger.
    """

    runs: list[RunSummary]
    sentence: str
    known: bool
    ranks: dict[str, tuple[int, ...]]

    def larger(self, one: RunSummary, other: RunSummary) -> bool:
        """Whether one run's network is larger than another's in something, and smaller in nothing."""
        mine, its = self.ranks[one.name], self.ranks[other.name]
        return mine != its and all(a >= b for a, b in zip(mine, its, strict=True))

    def up_to(self, run: RunSummary) -> list[RunSummary]:
        """The others that are no larger in anything."""
        equal = [r for r in self.runs if r is not run and self.ranks[r.name] == self.ranks[run.name]]
        return [*self.below(run), *equal]

    def below(self, run: RunSummary) -> list[RunSummary]:
        """The smaller ones."""
        return [other for other in self.runs if self.larger(run, other)]

    def above(self, run: RunSummary) -> list[RunSummary]:
        """The larger ones."""
        return [other for other in self.runs if self.larger(other, run)]


def ordered(runs: Sequence[RunSummary]) -> Order:
    """Orders runs by depth and parameters, else by the numbers in their names, else as they were given.

    Args:
        runs: With names that differ.
    """
    depths = {run.name: run.depth for run in runs}
    parameters = {run.name: run.parameters for run in runs}
    known = [sizes for sizes in (depths, parameters) if None not in sizes.values()]
    if known:
        ranks = {run.name: tuple(sizes[run.name] or 0 for sizes in known) for run in runs}
        varied = [len(set(sizes.values())) > 1 for sizes in known]
        names = ["layers", "parameters"] if len(known) == 2 else ["layers" if known[0] is depths else "parameters"]
        by = [name for name, differs in zip(names, varied, strict=True) if differs]
        sentence = f"ordered by {' and '.join(by)}" if by else f"all of one size, by {' and '.join(names)}"
        return Order(sorted(runs, key=lambda run: ranks[run.name]), sentence, True, ranks)
    sizes_by_name = {run.name: _number(run.name) for run in runs}
    numbers = [number for number in sizes_by_name.values() if number is not None]
    if len(set(numbers)) == len(runs):
        ranks = {name: (number or 0,) for name, number in sizes_by_name.items()}
        sentence = "ordered by the numbers in their names, taken for their sizes: the logs do not tell them"
        return Order(sorted(runs, key=lambda run: ranks[run.name]), sentence, False, ranks)
    ranks = {run.name: (index,) for index, run in enumerate(runs)}
    sentence = "in the order given, taken to be from small to large: the logs do not tell their sizes"
    return Order(list(runs), sentence, False, ranks)


def _number(name: str) -> int | None:
    words = re.sub(r"[^a-z0-9]", "", name.rsplit("/", 1)[-1].lower())
    found = _SIZE.fullmatch(words)
    return int(found[1]) if found else None
