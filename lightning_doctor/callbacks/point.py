"""One probe of the curvature: a copy of the model at the weights of one moment, and the batches to look at it by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.meeting import Meeting, SharedHessian, SharedLandscape
from lightning_doctor.callbacks.rehearsal import Rehearsal, Unrehearsable
from lightning_doctor.callbacks.supply import FEWEST, Sample, Supply, as_doubles, cut
from lightning_doctor.gradient_noise import NoiseScale, noise_scale
from lightning_doctor.measure.cross_check import cross_check
from lightning_doctor.measure.descent import LossesAt
from lightning_doctor.measure.halves import half_norms
from lightning_doctor.measure.hessian import DifferencedHessian
from lightning_doctor.measure.lanczos import ends
from lightning_doctor.measure.sharpness import batch_sharpness, preconditioned, step_ratio
from lightning_doctor.measure.twice import twice_differentiable
from lightning_doctor.measure.verdict import CriticalPoint, judge

# Of a preconditioned spectrum only the largest eigenvalue is wanted: negative ones matter where they are as large.
_LARGEST, _MOST_LARGEST = 0.5, 30
# Vectors that scaling takes: the diagonal, what it has scaled, and the gradient that is kept of a verdict.
_SCALED = 3
# Pairs of gradients, of whose noise they tell.
_PAIRS = 4
# Of a line, on each side of where the weights are.
_POINTS = 8


class Point:
    """The model at one moment.

    Args:
        rehearsal: A copy of it.
        samples: What to look at it by.
        probe_loss: The loss of a module on a batch, where it is not that of the training step.
        meeting: Where ranks meet, each with samples of its own.

    Attributes:
        whole: Gathers a tensor that ranks hold in shards.
        backend: How products with the Hessian are had: ``"exact"`` or ``"finite differences"``.
        notes: What the reader of a verdict should know of how it came about.
    """

    def __init__(
        self,
        rehearsal: Rehearsal,
        samples: Supply,
        probe_loss: Callable[[Any, Any], Tensor] | None = None,
        meeting: Meeting | None = None,
    ) -> None:
        def loss(module: Any, batches: Sequence[Sample]) -> Tensor:
            losses = []
            for batch, index in batches:
                found = rehearsal.of(module).loss(
                    batch, index, train=True, with_graph=torch.is_grad_enabled(), by=probe_loss
                )
                if found is None:
                    raise Unrehearsable("the training step returned no loss on a batch that it was probed with")
                losses.append(found)
            return torch.stack(losses).mean()

        try:
            self._meeting = Meeting(together=False) if meeting is None else meeting
            self._land = SharedLandscape(rehearsal.module, loss, self._meeting)
        except ValueError as error:
            raise Unrehearsable(str(error)) from error
        self.whole = self._meeting.whole
        self._samples = samples
        self._gradient = self._land.like
        self.backend = "exact"
        self.notes: list[str] = []

    def activation_bytes(self, sample: Sample, *, twice: bool = False) -> float:
        """Returns what a forward pass of a batch keeps for its backward pass [bytes].

        Args:
            sample: The batch.
            twice: Whether the backward pass must have one of its own, for which attention keeps more.
        """
        kept: dict[int, int] = {}
        weights = {parameter.untyped_storage().data_ptr() for parameter in self._land.parameters}

        def count(tensor: Tensor) -> Tensor:
            if tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                kept[storage.data_ptr()] = storage.nbytes()
            # Detached: an output that its own node keeps would never be let go.
            return tensor.detach()

        kernels = twice_differentiable() if twice else nullcontext()
        with kernels, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            self._land.own().gradient([sample])
        own = sum(size for place, size in kept.items() if place not in weights)
        return self._meeting.number(own, self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._land.like.device

    @property
    def dtype(self) -> torch.dtype:
        """Of vectors over the parameters."""
        return self._land.like.dtype

    def weight_bytes(self) -> int:
        """Returns the size of a vector over the parameters [bytes]."""
        return self._land.like.nbytes

    def prepare(self) -> None:
        """Finds a way to products with the Hessian, and notes which in ``backend``.

        What cannot be differentiated twice is differenced, in float64: in float32 networks with kinks have no
        differences to speak of.

        Raises:
            Unrehearsable: Where neither works.
        """
        first, obstacle = self._samples.choosing[:1], ""
        # Without the others: what fails on one rank must not keep them waiting.
        own = self._land.own()
        custom: list[str] = []
        try:
            hessian = own.hessian(first)
            custom = hessian.custom_functions
            hessian(hessian.gradient)
            hessian.release()
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            obstacle = _first_line(error)
        if not obstacle and custom:
            check = cross_check(own, first)
            if check.agrees is False:
                obstacle = check.because
            elif check.agrees is None:
                self.notes.append(check.because)
        if self._meeting.number(float(bool(obstacle)), self.device) > 0:
            self._difference(obstacle or "another rank cannot")

    def _difference(self, because: str) -> None:
        try:
            land = self._land.doubled()
            samples = as_doubles(self._samples)
            land.gradient(samples.choosing[:1])
        except Exception as error:
            raise Unrehearsable(
                f"it cannot be differentiated twice ({because}), nor run in float64 ({_first_line(error)})"
            ) from error
        self._land, self._samples = land, samples
        self.backend = "finite differences"
        self.notes.append(f"it cannot be differentiated twice: {because}")

    def _hessian(self, batches: list[Sample]) -> SharedHessian | DifferencedHessian:
        if self.backend == "exact":
            return self._land.hessian(batches)
        return DifferencedHessian(lambda offset: self._land.gradient(batches, offset), self._land.weights)

    def gauges(self, update: Tensor | None) -> dict[str, float]:
        """Measures what a few products and gradients tell.

        Args:
            update: The step that was made last, flat over the parameters [n].
        """
        hessian = self._hessian(self._samples.choosing[:1])
        found = {
            "curvature/loss": float(self._land.losses([self._samples.choosing])),
            "curvature/gradient_norm": float(hessian.gradient.norm()),
            "curvature/sharpness": batch_sharpness(hessian),
        }
        ratio = None if update is None else step_ratio(hessian, update.to(hessian.gradient))
        if ratio is not None:
            found["curvature/step_ratio"] = ratio
        hessian.release()
        return found

    def noise_scale(self) -> NoiseScale | str:
        """Returns the gradient noise scale, from halves of batches or pairs of them; else why there is none."""
        # Of the last batch: the first may have been halved, for the memory of products.
        rows = self._samples.sizes[-1]
        if rows is None:
            return "the first dimension of the batch is not known to be that of its samples"
        alike = zip(self._samples.batches, self._samples.sizes, strict=True)
        whole = [sample for sample, size in alike if size == rows]
        count = 2 * math.ceil(_PAIRS / len(whole))
        while count > 2 and rows // count < FEWEST:
            count -= 2
        # Small batches are halves of what two of them make together.
        cuts = rows >= 2 * FEWEST
        halves = [half for sample in whole for half in cut(sample, rows, count)] if cuts else whole
        halves = halves[: len(halves) // 2 * 2]
        if len(halves) < 4:
            return f"{len(whole)} batches of {rows} are too few to tell the noise of a gradient"
        small, big = half_norms(lambda half: self._land.gradient([half]), halves)
        size = (rows // count if cuts else rows) * self._meeting.world
        return noise_scale(small, big, size, 2 * size)

    def preconditioned(self, root: Tensor, most: int) -> float:
        """Returns the largest eigenvalue of P^½HP^½ for a diagonal P^½ [n]; NaN for none, and where time is over.

        By at most so many products, less those whose memory the diagonal and what it scales take.
        """
        if not self._meeting.may_go_on():
            return math.nan
        hessian = self._hessian(self._samples.choosing[:1])
        product = preconditioned(hessian, root.to(self._land.like))
        found = ends(
            product,
            self._land.like,
            share=_LARGEST,
            most=min(most - _SCALED, _MOST_LARGEST),
            may_go_on=self._meeting.may_go_on,
        )
        hessian.release()
        return math.nan if found is None or found.stopped == "time" else found.high

    def judge(self, most: int) -> CriticalPoint:
        """Says what kind of point this is, by at most so many products, each of which keeps a vector."""
        chosen = self._samples.choosing
        hessian = self._hessian(chosen)
        self._gradient = hessian.gradient
        point = judge(
            hessian,
            self._losses([chosen]),
            self._losses([[sample] for sample in self._samples.testing]),
            length=float(self._land.weights.norm()),
            held_out=self._samples.held_out,
            may_go_on=self._meeting.may_go_on,
            most=most,
        )
        rows, tested = self._samples.rows, self._samples.tested
        world = self._meeting.world
        return replace(
            point, samples=None if rows is None else world * rows, tested=None if tested is None else world * tested
        )

    def line(self, verdict: CriticalPoint) -> list[list[float]]:
        """Returns the loss along the way down that the verdict is about: distances, and the loss of testing samples.

        Both ways along an escape, else down the gradient; empty where there is neither, or no time.
        """
        if verdict.escape is not None and verdict.escape.real:
            direction, reach, begin = verdict.escape.direction, 1.5 * verdict.escape.distance, -_POINTS
        elif verdict.slope is not None and verdict.slope.distance > 0:
            direction, reach, begin = -self._gradient / self._gradient.norm(), 2 * verdict.slope.distance, 0
        else:
            return []
        found, tested = [], self._losses([[sample] for sample in self._samples.testing])
        for index in range(begin, _POINTS + 1):
            if not self._meeting.may_go_on():
                return []
            distance = reach * index / _POINTS
            loss = float(tested(distance * direction).mean())
            if math.isfinite(loss):
                found.append([distance, loss])
        return found

    def _losses(self, batches: list[list[Sample]]) -> LossesAt:
        return lambda offset: self._land.losses(batches, offset)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that there was no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
