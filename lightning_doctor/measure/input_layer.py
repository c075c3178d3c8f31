"""The input as the network's first layer gets it: where it comes from in the batch, and its features' moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lightning_doctor.measure.batches import Leaf, Path, Roles, at, fed_by, is_dense
from lightning_doctor.measure.features import FeatureMoments


class InputReader:
    """Follows forward passes; the first one that reaches a layer with parameters decides what the input is.

    What that layer gets is the input as the network sees it, scaled and flattened, if it comes from a leaf of the
    batch: shares its memory, or alone has its shape. A layer before it may tell the leaf too. After it only shared
    memory counts, for the network's own activations may have the shape of a batch. Where that layer gets something
    else, the leaf itself is measured.

    Attributes:
        layer: The first layer with parameters and the name of its class, once it has run.
        integers: Whether that layer is fed with whole numbers, as embeddings are.
        why_not: Why the input is not measured, as a clause; None where it is.
        passes: How many passes were measured.
        moments: Of the features.
    """

    def __init__(self) -> None:
        self.layer: tuple[str, str] | None = None
        self.integers = False
        self.why_not: str | None = None
        self.passes = 0
        self.moments = FeatureMoments()
        self._found: Sequence[Leaf] = ()
        self._roles = Roles()
        self._fed: set[Path] = set()
        self._first_fed: Path | None = None
        self._channels = False
        self._direct = False
        self._decided = False
        self._taken = False

    def start(self, found: Sequence[Leaf], roles: Roles) -> None:
        """A pass begins with these leaves, of which ``roles`` are known without it."""
        self._found, self._taken = found, False
        if not self._decided:
            self._roles = roles

    def ran(self, layer: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A leaf layer has run."""
        tensor = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        if not self._decided:
            self._trace(layer, module, tensor)
        # A layer that is called again in the same pass gets something else.
        if self._direct and not self._taken and tensor is not None and self.layer and layer == self.layer[0]:
            self._take(tensor)

    def finish(self) -> Roles:
        """The pass is over; returns the roles as it has shown them."""
        if not self._decided:
            self._roles, self._decided = self._judge(), self.layer is not None
        if not self._taken:
            leaf = at(self._found, self._roles.inputs)
            if leaf is None:
                self.why_not = "which part of the batch is the input cannot be told"
            else:
                self._take(leaf)
        self._found = ()
        return self._roles

    def _trace(self, layer: str, module: nn.Module, tensor: Tensor | None) -> None:
        path = None if tensor is None else fed_by(tensor, self._found, exact=self.layer is not None)
        if path is not None:
            self._fed.add(path)
            self._first_fed = self._first_fed or path
        if self.layer is None and any(True for _ in module.parameters(recurse=False)):
            self.layer = (layer, type(module).__name__)
            self._channels = isinstance(module, (_ConvNd, _NormBase, nn.GroupNorm))
            self._direct = path is not None and path == self._first_fed

    def _judge(self) -> Roles:
        inputs, targets = self._first_fed or self._roles.inputs, self._roles.targets
        others = [leaf for leaf in self._found if leaf.path != inputs]
        if targets is not None and targets == inputs:
            targets = others[0].path if len(others) == 1 else None
        if targets in self._fed and any(leaf.path == targets and leaf.tensor.is_floating_point() for leaf in others):
            # Two views of one sample. Whole numbers may well be both: a decoder is fed the words it is to say.
            targets = None
        unused = [leaf.path for leaf in others if leaf.path not in self._fed]
        if targets is None and self._fed and len(others) > 1 and len(unused) == 1:
            # Of several leaves the only one that no layer got.
            targets = unused[0]
        return Roles(inputs, targets)

    def _take(self, values: Tensor) -> None:
        self._taken, self.why_not, self.integers = True, None, False
        if not is_dense(values) or values.is_complex() or not values.ndim:
            self.why_not = "the input is sparse, ragged, complex or a single number"
        elif not values.numel():
            self.why_not = "the batch is empty"
        elif values.is_floating_point():
            self.passes += 1
            rows = values.unsqueeze(1) if values.ndim == 1 else values
            self.moments.add(rows, 1 if self._has_channels(rows) else -1)
        elif self._direct:
            self.integers = True
        else:
            self.why_not = "the input is whole numbers, and what the network makes of them was not seen"

    def _has_channels(self, values: Tensor) -> bool:
        return values.ndim >= 3 and (self._channels or (self.layer is None and values.ndim == 4))
