"""The fact ``reference`` as rules read it: what simpler models score where the network was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from lightning_doctor.error_bars import normal
from lightning_doctor.history import History
from lightning_doctor.jsonable import number
from lightning_doctor.noise import noise, shift, stretch

# Layers whose outputs are sums of what goes in, weighed; two of them with an activation between are a network.
_WEIGHING = ("Linear", "Conv", "LSTM", "GRU", "RNN", "Embedding", "Attention", "Bilinear")
# How many times fewer weights a network must have for its size to be what it lacks.
_SMALLER = 4
# Rows for each direction of the inputs under which a linear model fits nearly any labels.
_PER_DIRECTION = 2
# Losses up to a comparison that tell how the network did then, and from which share of the run on they tell of now.
_AROUND, _LATE = 64, 0.8
_TITLES = {"linear": "a linear model", "shallow": "a network of one hidden layer", "model": "the model given"}


@dataclass(frozen=True)
class Rival:
    """One simpler model.

    Attributes:
        name: ``"linear"``, ``"shallow"`` or ``"model"``.
        title: What it is, in words.
        loss: What it scores.
        gap: How far the network lies over it.
        error: The standard error of that, on the same rows.
    """

    name: str
    title: str
    loss: float
    gap: float
    error: float

    @property
    def bar(self) -> float:
        """How far the gap may be from the truth, with 95 % confidence."""
        return normal(self.error)

    def wins(self, sigmas: float) -> bool:
        """Whether it does better beyond noise."""
        return self.gap > sigmas * self.error


@dataclass(frozen=True)
class Reference:
    """What a network was compared with.

    Attributes:
        step: When.
        rows: How many training rows were scored that no simple model was fitted to.
        constant: The loss of the best constant.
        network: That of the network, in eval mode.
        rivals: The models it was compared with, whether or not simpler than it.
        hidden: The units of the network of one hidden layer.
        shallow_parameters: Its weights; 0 where they are not known.
        kinds: Whether the simple models weigh which word or category is where: more than some networks can read.
        draws: Whether the network's step draws random numbers in eval mode too, as for noise on its inputs, which the
            simple models were spared.
        fitted: How many rows the simple models' weights were fitted to; 0 where that is not known.
        directions: In how many directions their inputs vary; 0 where that is not known.
    """

    step: int
    rows: int
    constant: float
    network: float
    rivals: dict[str, Rival]
    hidden: int
    shallow_parameters: int = 0
    kinds: bool = False
    draws: bool = False
    fitted: int = 0
    directions: float = 0.0

    @property
    def few(self) -> bool:
        """Whether the rows that simple models were fitted to are too few for them to find anything.

        Fewer than two for each direction that rows vary in can be told apart by any labels (Cover 1965).
        """
        return 0 < self.fitted < _PER_DIRECTION * self.directions

    def outweighs(self, parameters: object) -> bool:
        """Whether the network of one hidden layer has far more weights than the one that it was compared with."""
        return isinstance(parameters, int) and 0 < _SMALLER * parameters <= self.shallow_parameters


def read_reference(history: History) -> Reference | None:
    """Reads the fact; None where the network was not compared."""
    fact: Any = history.fact("reference", {})
    if not isinstance(fact, Mapping):
        return None
    constant, network = number(fact.get("constant")), number(fact.get("network"))
    if not (math.isfinite(constant) and math.isfinite(network)):
        return None
    rivals = {}
    for name, title in _TITLES.items():
        loss, error = number(fact.get(name)), number(fact.get(f"{name}_error"))
        if math.isfinite(loss) and math.isfinite(error):
            rivals[name] = Rival(name, title, loss, network - loss, error)
    whole = {
        name: int(value) if math.isfinite(value := number(fact.get(name))) else 0
        for name in ("step", "rows", "hidden", "shallow_parameters", "fitted")
    }
    kinds, draws = fact.get("kinds") is True, fact.get("draws") is True
    directions = max(0.0, number(fact.get("directions"), 0.0))
    return Reference(
        constant=constant, network=network, rivals=rivals, kinds=kinds, draws=draws, directions=directions, **whole
    )


def outdone_by(history: History, compared: Reference | None, sigmas: float = 4.0, share: float = 0.1) -> Rival | None:
    """Returns the best of the simpler models that surely do better on the same rows; None where none does.

    Args:
        history: Of the run.
        compared: What its network was compared with, if it was.
        sigmas: How surely it must do better [standard errors].
        share: How much of what the simpler model gains over a constant the network must lack.
    """
    if compared is None:
        return None
    is_simpler = has_hidden_layer(history) and not compared.outweighs(history.fact("model.parameters"))
    better = [
        rival
        for rival in compared.rivals.values()
        if (rival.name == "model" or not compared.draws)
        and (rival.name != "shallow" or is_simpler)
        and rival.wins(sigmas)
        and rival.gap > max(0.0, share * (compared.constant - rival.loss))
    ]
    return min(better, key=lambda rival: rival.loss, default=None)


def is_outdated(history: History, compared: Reference, sigmas: float = 4.0) -> bool:
    """Whether the loss is lower by now than when it was compared, or as low as what it was compared with."""
    losses = history.get("train_loss")
    before, late = losses.until(compared.step)[-_AROUND:], stretch(losses, _LATE)
    if not before or not late or not 0 < compared.step < _LATE * history.last_step:
        return False
    least = min((rival.loss for rival in compared.rivals.values()), default=-math.inf)
    return shift(before, late).sigmas < -sigmas or sum(late) / len(late) <= least


def target(history: History) -> tuple[float, str] | None:
    """Returns the loss that was given as one that can be had, and whose it is."""
    fact: Any = history.fact("reference", {})
    loss = number(fact.get("target")) if isinstance(fact, Mapping) else math.nan
    return (loss, str(fact.get("target_of", "the target"))) if math.isfinite(loss) else None


def reaches_target(history: History) -> bool | None:
    """Whether the training loss is down at the one that was given, but for its noise; None where none was given."""
    given = target(history)
    late = stretch(history.get("train_loss").finite(), 0.8)
    return None if given is None or not late else median(late) - given[0] <= noise(late)


def has_hidden_layer(history: History) -> bool | None:
    """Whether the network has two layers that weigh; None where its layers are unknown."""
    layers = history.fact("model.layers")
    if not isinstance(layers, Mapping) or not layers:
        return None
    counts = [count for name, count in layers.items() if any(kind in str(name) for kind in _WEIGHING)]
    return sum(count for count in counts if isinstance(count, int)) >= 2
