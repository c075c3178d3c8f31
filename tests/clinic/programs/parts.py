"""Networks, initializations, losses and data that several programs share."""

from __future__ import annotations

from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

_pixels, _labels = load_digits(return_X_y=True)
# Shuffled once, as the last rows were written by other people than the first.
_order = torch.randperm(len(_labels), generator=torch.Generator().manual_seed(0))
DIGITS = torch.tensor(_pixels, dtype=torch.float32)[_order] / 16
LABELS = torch.tensor(_labels)[_order]
TRAIN = 1400


def stack(widths: list[int], between: type[nn.Module] | None = nn.ReLU, last: nn.Module | None = None) -> nn.Sequential:
    """Linear layers of these widths, with an activation between them and one at the end."""
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        if index and between is not None:
            layers.append(between())
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers, *([] if last is None else [last]))


def keras(net: nn.Module) -> nn.Module:
    """Glorot's uniform weights and biases of zero, as Keras has them."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def normal(net: nn.Module, *, biases: bool = True) -> nn.Module:
    """Weights from N(0, 1) whatever the width, and biases too."""
    for name, parameter in net.named_parameters():
        if biases or not name.endswith("bias"):
            nn.init.normal_(parameter)
    return net


def categorical(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Keras's cross-entropy of probabilities: divided by their sum and kept off 0 and 1."""
    shares = probabilities / probabilities.sum(1, keepdim=True)
    return nn.functional.nll_loss(shares.clamp(1e-7, 1 - 1e-7).log(), labels)


def binary(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Keras's binary cross-entropy, which takes any target."""
    p = probabilities.clamp(1e-7, 1 - 1e-7)
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
