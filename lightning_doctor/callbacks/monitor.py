"""The base of every monitor: what it may measure, and how it works alone, beside others, or inside a Doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from lightning_doctor.callbacks.base import Callback
from lightning_doctor.callbacks.settings import Settings
from lightning_doctor.report import Report

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.base import LightningModule, Trainer
    from lightning_doctor.callbacks.case import Case

CHECKPOINT_KEY = "lightning_doctor"


class Monitor(Callback):
    """Reads what a training step computed anyway.

    Of the monitors and Doctors in one Trainer, one leads the case and calls the others; to the Trainer all but the
    leader do nothing. So they share one history and one report, and work alone too.

    A subclass overrides the measuring methods below, which take the case first. None of them may read a tensor on
    an ordinary step: put it into ``case.window`` instead.
    """

    signals: ClassVar[tuple[str, ...]] = ()
    """The series that this monitor records."""

    def __init__(self) -> None:
        self._case: Case | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A process that is handed a Trainer opens its own case. This one cannot travel, nor can the model, which
        # Lightning ties to every callback by its bound methods.
        state = {key: value for key, value in self.__dict__.items() if key not in ("log", "log_dict")}
        return {**state, "_case": None}

    @property
    def report(self) -> Report | None:
        """The newest report; None before the first ``fit``."""
        return None if self._case is None else self._case.report

    # --- measuring -----------------------------------------------------------------------------------------------

    def begin(self, case: Case) -> None:
        """Called when training starts."""

    def before_backward(self, case: Case, loss: Tensor) -> None:
        """Called before each backward pass, with the loss as it is sent backward."""

    def after_backward(self, case: Case) -> None:
        """Called after each backward pass."""

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Called before an optimizer's step, once a batch for each optimizer."""

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Called after each training batch, with what ``training_step`` returned."""

    def before_close(self, case: Case) -> None:
        """Called before the window is fetched: the last chance to put something into it."""

    def validation_batch(self, case: Case, outputs: Any, dataloader_idx: int) -> None:
        """Called after each validation batch, with what ``validation_step`` returned."""

    def after_validation(self, case: Case) -> None:
        """Called after a validation pass."""

    # --- Lightning's hooks ---------------------------------------------------------------------------------------

    def _settings(self) -> Settings:
        return Settings()

    @property
    def _led(self) -> Case | None:
        case = self._case
        return case if case is not None and case.leader is self and not case.closed else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning hook: opens the case if this callback leads it."""
        if stage == "fit":
            from lightning_doctor.callbacks.admission import admit

            admit(self, trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        if case := self._led:
            case.begin()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Lightning hook."""
        if case := self._led:
            case.before_backward(loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        if case := self._led:
            case.after_backward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Lightning hook."""
        if case := self._led:
            case.before_step(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning hook."""
        if case := self._led:
            case.after_batch(outputs, batch_idx)

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
        if (case := self._led) and not trainer.sanity_checking:
            case.validation_batch(outputs, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        if (case := self._led) and not trainer.sanity_checking:
            case.after_validation()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        if case := self._led:
            case.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning hook."""
        if case := self._led:
            case.finish(exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning hook."""
        if (case := self._led) and stage == "fit":
            case.finish()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning hook: history and findings go into the checkpoint, as plain builtins."""
        # Not under "callbacks": two stateful callbacks of one class are refused by Lightning, and there may be two.
        case = self._case
        if case is not None and case.leader is self and (state := case.state_dict()) is not None:
            checkpoint[CHECKPOINT_KEY] = state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning hook: takes up where the checkpoint left off; one without the doctor's state is fine."""
        if (case := self._led) and CHECKPOINT_KEY in checkpoint:
            case.load_state_dict(checkpoint[CHECKPOINT_KEY])
