"""Splits samples into folds, and says beforehand where that cannot be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Split:
    """One fold.

    Attributes:
        training: Indices of the samples to train on.
        validation: Those of the others.
    """

    training: list[int]
    validation: list[int]


def split(
    samples: int,
    folds: int,
    *,
    classes: Sequence[Hashable] | None = None,
    stratify: bool | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> list[Split]:
    """Splits samples into folds with scikit-learn's splitters, shuffled.

    Args:
        samples: How many there are.
        folds: How many parts, each of which is validated on once, at least 2.
        classes: The class of each sample, where it is known.
        stratify: Whether every fold shall have the classes' shares; None for where every class is large enough.
        groups: What each sample belongs to, such as a patient: a group is never on both sides.
        seed: Of the shuffling.

    Raises:
        ValueError: Where that cannot be, or a fold would have one class alone; the message says what would do.
        ModuleNotFoundError: Where scikit-learn is not installed.
    """
    _check(samples, folds, classes, groups)
    counts = Counter(classes or ())
    if stratify is None:
        stratify = classes is not None and groups is None and min(counts.values()) >= folds
    elif stratify and classes is None:
        raise ValueError("stratify needs the class of each sample: stratify=[…], one a sample")
    if stratify:
        rarest = min(counts, key=lambda each: counts[each])
        if counts[rarest] < folds:
            raise ValueError(
                f"class {rarest!r} has {counts[rarest]} samples, fewer than the {folds} folds that each should have "
                f"some of: take fewer folds, or stratify=False"
            )
    splits = _splits(samples, folds, classes if stratify else None, groups, seed)
    for number, each in enumerate(splits, start=1):
        _look_at_classes(each, number, folds, classes, grouped=groups is not None)
    return splits


def _splits(
    samples: int, folds: int, classes: Sequence[Hashable] | None, groups: Sequence[Hashable] | None, seed: int
) -> list[Split]:
    try:
        from sklearn import model_selection
    except ImportError as error:
        raise ModuleNotFoundError(
            'cross-validation needs scikit-learn: pip install "lightning-doctor[crossval]"'
        ) from error
    if groups is not None:
        kind = "GroupKFold" if classes is None else "StratifiedGroupKFold"
        # The former balances sizes, and before scikit-learn 1.6 it could not shuffle.
        options: dict[str, Any] = {} if classes is None else {"shuffle": True, "random_state": seed}
    else:
        kind = "KFold" if classes is None else "StratifiedKFold"
        options = {"shuffle": True, "random_state": seed}
    splitter = getattr(model_selection, kind)(folds, **options)
    # Numbers for whatever the classes and groups are called: scikit-learn would sort them.
    parts = splitter.split([[0]] * samples, _numbered(classes), _numbered(groups))
    return [Split(training.tolist(), validation.tolist()) for training, validation in parts]


def _numbered(names: Sequence[Hashable] | None) -> list[int] | None:
    if names is None:
        return None
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def _check(samples: int, folds: int, classes: Sequence[Hashable] | None, groups: Sequence[Hashable] | None) -> None:
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise ValueError(f"folds must be a whole number of at least 2, got {folds!r}")
    if samples < folds:
        raise ValueError(f"{samples} samples cannot be split into {folds} folds: there must be at least {2 * folds}")
    if samples < 2 * folds:
        fewer = f", or folds={samples // 2}" if samples >= 4 else ""
        raise ValueError(
            f"{samples} samples in {folds} folds would leave a fold with 1 sample to validate on: "
            f"there must be at least {2 * folds}{fewer}"
        )
    for name, given in (("stratify", classes), ("group", groups)):
        if given is not None and len(given) != samples:
            raise ValueError(f"{name} must have one value for each of the {samples} samples, got {len(given)}")
    if groups is not None and len(set(groups)) < folds:
        raise ValueError(f"{len(set(groups))} groups cannot be split into {folds} folds: each takes at least one")


def _look_at_classes(
    each: Split, number: int, folds: int, classes: Sequence[Hashable] | None, *, grouped: bool
) -> None:
    if not each.training or not each.validation:
        raise ValueError(f"fold {number} of {folds} would have no sample on one side: take fewer folds")
    if classes is None:
        return
    sides = {"trained": each.training} | ({} if grouped else {"validated": each.validation})
    for verb, indices in sides.items():
        seen = {classes[index] for index in indices}
        if len(seen) == 1:
            fewer = "take fewer folds, or stratify=True" if folds > 2 else "stratify=True, or more samples"
            advice = "there is one class only" if len(set(classes)) == 1 else fewer
            raise ValueError(f"fold {number} of {folds} would be {verb} on class {seen.pop()!r} alone: {advice}")
