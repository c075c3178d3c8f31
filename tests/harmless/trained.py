"""What is left of a training run, to be compared bit by bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor

from lightning_doctor.callbacks.case import Case
from lightning_doctor.callbacks.scoring_plan import ScoringPlan
from tests.harmless.ingredients import Cell
from tests.runs import trainer


def train(folder: Path, cell: Cell, *callbacks: Any, **options: Any) -> dict[str, Any]:
    """Trains for three epochs of four batches; returns all that is left."""
    seed_everything(0, verbose=False)
    module = cell.module()
    own = cell.callbacks()
    # Lightning draws when it makes a loader's sampler; the doctor's callbacks come last, as a user would add them.
    run = trainer(folder, *own, *callbacks, **{"max_epochs": 3, **cell.options, **options})
    run.fit(module, *module.loaders())
    return remains(run, module, own)


def score_all(plan: ScoringPlan, case: Case, sizes: Sequence[int], room: float) -> bool:
    """In place of a plan's own: scores all rows after every validation pass."""
    plan.rows = max(sizes)
    return True


def remains(run: Any, module: LightningModule, own: list[Any]) -> dict[str, Any]:
    return {
        "weights and buffers": module.state_dict(),
        "gradients": {name: parameter.grad for name, parameter in module.named_parameters()},
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in run.lr_scheduler_configs],
        "callback metrics": dict(run.callback_metrics),
        "logged metrics": dict(run.logged_metrics),
        "user lists": list(getattr(module, "seen", [])),
        "attributes": sorted(vars(module)),
        "modes": [part.training for part in module.modules()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "average": [dict(callback._average_model.state_dict()) for callback in own if callback._average_model],
        "random states": (torch.get_rng_state(), np.random.get_state()[1:], random.getstate()),
        "steps": run.global_step,
    }


def difference(one: Any, other: Any, place: str = "") -> str | None:
    """Says where two nestings of tensors, arrays and plain values differ in a bit; None where they do not."""
    if type(one) is not type(other):
        return f"{place}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, Tensor):
        # As bytes: NaN equals itself, and 0.0 is not -0.0.
        same = one.dtype == other.dtype and one.shape == other.shape
        same = same and one.detach().numpy().tobytes() == other.detach().numpy().tobytes()
        return None if same else f"{place}: {one} and {other}"
    if isinstance(one, np.ndarray):
        return None if np.array_equal(one, other) else place
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return f"{place}: {list(one)} and {list(other)}"
        return next((d for key in one if (d := difference(one[key], other[key], f"{place}.{key}"))), None)
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return f"{place}: {len(one)} and {len(other)}"
        pairs = enumerate(zip(one, other, strict=True))
        return next((d for i, (a, b) in pairs if (d := difference(a, b, f"{place}[{i}]"))), None)
    return None if one == other or repr(one) == repr(other) else f"{place}: {one!r} and {other!r}"
