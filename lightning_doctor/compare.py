"""Compares runs, by their training loss first and by their validation loss second.

A larger network that does worse than a smaller one *on its training data* is not overfitted: it could do what the
smaller one does, and its optimization failed. Only where it does as well there can a worse validation loss be called
overfitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Literal

from lightning_doctor.compared_run import Level, RunSummary, apart, at_step
from lightning_doctor.error_bars import CONFIDENCE, hoeffding, normal, samples_needed
from lightning_doctor.jsonable import to_jsonable
from lightning_doctor.size_order import Order, ordered

Verdict = Literal["optimization", "unfinished", "overfitting", "too small", "nothing ill", "unknown"]

# A difference under this share of what the runs have gained together is a trifle, however little noise there is: two
# seeds of one network differ by as much.
_TRIFLE = 0.02
# A run with a smaller share of another's steps is compared with it at the same step.
_AS_LONG = 0.8


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run and what is said of it.

    Attributes:
        run: Its figures.
        verdict: ``optimization``: a run that is no larger reaches a lower training loss; ``unfinished``: so does one
            that was trained for longer, and not at the same step; ``overfitting``: the training loss is as good and
            the validation loss is worse; ``too small``: a larger one does better on both.
        because: The numbers it rests on, as a clause; empty where there is nothing to say.
        sure: Whether the noise of the runs is known and exceeded, and their sizes are known.
    """

    run: RunSummary
    verdict: Verdict
    because: str = ""
    sure: bool = True


@dataclass(frozen=True, kw_only=True)
class Best:
    """The run with the lowest loss.

    Attributes:
        name: Of the run.
        by: ``"validation"``; ``"training"`` where not every run has a validation loss.
        resolved: Whether it is better than the next beyond noise and, where they are known, beyond the error bars of
            a validation set of that size; None where neither noise nor error bars are known.
        because: The numbers, as a clause.
    """

    name: str
    by: Literal["validation", "training"]
    resolved: bool | None
    because: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What comparing runs comes to.

    Attributes:
        entries: The runs, from small to large.
        order: What small and large go by, as a sentence.
        best: The best run; None where no loss can be compared.
        notes: What makes the runs harder to compare, one sentence each.
    """

    entries: list[Entry] = field(default_factory=list)
    order: str = ""
    best: Best | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins, fit for strict JSON."""
        table: dict[str, Any] = to_jsonable(asdict(self))
        for entry in table["entries"]:
            # A curve is no figure, and its log still holds it.
            del entry["run"]["losses"]
        return table


def compare(runs: Sequence[RunSummary], *, sigmas: float = 3.0) -> Comparison:
    """Compares runs of one task.

    Args:
        runs: At least two, with losses of one kind.
        sigmas: From how many standard errors on a difference exceeds the noise.

    Raises:
        ValueError: For fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"there must be at least two runs to compare, got {len(runs)}")
    if all(run.evaluated is not None for run in runs):
        # Without dropout, augmentation and the lag of a mean over an epoch.
        runs = [replace(run, train=run.evaluated) for run in runs]
    order = ordered(runs)
    notes = _notes(order.runs)
    heads = sorted({run.loss for run in runs if run.loss})
    if len(heads) > 1:
        notes.append(f"their losses are of different kinds ({', '.join(heads)}) and cannot be compared")
        unknown = [Entry(run=run, verdict="unknown", because="another loss", sure=False) for run in order.runs]
        return Comparison(entries=unknown, order=order.sentence, notes=notes)
    judge = _Judge(order, sigmas)
    entries = [judge.entry(run) for run in order.runs]
    return Comparison(entries=entries, order=order.sentence, best=_best(order.runs, judge), notes=notes)


class _Judge:
    def __init__(self, order: Order, sigmas: float) -> None:
        self._order = order
        self._sigmas = sigmas
        self._training = _TRIFLE * _gained(order.runs, "train")
        self._validation = _TRIFLE * _gained(order.runs, "val")

    def entry(self, run: RunSummary) -> Entry:
        """Puts a run where the tree puts it: training first."""
        if run.train is None:
            return Entry(run=run, verdict="unknown", because="it logged no training loss", sure=False)
        if run.broken_at is not None:
            because = f"its training loss is not finite from step {run.broken_at} on"
            return Entry(run=run, verdict="optimization", because=because)
        return self._worse_on_training(run) or self._worse_on_validation(run) or self._beaten(run) or self._well(run)

    def _worse_on_training(self, run: RunSummary) -> Entry | None:
        rivals = [r for r in self._order.up_to(run) if r.train is not None and r.broken_at is None]
        rivals = [r for r in rivals if self.lower(r.train, run.train) and not self.lower(run.val, r.val, of="val")]
        if not rivals:
            return None
        best = min(rivals, key=lambda r: _value(r.train))
        what = "smaller" if self._order.larger(run, best) else "no larger"
        numbers = f"its training loss of {_value(run.train):.3g} is over the {_value(best.train):.3g} of {best.name}"
        if run.steps < _AS_LONG * best.steps:
            then = at_step(best.losses, run.steps)
            if not self.lower(then, run.train):
                because = (
                    f"{numbers}, which had {best.steps} steps where it had {run.steps}: there {best.name} was at "
                    f"{_value(then):.3g}"
                )
                return Entry(run=run, verdict="unfinished", because=because, sure=self._sure(best, run))
        because = f"{numbers}, which is {what}: it could do as well"
        return Entry(run=run, verdict="optimization", because=because, sure=self._sure(best, run))

    def _worse_on_validation(self, run: RunSummary) -> Entry | None:
        if run.overfits:
            return Entry(run=run, verdict="overfitting", because=run.overfits)
        rivals = [r for r in self._order.below(run) if self.lower(r.val, run.val, of="val")]
        rivals = [r for r in rivals if not self.lower(r.train, run.train)]
        if not rivals:
            return None
        best = min(rivals, key=lambda r: _value(r.val))
        because = (
            f"its training loss of {_value(run.train):.3g} is no higher than the {_value(best.train):.3g} of "
            f"{best.name}, its validation loss of {_value(run.val):.3g} is over the {_value(best.val):.3g} of it"
        )
        return self._by_validation(run, best, "overfitting", because)

    def _beaten(self, run: RunSummary) -> Entry | None:
        rivals = [r for r in self._order.above(run) if self.lower(r.val, run.val, of="val")]
        rivals = [r for r in rivals if self.lower(r.train, run.train)]
        if not rivals:
            return None
        best = min(rivals, key=lambda r: _value(r.val))
        because = (
            f"{best.name} is larger and reaches {_value(best.train):.3g} in training and {_value(best.val):.3g} in "
            f"validation, where it reaches {_value(run.train):.3g} and {_value(run.val):.3g}"
        )
        return self._by_validation(run, best, "too small", because)

    def _by_validation(self, run: RunSummary, better: RunSummary, verdict: Verdict, because: str) -> Entry:
        """A verdict that rests on validation figures has their error bars beside it, and is as sure as they are."""
        told, bars = _bars(better, run, len(self._order.runs))
        sure = self._sure(better, run, of="val") and told is not False
        return Entry(run=run, verdict=verdict, because=because + bars, sure=sure)

    def _well(self, run: RunSummary) -> Entry:
        return Entry(run=run, verdict="nothing ill", sure=self._order.known)

    def lower(self, one: Level | None, other: Level | None, *, of: Literal["train", "val"] = "train") -> bool:
        """Whether one level is under another by more than their noise, as far as it is known, and than a trifle."""
        if one is None or other is None:
            return False
        least = self._training if of == "train" else self._validation
        return apart(one, other, self._sigmas) is not False and other.value - one.value > least

    def _sure(self, one: RunSummary, other: RunSummary, *, of: Literal["train", "val"] = "train") -> bool:
        levels = [(one.train, other.train), *([(one.val, other.val)] if of == "val" else [])]
        noisy = [a is not None and b is not None and apart(a, b, self._sigmas) is not None for a, b in levels]
        return self._order.known and all(noisy)


def _best(runs: Sequence[RunSummary], judge: _Judge) -> Best | None:
    finite = [run for run in runs if run.broken_at is None]
    if finite and all(run.best_val is not None for run in finite):
        by: Literal["validation", "training"] = "validation"
        ranked = sorted(((_value(run.best_val), run.best_val, run) for run in finite), key=lambda item: item[0])
    else:
        by = "training"
        seen = [run for run in finite if run.train is not None]
        ranked = sorted(((_value(run.train), run.train, run) for run in seen), key=lambda item: item[0])
    if not ranked:
        return None
    value, level, run = ranked[0]
    name = run.name
    if len(ranked) == 1:
        return Best(name=name, by=by, resolved=True, because=f"a {by} loss of {value:.3g}, the only one that is finite")
    following, next_level, second = ranked[1]
    because = f"a {by} loss of {value:.3g}, the next is {second.name} with {following:.3g}"
    known = level is not None and next_level is not None and apart(level, next_level, 1.0) is not None
    resolved = judge.lower(level, next_level, of="val" if by == "validation" else "train")
    because += ", beyond noise" if known and resolved else ", inside the noise" if known else ", of unknown noise"
    outcome: bool | None = resolved if known else None
    if by == "validation":
        bars, sentence = _bars(run, second, len(runs))
        because += sentence
        if bars is not None:
            outcome = bars and outcome is not False
    return Best(name=name, by=by, resolved=outcome, because=because)


def _bars(one: RunSummary, other: RunSummary, candidates: int) -> tuple[bool | None, str]:
    """Says whether a bounded metric tells two runs apart on validation sets of their sizes."""
    if not one.val_samples or not other.val_samples:
        return None, ""
    span = one.metric_span
    named = one.metric_name == other.metric_name
    if one.metric is None or other.metric is None or not named or not span:
        if one.val_error is not None and other.val_error is not None:
            return _bars_of_losses(one, other, candidates)
        fewest = min(one.val_samples, other.val_samples)
        return None, f"; how far {fewest:,} samples may mislead is not known of a loss, which has no limit"
    bars = [hoeffding(count, candidates=candidates, span=span) for count in (one.val_samples, other.val_samples)]
    gap = abs(one.metric - other.metric)
    better = (one.metric < other.metric) is (one.metric_mode == "min") and gap > 0
    sentence = (
        f"; {one.metric_name} {one.metric:.3g} ± {bars[0]:.2g} against {other.metric:.3g} ± {bars[1]:.2g} "
        f"({one.val_samples:,} and {other.val_samples:,} samples, {candidates} candidates, Hoeffding {CONFIDENCE:.0%})"
    )
    told = better and gap > sum(bars)
    if not told and gap > 0:
        sentence += f": {samples_needed(gap, candidates=candidates, span=span):,} samples would tell them apart"
    return told, sentence


def _bars_of_losses(better: RunSummary, other: RunSummary, candidates: int) -> tuple[bool | None, str]:
    bars = [normal(run.val_error or 0.0, candidates=candidates) for run in (better, other)]
    sentence = (
        f"; for {better.val_samples:,} and {other.val_samples:,} samples and {candidates} candidates these are known "
        f"to ± {bars[0]:.2g} and ± {bars[1]:.2g} ({CONFIDENCE:.0%})"
    )
    return _value(other.best_val) - _value(better.best_val) > sum(bars), sentence


def _gained(runs: Sequence[RunSummary], which: Literal["train", "val"]) -> float:
    """How far the runs came: from their usual start to the lowest end; 0 where there are no losses."""
    finite = [run for run in runs if run.broken_at is None]
    ends = [level.value for run in finite if (level := getattr(run, which)) is not None]
    starts = [start for run in finite if (start := getattr(run, f"{which}_start")) is not None]
    # The median: one run that begins, or where there is one value alone ends, at 1e9 shall not hide the others.
    return max(0.0, median(starts) - min(ends)) if starts and ends else 0.0


def _value(level: Level | None) -> float:
    return math.nan if level is None else level.value


def _notes(runs: Sequence[RunSummary]) -> list[str]:
    notes = []
    samples = {run.train_samples for run in runs if run.train_samples}
    if len(samples) > 1:
        listed = ", ".join(f"{count:,}" for count in sorted(samples))
        notes.append(f"they were trained on different numbers of samples ({listed})")
    dropout = [run.name for run in runs if run.dropout]
    if 0 < len(dropout) < len(runs) and any(run.train is not run.evaluated for run in runs):
        notes.append(f"with dropout a training loss is higher than without: {', '.join(dropout)}")
    return notes
