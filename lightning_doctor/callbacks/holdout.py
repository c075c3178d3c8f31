"""Training rows that are not trained on: the only thing that tells overfitting from mismatch for sure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lightning_doctor.callbacks.comparison import ComparisonProbe
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.thinned_loader import CannotThin, Thinned, thinned
from lightning_doctor.measure.held_out_rows import ROWS

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import Trainer
    from lightning_doctor.callbacks.case import Case

# The batches in which held-out rows are scored.
_PARTS = 8


class HoldoutProbe(Monitor):
    """Keeps a random share of the training rows out of training, so that they can be scored beside the others.

    It changes what is trained on. A plain DataLoader over a data set with a length is rebuilt over what is left, with
    its workers, collation, shuffling and weights; anything else stays as it is, with the reason. The same rows are
    held out in every run over as many. :class:`ComparisonProbe` scores them: ``eval_loss/holdout`` and so on.

    Args:
        share: Of the training rows, in (0, 1).

    Raises:
        ValueError: For another share.
    """

    signals = tuple(f"eval_{what}/holdout" for what in ("loss", "error", "bar", "accuracy", "skill"))
    company = (ComparisonProbe,)

    def __init__(self, share: float = 0.02) -> None:
        super().__init__()
        check_share(share)
        self.share = share
        self._source: ThinnedSource | None = None
        self._reason = ""

    def prepare(self, trainer: Trainer) -> None:
        """Stands between the Trainer and its training loader, before that is asked for."""
        loop: Any = trainer.fit_loop
        source = getattr(loop, "_data_source", None)
        self._source = None
        if source is None:
            self._reason = "this Lightning keeps its loaders elsewhere"
            return
        if not getattr(trainer, "enable_validation", True):
            # What is held out is scored beside validation: without it rows would be given up for nothing.
            self._reason = "there is no validation to compare with, so that nothing was held out"
            return
        # One that an earlier fit has left behind, as it failed before it began.
        plain = getattr(source, "plain", source)
        self._source = loop._data_source = ThinnedSource(plain, self.share)

    def begin(self, case: Case) -> None:
        """Says what was held out, or why nothing was."""
        source = self._source
        if source is None or source.thinned is None:
            case.history.lack(self.signals, self._reason if source is None else source.reason)
            return
        case.history.facts["holdout"] = {"rows": len(source.thinned.held_out), "share": self.share}
        case.history.lack(self.signals, "there was no validation pass")
        case.held_out = source

    def end(self, case: Case) -> None:
        """Gives the Trainer its own source back."""
        loop: Any = case.trainer.fit_loop
        if self._source is not None and loop._data_source is self._source:
            loop._data_source = self._source.plain
        self._source = case.held_out = None


class ThinnedSource:
    """What the Trainer asks for its training loader, in place of Lightning's own.

    Args:
        plain: Lightning's.
        share: Of the rows to hold out.

    Attributes:
        thinned: What became of the loader; None where it could not be rebuilt.
        reason: Why not, as a clause.
    """

    def __init__(self, plain: Any, share: float) -> None:
        self.__dict__.update(plain=plain, thinned=None, reason="the training loader has not been made", _share=share)
        self.__dict__["_batches"] = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["plain"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        # A second fit gives the source another loader.
        setattr(self.plain, name, value)

    def dataloader(self) -> Any:
        """Returns the loader without the rows that are held out, or as it is."""
        loader = self.plain.dataloader()
        state: dict[str, Any] = self.__dict__
        try:
            state["thinned"] = thinned(loader, self._share)
        except CannotThin as error:
            state["thinned"], state["reason"] = None, str(error)
            return loader
        except Exception as error:  # noqa: BLE001
            # Whatever a data set or a sampler of the user's own may raise: training goes on with all rows.
            state["thinned"], state["reason"] = None, f"the loader cannot be rebuilt ({type(error).__name__}: {error})"
            return loader
        return state["thinned"].loader

    def batches(self) -> list[tuple[Any, int]]:
        """Returns the held-out rows as batches, and how many rows each has; they are read once."""
        kept: Thinned | None = self.thinned
        if self._batches is None and kept is not None:
            rows = kept.held_out
            rows = [rows[place * len(rows) // min(ROWS, len(rows))] for place in range(min(ROWS, len(rows)))]
            size = math.ceil(len(rows) / _PARTS)
            parts = [rows[start :: math.ceil(len(rows) / size)] for start in range(math.ceil(len(rows) / size))]
            read = [(kept.collate([kept.dataset[index] for index in part]), len(part)) for part in parts]
            self.__dict__["_batches"] = read
        return self._batches or []


def check_share(share: object) -> None:
    """Refuses what is no share of rows.

    Raises:
        ValueError: For anything but a number in (0, 1).
    """
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 < share < 1:
        raise ValueError(f"the share to hold out must be in (0, 1), got {share!r}")
