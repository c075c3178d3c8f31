"""LD606: most of the time goes by in waiting for data."""

from __future__ import annotations

from statistics import median

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import stretch
from lightning_doctor.rule import rule

# Workers that start, and the first batches that they have ready, are not the pace of a run [steps].
_WARM = 4


@rule("LD606", needs={"data_wait": 4, "data_wait_seconds": 4, "batch_size": 4})
def data_starved(
    history: History, *, share: float = 0.5, slow: float = 0.005, row: float = 1e-4, matters: float = 1.0
) -> Finding | None:
    """Most of the time goes by in waiting for data.

    What it looks at:
        ``data_wait``, the share of the time between a batch and the arrival of the next, and ``data_wait_seconds``,
        its mean; neither counts the first batch of an epoch.

    Why it matters:
        The device is idle meanwhile: the same run could be over in a fraction of the time.

    Sick:
        0.8, 0.82, 0.79 with 0.2 seconds for a batch of 32

    Healthy:
        0.6, 0.55, 0.62 with 0.001 seconds for a batch of 32: a tiny network, which takes no longer to learn than rows
        to stack

    Remedy:
        Load in worker processes, prepare or cache the data beforehand.

    Thresholds:
        share: Share of the time that must go by in waiting, in nine windows of ten [share].
        slow: How long the wait for a batch must be; between any two a few thousandths go by [seconds].
        row: How long it must be for a row of the batch; to stack one takes a hundred-thousandth [seconds].
        matters: How long it must be over the whole planned run, or so far where none is planned [seconds].

    Blind spots:
        Other callbacks that work between two batches count as waiting. A loader that is slow by fits and starts looks
        like its median.
    """
    waits, shares = history["data_wait_seconds"], history["data_wait"]
    if history.last_step < _WARM:
        return None
    wait, usual = median(stretch(waits, 0.5) or waits.values), median(stretch(shares, 0.5) or shares.values)
    # Now and then a busy machine keeps any run waiting.
    recent = sorted(stretch(shares, 0.25) or shares.values)
    size = max(1.0, median(history["batch_size"].values))
    planned = history.fact("trainer.planned_steps")
    steps = planned if isinstance(planned, int) and planned > 0 else history.last_step + 1
    accumulated = history.fact("trainer.accumulate_grad_batches", 1)
    lost = wait * steps * (accumulated if isinstance(accumulated, int) else 1)
    longest = max(slow, row * size)
    if recent[len(recent) // 10] < share or wait < longest or lost < matters:
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"{usual:.0%} of the time goes by in waiting for data, {wait:.2g} s a batch",
        evidence={
            "waiting_share": usual,
            "limit": share,
            "seconds_a_batch": wait,
            "seconds_allowed": longest,
            "seconds_in_all": lost,
        },
        remedy=_remedy(history, usual, lost),
        onset=shares.steps[0],
        signals=("data_wait", "data_wait_seconds"),
    )


def _remedy(history: History, share: float, lost: float) -> str:
    workers = history.fact("data.workers")
    saves = f" to save up to {_time(lost)}"
    if workers == 0:
        # As many as keep up with the steps in between.
        enough = min(16, max(2, round(1 / (1 - share)) if share < 1 else 16))
        load = f"load in up to {enough} worker processes (`num_workers`, `persistent_workers=True`)"
        return f"{load}, or cache the data,{saves}"
    more = f"raise num_workers from {workers}, or " if isinstance(workers, int) else "use more worker processes, or "
    return f"{more}prepare the data beforehand, in memory or in larger files,{saves}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
