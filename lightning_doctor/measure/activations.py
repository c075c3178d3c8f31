"""What a layer puts out: its scale, and which of its units are dead, saturated, constant or all the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from lightning_doctor.measure.norms import are_sharded

ACTIVATIONS = ("relu", "sigmoid", "tanh")
COLUMNS = 10
"""How many numbers a layer is packed into."""

_SCALARS = ("mean", "std", "saturated", "preactivation_std")
_KINDS: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    # Those whose derivative is exactly zero on one side: a leaky unit still learns.
    ("relu", (nn.ReLU, nn.ReLU6)),
    ("sigmoid", (nn.Sigmoid,)),
    ("tanh", (nn.Tanh,)),
    ("softmax", (nn.Softmax, nn.LogSoftmax, nn.Softmax2d)),
    ("linear", (nn.Linear, nn.Bilinear, _ConvNd)),
    ("norm", (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)),
    ("dropout", (_DropoutNd,)),
    ("recurrent", (nn.RNNBase,)),
)
_UNITS_IN_SECOND_AXIS = (_ConvNd, _NormBase, nn.GroupNorm, nn.LocalResponseNorm)
# What these put out says nothing that the layer before them has not said.
_UNTOLD = (nn.Identity, nn.Flatten, nn.Unflatten, _DropoutNd)
# A larger output is thinned out: to the first where each single value counts, to the second for means over all of them.
_ELEMENTS, _FEWER = 2_000_000, 200_000
# The output of sigmoid, and of tanh, at which the derivative is 1 % of its largest: 1 − (2 s − 1)² = 1 − t² = 0.01.
_FLAT = math.sqrt(0.99)
# The range of a unit that counts as constant, in rms of its layer: four times a standard deviation of 1e-6.
_CONSTANT = 4e-6


class Reading(NamedTuple):
    """What one layer put out for one batch.

    Attributes:
        kind: "relu", "sigmoid", "tanh", "softmax", "linear", "norm", "dropout", "recurrent" or "other".
        samples: The number of samples.
        high: The largest output of each unit over samples and positions ``[U]``.
        low: The smallest ``[U]``.
        top: The output above which the derivative vanishes again.
        mean: Over samples, positions and units ``[]``.
        std: Likewise ``[]``.
        saturated: The share of a sigmoid's or tanh's outputs where its derivative is under 1 % of the largest ``[]``.
        preactivation_std: The standard deviation of what went into a sigmoid or tanh ``[]``.
    """

    kind: str
    samples: int
    high: Tensor
    low: Tensor
    top: float
    mean: Tensor
    std: Tensor
    saturated: Tensor | None
    preactivation_std: Tensor | None

    def joined(self, earlier: Reading | None) -> Reading:
        """Returns this reading with the samples of an earlier one added to ``high`` and ``low``."""
        if earlier is None or earlier.high.shape != self.high.shape or earlier.high.device != self.high.device:
            return self
        high, low = torch.maximum(self.high, earlier.high), torch.minimum(self.low, earlier.low)
        return self._replace(samples=self.samples + earlier.samples, high=high, low=low)


def kind(module: nn.Module) -> str:
    """Returns the kind of a module, by its class."""
    return next((name for name, classes in _KINDS if isinstance(module, classes)), "other")


def tells(module: nn.Module) -> bool:
    """Whether what the module puts out is worth measuring."""
    return not isinstance(module, _UNTOLD) and "pool" not in type(module).__name__.lower()


def units_in_second_axis(module: nn.Module, dimensions: int, before: bool | None) -> bool:
    """Whether a module's units are along axis 1, as after a convolution, rather than along the last.

    Args:
        module: The module.
        dimensions: Of its output.
        before: The answer for the layer before it; None where there is none.
    """
    if isinstance(module, _UNITS_IN_SECOND_AXIS):
        return True
    if isinstance(module, (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase)):
        return False
    own = next(module.parameters(recurse=False), None) is not None
    return dimensions > 3 if own or before is None else before


def tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in what a module took or returned, nested or not."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def units(shape: Sequence[int], second_axis: bool) -> int:
    """Returns the number of units in an output of this shape."""
    return 1 if len(shape) < 2 else int(shape[1 if second_axis else -1])


def read(output: Tensor, kind: str, second_axis: bool, source: Tensor | None = None, top: float = math.inf) -> Reading:
    """Measures an output, without waiting for its device.

    Args:
        output: Of shape ``[N]``, ``[N, …, U]`` or, with ``second_axis``, ``[N, U, …]``.
        kind: As in :class:`Reading`.
        second_axis: Whether the units are along axis 1.
        source: What went into a sigmoid or tanh; None to infer it from the output.
        top: As in :class:`Reading`.
    """
    values = _plain(output)
    samples, high, low = _ends(values, second_axis)
    fewer = _fewer(values)
    mean, std = _mean_std(fewer)
    saturated = preactivation_std = None
    if kind in ("sigmoid", "tanh"):
        centred = fewer * 2 - 1 if kind == "sigmoid" else fewer
        saturated = (centred.abs() > _FLAT).float().mean()
        preactivation_std = _mean_std(_inverse(centred, kind) if source is None else _fewer(_plain(source)))[1]
    return Reading(kind, samples, high, low, top, mean, std, saturated, preactivation_std)


def is_readable(output: Any) -> bool:
    """Whether :func:`read` understands this: a whole, dense tensor of real numbers, with two of them at least."""
    return (
        isinstance(output, Tensor)
        and output.is_floating_point()
        and output.layout == torch.strided
        and not output.is_nested
        and not output.is_meta
        and output.ndim > 0
        and output.numel() > 1
        and not are_sharded([output])
        # Inside vmap and the like: what is computed from it cannot leave.
        and not torch._C._functorch.is_functorch_wrapped_tensor(output)
    )


def pack(readings: Sequence[Reading], joined: Sequence[Reading]) -> Tensor:
    """Returns ten numbers a layer, on the device of the last ``[len(readings), 10]``.

    They are: the number of samples; the number of units with an output that is not finite, and with a NaN; mean and
    standard deviation; the shares of units that are dead, that are constant, and that are not constant but the same
    as the one before them; the saturated share and the standard deviation of the pre-activations, or NaN.

    Args:
        readings: What each layer put out for the newest batch.
        joined: The same with earlier batches, for dead, constant and equal units.
    """
    device = readings[-1].mean.device
    high = torch.cat(_moved([reading.high for reading in joined], device))
    low = torch.cat(_moved([reading.low for reading in joined], device))
    newest = torch.cat(_moved([reading.high + reading.low for reading in readings], device))
    nan = torch.tensor(math.nan, device=device)
    scalars = [nan if (value := getattr(r, name)) is None else value for name in _SCALARS for r in readings]
    numbers = torch.stack(_moved(scalars, device)).view(len(_SCALARS), -1)
    sizes = torch.tensor([len(reading.high) for reading in joined], device=device)
    layer = torch.repeat_interleave(sizes, output_size=len(high))
    scale = _CONSTANT * torch.hypot(numbers[0], numbers[1])[layer]
    top = torch.tensor([reading.top for reading in joined], device=device)[layer]
    constant = high - low <= scale
    same = (layer.diff() == 0) & (high.diff().abs() <= scale[1:]) & (low.diff().abs() <= scale[1:]) & ~constant[1:]
    same = nn.functional.pad(same, (1, 0))
    flags = torch.stack([(high <= 0) | (low >= top), constant, same, ~newest.isfinite(), newest.isnan()]).float()
    counts = torch.zeros(len(flags), len(joined), device=device).index_add_(1, layer, flags)
    shares = counts[:3] / torch.stack([sizes, sizes, (sizes - 1).clamp(min=1)])
    samples = torch.tensor([[float(reading.samples) for reading in joined]], device=device)
    return torch.cat([samples, counts[3:], numbers[:2], shares, numbers[2:]]).T


def spread(names: Iterable[str], most: int) -> list[str]:
    """Returns at most so many of the names, evenly spread, the first and the last among them."""
    every = list(names)
    if len(every) <= most:
        return every
    return [every[round(i * (len(every) - 1) / (most - 1))] for i in range(most)]


def _moved(values: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    return [value if value.device == device else value.to(device) for value in values]


def _plain(output: Tensor) -> Tensor:
    values = output.detach()
    if type(values) is not Tensor:
        values = values.as_subclass(Tensor)
    return values if values.ndim > 1 else values.unsqueeze(1)


def _ends(values: Tensor, second_axis: bool) -> tuple[int, Tensor, Tensor]:
    """Returns the number of samples, and the largest and the smallest output of each unit ``[U]``."""
    if values.numel() > _ELEMENTS:
        axis = 1 if second_axis else values.ndim - 1
        # Rather positions than samples.
        longest = max((i for i in range(1, values.ndim) if i != axis), key=lambda i: values.shape[i], default=0)
        values = _every(values, longest, _ELEMENTS)
    samples = len(values)
    # In two strides, which is faster than over all axes at once.
    values = values.flatten(2) if second_axis and values.ndim > 2 else values.reshape(-1, values.shape[-1])
    high, low = (values.amax(-1), values.amin(-1)) if values.ndim > 2 else (values, values)
    return samples, high.amax(0).float(), low.amin(0).float()


def _fewer(values: Tensor) -> Tensor:
    if values.numel() > _FEWER:
        values = _every(values, 0, _FEWER)
    return values.float()


def _every(values: Tensor, axis: int, most: int) -> Tensor:
    stride = min(values.shape[axis], math.ceil(values.numel() / most))
    return values[(slice(None),) * axis + (slice(None, None, stride),)]


def _mean_std(values: Tensor) -> tuple[Tensor, Tensor]:
    # Twice as many passes as torch.std, in a fifth of its time on a CPU.
    mean = values.mean()
    return mean, torch.linalg.vector_norm(values - mean) / math.sqrt(values.numel())


def _inverse(centred: Tensor, kind: str) -> Tensor:
    # float32 knows nothing between this and one.
    source = torch.atanh(centred.clamp(-1 + 6e-8, 1 - 6e-8))
    return source * 2 if kind == "sigmoid" else source
