"""One run that callbacks are taken out of and put back into, turn by turn.

Two instances of the same model, trained side by side, differ by several percent on account of where their memory lies,
more than what is to be measured. Within one run nothing else differs between a turn and the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter, thread_time
from typing import Any

from lightning.pytorch import Callback, Trainer

from tests.benchmarks.turns import STEPS, doctors_clock, pass_over

# The steps of the shortest turn.
_SHORTEST = 4


@dataclass(frozen=True)
class Turn:
    """Some steps of a run.

    Attributes:
        watched: Whether the callbacks were there.
        wall: What a step took by the clock on the wall [seconds].
        processor: What it took of processor time [seconds].
    """

    watched: bool
    wall: float
    processor: float


class Switch(Callback):
    """Takes other callbacks out of a run and puts them back, and times the steps.

    Args:
        watchers: The others.
        after: How many steps they are there before that.
        length: The steps of a turn.
    """

    def __init__(self, watchers: Sequence[Callback], after: int, length: int) -> None:
        self.turns: list[Turn] = []
        self._watchers = list(watchers)
        self._left, self._length = after, length
        self._watched = True
        self._began: tuple[float, float] | None = None

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._left -= 1
        if self._left > 0:
            return
        if self._began is not None:
            wall, processor = perf_counter() - self._began[0], thread_time() - self._began[1]
            self.turns.append(Turn(self._watched, wall / self._length, processor / self._length))
            if not self._watched:
                # It earns nothing by steps that it does not watch.
                pass_over(wall)
        self._watched = not self._watched
        trainer.callbacks = [*self._watchers, self] if self._watched else [self]
        self._left = self._length
        self._began = perf_counter(), thread_time()


def run_switched(train: Callable[[list[Callback]], object], watchers: list[Callback], steps: int) -> list[Turn]:
    """Trains once with callbacks that come and go, from an eighth of the run on.

    Args:
        train: Trains with callbacks.
        watchers: Those that come and go.
        steps: How many steps that takes: of few, which are long, shorter turns.
    """
    switch = Switch(watchers, after=steps // 8, length=max(_SHORTEST, min(STEPS, steps // 100)))
    with doctors_clock():
        train([*watchers, switch])
    return switch.turns


def beside(turns: Sequence[Turn]) -> list[tuple[Turn, Turn]]:
    """Returns each watched turn that lies between two others, and the mean of these."""
    found = []
    for before, turn, following in zip(turns, turns[1:], turns[2:], strict=False):
        if turn.watched:
            wall, processor = fmean([before.wall, following.wall]), fmean([before.processor, following.processor])
            found.append((turn, Turn(watched=False, wall=wall, processor=processor)))
    return found
