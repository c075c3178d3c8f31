"""What a user may set, checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.rule import Rule
from lightning_doctor.rules import check_thresholds, choose_rules


@dataclass(kw_only=True)
class Settings:
    """The options of a case, as :class:`~lightning_doctor.Doctor` describes them.

    Raises:
        ValueError: For a value that cannot be; the message says what would be right.
    """

    overhead: float = 0.02
    every_n_steps: int = 50
    select: Sequence[str] | None = None
    ignore: Sequence[str] = ()
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stop_on: str | None = None
    on_finding: Callable[[Finding], Any] | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if not _number(self.overhead) or not 0 < self.overhead <= 1:
            raise ValueError(f"overhead must be in (0, 1], got {self.overhead!r}")
        if not isinstance(self.every_n_steps, int) or isinstance(self.every_n_steps, bool) or self.every_n_steps < 1:
            raise ValueError(f"every_n_steps must be a whole number of at least 1, got {self.every_n_steps!r}")
        if self.stop_on is not None and self.stop_on not in list(Severity):
            raise ValueError(f"stop_on must be None, 'note', 'warning' or 'error', got {self.stop_on!r}")
        if self.on_finding is not None and not callable(self.on_finding):
            raise ValueError(f"on_finding must be callable with a Finding, got {self.on_finding!r}")
        self.thresholds = check_thresholds(self.thresholds)
        # Fails here, where the user's call is on the stack, not in the first window of the run.
        self.rules()

    def rules(self) -> tuple[Rule, ...]:
        """The rules that are asked."""
        return choose_rules(self.select, self.ignore)

    def stops(self, finding: Finding) -> bool:
        """Says whether this finding is to stop the run."""
        return self.stop_on is not None and finding.severity.rank >= Severity(self.stop_on).rank


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
