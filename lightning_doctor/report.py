"""The report: what was found, what is well, what could not be judged, the walk through the tree, and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.guide import Guide
from lightning_doctor.history import History
from lightning_doctor.jsonable import MalformedError, from_jsonable, to_jsonable

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Report:
    """The state of one run.

    Attributes:
        findings: What is ill now: root causes first, the most severe first among them, then their symptoms.
        recovered: What was announced and has passed.
        healthy: Codes of the rules that looked and found nothing.
        unassessed: Codes of the rules that could not judge, with the reason.
        guide: The walk through the decision tree.
        overhead: The doctor's measured share of the run's time; None where there was no run to time.
        seconds: What that share is in time [seconds].
        step: The newest step this report speaks of.
        notes: What went wrong inside the doctor, one sentence each.
        history: What it all rests on.
    """

    findings: list[Finding] = field(default_factory=list)
    recovered: list[Finding] = field(default_factory=list)
    healthy: list[str] = field(default_factory=list)
    unassessed: dict[str, str] = field(default_factory=dict)
    guide: Guide = field(default_factory=Guide)
    overhead: float | None = None
    seconds: float | None = None
    step: int = 0
    notes: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings; None where there are none."""
        return max((finding.severity for finding in self.findings), key=lambda s: s.rank, default=None)

    def symptoms(self, finding: Finding) -> list[Finding]:
        """Returns the findings that this one explains."""
        return [other for other in self.findings if other.explained_by == finding.code]

    @property
    def roots(self) -> list[Finding]:
        """The findings that no other explains."""
        return [finding for finding in self.findings if finding.explained_by is None]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins, fit for strict JSON: the content of ``doctor.json``."""
        return {
            "schema": SCHEMA_VERSION,
            "step": self.step,
            "verdict": str(self.worst or ("healthy" if self.healthy else "unassessed")),
            "findings": [finding.to_dict() for finding in self.findings],
            "recovered": [finding.to_dict() for finding in self.recovered],
            "healthy": list(self.healthy),
            "unassessed": dict(self.unassessed),
            "guide": self.guide.to_dict(),
            "overhead": to_jsonable(self.overhead),
            "seconds": to_jsonable(self.seconds),
            "notes": list(self.notes),
            "history": self.history.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Report:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            MalformedError: Where it is not a report, or one of a newer schema; the message says which.
        """
        if not isinstance(data, Mapping) or "schema" not in data:
            raise MalformedError("not a doctor report: it must be an object with a schema number")
        if data["schema"] != SCHEMA_VERSION:
            raise MalformedError(f"the report has schema {data['schema']!r}, this version reads {SCHEMA_VERSION}")
        try:
            return cls(
                findings=[Finding.from_dict(item) for item in _list(data, "findings")],
                recovered=[Finding.from_dict(item) for item in _list(data, "recovered")],
                healthy=[str(code) for code in _list(data, "healthy")],
                unassessed={str(code): str(reason) for code, reason in dict(data.get("unassessed", {})).items()},
                guide=Guide.from_dict(data.get("guide", {})),
                overhead=None if data.get("overhead") is None else float(from_jsonable(data["overhead"])),
                seconds=None if data.get("seconds") is None else float(from_jsonable(data["seconds"])),
                step=int(data.get("step", 0)),
                notes=[str(note) for note in _list(data, "notes")],
                history=History.from_dict(data.get("history", {})),
            )
        except MalformedError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise MalformedError(f"the report cannot be read: {error}") from error
        except RecursionError as error:
            raise MalformedError("the report is nested too deeply to be one") from error

    def __str__(self) -> str:
        from lightning_doctor.sinks.letter import letter

        return letter(self)

    def _repr_html_(self) -> str:
        from lightning_doctor.sinks.html import html

        return html(self)


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key, [])
    if not isinstance(value, list):
        raise MalformedError(f"{key} of the report must be a list, got {type(value).__name__}")
    return value
