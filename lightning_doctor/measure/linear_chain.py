"""Which linear layers are fed by another one with nothing non-linear between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd

# Linear once trained, or the identity.
_PASSING = (_DropoutNd, _BatchNorm, nn.Identity, nn.Flatten, nn.Unflatten, _AvgPoolNd, _AdaptiveAvgPoolNd)
# Autograd nodes that only move, copy, drop or average numbers.
_MOVES = "View UnsafeView ReshapeAlias Alias Clone ToCopy Squeeze Unsqueeze Transpose T Permute NativeDropout Mean"
_PASSING_NODES = frozenset(f"{name}Backward{number}" for name in _MOVES.split() for number in range(3))


class LinearChain:
    """Follows what linear layers put out, in one forward pass."""

    def __init__(self) -> None:
        # By autograd node: the linear layer whose output it still is, empty for what no layer has touched.
        self._origins: dict[Any, str] = {}

    def ran(self, name: str, module: nn.Module, nodes: Sequence[Any], given: Sequence[Any]) -> str | None:
        """Takes note of a call of a module.

        Args:
            name: Of the module.
            module: The module.
            nodes: Where in the autograd graph its outputs were made.
            given: Where its inputs were; none for data.

        Returns:
            For a linear layer, the name of the one that feeds it, empty where it is fed with data; None for another
            module, and where anything else has come between.
        """
        linear = is_linear(module)
        if not linear and not isinstance(module, _PASSING):
            return None
        origin = self._origin(given)
        if linear:
            self._origins.update(dict.fromkeys(nodes, name))
            return origin
        if origin is not None:
            self._origins.update(dict.fromkeys(nodes, origin))
        return None

    def shared(self, edges: Mapping[Any, Sequence[Any]]) -> set[str]:
        """Returns the linear layers whose output goes to several places, such as round a residual block.

        Args:
            edges: The autograd graph of the loss, each node with those its inputs come from.
        """
        uses = Counter(source for sources in edges.values() for source in sources)
        return {origin for node, origin in self._origins.items() if uses[node] > 1}

    def _origin(self, given: Sequence[Any]) -> str | None:
        if not given:
            return ""
        node = given[0]
        while node not in self._origins and node.name() in _PASSING_NODES:
            below = [source for source, _ in node.next_functions if source is not None]
            if len(below) != 1:
                return None
            node = below[0]
        return self._origins.get(node)


def is_linear(module: nn.Module) -> bool:
    """Whether every output of the module is a weighted sum of all its inputs at some positions."""
    # A depthwise convolution before a pointwise one is one convolution taken apart on purpose.
    plain = isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) and module.groups == 1
    return plain or isinstance(module, nn.Linear)


def features(module: nn.Module) -> int:
    """Returns the number of features that a linear layer takes."""
    size = getattr(module, "in_features", None) or getattr(module, "in_channels", None)
    return int(size or 0)
