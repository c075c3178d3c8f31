"""Curves: what a log holds, tag by tag, before it is known which of them is which signal."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_doctor.history import thinned

Point = tuple[int, float]

# A log may hold any number of points; no rule sees a fiftieth of these.
_MOST_POINTS = 1 << 17


@dataclass
class Curves:
    """The scalars of one run.

    Attributes:
        points: Steps and values by tag, in the order of the log.
        text: Tags that hold something other than numbers, with what was seen.
        notes: What was odd about the log, one sentence each.
    """

    points: dict[str, list[Point]] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, tag: str, step: int, value: float) -> None:
        """Appends a point.

        A step that lies before the last one means that the run went back to a checkpoint or began anew: what it
        had written from that step on is superseded. Several points at one step are all kept. Of very many the older
        half is thinned, but for its extremes.
        """
        points = self.points.setdefault(tag, [])
        if points and step < points[-1][0]:
            self._cut(points, step)
        points.append((step, value))
        if len(points) > _MOST_POINTS:
            points[:] = [points[i] for i in thinned(*zip(*points, strict=True))]

    def restart(self, step: int) -> None:
        """Drops every point at ``step`` and later: the writer announced that it begins there again."""
        for points in self.points.values():
            if points and points[-1][0] >= step:
                self._cut(points, step)

    def resume(self, later: Curves) -> None:
        """Continues with what a later file of the same run holds, which supersedes what overlaps it."""
        for tag, points in later.points.items():
            mine = self.points.setdefault(tag, [])
            if mine and points and points[0][0] <= mine[-1][0]:
                self._cut(mine, points[0][0])
            mine.extend(points)
        self.text.update(later.text)
        self.notes.extend(later.notes)

    def join(self, other: Curves, prefix: str) -> None:
        """Takes in the curves of a part of this run that wrote to a folder of its own."""
        for tag, points in other.points.items():
            self.points.setdefault(f"{prefix}/{tag}", []).extend(points)
        self.notes.extend(note for note in other.notes if note not in self.notes)

    def counted(self) -> Curves:
        """Returns the curves with their points counted 0, 1, 2 … where the log gave all of them one and the same step.

        ``SummaryWriter.add_scalar(tag, value)`` without a step does that.
        """
        result = Curves({}, self.text, list(self.notes))
        stuck = []
        for tag, points in self.points.items():
            if len(points) > 2 and points[0][0] == points[-1][0]:
                stuck.append(tag)
                points = [(index, value) for index, (_, value) in enumerate(points)]
            result.points[tag] = points
        if stuck:
            result.notes.append(f"{listed(stuck)} logged without a step: the values were counted instead")
        return result

    def _cut(self, points: list[Point], step: int) -> None:
        while points and points[-1][0] >= step:
            points.pop()
        note = "steps went back, as after a restart: what came later in the log replaced what it overlaps"
        if note not in self.notes:
            self.notes.append(note)


def listed(tags: list[str], most: int = 12) -> str:
    """Returns tags as text, cut where there are very many."""
    shown = ", ".join(printable(tag) for tag in tags[:most])
    return f"{shown} and {len(tags) - most} more" if len(tags) > most else shown


def printable(text: str, most: int = 80) -> str:
    """Returns text from a foreign file without what would steer a terminal, and no longer than a line."""
    clean = "".join(char if char.isprintable() else "�" for char in text)
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"
