"""The rule decorator: what a rule needs and reads, what it explains, and its thresholds, read off its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lightning_doctor.findings import Finding
from lightning_doctor.history import History

Check = Callable[..., Finding | None]

# Share of the steps so far before which what was seen is old: what is seen rarely becomes rarer as a run goes on.
_RECENT = 0.4


class Undecided(Exception):  # noqa: N818
    """Raised by a check whose evidence is all there and does not tell; the message says why, as a clause."""


def unread(history: History) -> Undecided:
    """Returns that a rule cannot judge a loss whose head is not known, with the reason for that."""
    return Undecided(history.absent.get("loss_head", "the fact loss_head is not known"))


@dataclass(frozen=True, eq=False)
class Rule:
    """One illness and the function that looks for it.

    Attributes:
        code: ``"LD504"``.
        name: The name of the illness, its function, its file and its test.
        check: A pure function of a history: a finding, or None for *looked, and it is well*.
        needs: Series that must be there, with the number of finite values each must have.
        reads: Facts that must be there.
        explains: Names of the illnesses that are only symptoms where this one is found.
        non_finite: Whether the rule looks at series that hold NaN or infinite values.
        thresholds: The keyword arguments of ``check`` with their defaults.
        recent: Series whose newest value must not be old.
        after: Beginnings of codes whose findings, where they are confirmed and as grave, come before this one.
    """

    code: str
    name: str
    check: Check
    needs: Mapping[str, int]
    reads: tuple[str, ...]
    explains: tuple[str, ...]
    non_finite: bool
    thresholds: Mapping[str, float]
    recent: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __call__(self, history: History, **thresholds: float) -> Finding | None:
        """Runs the check on a history that :meth:`lacks` nothing; names the finding after the rule."""
        finding = self.check(history, **thresholds)
        return None if finding is None else replace(finding, code=self.code, name=self.name)

    @property
    def manual(self) -> str:
        """The manual page: the docstring of the check."""
        return inspect.getdoc(self.check) or ""

    @property
    def title(self) -> str:
        """The first line of the manual page."""
        return self.manual.split("\n", 1)[0]

    def lacks(self, history: History) -> str | None:
        """Says why this history cannot be judged, as a clause; None where it can."""
        for fact in self.reads:
            if not history.fact(fact):
                return history.absent.get(fact, f"the fact {fact} is not known")
        for name, least in self.needs.items():
            # The family first: "several optimizers" is a reason to lack `train_loss`, but not all of its members.
            members = history.family(name[:-2]) if name.endswith("/*") else []
            lacks = [
                lacking(history, member, least, non_finite=self.non_finite)
                for member in members or [name.removesuffix("/*")]
            ]
            if None not in lacks:
                return lacks[0]
        newest = {name: history[name].steps[-1] for name in self.recent if name in history}
        old = next((name for name, step in newest.items() if not is_recent(history, step)), None)
        return None if old is None else f"the newest {old} is of step {newest[old]}: too old to tell of now"


def rule(
    code: str,
    *,
    needs: Mapping[str, int] | None = None,
    reads: tuple[str, ...] = (),
    recent: tuple[str, ...] = (),
    explains: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    non_finite: bool = False,
) -> Callable[[Check], Rule]:
    """Makes a function of a history into a :class:`Rule`.

    Args:
        code: Its code in the catalogue, never used before.
        needs: Series and the least number of values of each. Without them the rule is unassessed; so it is where
            one of them holds NaN or infinity. ``"train_loss/*"`` asks for one of a family: for ``train_loss`` or
            ``train_loss/0``, ``train_loss/1`` …
        reads: Facts that must be there, by their dotted path; without one the rule is unassessed.
        recent: Series whose newest value must not be old, where they are there; else the rule is unassessed, and what
            it has found stays found.
        explains: Names of the illnesses that this one causes.
        after: Beginnings of codes: any of those illnesses, once confirmed and as grave, is taken for its cause.
        non_finite: The rule wants to see the NaN and infinite values too.
    """

    def decorate(check: Check) -> Rule:
        keywords = [p for p in inspect.signature(check).parameters.values() if p.kind is p.KEYWORD_ONLY]
        thresholds = {p.name: p.default for p in keywords}
        return Rule(
            code, check.__name__, check, dict(needs or {}), reads, explains, non_finite, thresholds, recent, after
        )

    return decorate


def lacking(history: History, name: str, least: int, *, non_finite: bool = False) -> str | None:
    """Returns why a series does not suffice, as a clause; None where it does.

    Args:
        history: The run.
        name: Of the series.
        least: How many values are needed.
        non_finite: Whether NaN and infinite ones will do.
    """
    reason = history.absent.get(name) or history.absent.get(name.partition("/")[0])
    if reason and name not in history:
        return reason
    series = history.get(name)
    bad = series.broken_at()
    if bad is not None and not non_finite:
        return f"{name} is not finite at step {series.steps[bad]}"
    if len(series) < least:
        return f"{name} has {len(series)} of the {least} values needed"
    return None


def is_recent(history: History, step: int) -> bool:
    """Whether what was seen at a step may still tell how the run is now."""
    return step >= _RECENT * history.last_step
