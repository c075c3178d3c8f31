"""A comparison of runs: a table on a terminal, a chart of bias and complexity, and both in TensorBoard."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_doctor.compare import Comparison, Entry
from lightning_doctor.compared_run import Level, RunSummary
from lightning_doctor.sinks.wording import encodable

CHART_TAG, TEXT_TAG = "doctor/compare/chart", "doctor/compare"

_STYLES = {"optimization": "bold red", "overfitting": "bold yellow", "nothing ill": "green"}
_HEADINGS = ("run", "layers", "parameters", "steps", "training loss", "validation loss", "verdict")
# What stands under a point of the chart must fit between two of them.
_LABEL = 10
# A log file has no width of its own.
_LOG_WIDTH = 100


def show(comparison: Comparison, console: Console) -> None:
    """Prints the table, what is said of each run, and the best one."""

    def fit(text: str, style: str = "") -> Text:
        return Text(encodable(text, console.encoding), style=style)

    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _LOG_WIDTH
    headings, rows = tabulated(comparison)
    drawn = Table()
    for heading in headings:
        text = heading in ("run", "verdict")
        drawn.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=heading != "run")
    for entry, (*cells, verdict) in zip(comparison.entries, rows, strict=True):
        drawn.add_row(*map(fit, cells), fit(verdict, _STYLES.get(entry.verdict, "")))
    console.print(drawn)
    for line in [comparison.order, *remarks(comparison)]:
        console.print(fit(line))


def chart(comparison: Comparison) -> Any:
    """Draws the losses over the size of the runs, with a line at the best.

    Returns:
        ``[height, width, 3]`` of uint8; None where no run ended with a finite loss.
    """
    # numpy and PIL take their time, and a table needs neither.
    from lightning_doctor.sinks.pictures import curves

    runs = [entry.run for entry in comparison.entries]
    across, places, marks = _places(runs)
    lines = {
        "training": [(x, run.train) for x, run in zip(places, runs, strict=True) if run.broken_at is None],
        "validation": [(x, run.val) for x, run in zip(places, runs, strict=True)],
    }
    drawn = {
        name: [(x, level.value) for x, level in points if level is not None and math.isfinite(level.value)]
        for name, points in lines.items()
    }
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return None
    best = None if comparison.best is None else comparison.best.name
    mark = next((x for x, run in zip(places, runs, strict=True) if run.name == best), None)
    return curves(drawn, title="bias and complexity", across=across, up="loss", mark=mark, marks=marks)


def save_chart(comparison: Comparison, path: Path) -> bool:
    """Writes the chart as a PNG, whatever the file is called; says whether there was one to draw.

    Raises:
        OSError: Where the file cannot be written.
    """
    from PIL import Image

    picture = chart(comparison)
    if picture is None:
        return False
    with open(path, "wb") as file:
        Image.fromarray(picture).save(file, format="PNG")
    return True


def to_tensorboard(comparison: Comparison, folder: Path) -> None:
    """Writes the chart and the table into an event file of a folder, under Images and Text. Needs no torch.

    Raises:
        OSError: Where the folder cannot be written to.
    """
    import io
    import time

    from PIL import Image
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder.mkdir(parents=True, exist_ok=True)
    summaries = [text_pb(f"{TEXT_TAG}/text_summary", markdown(comparison))]
    picture = chart(comparison)
    if picture is not None:
        page = io.BytesIO()
        Image.fromarray(picture).save(page, format="PNG")
        height, width, _ = picture.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=page.getvalue())
        summaries.append(Summary(value=[Summary.Value(tag=CHART_TAG, image=image)]))
    writer = EventFileWriter(str(folder))
    try:
        for summary in summaries:
            writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    finally:
        writer.close()


def markdown(comparison: Comparison) -> str:
    """Returns the table and what is said, for TensorBoard's Text tab."""
    headings, cells = tabulated(comparison)
    rows = [headings, ["---"] * len(headings), *([_cell(text) for text in row] for row in cells)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    lines = "\n".join(f"- {_cell(line)}" for line in [comparison.order, *remarks(comparison)])
    return f"{table}\n\n{lines}\n"


def tabulated(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Returns headings and rows, less the columns that have nothing in them."""
    rows = [_cells(entry) for entry in comparison.entries]
    filled = [column for column in range(len(_HEADINGS)) if any(row[column] for row in rows)]
    return [_HEADINGS[column] for column in filled], [[row[column] for column in filled] for row in rows]


def _cells(entry: Entry) -> tuple[str, ...]:
    run = entry.run
    sure = "" if entry.sure or entry.verdict in ("nothing ill", "unknown") else " (suspected)"
    return (
        run.name,
        "" if run.depth is None else str(run.depth),
        "" if run.parameters is None else f"{run.parameters:,}",
        str(run.steps),
        "not finite" if run.broken_at is not None else _figure(run.train),
        _figure(run.val),
        f"{entry.verdict}{sure}",
    )


def remarks(comparison: Comparison) -> list[str]:
    """Returns what is said of each run and of the best, a sentence each."""
    lines = [f"{e.run.name}: {e.verdict}: {e.because}" for e in comparison.entries if e.because]
    told = [f"{e.run.name}: its own report says {e.run.finding}" for e in comparison.entries if e.run.finding]
    best = comparison.best
    if best is not None:
        resolved = {True: "", False: "; not resolved", None: "; whether that is resolved is not known"}[best.resolved]
        lines.append(f"best by {best.by}: {best.name}, {best.because}{resolved}")
    return [*lines, *told, *(f"note: {note}" for note in comparison.notes)]


def _figure(level: Level | None) -> str:
    if level is None:
        return ""
    return f"{level.value:.4g}" if math.isnan(level.error) else f"{level.value:.4g} ± {level.error:.1g}"


def _cell(text: str) -> str:
    # A name from outside must not end its cell, nor be read as a link or as code.
    return "".join(f"\\{char}" if char in "\\|[]`*_<>#" else char for char in text)


def _places(runs: list[RunSummary]) -> tuple[str, list[float], dict[float, str] | None]:
    """Where the runs stand on the horizontal axis: by what of their sizes differs, else one after the other."""
    for name, sizes in (("layers", [r.depth for r in runs]), ("parameters", [r.parameters for r in runs])):
        if None not in sizes and len(set(sizes)) > 1:
            numbers = [size for size in sizes if size is not None]
            # Parameters grow by factors.
            if name == "parameters":
                return "log10 of the parameters", [math.log10(number) for number in numbers], None
            return name, [float(number) for number in numbers], {float(number): str(number) for number in numbers}
    return "run", [float(i) for i in range(len(runs))], {float(i): r.name[-_LABEL:] for i, r in enumerate(runs)}
