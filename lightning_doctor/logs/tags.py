"""Which tag of a log is which signal: found by the names that people and libraries give them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.curves import listed, printable

TRAIN = frozenset({"train", "training", "trn"})
VALIDATION = frozenset({"val", "valid", "validation", "eval", "evaluation", "dev"})
_TEST = frozenset({"test", "testing", "predict"})
_STEP = frozenset({"step", "batch", "iter", "iteration"})
_EPOCH = frozenset({"epoch"})
# Words that say nothing of what a loss is of.
_FILLER = frozenset({"loss", "total", "mean", "avg", "average", "running", "metrics", "doctor"})
_GRADIENT = frozenset({"grad", "grads", "gradient", "gradients"})
_GRADIENT_FILLER = frozenset({"norm", "norms", "total", "global", "l", "all", "model", "doctor", "inf", "before"})
_AFTER = frozenset({"clipped", "after"})
# fmt: off
_HIGHER_IS_BETTER = [
    "acc", "accuracy", "top1", "f1", "fscore", "auroc", "auc", "ap", "map", "miou", "iou", "jaccard", "dice", "r2",
    "kappa", "mcc", "bleu", "rouge", "psnr", "ssim", "precision", "recall",
]
_LOWER_IS_BETTER = ["error", "err", "wer", "cer", "perplexity", "ppl", "rmse", "mse", "mae", "mape", "fid"]
# fmt: on

_LOADER = re.compile(r"/dataloader_idx_(\d+)$")
_NUMBERED = re.compile(r"/[0-9.]+$")
_LIGHTNING_RATE = re.compile(r"lr-(?P<optimizer>[A-Za-z]\w*)(?:-\d+)?(?:/.+)?")
_LIGHTNING_TOTAL = re.compile(r"grad_(\d+\.\d+|inf)_norm_total(_step|_epoch)?")
_GROUP = re.compile(r"[/_.-]?(?:pg|group|param_group)?[/_.-]?\d+$")


@dataclass(frozen=True)
class Choice:
    """What was made of the tags of a log.

    Attributes:
        taken: The tag by the signal that it was taken for.
        absent: For a loss that was looked for and not found, the reason as a clause.
        others: The tags that were left.
        facts: What the tags' names say about the run.
    """

    taken: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)


def choose(tags: Mapping[str, int], named: Mapping[str, str] | None = None) -> Choice:
    """Finds the signals among tags.

    Args:
        tags: The number of points by tag.
        named: Tags by signal (``train_loss``, ``val_loss``, ``learning_rate``, ``grad_norm``) that the user named.

    Raises:
        MalformedError: Where a named tag is not in the log; the message names the nearest.
    """
    named = named or {}
    for signal, tag in named.items():
        if tag not in tags:
            raise MalformedError(f"{signal}: the log has no tag {printable(tag)!r}{_nearest(tag, list(tags))}")
    choice = Choice()
    # A single point is a summary at the end, such as the train/train_loss of the Hugging Face Trainer.
    plenty = {tag: count for tag, count in tags.items() if count > 1} or dict(tags)
    _training(plenty, named, choice)
    _validation(plenty, named, choice)
    _metric(plenty, choice)
    _learning_rates(plenty, named, choice)
    _gradients(plenty, named, choice)
    used = set(choice.taken.values())
    choice.others.extend(tag for tag in tags if tag not in used and tag != "epoch")
    return choice


def natural(text: str) -> list[tuple[int, str]]:
    """A sorting key that puts ``pg2`` before ``pg10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def _words(tag: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", _LOADER.sub("", tag))
    return re.findall(r"[a-z]+|[0-9]+", spaced.lower().replace("losses", "loss"))


def _training(tags: Mapping[str, int], named: Mapping[str, str], choice: Choice) -> None:
    if "train_loss" in named:
        choice.taken["train_loss"] = named["train_loss"]
        return
    whole: list[str] = []
    parts: list[str] = []
    for tag in tags:
        words = set(_words(tag))
        if "loss" in words and not words & (VALIDATION | _TEST) and tag not in named.values():
            rest = words - TRAIN - _STEP - _EPOCH - _FILLER
            (parts if rest else whole).append(tag)

    def preference(tag: str) -> tuple[int, bool, bool, int, str]:
        words = set(_words(tag))
        per_epoch = 2 if words & _EPOCH else 0 if words & _STEP else 1
        return per_epoch, not words & TRAIN, "doctor" in words or "running" in words, -tags[tag], tag

    if whole:
        choice.taken["train_loss"] = min(whole, key=preference)
        return
    steps = [tag for tag in parts if not set(_words(tag)) & _EPOCH]
    parts = steps or parts
    if len(parts) == 1:
        choice.taken["train_loss"] = parts[0]
    elif parts:
        choice.absent["train_loss"] = (
            f"{len(parts)} losses ({listed(parts)}) and none is named as their total; name one with --train-loss"
        )
    else:
        choice.absent["train_loss"] = "the log has no training loss"


def _validation(tags: Mapping[str, int], named: Mapping[str, str], choice: Choice) -> None:
    if "val_loss" in named:
        _loaders(named["val_loss"], "val_loss", tags, choice)
        return
    found: list[tuple[tuple[bool, bool, int, int, str], str]] = []
    for tag in tags:
        words = set(_words(tag))
        if "loss" not in words or words & _STEP or words & TRAIN or tag in choice.taken.values():
            continue
        if words & VALIDATION or (words & _TEST and tags[tag] > 2):
            rest = words - VALIDATION - _TEST - _EPOCH - _FILLER
            found.append(((not words & VALIDATION, bool(rest), len(rest), len(words), tag), tag))
    totals = [item for item in found if not item[0][1]]
    bases = {_LOADER.sub("", tag) for _, tag in found}
    if totals or len(bases) == 1:
        _loaders(min(totals or found)[1], "val_loss", tags, choice)
    elif found:
        parts = [tag for _, tag in found]
        choice.absent["val_loss"] = (
            f"{len(parts)} validation losses ({listed(parts)}) and none is named as their total; "
            "name one with --val-loss"
        )
    else:
        choice.absent["val_loss"] = "the log has no validation loss"


def _loaders(tag: str, signal: str, tags: Mapping[str, int], choice: Choice) -> None:
    """Takes the tag for the first loader and its namesakes for the further ones."""
    base = _LOADER.sub("", tag)
    same = sorted((t for t in tags if _LOADER.search(t) and _LOADER.sub("", t) == base), key=natural)
    first = same[0] if tag in same and same else tag
    choice.taken[signal] = first
    for index, other in enumerate((t for t in same if t != first), start=1):
        choice.taken[f"{signal}/{index}"] = other


def _metric(tags: Mapping[str, int], choice: Choice) -> None:
    ranking = {word: place for place, word in enumerate(_HIGHER_IS_BETTER + _LOWER_IS_BETTER)}
    found = []
    for tag in tags:
        words = _words(tag)
        joined = {*words, *(a + b for a, b in pairwise(words))}
        known = [ranking[word] for word in joined if word in ranking]
        if known and set(words) & VALIDATION and not set(words) & _STEP and "loss" not in words:
            found.append((min(known), len(words), natural(tag), tag))
    if found:
        place, *_, tag = min(found)
        choice.taken["val_metric"] = tag
        mode = "max" if place < len(_HIGHER_IS_BETTER) else "min"
        choice.facts["validation"] = {"metric": tag, "mode": mode}


def _learning_rates(tags: Mapping[str, int], named: Mapping[str, str], choice: Choice) -> None:
    rates: list[str] = []
    momenta: list[str] = []
    for tag in tags:
        words = _words(tag)
        if "momentum" in words:
            momenta.append(tag)
        elif ("lr" in words or ("learning" in words and "rate" in words)) and not {"decay", "scale"} & set(words):
            rates.append(tag)
    if "learning_rate" in named:
        family = [named["learning_rate"]]
    else:
        monitored = [tag for tag in rates if _LIGHTNING_RATE.fullmatch(tag)]
        first = min(rates, key=lambda tag: (len(_words(tag)), natural(tag)), default="")
        # Everything Lightning's monitor wrote, else the groups of the tag with the plainest name.
        family = monitored or [tag for tag in rates if _GROUP.sub("", tag) == _GROUP.sub("", first)]
    _number(sorted(family, key=natural), "learning_rate", choice)
    _number(sorted(momenta, key=natural), "momentum", choice)
    classes = [match["optimizer"] for tag in family if (match := _LIGHTNING_RATE.fullmatch(tag))]
    if classes:
        choice.facts["optimizers"] = [{"class": name} for name in dict.fromkeys(classes)]


def _number(family: list[str], signal: str, choice: Choice) -> None:
    for index, tag in enumerate(family):
        choice.taken[f"{signal}/{index}" if index else signal] = tag


def _gradients(tags: Mapping[str, int], named: Mapping[str, str], choice: Choice) -> None:
    def plain(tag: str) -> set[str]:
        return {word for word in _words(tag) if not word.isdigit()} - TRAIN - _STEP - _EPOCH - _GRADIENT

    # One that ends in a number alone is of a layer: those of nn.Sequential are called so.
    norms = [
        tag for tag in tags if set(_words(tag)) & _GRADIENT and "norm" in tag.lower() and not _NUMBERED.search(tag)
    ]
    before = [tag for tag in norms if not plain(tag) - _GRADIENT_FILLER - {"gradnorm"}]
    after = [tag for tag in norms if plain(tag) & _AFTER and not plain(tag) - _GRADIENT_FILLER - _AFTER - {"clipping"}]

    def preference(tag: str) -> tuple[bool, bool, int, str]:
        # Lightning names the norm's order: the Euclidean one, and per step rather than its mean over an epoch.
        total = _LIGHTNING_TOTAL.fullmatch(tag)
        return bool(total and total[1] != "2.0"), "epoch" in _words(tag), -tags[tag], tag

    _one(named.get("grad_norm"), before, "grad_norm", preference, choice)
    _one(None, after, "grad_norm_clipped", preference, choice)


def _one(
    given: str | None,
    found: list[str],
    signal: str,
    preference: Callable[[str], tuple[bool, bool, int, str]],
    choice: Choice,
) -> None:
    if given is not None:
        choice.taken[signal] = given
    elif found:
        choice.taken[signal] = min(found, key=preference)


def _nearest(name: str, names: list[str]) -> str:
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not matches:
        return f"; it has {listed(names)}"
    return f", did you mean {printable(matches[0])!r}? It has {listed(names)}"
