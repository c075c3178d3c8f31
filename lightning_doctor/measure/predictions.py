"""How one batch's predictions meet their targets, as a vector of numbers that need not be read at once."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from lightning_doctor.measure.baseline import ClassEntropy, Variance, baseline_of, exact
from lightning_doctor.measure.deviations import Deviations, Found, describe_targets
from lightning_doctor.measure.head import BINARY, Head, product
from lightning_doctor.measure.table import BY_ROW, Table, linked, tallied, thin

# How many classes are counted one by one.
CLASSES = 1000
# How many elements the largest is searched among.
_ARGMAX = 1 << 20

NUMBERS = (
    "rows",
    "output_min",
    "output_max",
    "output_spread",
    "output_level",
    "output_sum_error",
    "target_min",
    "target_max",
    "target_count",
    "target_sum",
    "target_squares",
    "target_fraction",
    "target_sum_error",
    "target_gap_down",
    "target_gap_across",
    "columns",
    "mass",
    "value",
    "loss",
    "baseline",
    "own_value",
    "own_baseline",
    "doubt",
    "right",
    "classified",
    "tags",
    "tags_found",
    "missed",
    "constant_missed",
    "error",
    "constant_error",
    "worst_share",
    "worst_ratio",
    "typical_error",
)


class Tally:
    """Takes the loss head of one batch after another.

    Args:
        head: The first of them; those that follow have the same loss and the same classes.
    """

    def __init__(self, head: Head) -> None:
        self.classes = _classes(head)
        self._entropy = ClassEntropy(head.class_weight, head.smoothing, shared=not head.indexed)
        self._baseline = baseline_of(head.loss, pos_weight=_pos_weight(head), bend=head.bend)
        self._deviations = Deviations()
        if head.loss in BY_ROW and head.sums_to_one:
            self._baseline = self._entropy
        elif isinstance(self._baseline, Variance) and not head.weighted:
            self._baseline = self._deviations.variance
        self._seen: Tensor | None = None

    @property
    def has_baseline(self) -> bool:
        """Whether the loss of the best constant is known for this kind of loss."""
        return self._baseline is not None

    def measure(self, head: Head, loss: Tensor) -> Tensor:
        """Returns the :data:`NUMBERS`, then for each class how often it was seen, predicted, and both.

        What cannot be known is NaN.

        Args:
            head: The loss head.
            loss: The loss, in the units of the training loss.
        """
        found: Found = {"loss": loss.detach().reshape(())}
        counts = None
        describe_outputs(head, found)
        if head.prediction is not None and head.target is not None and head.prediction.numel():
            if head.doubt is not None:
                found["doubt"] = head.doubt
            table = Table(head)
            counted = table.counted(head)
            if self.classes:
                counts = self._classify(table, counted, head, found)
            if head.broadcast and head.target.ndim == 2:
                found["target_gap_down"], found["target_gap_across"] = gaps(head.target)
            if table.targets is not None:
                found |= self._deviations.measure(table, counted, head)
            elif table.indices is not None:
                describe_targets(exact(table.indices), counted, found)
            self._weigh(table, head, found)
        packed = pack(found, loss)
        if not 0 < self.classes <= CLASSES:
            return packed
        counts = packed.new_zeros(3, self.classes) if counts is None else counts
        return torch.cat([packed, counts.to(packed).reshape(-1)])

    def _classify(self, table: Table, counted: Tensor | None, head: Head, found: Found) -> Tensor:
        scores, targets = table.scores, table.targets
        if by_element(head) and targets is not None:
            scores, targets = scores.reshape(-1, 1), targets.reshape(-1, 1)
        if counted is not None:
            counted = counted.reshape(len(scores), -1).any(1)
        every = max(1, ceil(scores.numel() / _ARGMAX))
        scores = scores[::every]
        if table.indices is not None:
            seen, predicted = table.indices[::every], scores.argmax(1)
        elif scores.shape[1] > 1:
            assert targets is not None
            seen, predicted = targets[::every].argmax(1), scores.argmax(1)
        else:
            assert targets is not None
            seen = (targets[::every, 0] > 0.5).long()
            predicted = (linked(scores[:, 0], head.link) > 0.5).long()
        ones = torch.ones_like(scores[:, 0]) if counted is None else counted[::every].to(scores.dtype)
        hits = (seen == predicted) * ones
        counts = torch.stack(
            [
                tallied(seen, ones, self.classes),
                tallied(predicted, ones, self.classes),
                tallied(seen, hits, self.classes),
            ]
        )
        found["right"], found["classified"] = hits.sum(), ones.sum()
        weight = _weight_of_classes(head, self.classes)
        weighted = counts if weight is None else counts * weight.to(counts)
        self._seen = weighted[0] if self._seen is None else self._seen + weighted[0]
        found["missed"] = weighted[0].sum() - weighted[2].sum()
        # What is best to say to all samples so far, said to these.
        found["constant_missed"] = weighted[0].sum() - weighted[0].gather(0, self._seen.argmax(0, keepdim=True)).sum()
        return counts

    def _weigh(self, table: Table, head: Head, found: Found) -> None:
        """Computes the loss anew, as it was understood, and what the best constant would score in its units."""
        if self._baseline is None or head.path.unclear is not None or table.lost:
            return
        errors, units = table.errors(head)
        if table.indices is not None:
            self._entropy.add_counts(table.counts())
        elif self._baseline is self._entropy and table.targets is not None:
            self._entropy.add(table.targets, table.weights)
        elif table.targets is not None and self._baseline is not self._deviations.variance:
            self._baseline.add(thin(table.targets), None if table.weights is None else thin(table.weights))
        factor = product(head.path.number, head.path.factors)
        if head.normalised:
            factor = factor / units
        mass = factor * units
        value, baseline = factor * errors.sum(), self._baseline.loss() * mass
        if head.path.root is not None:
            outer = product(*head.path.root)
            value, baseline = outer * value.sqrt(), outer * baseline.sqrt()
        # Beside terms of what layers put out it is but a part of the loss.
        part = "own_" if head.regularisers else ""
        found["mass"], found[f"{part}value"], found[f"{part}baseline"] = mass, value, baseline


def gaps(targets: Tensor) -> Tensor:
    """Returns how far targets ``[N, D]`` differ down their columns and across their rows ``[2]`` [largest of them]."""
    apart = torch.stack([(targets - targets[:1]).abs().max(), (targets - targets[:, :1]).abs().max()])
    return apart / targets.abs().max()


def pack(found: Found, like: Tensor) -> Tensor:
    """Returns the :data:`NUMBERS` as a vector on the device of a tensor, NaN for what was not found."""
    dtype = exact(like.detach().new_zeros(())).dtype
    tensors = {name: value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    numbers = [_number(found.get(name)) for name in NUMBERS]
    vector = torch.tensor(numbers, dtype=dtype).to(like.device, non_blocking=True)
    if not tensors:
        return vector
    places = torch.tensor([NUMBERS.index(name) for name in tensors]).to(like.device, non_blocking=True)
    return vector.index_copy(
        0, places, torch.stack([value.to(like.device, dtype, non_blocking=True) for value in tensors.values()])
    )


def describe_outputs(head: Head, found: Found) -> None:
    """Measures what the network puts out, or what its loss makes of it."""
    outputs = head.prediction if head.outputs is None else head.outputs
    if outputs is None or outputs.numel() == 0:
        return
    outputs = outputs.float()
    table = thin(outputs.reshape(len(outputs), -1) if outputs.ndim else outputs.reshape(1, 1))
    found["rows"] = float(outputs.shape[0] if outputs.ndim else 1)
    found["output_level"] = torch.linalg.vector_norm(table) / table.numel() ** 0.5
    if len(table) > 1:
        # `std` is many times slower down columns.
        found["output_spread"] = (table - table.mean(0)).square().mean(0).sqrt().mean()
    if head.outputs is None:
        return
    found["output_min"], found["output_max"] = torch.aminmax(table)
    if head.activation is None and outputs.ndim > 1:
        dim = -1 if head.class_dim is None or tuple(outputs.shape) != head.output_shape else head.class_dim
        if outputs.shape[dim] > 1:
            found["output_sum_error"] = (outputs.sum(dim) - 1).abs().max()


def by_element(head: Head) -> bool:
    """Whether each element of a row is a question of its own, as each pixel of a mask is."""
    return head.loss in BINARY and len(head.output_shape) > 2


def _classes(head: Head) -> int:
    """Returns how many classes there are, if the targets are classes; 0 where they cannot be."""
    if head.broadcast:
        return 0
    if head.class_dim is not None:
        return head.output_shape[head.class_dim] if head.output_shape else 0
    if by_element(head):
        return 2
    if len(head.output_shape) not in (1, 2):
        return 0
    columns = head.output_shape[1] if len(head.output_shape) == 2 else 1
    return 2 if columns == 1 else columns if columns <= CLASSES else 0


def _weight_of_classes(head: Head, classes: int) -> Tensor | None:
    """Returns what a sample of each class counts, where they differ."""
    if head.class_dim is not None:
        weight = head.class_weight
    elif classes == 2 and head.pos_weight is not None and head.pos_weight.numel() == 1:
        weight = torch.stack([torch.ones_like(head.pos_weight), head.pos_weight]).reshape(-1)
    else:
        return None
    return weight if weight is not None and weight.numel() == classes else None


def _pos_weight(head: Head) -> Tensor | None:
    if head.pos_weight is None:
        return None
    rows = head.pos_weight.expand(head.output_shape)
    return thin(rows.reshape(len(rows), -1) if rows.ndim else rows.reshape(1, 1))[0]


def _number(value: Tensor | float | None) -> float:
    return value if isinstance(value, (int, float)) else float("nan")
