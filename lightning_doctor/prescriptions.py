"""What remedies say of the run at hand: its learning rate, its optimizer, its clipping, the batch of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from lightning_doctor.batch import batch_leaf
from lightning_doctor.history import History


def optimizer(history: History) -> str:
    """Returns the class name of the first optimizer; empty where it is unknown."""
    return str(_first(history, "optimizers").get("class", ""))


def scheduler(history: History) -> dict[str, Any]:
    """Returns what is known of the first scheduler: class, interval, frequency; empty where there is none."""
    return _first(history, "schedulers")


def parameter_groups(history: History) -> list[Mapping[str, Any]]:
    """Returns the settings of the parameter groups of all optimizers, in their order."""
    return [group for one in history.fact("optimizers", []) for group in one.get("groups") or []]


def is_adaptive(history: History) -> bool | None:
    """Whether the optimizer divides by the gradient's own size, so that no step can be huge; None where unknown."""
    name = optimizer(history).lower()
    if not name:
        return None
    return not any(plain in name for plain in ("sgd", "lbfgs", "asgd"))


def peak_rate(history: History) -> float | None:
    """Returns the highest learning rate so far of the first parameter group; None where it is unknown."""
    rates = [rate for rate in history.get("learning_rate").values if math.isfinite(rate)]
    if rates:
        return max(rates)
    groups = _first(history, "optimizers").get("groups") or [{}]
    rate = groups[0].get("lr") if isinstance(groups[0], dict) else None
    return float(rate) if isinstance(rate, (int, float)) else None


def momentum(history: History) -> float | None:
    """Returns the momentum of the first parameter group of SGD; None for other optimizers and where it is unknown."""
    groups = _first(history, "optimizers").get("groups")
    group = groups[0] if isinstance(groups, list) and groups else None
    value = group.get("momentum") if isinstance(group, dict) and is_adaptive(history) is False else None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def lower_rate(history: History, factor: float = 10.0) -> str:
    """Says to lower the learning rate, with numbers where they are known: ``"lower lr from 0.1 to 0.01 or less"``."""
    rate = peak_rate(history)
    if rate is None or not rate > 0:
        return f"lower lr {factor:.3g}-fold"
    return f"lower lr from {rate:.3g} to {rate / factor:.3g} or less"


def is_clipped(history: History) -> bool:
    """Whether gradients are clipped already."""
    return bool(history.fact("trainer.gradient_clip_val")) or "grad_norm_clipped" in history


def clip(history: History, before: int) -> str:
    """Says to clip, at the usual gradient norm of the steps before ``before`` where it is known."""
    series = history.get("grad_norm")
    norms = [n for at, n in zip(series.steps, series.values, strict=True) if at < before and math.isfinite(n) and n > 0]
    # Norms that grew by orders of magnitude have no usual size.
    if len(norms) < 5 or max(norms[-5:]) > 30 * min(norms):
        return "clip gradients (`Trainer(gradient_clip_val=1.0)`)"
    return f"clip gradients at their usual norm (`Trainer(gradient_clip_val={median(norms):.2g})`)"


def batch_of(history: History, step: int) -> int | None:
    """Returns the index within its epoch of the (first) batch of an optimizer step; None where it is unknown."""
    batches = history.fact("trainer.batches_per_epoch")
    if not isinstance(batches, int) or batches < 1:
        return None
    accumulated = history.fact("trainer.accumulate_grad_batches", 1)
    accumulated = accumulated if isinstance(accumulated, int) and accumulated > 0 else 1
    # A last group of an epoch that is not full steps too.
    steps = math.ceil(batches / accumulated)
    return step % steps * accumulated


def is_dense_on_images(history: History) -> bool:
    """Whether batches of images go into dense layers, with a weight for every pixel."""
    shape, layers = batch_leaf(history, "inputs").get("shape"), history.fact("model.layers")
    if not isinstance(layers, dict) or not isinstance(shape, list) or len(shape) != 4:
        return False
    kinds = [str(name) for name in layers]
    return "Linear" in kinds and not any("Conv" in kind or "Attention" in kind for kind in kinds)


def regularise(history: History, best_step: int | None, capacity: float, evidence: dict[str, float | int | str]) -> str:
    """Names what an overfitted run is known to lack; more data, which every one of them lacks, comes last.

    Args:
        history: The run.
        best_step: When it validated best; None where it has not become worse since.
        capacity: From how many parameters a training sample on the network is called large for its data.
        evidence: What the rule found, which gets the size of network and data where that matters.
    """
    advice = []
    callbacks = history.fact("trainer.callbacks")
    if evidence.get("metric_now") == "improves":
        advice.append("judge by the metric, and soften the targets (label_smoothing=0.1) if the loss itself matters")
    elif (
        best_step is not None
        and isinstance(callbacks, list)
        and not any("EarlyStopping" in str(name) for name in callbacks)
    ):
        advice.append(f'add EarlyStopping(monitor="val_loss") and keep the checkpoint of step {best_step}')
    elif best_step is not None:
        advice.append(f"keep the checkpoint of step {best_step}")
    parameters, samples = history.fact("model.parameters"), history.fact("data.train_samples")
    if isinstance(parameters, int) and isinstance(samples, int) and parameters > capacity * samples > 0:
        evidence |= {"parameters": parameters, "train_samples": samples}
        advice.append(f"make the network smaller ({parameters} parameters for {samples} samples)")
    if is_dense_on_images(history):
        advice.append("share parameters over the image: Conv2d layers in place of the first Linear")
    decays = _weight_decays(history)
    if decays is not None and not any(decays):
        advice.append("set weight_decay (1e-2 with AdamW, 1e-3 with SGD)")
    layers = history.fact("model.layers")
    if isinstance(layers, dict) and layers and not any("Dropout" in str(name) for name in layers):
        advice.append("add Dropout(0.2) before the last layer")
    rates = history.fact("model.dropout")
    if isinstance(rates, dict) and rates and not any(rates.values()):
        advice.append("raise p of Dropout from 0 to 0.2")
    augmented = history.fact("data.augmentation")
    advice.append("train on more data" if augmented else "train on more or augmented data")
    return "; ".join(advice)


def _weight_decays(history: History) -> list[float] | None:
    optimizers = history.fact("optimizers")
    try:
        decays = [float(group.get("weight_decay") or 0.0) for each in optimizers for group in each["groups"]]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return decays or None


def _first(history: History, fact: str) -> dict[str, Any]:
    items = history.fact(fact, [])
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
