"""A progress bar over the folds of a cross-validation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class FoldProgress:
    """Counts epochs; a fold that ends early or has no planned end fills its part all the same."""

    def __init__(self, progress: Progress, task: TaskID, epochs: int) -> None:
        self._progress, self._task, self._epochs = progress, task, epochs
        self._done = self._runs = 0

    def begin(self, what: str) -> None:
        """Says which fold begins."""
        self._done = 0
        self._progress.update(self._task, description=what)

    def count(self) -> None:
        """Counts an epoch."""
        self._done = min(self._done + 1, self._epochs)
        self._progress.update(self._task, completed=self._runs * self._epochs + self._done)

    def end(self) -> None:
        """Counts a fold."""
        self._runs += 1
        self._progress.update(self._task, completed=self._runs * self._epochs)


@contextmanager
def fold_progress(runs: int, epochs: int, *, shown: bool) -> Iterator[FoldProgress]:
    """Shows a bar on stderr while folds are trained; the result may be piped.

    Args:
        runs: How many folds of all candidates there are.
        epochs: Of each, 1 where it is not known.
        shown: Whether it is to be seen at all.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("epochs" if epochs > 1 else "folds"), TimeElapsedColumn())
    what = TextColumn("{task.description}", markup=False)
    # Bound to the stream of now: while a fold is trained, sys.stderr is another one.
    with Progress(*columns, what, console=Console(file=sys.stderr), disable=not shown) as progress:
        yield FoldProgress(progress, progress.add_task("", total=runs * epochs), epochs)
