"""LD509: the same batch scores far worse in eval mode than in train mode."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.error_bars import told
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.progress import GOOD, standing
from lightning_doctor.rule import Undecided, is_recent, rule
from lightning_doctor.scores import known_bars, scores, scoring_step, sureness

# Layers that do another thing in eval mode than to leave something out.
_NORMALISING = "BatchNorm"
# Steps before a score that tell the loss in train mode, and how sure the difference must be [standard errors].
_BEFORE, _SURE = 32, 3.0
# The latest scans, and the share of them that must show it too: on some batches it is far larger than on most.
_MANY, _SOME = 8, 0.25
# How much otherwise a batch must score in eval mode [share].
_OTHERWISE = 0.1
# Steps whose losses tell what a batch scores.
_FEWEST = 8


@rule(
    "LD509",
    needs={"mode_gap": 3, "train_loss": 32},
    explains=(
        "overfitting",
        "stale_validation",
        "distribution_mismatch",
        "uninformative_labels",
        "worse_than_reference",
        "model_bias",
    ),
)
def train_eval_discrepancy(
    history: History, *, factor: float = 2.0, share: float = 0.2, scans: int = 3
) -> Finding | None:
    """The same batch scores far worse in eval mode than in train mode.

    What it looks at:
        ``mode_gap``, how far the loss of a batch in train mode lies over the one in eval mode, by a copy of the model
        with the same weights; with batch normalisation also ``eval_loss/train``, a sample of training rows in eval
        mode, beside ``train_loss``.

    Why it matters:
        In eval mode the network is another one than was trained: validation, and every use of it, sees that one.
        Dropout makes the loss in train mode the higher one, never the lower.

    Sick:
        0.12 in train mode and 1.9 in eval mode, scan after scan: batch statistics that the running ones never reach; or
        batches of two, of which batch normalisation leaves nothing but which of the two is larger

    Healthy:
        0.62 in train mode and 0.41 in eval mode, which is dropout; or a gap in the first steps only

    Remedy:
        Larger batches or another normalisation; a larger momentum of batch normalisation; statistics computed anew.

    Thresholds:
        factor: How many times the loss in train mode the one in eval mode must be [ratio].
        share: How much of the best constant's loss, or of the loss at the start, lies between them [share].
        scans: How many of the latest scans must agree [count].

    Blind spots:
        Models without batch normalisation or dropout are scanned only where their own code asks for ``self.training``.
        Layers that somebody keeps in eval mode while training are left as they are.
    """
    return _of_few_rows(history) or _apart(history, factor, share, scans)


def _apart(history: History, factor: float, share: float, scans: int) -> Finding | None:
    gaps = history["mode_gap"]
    latest = gaps.values[-scans:]
    losses = history["train_loss"]
    if len(latest) < scans or any(gap <= -1 for gap in latest):
        return None
    # The gap is (train − eval) / eval.
    ratios = [1 / (1 + gap) for gap in latest]
    # Each against the loss of its time, which falls meanwhile.
    batches = [_loss_until(losses, step) for step in gaps.steps[-scans:]]
    trained, times = median(batches), median(ratios)
    evaluated = median(loss * ratio for loss, ratio in zip(batches, ratios, strict=True))
    baselines = history.get("baseline_loss").finite().values
    start = baselines[-1] if baselines else losses.values[0]
    layers = history.fact("model.layers", {})
    normalises = isinstance(layers, dict) and any(_NORMALISING in str(name) for name in layers)
    what, onset, sure, bar = "the same batch scores", _since(gaps, factor), normalises, math.nan
    recent = is_recent(history, gaps.steps[-1])
    if not recent or min(ratios) < factor or evaluated - trained < share * start:
        # Single small batches scatter too much to agree; many training rows at once do not.
        scattered = [1 / (1 + gap) for gap in gaps.values[-_MANY:] if gap > -1]
        shows = sum(ratio >= factor for ratio in scattered) >= _SOME * len(scattered)
        # One look at many rows will do where the newest batches agree.
        looks = 1 if recent and shows and min(scattered[-2:]) >= factor else 2
        # Of other layers each scan must agree, however old.
        asked = not recent and min(ratios) >= factor
        if normalises:
            asked = shows or not recent or (_scatter(gaps) and _come_again(history))
        rows = _of_many_rows(history, factor, share * start, looks) if asked else None
        if rows is None and not recent:
            raise Undecided(f"the newest mode_gap is of step {gaps.steps[-1]}: too old to tell of now")
        if rows is None:
            return None
        trained, evaluated, bar, onset = rows
        what, times = "a sample of the training rows scores", evaluated / trained
        # Rows alone may have been forgotten since: scans of now must say the same, or the rows must come all the time.
        sure = recent or _come_again(history)
    if not start > 0 or not trained > 0:
        return None
    validation = scores(history, "validation")
    good = validation is not None and max(validation.skills[-1:], default=0.0) >= GOOD
    batch = history.fact("data.batch_size")
    evidence: dict[str, float | int | str] = {
        "ratio": times,
        "train_mode": trained,
        "eval_mode": evaluated,
        "limit": 1 / factor - 1,
        **known_bars(eval_mode=bar),
    }
    if isinstance(batch, int):
        evidence["batch_size"] = batch
    return Finding(
        severity=Severity.NOTE if good else Severity.WARNING,
        summary=f"{what} {times:.2g} times as high in eval mode as in train mode (about "
        f"{told(evaluated, bar)}{sureness(bar)} against {trained:.3g})",
        evidence=evidence,
        remedy=_remedy(batch if isinstance(batch, int) else None)
        if normalises
        else "look for what the model does otherwise in eval mode: `self.training` in its forward pass (targets that "
        "are fed back in train mode only, samples that are drawn), a layer with statistics of its own",
        confidence=Confidence.CONFIRMED if sure else Confidence.SUSPECTED,
        onset=onset,
        signals=("mode_gap", "train_loss", "val_loss"),
    )


def _of_few_rows(history: History) -> Finding | None:
    """Batch normalisation by so few rows that their variance is as uncertain as it is large, in a run that does badly.

    Of n rows of normal numbers it has a relative standard error of √(2 / (n − 1)).
    """
    layers, batch, now = history.fact("model.layers", {}), history.fact("data.batch_size"), standing(history)
    # Over sequences there are more values than rows.
    by_rows = isinstance(layers, dict) and "BatchNorm1d" in layers and "Conv1d" not in layers
    if not by_rows or not isinstance(batch, int) or batch < 2 or math.sqrt(2 / (batch - 1)) < 1 or not now.harmed:
        return None
    left = "which of the two is larger" if batch == 2 else "little more than their order"
    return Finding(
        severity=Severity.WARNING,
        summary=f"batch normalisation takes its statistics of {batch} rows in train mode, of whose differences it "
        f"leaves {left}; in eval mode the network is another one",
        evidence={"batch_size": batch, **({} if now.reached is None else {"learned": now.reached})},
        remedy=_remedy(batch),
        confidence=Confidence.SUSPECTED,
        onset=0,
        signals=("mode_gap", "train_loss", "val_loss"),
    )


def _loss_until(losses: Series, step: int) -> float:
    """Returns the usual loss of the steps that end with this one: of an eighth of those so far, of eight at least."""
    before = losses.until(step) or losses.values[:1]
    return median(before[-max(_FEWEST, len(before) // 8) :])


def _of_many_rows(history: History, factor: float, apart: float, looks: int) -> tuple[float, float, float, int] | None:
    """Compares the loss in train mode with that in eval mode of a sample of training rows.

    Returns both, the error bar of the second, and since when they lie apart; None where they do not.
    """
    scored = scores(history, "train")
    if scored is None or not is_recent(history, scored.steps[-1]):
        return None
    if scoring_step(history) != "training_step":
        # Its loss may be another one.
        return None
    losses = history["train_loss"]
    pairs = []
    for step, evaluated, error in list(zip(scored.steps, scored.losses, scored.errors, strict=True))[-looks:]:
        before = losses.until(step)[-_BEFORE:]
        # Divided first: the sum of huge losses would overflow.
        trained = sum(loss / _BEFORE for loss in before)
        if len(before) < _BEFORE or not 0 < trained < math.inf or math.isnan(error):
            return None
        pairs.append((trained, evaluated, error))
    far = all(
        evaluated >= factor * trained and evaluated - trained >= max(apart, _SURE * error)
        for trained, evaluated, error in pairs
    )
    return (*pairs[-1][:2], scored.bar, scored.steps[-len(pairs)]) if far else None


def _scatter(gaps: Series) -> bool:
    """Whether batches score otherwise in eval mode, now better and now worse: then a few rows may be far off."""
    return median(abs(gap) for gap in gaps.finite().values[-_MANY:]) >= _OTHERWISE


def _come_again(history: History) -> bool:
    """Whether every row is served once an epoch, in an order drawn anew, and epochs have gone by."""
    batches = history.fact("trainer.batches_per_epoch")
    drawn = history.fact("data.sampler") == "RandomSampler"
    return drawn and isinstance(batches, int) and history.last_step >= 2 * batches


def _since(gaps: Series, factor: float) -> int:
    """Returns the step since which every scan has shown it."""
    healthy = [index for index, gap in enumerate(gaps.values) if 1 + gap > 1 / factor]
    return gaps.steps[min(max(healthy, default=-1) + 1, len(gaps) - 1)]


def _remedy(batch: int | None) -> str:
    small = f" (now of {batch})" if batch is not None and batch < 16 else ""
    return (
        f"take GroupNorm or LayerNorm in place of BatchNorm, or larger batches{small}; else raise BatchNorm's momentum "
        "so that its running statistics keep up, and mix training data well"
    )
