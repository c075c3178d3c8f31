"""Labels every run by its outcome and counts what the doctor got right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from lightning_doctor.rules import all_rules
from tests.clinic.patient import Pair
from tests.clinic.run import Run

# Shares of its twin's gain under which a run is sick, and over which it is healthy.
_SICK, _HEALTHY = 0.5, 0.8


def label(run: Run, pair: Pair, runs: Iterable[Run]) -> str:
    """Returns ``"sick"``, ``"healthy"`` or ``"unclear"``."""
    runs = list(runs)
    if run.sick and pair.wasteful:
        return "sick"
    if run.varied:
        return _label_neighbour(run, pair, runs)
    best = pair.reachable if pair.reachable is not None else max(_gains(pair, runs), default=0.0)
    if best <= 0:
        raise ValueError(f"no healthy run of program {pair.number} beats the constant predictor")
    return _outcome(best, run)


def _label_neighbour(run: Run, pair: Pair, runs: list[Run]) -> str:
    """Compares a sick neighbour with its own twin, and a healthy one with its likes: its fault is none we know of."""
    gains = _gains(pair, runs)
    usual = pair.reachable if pair.reachable is not None else median(gains) if gains else 0.0
    if usual <= 0:
        return "unclear"
    if not run.sick:
        return "healthy" if _outcome(usual, run) == "healthy" else "unclear"
    twin = next((r for r in runs if r.number == run.number and not r.sick and r.seed == run.seed), None)
    if twin is None or _outcome(usual, twin) != "healthy":
        return "unclear"
    return _outcome(twin.gain, run)


def _gains(pair: Pair, runs: list[Run]) -> list[float]:
    return [run.gain for run in runs if run.number == pair.number and not run.sick and math.isfinite(run.gain)]


def _outcome(best: float, run: Run) -> str:
    """Labels a run; unclear where it ended another way under the doctor's eyes, which a chaotic one may."""
    outcomes = {_against(best, run.gain), _against(best, run.watched_gain)}
    return outcomes.pop() if len(outcomes) == 1 else "unclear"


def _against(best: float, gain: float) -> str:
    if not math.isfinite(gain) or gain < _SICK * best:
        return "sick"
    return "healthy" if gain >= _HEALTHY * best else "unclear"


def accepted(run: Run, pair: Pair) -> int | None:
    """Returns the rank of the first accepted cause among the warnings and errors, from 1 on."""
    return next((i for i, said in enumerate(run.alarms, 1) if said.name in pair.causes), None)


def known(pair: Pair) -> bool:
    """Whether a rule for one of its causes exists."""
    return bool({rule.name for rule in all_rules()} & set(pair.causes))


@dataclass
class Totals:
    """Counts over runs."""

    sick: int = 0
    first: int = 0
    among_three: int = 0
    early: int = 0
    caught: int = 0
    healthy: int = 0
    false_alarms: int = 0
    withdrawn: int = 0
    false_catches: int = 0
    unclear: int = 0

    def add(self, run: Run, pair: Pair, outcome: str) -> None:
        """Counts one run."""
        if outcome == "unclear":
            self.unclear += 1
        elif outcome == "healthy":
            self.healthy += 1
            self.false_alarms += bool(run.alarms)
            self.withdrawn += bool(run.withdrawn)
            self.false_catches += run.yardstick
        else:
            self.sick += 1
            self.caught += run.yardstick
            rank = accepted(run, pair)
            if rank is not None:
                self.first += rank == 1
                self.among_three += rank <= 3
                step = run.alarms[rank - 1].step
                self.early += rank <= 3 and step is not None and step < 0.5 * run.steps


def count(runs: Sequence[Run], pairs: Sequence[Pair]) -> tuple[Totals, Totals]:
    """Returns the totals over all programs, and over those for whose cause a rule exists."""
    everything, existing = Totals(), Totals()
    for pair in pairs:
        for run in (run for run in runs if run.number == pair.number):
            outcome = label(run, pair, runs)
            everything.add(run, pair, outcome)
            if known(pair):
                existing.add(run, pair, outcome)
    return everything, existing
