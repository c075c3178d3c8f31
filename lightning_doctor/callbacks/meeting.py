"""What ranks share while all of them probe: means, and the news that one of them cannot go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_doctor.callbacks.rehearsal import Unrehearsable
from lightning_doctor.measure.hessian import Hessian
from lightning_doctor.measure.landscape import Landscape, Loss


class Parted(Unrehearsable):
    """Another rank could not go on: nobody waits for anybody any more."""


class Meeting:
    """Lets every rank take the same turns, by numbers that are the same on all of them.

    A rank that fails calls :meth:`part` once, and all others raise where they would have met it: nobody waits for a
    rank that is elsewhere. A single process meets nobody.

    Args:
        together: Whether every rank takes part.
        may_go_on: Whether this rank has the time; all of them stop where one has not.
    """

    def __init__(self, together: bool, may_go_on: Callable[[], bool] = lambda: True) -> None:
        self._together = together
        self._may_go_on = may_go_on
        self._has_time = True
        self.world = dist.get_world_size() if together else 1

    def may_go_on(self) -> bool:
        """Whether all ranks had the time when they last met."""
        return self._has_time if self._together else self._may_go_on()

    def mean(self, tensor: Tensor) -> Tensor:
        """Returns the mean over ranks.

        Raises:
            Parted: Where another rank has failed.
        """
        if not self._together:
            return tensor
        self._meet(tensor.device, failed=False)
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed / self.world

    def number(self, value: float, device: torch.device) -> float:
        """Returns the mean of a number over ranks."""
        return float(self.mean(torch.tensor(float(value), device=device))) if self._together else value

    def whole(self, tensor: Tensor) -> Tensor:
        """Returns all of a tensor of which each rank may hold a part.

        Raises:
            Parted: Where another rank has failed.
        """
        gather = getattr(tensor, "full_tensor", None)
        if gather is None:
            return tensor
        if self._together:
            self._meet(tensor.device, failed=False)
        gathered: Tensor = gather()
        return gathered

    def part(self, device: torch.device) -> None:
        """Tells the others that this rank has failed."""
        if self._together:
            self._meet(device, failed=True)

    def close(self, device: torch.device) -> None:
        """Ends the meeting: a rank that has failed since the last mean is heard here."""
        if self._together:
            self._meet(device, failed=False)

    def _meet(self, device: torch.device, *, failed: bool) -> None:
        flags = torch.tensor([float(failed), float(not self._may_go_on())], device=device)
        dist.all_reduce(flags)
        others, late = flags.tolist()
        self._has_time = late == 0
        if others and not failed:
            raise Parted("another rank could not go on")


class SharedLandscape(Landscape):
    """The loss around the weights, averaged over the samples of all ranks.

    Args:
        module: As in :class:`~lightning_doctor.measure.landscape.Landscape`.
        loss: Likewise.
        meeting: Where ranks meet.
    """

    def __init__(self, module: Any, loss: Loss, meeting: Meeting) -> None:
        super().__init__(module, loss)
        self._meeting = meeting

    def hessian(self, batch: Any) -> SharedHessian:  # type: ignore[override]
        """Returns products with the Hessian of the mean loss of the ranks' batches."""
        return SharedHessian(super().hessian(batch), self._meeting)

    def own(self) -> Landscape:
        """Returns the landscape of this rank's batches alone, which meets nobody."""
        return Landscape(self._module, self._loss)

    def gradient(self, batch: Any, offset: Tensor | None = None) -> Tensor:
        """Returns the gradient of the mean loss of the ranks' batches, [n]."""
        return self._meeting.mean(super().gradient(batch, offset))

    def losses(self, batches: Any, offset: Tensor | None = None) -> Tensor:
        """Returns the mean loss of the ranks' batches, [S]."""
        return self._meeting.mean(super().losses(batches, offset))

    def doubled(self) -> SharedLandscape:
        """Returns the landscape of a copy of the module in float64, which takes batches in float64 too."""
        plain = super().doubled()
        return SharedLandscape(plain._module, plain._loss, self._meeting)


class SharedHessian:
    """Products with the mean of the ranks' Hessians.

    Args:
        own: This rank's.
        meeting: Where ranks meet.
    """

    def __init__(self, own: Hessian, meeting: Meeting) -> None:
        self._own = own
        self._meeting = meeting
        self.gradient = meeting.mean(own.gradient)
        self.products = 0

    @property
    def size(self) -> int:
        """The number of parameters n."""
        return self._own.size

    def __call__(self, vector: Tensor) -> Tensor:
        """Returns the mean Hessian times a vector [n]."""
        self.products += 1
        return self._meeting.mean(self._own(vector))

    def release(self) -> None:
        """Lets go of the graph."""
        self._own.release()
