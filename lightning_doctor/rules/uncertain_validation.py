"""LD505: the validation set is so small that its figures may be far from the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lightning_doctor.error_bars import CONFIDENCE, hoeffding, metric_span, normal, validation_error
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.labels import label_counts
from lightning_doctor.progress import standing
from lightning_doctor.rule import Undecided, rule

# What a figure should be known to, where nothing says how small the differences are that matter.
_FINE = 0.05
# How many times finer than it is a figure can still reasonably be asked to be.
_HOPELESS = 1000.0


@rule("LD505", needs={"val_loss": 3}, reads=("data.val_samples",), after=("LD1", "LD2", "LD3", "LD509"))
def uncertain_validation(history: History, *, coarse: float = 0.15) -> Finding | None:
    """The validation set is so small that its figures may be far from the truth.

    What it looks at:
        The number of validation samples, and what ``val_metric`` has gained over always guessing the most frequent
        class, where it is an accuracy; else what ``val_loss`` has gained, as a share of where it began, beside the
        scatter of its samples where ``eval_error/validation`` tells it.

    Why it matters:
        Which pass, setting or model is best is read off differences that are luck at that size.

    Sick:
        an accuracy of 0.7 on 20 samples of two classes: it may as well be 0.5, or 0.9

    Healthy:
        an accuracy of 0.7 on 500 samples: it lies between 0.64 and 0.76

    Remedy:
        Hold out more samples for validation, or cross-validate.

    Thresholds:
        coarse: From how far on the figure may be from the truth, with 95 % confidence by Hoeffding's inequality or by
            the scatter of its samples, to be mentioned [share of the range of the metric, or of the first loss].

    Blind spots:
        Passes over the same samples count as one look for each time that the run has doubled, which is a guess. The
        inequality holds for any distribution and is wide for most. A sample's loss may be larger than the first
        mean loss: where their scatter is not known, the bar of a loss is at least as wide as is said. Samples that
        are alike, such as frames of one video, count as fewer than they are. A loss that weighs its classes is made by
        few of the samples, and models are hardly chosen by it: that is but a note, as it is where as few rows are
        trained on.
    """
    samples = history.fact("data.val_samples")
    if not isinstance(samples, int) or samples < 1:
        return None
    if samples == 1:
        raise Undecided("validation has one sample, a whole graph or table maybe: of how many it is made nobody knows")
    figure = _metric(history, samples) or _loss(history, samples)
    bar = figure.bar(1)
    if bar < coarse:
        return None
    passes = len(history["val_loss"])
    # Passes over the same samples are alike: it is another network after twice as long.
    looks = passes.bit_length()
    luck, gain = figure.bar(looks), figure.gain
    evidence: dict[str, float | int | str] = {"val_samples": samples, "bar": bar, "confidence": CONFIDENCE}
    summary = f"{figure.name} rests on {samples} samples, which leaves it uncertain by {bar:.2f}{figure.of}"
    severity, fine, reach = Severity.NOTE, _FINE, bar
    # Where as few rows are trained on there are no more to hold out.
    trained = history.fact("data.train_samples")
    few = isinstance(trained, int) and trained <= samples
    if gain is not None and 0 < gain <= luck:
        evidence |= {"gain": gain, "bar_of_best": luck, "passes": passes, "looks": looks}
        evidence["beyond_luck"] = figure.at(luck)
        summary += f"; the {gain:.2f} that it gained may be luck, the best of {passes} passes being picked, which are "
        summary += f"about as good as {looks} looks"
        fine, reach = gain, luck
        # A network that has not learned its training samples has other troubles.
        if figure.over_guessing and not few and not standing(history).poor:
            severity = Severity.WARNING
    # A bar shrinks with the root of the samples.
    needed = math.ceil(samples * (reach / fine) ** 2) if reach < _HOPELESS * fine and not few else None
    advice = "" if few else "validate on more samples, or "
    if needed is not None:
        evidence["samples_needed"] = needed
        advice = f"validate on {needed} samples or more, or "
    return Finding(
        severity=severity,
        summary=summary,
        evidence=evidence,
        remedy=f"{advice}cross-validate: lightning_doctor.cross_validate(…, folds=5)",
        signals=figure.signals,
    )


@dataclass(frozen=True)
class _Figure:
    """What validation is read by.

    Attributes:
        name: What it is called.
        of: What it is a share of, as the end of a clause.
        gain: What it has gained, as that share; None where that is not known.
        over_guessing: Whether that is counted from the best constant prediction on.
        at: What the series would be at, by what it had gained, as that share.
        bar: How far it may be from the truth, as that share, by the number of figures that were looked at.
        signals: The series that show it.
    """

    name: str
    of: str
    gain: float | None
    over_guessing: bool
    at: Callable[[float], float]
    bar: Callable[[int], float]
    signals: tuple[str, ...]


def _metric(history: History, samples: int) -> _Figure | None:
    name = str(history.fact("validation.metric", ""))
    values = history.get("val_metric").finite().values
    span = metric_span(name, values)
    if not span:
        return None
    falls = history.fact("validation.mode") == "min"
    shares = [1 - value / span if falls else value / span for value in values]
    guess = _guess(history)
    begun = shares[0] if guess is None else guess
    gain = max(shares) - begun

    def at(gained: float) -> float:
        return span * (1 - begun - gained if falls else begun + gained)

    signals = ("val_metric", "val_loss")
    return _Figure(name, " to either side", gain, guess is not None, at, _hoeffding(samples), signals)


def _guess(history: History) -> float | None:
    """Returns the accuracy of always guessing the most frequent class; None where that is not known."""
    counts = label_counts(history).values()
    return max(counts) / sum(counts) if len(counts) > 1 and sum(counts) > 0 else None


def _loss(history: History, samples: int) -> _Figure:
    losses = history["val_loss"].values
    baselines = history.get("baseline_loss").finite().values[-1:]
    start = max([losses[0], *baselines])
    gain = 1 - min(losses) / start if min(losses) >= 0 and start > 0 else None
    error = validation_error(history, samples)
    # One sample's loss may be larger than the first mean loss: by Hoeffding the bar is at least that of the share.
    bar = _hoeffding(samples) if error is None or gain is None else _normal(error / start)
    of = " of its start to either side"
    # What a constant costs must be known by as many rows as it is set against.
    batch, seen = history.fact("data.batch_size"), len(history.get("baseline_loss").finite())
    known = seen > 0 and (not isinstance(batch, int) or batch * seen >= samples)
    over_guessing = known and gain is not None and not history.fact("loss_head.weighted")
    return _Figure(
        "the validation loss", of, gain, over_guessing, lambda gained: start * (1 - gained), bar, ("val_loss",)
    )


def _hoeffding(samples: int) -> Callable[[int], float]:
    return lambda looked_at: hoeffding(samples, candidates=looked_at)


def _normal(error: float) -> Callable[[int], float]:
    return lambda looked_at: normal(error, candidates=looked_at)
