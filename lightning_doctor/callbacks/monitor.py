"""The base of every monitor: what it may measure, and how it works alone, beside others, or inside a Doctor."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from lightning_doctor.callbacks.base import Callback
from lightning_doctor.callbacks.handover import Handover
from lightning_doctor.callbacks.rest import CHANGED
from lightning_doctor.callbacks.settings import Settings
from lightning_doctor.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from lightning_doctor.callbacks.base import LightningModule, Trainer
    from lightning_doctor.callbacks.case import Case

CHECKPOINT_KEY = "lightning_doctor"


class Monitor(Callback):
    """Reads what a training step computed anyway.

    Of the monitors and Doctors in one Trainer, one leads the case and calls the others; to the Trainer all but the
    leader do nothing. So they share one history and one report, and work alone too.

    A subclass overrides the measuring methods below, which take the case first. None of them may read a tensor on
    an ordinary step: put it into ``case.window`` instead. Where the budget does not allow for measuring every step,
    those in between rest, and only :meth:`rested` is called, or what :meth:`resting` returns in its place, and a few
    times an epoch :meth:`glance`.
    """

    signals: ClassVar[tuple[str, ...]] = ()
    """The series that this monitor records."""
    company: ClassVar[tuple[type[Monitor], ...]] = ()
    """Other monitors without which this one is of no use: they join where they are not there."""
    kept: float = 0.0
    """What is to be kept for it of a run's first look [seconds]."""

    def __init__(self) -> None:
        self.settings = Settings()
        self._case: Case | None = None
        self._handover = Handover()
        self._handed: Report | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A process that is handed a Trainer opens its own case. This one cannot travel, nor can the model, which
        # Lightning ties to every callback by its bound methods.
        state = {key: value for key, value in self.__dict__.items() if key not in ("log", "log_dict", *CHANGED)}
        return {**state, "_case": None}

    @property
    def report(self) -> Report | None:
        """The newest report; None before the first ``fit``."""
        handed = self._handover.take()
        if handed is not None:
            self._handed, self._case = handed, None
        return self._handed if self._case is None else self._case.report

    @property
    def handover(self) -> Handover:
        """Where a process that trains in this one's stead leaves the report."""
        return self._handover

    def prepare(self, trainer: Trainer) -> None:
        """Called when a ``fit`` is set up, before the Trainer asks for its loaders."""

    # --- measuring -----------------------------------------------------------------------------------------------

    def begin(self, case: Case) -> None:
        """Called when training starts."""

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Called before each training batch, which is on the device already."""

    def layer_ran(self, case: Case, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Called on examined steps after each call of a leaf layer, without autograd; the tensors are the model's own.

        Of a compiled model it is a copy that runs, uncompiled.
        """

    def examine_loss(self, case: Case, loss: Tensor) -> None:
        """Called on examined steps with each loss before it is sent backward, its autograd graph still there."""

    def before_backward(self, case: Case, loss: Tensor) -> None:
        """Called in manual optimization before each backward pass, with the loss as it is sent backward."""

    def after_backward(self, case: Case) -> None:
        """Called in manual optimization after each backward pass."""

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Called before an optimizer's step; in automatic optimization once a batch."""

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Called after each training batch, with what ``training_step`` returned."""

    def rested(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Called instead of all others after a batch that rests: one neither measured nor beside one that is."""

    def resting(self, case: Case) -> Callable[[Any, int], None]:
        """Asked when steps of one batch each begin to rest: what to call in place of :meth:`rested`."""
        return partial(self.rested, case)

    def glance(self, case: Case, optimizer: Optimizer) -> None:
        """Called before an optimizer's step that rests, a few times an epoch: for what the budget must not forbid."""

    def awaits(self, case: Case) -> int | None:
        """Asked before steps rest: how many batches at most may go by before the next one that it wants."""
        return None

    def wishes(self, case: Case) -> list[float]:
        """Asked at a window's end: what this rank would like to do, in two numbers; :meth:`heed` gets the means."""
        return [0.0, 0.0]

    def heed(self, case: Case, means: list[float]) -> None:
        """Called after :meth:`wishes` with their means over ranks, the same on all of them."""

    def probe(self, case: Case) -> None:
        """Called after each batch that stepped, for what is no part of measuring the step."""

    def before_close(self, case: Case) -> None:
        """Called before the window is fetched: the last chance to put something into it."""

    def before_validation_batch(self, case: Case, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """Called before each validation batch, which is on the device already and as the model has not touched it."""

    def validation_batch(self, case: Case, outputs: Any, dataloader_idx: int) -> None:
        """Called after each validation batch, with what ``validation_step`` returned."""

    def after_validation(self, case: Case) -> None:
        """Called after a validation pass."""

    def end(self, case: Case) -> None:
        """Called when the run is over: let go of tensors and of the model."""

    # --- Lightning's hooks ---------------------------------------------------------------------------------------

    def _tell(self, hook: str, *args: Any) -> None:
        case = self._case
        if case is None or case.leader is not self or case.closed:
            return
        try:
            getattr(case, hook)(*args)
        except Exception as error:
            if self.settings.strict:
                raise
            case.give_up(hook, error)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning hook: opens the case if this callback leads it."""
        if stage != "fit":
            return
        from lightning_doctor.callbacks.admission import admit

        try:
            admit(self, trainer, pl_module)
        except Exception as error:
            if self.settings.strict:
                raise
            self._case = None
            warnings.warn(f"lightning-doctor does not watch this run: {type(error).__name__}: {error}", stacklevel=2)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        self._tell("begin")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        self._tell("begin_epoch")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Lightning hook."""
        self._tell("before_batch", batch, batch_idx)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Lightning hook."""
        self._tell("before_backward", loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        self._tell("after_backward")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Lightning hook."""
        self._tell("before_step", optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning hook."""
        self._tell("after_batch", outputs, batch_idx)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Lightning hook."""
        if not trainer.sanity_checking:
            self._tell("before_validation_batch", batch, batch_idx, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Lightning hook."""
        if not trainer.sanity_checking:
            self._tell("validation_batch", outputs, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        if not trainer.sanity_checking:
            self._tell("after_validation")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        self._tell("finish")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning hook."""
        self._tell("finish", exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning hook."""
        if stage == "fit":
            self._tell("finish")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning hook: history and findings go into the checkpoint, as plain builtins."""
        # Not under "callbacks": two stateful callbacks of one class are refused by Lightning, and there may be two.
        case = self._case
        if case is None or case.leader is not self:
            return
        try:
            state = case.state_dict()
        except Exception as error:
            if self.settings.strict:
                raise
            case.give_up("on_save_checkpoint", error)
            return
        if state is not None:
            checkpoint[CHECKPOINT_KEY] = state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning hook: takes up where the checkpoint left off; one without the doctor's state is fine."""
        if CHECKPOINT_KEY in checkpoint:
            self._tell("load_state_dict", checkpoint[CHECKPOINT_KEY])
