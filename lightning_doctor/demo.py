"""``lightning-doctor demo``: trains sick and cured networks on handwritten digits and shows what the doctor says."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.report import Report

if TYPE_CHECKING:
    from lightning_doctor.demo_patients import Patient

DONE, NOT_AS_EXPECTED, FAILED = 0, 1, 2

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "cyan"}
_WIDEST = 110


def run(folder: str, epochs: int | None) -> int:
    """Trains the networks one after the other and shows what the doctor said.

    Args:
        folder: Where the logs go: a folder for each network, with ``version_0`` and so on in it.
        epochs: Epochs of each network; as many as each needs where it is None.

    Returns:
        The exit code: 0, or 1 where a sick network was not found ill or a cured one was, or 2 where the demo cannot
        run here.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return _failed('the demo needs scikit-learn: pip install "lightning-doctor[demo]"')
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _failed(f"{folder}: {error.strerror or error}")
    pixels, digits = load_digits(return_X_y=True)
    # Bound to the stream of now: while a network is trained, sys.stderr is another one.
    console = Console(file=sys.stderr, highlight=False)
    console.print(f"Loading PyTorch, then training a few small networks on {len(digits):,} handwritten digits.")

    from lightning_doctor.demo_patients import PATIENTS, train

    reports: list[tuple[Patient, Report]] = []
    with _progress(console) as progress:
        bar = progress.add_task("", total=sum(epochs or patient.epochs for patient in PATIENTS))
        for patient in PATIENTS:
            progress.update(bar, description=patient.name)

            def tell(finding: Finding, name: str = patient.name) -> None:
                if finding.severity is not Severity.NOTE and finding.explained_by is None:
                    console.print(Text.assemble(f"{name} · step {finding.step} · ", _diagnosis(finding)))

            report = train(
                patient,
                pixels,
                digits,
                folder,
                epochs or patient.epochs,
                on_epoch=lambda: progress.advance(bar),
                on_finding=tell,
            )
            reports.append((patient, report))
    _show(reports, folder)
    unexpected = [line for patient, report in reports for line in _unexpected(patient, report)]
    for line in unexpected:
        print(f"lightning-doctor: {line}", file=sys.stderr)
    return NOT_AS_EXPECTED if unexpected else DONE


def _failed(message: str) -> int:
    print(f"lightning-doctor: error: {message}", file=sys.stderr)
    return FAILED


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.description}"), console=console)


def _show(reports: Iterable[tuple[Patient, Report]], folder: str) -> None:
    console = Console(highlight=False)
    console.width = min(console.width, _WIDEST)
    table = Table(show_lines=True, expand=True)
    table.add_column("network", ratio=2)
    table.add_column("what the doctor says", ratio=5, overflow="fold")
    for patient, report in reports:
        said = [line for finding in report.roots for line in (_headline(finding), Text(f"→ {finding.remedy}"))]
        table.add_row(
            Text.assemble((patient.name, "bold"), "\n", (patient.story, "dim")),
            Text("\n").join(said) if said else Text("nothing ill", style="green"),
        )
    console.print(table)
    console.print("Each network with its diagnosis, curves and evidence in the Doctor tab:")
    # Never wrapped: to be copied.
    console.print(Text(f"tensorboard --logdir {shlex.quote(folder)}", style="bold"), soft_wrap=True)


def _headline(finding: Finding) -> Text:
    return Text.assemble(_diagnosis(finding), (f" · announced at step {finding.step}", "dim"))


def _diagnosis(finding: Finding) -> Text:
    return Text.assemble((str(finding.severity).upper(), _STYLES[finding.severity]), f" {finding.code} {finding.name}")


def _unexpected(patient: Patient, report: Report) -> Iterator[str]:
    ill = [finding for finding in report.findings if finding.severity is not Severity.NOTE]
    if patient.sick and not ill:
        yield f"{patient.name} is sick and was not found ill in {report.step + 1} steps"
    if not patient.sick:
        withdrawn = [finding for finding in report.recovered if finding.severity is not Severity.NOTE]
        for finding in (*ill, *withdrawn):
            yield f"{patient.name} is cured and was found ill: {finding.code} {finding.name}"
    yield from (f"{patient.name}: {note}" for note in report.notes)
