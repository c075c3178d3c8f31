"""One forward pass as it is seen from outside: its layers in order, and the activations called as functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_doctor.measure import activations
from lightning_doctor.measure.activations import ACTIVATIONS, Reading
from lightning_doctor.measure.linear_chain import LinearChain, features
from lightning_doctor.measure.saved import saved_tensor

# Autograd nodes that are activations: the name of the function, and its kind.
_NODES = {
    "ReluBackward0": ("relu", "relu"),
    "SigmoidBackward0": ("sigmoid", "sigmoid"),
    "TanhBackward0": ("tanh", "tanh"),
    "SoftmaxBackward0": ("softmax", "softmax"),
    "LeakyReluBackward0": ("leaky_relu", "other"),
    "EluBackward0": ("elu", "other"),
    "SiluBackward0": ("silu", "other"),
    "GeluBackward0": ("gelu", "other"),
}
# How many nodes of a graph are looked at, those nearest the loss first.
_REACH = 2000
# How many uses of one activation module are told apart.
_USES = 16

# The number of the module that ran last, and of functions since.
Place = tuple[int, int]


@dataclass
class Layer:
    """A layer that ran.

    Attributes:
        name: The module's qualified name, with ``#2`` for its second use; "relu after fc1" for a function.
        type: The module's class, or the name of the function.
        kind: As in :class:`~lightning_doctor.measure.activations.Reading`.
        units: The number of its units.
        second_axis: Whether they are along axis 1.
        place: Where in the forward pass.
        features: How many a linear layer takes; 0 for another.
        fed_by: For a linear layer, the linear layer whose output it is given with nothing non-linear between, empty
            for data; None where it is given something else.
        last: Whether the loss is computed from its output, with no other layer between.
        reading: What was measured, if anything.
    """

    name: str
    type: str
    kind: str
    units: int
    second_axis: bool
    place: Place
    features: int = 0
    fed_by: str | None = None
    last: bool = False
    reading: Reading | None = None


class ForwardPass:
    """The layers that run in one step, and what they put out.

    A module that runs several times is measured the first time only. An activation is a layer of its own each time,
    as one module often serves a whole network.

    Args:
        step: The step.
        untold: The names of modules that are listed but not measured.
        most: How many layers are measured at most.
    """

    def __init__(self, step: int, untold: Collection[str], most: int) -> None:
        self.step = step
        self._untold = untold
        self._left = most
        self._modules: list[Layer] = []
        self._functions: dict[tuple[str, Place], Layer] = {}
        self._latest: dict[str, Layer] = {}
        self._uses: Counter[str] = Counter()
        # Where the output of an autograd node was made, and for recurrent layers from what.
        self._places: dict[Any, Place] = {}
        self._shortcuts: dict[Any, list[Any]] = {}
        self._chain = LinearChain()
        self._lost = False

    def ran(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Takes note of a call of a module."""
        results, sources = list(activations.tensors(output)), list(activations.tensors(inputs))
        if not results:
            return
        nodes, given = _nodes(results), _nodes(sources)
        kind = _kind(module, nodes, given)
        fed_by = self._chain.ran(name, module, nodes, given)
        self._uses[name] += 1
        if self._uses[name] > (_USES if kind in ACTIVATIONS else 1):
            layer = self._latest[name]
        else:
            layer = self._latest[name] = self._layer(name, module, kind, results[0], given)
            layer.features, layer.fed_by = features(module), fed_by
            self._modules.append(layer)
            if name not in self._untold and activations.tells(module):
                source = sources[0] if sources and isinstance(module, (nn.Sigmoid, nn.Tanh)) else None
                self._read(layer, results[0], source, top=6.0 if isinstance(module, nn.ReLU6) else math.inf)
        # Dropout and the like may return what they were given, which another layer has made. What was activated in
        # place looks the same.
        self._places.update({node: layer.place for node in nodes if kind in ACTIVATIONS or node not in given})
        if isinstance(module, nn.RNNBase):
            # Its gates are sigmoids and tanhs too, and often thousands of nodes.
            self._shortcuts.update(dict.fromkeys(nodes, given))

    def lost(self, loss: Any, read: bool) -> None:
        """Finds the activations in the graph of a loss that are no modules.

        Only of the first loss: what another one is made of may have run unseen.

        Args:
            loss: The loss, before its backward pass.
            read: Whether to measure them. Not before a first backward pass has gone well: see
                :func:`~lightning_doctor.measure.saved.saved_tensor`.
        """
        root = getattr(loss, "grad_fn", None)
        if root is None or self._lost:
            return
        self._lost = True
        edges = self._edges(root)
        shared = self._chain.shared(edges)
        found = []
        for node in _sources_first(root, edges):
            if node in self._places:
                continue
            place = max((self._places[source] for source in edges[node] if source in self._places), default=(-1, 0))
            function, kind = _NODES.get(node.name(), (None, "other"))
            if function is not None:
                place = (place[0], place[1] + 1)
                # Further steps of a loop would be found at the same place.
                if (function, place) not in self._functions:
                    layer = self._functions[function, place] = self._function(function, kind, place, node)
                    found.append((layer, node))
            self._places[node] = place
        for layer in self._all():
            layer.last |= layer.place == self._places[root]
            layer.fed_by = None if layer.fed_by in shared else layer.fed_by
        if read:
            readable = {layer.name: (layer, node) for layer, node in found if layer.kind in ACTIVATIONS}
            for name in activations.spread(readable, self._left):
                layer, node = readable[name]
                self._read(layer, saved_tensor(node, "result"))

    def layers(self) -> list[Layer]:
        """Returns the layers in the order in which they ran, the last of them marked."""
        layers = sorted(self._all(), key=lambda layer: layer.place)
        if layers and not any(layer.last for layer in layers):
            layers[-1].last = True
        return layers

    def _all(self) -> list[Layer]:
        return [*self._modules, *self._functions.values()]

    def _layer(self, name: str, module: nn.Module, kind: str, output: Tensor, given: list[Any]) -> Layer:
        number = next((self._places[node][0] for node in given if node in self._places), len(self._modules) - 1)
        before = self._modules[number].second_axis if number >= 0 else None
        second_axis = activations.units_in_second_axis(module, output.ndim, before)
        units = activations.units(output.shape, second_axis)
        use = self._uses[name]
        called = name if use == 1 else f"{name}#{use}"
        return Layer(called, type(module).__name__, kind, units, second_axis, (len(self._modules), 0))

    def _function(self, function: str, kind: str, place: Place, node: Any) -> Layer:
        before = self._modules[place[0]] if place[0] >= 0 else None
        name = f"{function} after {before.name if before else 'the input'}"
        self._uses[name] += 1
        use = self._uses[name]
        shape = node._input_metadata[0].shape
        second_axis = len(shape) > 3 if before is None else before.second_axis
        called = name if use == 1 else f"{name}#{use}"
        return Layer(called, function, kind, activations.units(shape, second_axis), second_axis, place)

    def _read(self, layer: Layer, output: Any, source: Any = None, top: float = math.inf) -> None:
        if self._left <= 0 or not activations.is_readable(output):
            return
        source = source if activations.is_readable(source) else None
        layer.reading = activations.read(output, layer.kind, layer.second_axis, source, top)
        self._left -= 1

    def _edges(self, root: Any) -> dict[Any, list[Any]]:
        """Returns the nodes nearest the loss, each with those its inputs come from."""
        edges: dict[Any, list[Any]] = {}
        frontier = [root]
        while frontier and len(edges) < _REACH:
            following: dict[Any, None] = {}
            for node in frontier:
                if node in self._shortcuts:
                    edges[node] = self._shortcuts[node]
                else:
                    edges[node] = [source for source, _ in node.next_functions if source is not None]
                following.update(dict.fromkeys(edges[node]))
            frontier = [node for node in following if node not in edges]
        return edges


def _kind(module: nn.Module, nodes: list[Any], given: list[Any]) -> str:
    kind = activations.kind(module)
    if kind == "other" and nodes and nodes[0] not in given and type(module).__module__.partition(".")[0] != "torch":
        # A module of the user's own may be, or end in, a function.
        return _NODES.get(nodes[0].name(), ("", kind))[1]
    return kind


def _nodes(values: Iterable[Tensor]) -> list[Any]:
    return [value.grad_fn for value in values if value.grad_fn is not None]


def _sources_first(root: Any, edges: dict[Any, list[Any]]) -> Iterable[Any]:
    done: set[Any] = set()
    waiting = [root]
    while waiting:
        node = waiting[-1]
        missing = [source for source in edges[node] if source in edges and source not in done]
        if node in done or not missing:
            waiting.pop()
            if node not in done:
                done.add(node)
                yield node
        else:
            waiting.extend(missing)
