"""LD603: a batch holds NaN or infinite values."""

from __future__ import annotations

import math
from typing import Any

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import rule


@rule(
    "LD603",
    needs={"batch_non_finite": 1},
    explains=(
        "non_finite_loss",
        "non_finite_gradients",
        "diverging_loss",
        "exploding_gradients",
        "loss_spike",
    ),
    non_finite=True,
)
def non_finite_batch(history: History, *, meant: float = 0.9) -> Finding | None:
    """A batch holds NaN or infinite values.

    What it looks at:
        ``batch_non_finite``, the number of NaN and infinite elements of a batch; the first such batch; the training
        loss and the gradients from there on.

    Why it matters:
        One NaN that reaches the loss makes every weight NaN at the next step.

    Sick:
        0, 0, 3, 0 with losses 0.9, 0.8, NaN, NaN

    Healthy:
        12, 9, 14, 11 with losses 0.9, 0.8, 0.7, 0.6: padding that the model masks

    Remedy:
        Find the rows in the data set; drop or fill them.

    Thresholds:
        meant: Share of the batches that must hold such values, with the loss finite throughout, for them to be meant
            [share].

    Blind spots:
        A value that a data set turns into a large finite number is not seen.
    """
    event = history.event("non_finite_batch")
    if event is None:
        return None
    counts = history["batch_non_finite"].values
    affected = sum(count != 0 for count in counts) / len(counts)
    onset: int = event["step"]
    key = str(event.get("key", "batch"))
    evidence: dict[str, float | int | str] = {"key": key, "first_step": onset, "affected_share": affected}
    place = [f"{name.partition('_')[0]} {event[name]}" for name in ("batch_idx", "epoch") if _is_whole(event.get(name))]
    evidence |= {name: event[name] for name in ("batch_idx", "epoch") if _is_whole(event.get(name))}
    where = f"{key} of {' of '.join(place) or f'the batch of step {onset}'}"
    reached, lost = _reached(history, onset)
    if not reached and affected >= meant:
        return None
    if lost:
        severity, effect = Severity.ERROR, "and the loss with it"
    elif reached:
        severity, effect = Severity.WARNING, "which reached the loss or the gradients"
    else:
        severity, effect = Severity.NOTE, "which the loss did not notice"
    return Finding(
        severity=severity,
        summary=f"NaN or infinite values in {where}, {effect}",
        evidence=evidence,
        remedy=f"drop or fill the rows with NaN or infinite values in {key}: begin with {where} "
        "(`torch.isfinite` in the data set finds them)",
        onset=onset,
        signals=("batch_non_finite", "train_loss"),
    )


def _reached(history: History, onset: int) -> tuple[bool, bool]:
    """Returns whether anything was not finite from there on, and whether the last loss still is not."""
    losses = [history[name] for name in history.family("train_loss")]
    broken = [not math.isfinite(value) for series in losses for value in series.since(onset)]
    gradients = any(value != 0 for value in history.get("grad_non_finite").since(onset))
    skipped = any(value > 0 for value in history.get("scaler_skips").since(onset))
    lost = any(len(series) and not math.isfinite(series.values[-1]) for series in losses)
    return any(broken) or (gradients or skipped), lost and any(broken)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
