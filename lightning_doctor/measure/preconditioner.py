"""What an optimizer multiplies the gradient by, weight for weight, before the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Where each family keeps the squares of gradients.
_SQUARES = {
    "Adam": ("max_exp_avg_sq", "exp_avg_sq"),
    "AdamW": ("max_exp_avg_sq", "exp_avg_sq"),
    "NAdam": ("exp_avg_sq",),
    "RMSprop": ("square_avg",),
    "Adagrad": ("sum",),
}


def preconditioner(
    optimizer: Optimizer, parameters: Sequence[Tensor], whole: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Tensor | None:
    """Returns the diagonal of P, flat over the parameters [n]; a step is −lr·P·m for the momentum m.

    One over the square root of the mean of squared gradients, debiased where the optimizer debiases it, plus eps:
    Kingma & Ba 2015, Hinton 2012, Duchi et al. 2011.

    Args:
        optimizer: After a step at least.
        parameters: Of the model, in the order of the result. One that the optimizer has not stepped gets a zero.
        whole: Gathers a state that ranks hold in shards.

    Returns:
        None for an optimizer without one, and for one that is not known.
    """
    names = _SQUARES.get(type(optimizer).__name__)
    if names is None:
        return None
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    parts = []
    for parameter in parameters:
        state: Mapping[str, Any] = optimizer.state.get(parameter, {})
        squares = next((state[name] for name in names if isinstance(state.get(name), Tensor)), None)
        if squares is None:
            parts.append(torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device))
            continue
        group = groups[parameter]
        scale = whole(squares.detach()).flatten().to(parameter.dtype)
        if "betas" in group:
            scale = scale / (1 - group["betas"][1] ** float(state["step"]))
        parts.append(1 / (scale.sqrt() + group["eps"]))
    diagonal = torch.cat(parts)
    return diagonal if bool(diagonal.any()) else None
