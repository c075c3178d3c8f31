"""What a rule says: one illness, its evidence and its remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any

from lightning_doctor.jsonable import MalformedError, from_jsonable, to_jsonable


class Severity(str, Enum):
    """How bad it is. Members compare equal to their text: ``finding.severity == "error"``."""

    NOTE = "note"
    """True, and optional."""
    WARNING = "warning"
    """Acting on it would clearly help this run."""
    ERROR = "error"
    """The run is lost or wrong as it stands."""

    def __str__(self) -> str:
        return self.value

    @property
    def rank(self) -> int:
        """0 for a note, 1 for a warning, 2 for an error."""
        return list(Severity).index(self)


class Confidence(str, Enum):
    """How sure the rule is. Members compare equal to their text."""

    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"

    def __str__(self) -> str:
        return self.value

    @property
    def rank(self) -> int:
        """0 for suspected, 1 for confirmed."""
        return list(Confidence).index(self)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One illness of one run.

    A rule fills the first block; the second is filled in for it.

    Attributes:
        severity: Note, warning or error.
        summary: One clause: what was seen.
        remedy: One imperative sentence that fits this run.
        evidence: The numbers and names the summary rests on.
        confidence: Suspected or confirmed.
        onset: Estimated step at which it began.
        signals: The series that a chart of this finding would show.
        code: ``"LD102"``.
        name: ``"diverging_loss"``.
        step: The step at which it was first announced, on the axis of the logged metrics, which is Lightning's
            ``global_step`` where there is one optimizer.
        last_step: The newest step at which it still held.
        explained_by: The code of the finding that caused this one; None for a root cause.
        recovered_at: The step at which it no longer held; None while it does.
    """

    severity: Severity
    summary: str
    remedy: str
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)
    confidence: Confidence = Confidence.CONFIRMED
    onset: int | None = None
    signals: tuple[str, ...] = ()

    code: str = ""
    name: str = ""
    step: int = 0
    last_step: int = 0
    explained_by: str | None = None
    recovered_at: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins that :meth:`from_dict` reads back."""
        table: dict[str, Any] = to_jsonable(asdict(self))
        return table

    @classmethod
    def from_dict(cls, data: Any) -> Finding:
        """Reads what :meth:`to_dict` wrote; unknown keys are passed over.

        Raises:
            MalformedError: Where something needed is missing or of another type.
        """
        if not isinstance(data, Mapping):
            raise MalformedError(f"a finding must be an object, got {type(data).__name__}")
        table = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        for key, (kinds, wanted) in _KINDS.items():
            value = table.get(key)
            if key in table and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise MalformedError(f"{key} of a finding must be {wanted}, got {value!r}")
        try:
            table["severity"] = Severity(table["severity"])
            table["confidence"] = Confidence(table.get("confidence", "confirmed"))
            table["signals"] = tuple(str(name) for name in table.get("signals", ()))
            # Only evidence holds numbers that may be NaN: a summary that reads "NaN" stays text.
            table["evidence"] = {str(key): from_jsonable(value) for key, value in table.get("evidence", {}).items()}
            return cls(**table)
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedError(f"a finding cannot be read: {error}") from error


_TEXT = ((str,), "text")
_WHOLE = ((int,), "a whole number")
_WHOLE_OR_NONE = ((int, type(None)), "a whole number or null")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "summary": _TEXT,
    "remedy": _TEXT,
    "evidence": ((Mapping,), "an object"),
    "signals": ((list, tuple), "a list"),
    "code": _TEXT,
    "name": _TEXT,
    "onset": _WHOLE_OR_NONE,
    "step": _WHOLE,
    "last_step": _WHOLE,
    "explained_by": ((str, type(None)), "text or null"),
    "recovered_at": _WHOLE_OR_NONE,
}
