"""What the validation passes show of a run: how much is learned of rows it was not trained on, and whether more is."""

from __future__ import annotations

import math
from statistics import median, stdev

from lightning_doctor.history import History
from lightning_doctor.labels import label_counts
from lightning_doctor.noise import noise

# Passes whose last three tell a fall from noise, and how sure it must be [times their scatter].
_PASSES, _SURELY = 5, 3.0
# The last share of the run in which a pass tells of now.
_RECENT = 0.8


def held_out(history: History) -> float | None:
    """Returns how much of what there is to learn the validation shows to be learned, 1 for all; None if unknown.

    Taken from its accuracy where one is logged and the classes are known, else from its loss: classes may be right
    long before their probabilities are. The loss must be a mean, as validation batches have sizes of their own.
    """
    name = str(history.fact("validation.metric", ""))
    counts = label_counts(history)
    metrics = history.get("val_metric").finite().values
    if "acc" in name.lower() and metrics and len([count for count in counts.values() if count]) > 1:
        prior = max(counts.values()) / sum(counts.values())
        # Per cent in some runs.
        accuracy = median(metrics[-3:]) / (100 if max(metrics) > 1 else 1)
        return (accuracy - prior) / (1 - prior)
    baselines, losses = history.get("baseline_loss").finite().values, history.get("val_loss").finite().values
    if not baselines or not losses or not baselines[-1] > 0 or min(losses) < 0:
        return None
    if history.fact("loss_head.reduction") != "mean":
        return None
    return 1 - median(losses[-3:]) / baselines[-1]


def costs_held_out(history: History) -> bool:
    """Whether the validation loss is over that of a constant prediction, where both are means."""
    baselines, losses = (history.get(name).finite().values for name in ("baseline_loss", "val_loss"))
    is_mean = history.fact("loss_head.reduction") == "mean"
    return bool(is_mean and baselines and losses) and median(losses[-3:]) > baselines[-1] > 0


def validated_pace(history: History) -> float:
    """Returns the share of itself that the validation loss loses a step, over the last two passes; 0 where none.

    They must be the lowest so far, one below the other, by more than noise makes of so few, and no dearer than a
    constant prediction. Of a run that is over nothing more is to come.
    """
    if history.fact("run.ended") is not None or costs_held_out(history):
        return 0.0
    losses = history.get("val_loss").finite()
    steps, values = losses.steps[-3:], losses.values[-3:]
    if len(losses) < _PASSES or not values[0] > values[1] > values[2] > 0 or steps[0] == steps[2]:
        return 0.0
    if values[2] > min(losses.values) or steps[2] < _RECENT * history.last_step:
        return 0.0
    # Divided first: squares of huge losses would overflow.
    shares = [value / max(map(abs, losses.values)) for value in losses.values]
    # Of two passes, and of so few, which may look calmer than they are.
    scatter = math.sqrt(2) * max(noise(shares), stdev(shares[:-2]))
    fall = shares[-3] - shares[-1]
    return fall / shares[-3] / (steps[2] - steps[0]) if fall > _SURELY * scatter else 0.0
