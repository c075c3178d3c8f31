"""LD107: single steps had a loss far above all others, and the run recovered."""

from __future__ import annotations

from statistics import median

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.noise import noise
from lightning_doctor.prescriptions import batch_of, clip, is_clipped
from lightning_doctor.rule import rule

# Values on either side of a spike that tell what is usual there.
_AROUND = 12
# Steps a spike may last until the loss is back.
_LENGTH = 8


@rule("LD107", needs={"train_loss": 32})
def loss_spike(
    history: History, *, sigmas: float = 10.0, gap: float = 3.0, share: float = 0.5, rare: float = 0.01
) -> Finding | None:
    """Single steps had a loss far above all others, and the run recovered.

    What it looks at:
        ``train_loss``, one value per optimizer step [unit of your loss].

    Why it matters:
        A spike is often one broken batch; each one pushes the weights by a step that the rest has to undo.

    Sick:
        1.0, 0.8, 0.7, 0.6, 9.5, 0.7, 0.6, 0.5

    Healthy:
        1.0, 0.4, 1.1, 0.3, 0.9, 0.2, 1.3, 0.2, where large values are a matter of course

    Remedy:
        Inspect the batch of that step; clip the gradient.

    Thresholds:
        sigmas: How far over its surroundings a spike lies [noise of one value].
        gap: How far, compared with the highest of the other values over their surroundings [ratio].
        share: How high, compared with the fall of the loss over the whole run [ratio].
        rare: Share of the steps above which spikes are no exception [share].

    Blind spots:
        The first steps and the last few have no surroundings to be compared with. A batch that is harder in every
        epoch is no spike.
    """
    series = history["train_loss"]
    values, steps = series.values, series.steps
    usual = median(values)
    fall = max(median(values[:3]), usual) - min(median(values[i : i + 8]) for i in range(0, len(values) - 7, 8))
    least = max(share * fall, sigmas * noise(values))
    allowed = max(1, int(rare * len(values)))
    # Rises from one of the last few values, far enough to be worth a closer look.
    heads = [i for i in range(3, len(values)) if values[i] - min(values[i - 3 : i]) > least]
    if not heads or len(heads) > (allowed + 1) * _LENGTH:
        return None
    peaks = _peaks(values, heads)
    if len(peaks) > allowed:
        return None
    spikes, height = [], 0.0
    for first, last in peaks:
        before = values[max(0, first - _AROUND) : first]
        after = values[last + 1 : last + 1 + _AROUND]
        if len(before) < _AROUND // 2 or len(after) < _AROUND // 2:
            continue
        # Over the highest of its surroundings, not over their middle: what varies so anyway is no exception.
        over = max(values[first : last + 1]) - max(median(before), median(after))
        reach = max(max(before), max(after)) - min(median(before), median(after))
        recovered = median(after) <= median(before) + max(0.2 * over, 3 * noise(before))
        if over > least and over > gap * reach and recovered:
            spikes.append((first, last))
            height = max(height, over)
    if not spikes or height <= gap * _highest_other(values, spikes):
        return None
    at = [max(range(first, last + 1), key=values.__getitem__) for first, last in spikes]
    batches = [batch_of(history, steps[i]) for i in at]
    if len(at) > 1 and batches[0] is not None and len(set(batches)) == 1:
        return None
    highest = max(at, key=values.__getitem__)
    batch = batch_of(history, steps[highest])
    evidence: dict[str, float | int | str] = {
        "steps": ", ".join(str(steps[i]) for i in at[:8]),
        "spikes": len(at),
        "highest": values[highest],
        "highest_step": steps[highest],
        "usual": median(values[max(0, highest - _AROUND) : highest]),
        "noise": noise(values),
    }
    if batch is not None:
        evidence["batches"] = ", ".join(str(b) for b in batches[:8])
    which = f"batch {batch} of its epoch" if batch is not None else "its batch"
    clipping = "" if is_clipped(history) else f", or {clip(history, steps[at[0]])}"
    return Finding(
        severity=Severity.NOTE,
        summary=f"the training loss jumped to {values[highest]:.4g} at step {steps[highest]} and came back"
        + (f"; {len(at)} such steps" if len(at) > 1 else ""),
        evidence=evidence,
        remedy=f"inspect the samples of step {steps[highest]} ({which}){clipping}",
        onset=steps[at[0]],
        signals=("train_loss",),
    )


def _peaks(values: list[float], heads: list[int]) -> list[tuple[int, int]]:
    """Joins rises that belong together: first and last index of each peak."""
    peaks: list[tuple[int, int]] = []
    for i in heads:
        half = (values[i] + min(values[i - 3 : i])) / 2
        last = i
        while last + 1 < min(len(values), i + _LENGTH) and values[last + 1] > half:
            last += 1
        if peaks and i <= peaks[-1][1] + 3:
            peaks[-1] = (peaks[-1][0], max(last, peaks[-1][1]))
        else:
            peaks.append((i, last))
    return peaks


def _highest_other(values: list[float], spikes: list[tuple[int, int]]) -> float:
    """Returns the highest rise from one value to the next of all that no spike touches."""
    touched = {i for first, last in spikes for i in range(first - 3, last + 4)}
    rises = (values[i] - values[i - 1] for i in range(1, len(values)) if i not in touched)
    return max(rises, default=0.0)
