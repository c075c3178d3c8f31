"""One run under observation: the leader's hooks reach the monitors, and their readings the rules and the sinks."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_doctor.budget import Budget
from lightning_doctor.callbacks import facts, ranks
from lightning_doctor.callbacks.agreement import Agreement
from lightning_doctor.callbacks.consultation import Consultation
from lightning_doctor.callbacks.device_time import device_time
from lightning_doctor.callbacks.examination import Examination
from lightning_doctor.callbacks.means import Means
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.pace import Pace
from lightning_doctor.callbacks.rehearsal import Unrehearsable, trial_cost
from lightning_doctor.callbacks.reporting import Reporting
from lightning_doctor.callbacks.rest import Rest
from lightning_doctor.callbacks.run import Run
from lightning_doctor.callbacks.staff import Staff
from lightning_doctor.history import History
from lightning_doctor.measure.held_out_rows import ROWS, RowSample
from lightning_doctor.measure.window import Window
from lightning_doctor.report import Report

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.base import LightningModule, Trainer
    from lightning_doctor.callbacks.holdout import ThinnedSource
    from lightning_doctor.callbacks.settings import Settings

# Epochs of which each is looked at as it begins; of twice as many two pairs are, of twice as many again two.
_FIRST_EPOCHS = 16


class Case:
    """One ``fit`` under observation.

    Args:
        leader: The callback through which the Trainer's hooks arrive.
        parts: The monitors, in the order in which they are called.
        unwatched: The kinds of monitor that are not there, whose signals will be missing.
        settings: What the user set.
        trainer: The Trainer.
        module: The model.

    Attributes:
        run: The fit as the monitors need to know it, while it trains.
        stepped: Whether the current batch has reached an optimizer step.
        batch_idx: The index of the newest batch in its epoch.
        rest: Which steps nobody looks at.
        means: What the monitors may spend, and what things take.
        report: The newest report.
        closed: Whether the fit is over.
        held_out: What was held out of the training set, if anything was.
        training_rows: Rows of the first epoch, for all monitors that need some: each has it take what passes by.
    """

    def __init__(
        self,
        leader: Monitor,
        parts: Iterable[Monitor],
        unwatched: Iterable[type[Monitor]],
        settings: Settings,
        trainer: Trainer,
        module: LightningModule,
    ) -> None:
        self.leader = leader
        self.trainer = trainer
        self.module = module
        self.history = History()
        self.consultation = Consultation(settings, speaks=trainer.is_global_zero)
        self.report: Report | None = None
        self.run: Run
        self.window = Window()
        self.budget = Budget(settings.overhead)
        self.pace = Pace(self.budget, settings.every_n_steps)
        self.stepped = False
        self.batch_idx = -1
        self.held_out: ThinnedSource | None = None
        self.training_rows = RowSample(0, None)
        self._trainer = weakref.ref(trainer)
        self._staff = Staff(self, parts)
        self.means = Means(self, self._staff)
        self.rest = Rest(self, self._staff, possible=False)
        self._unwatched = list(unwatched)
        self._settings = settings
        self._agreement = Agreement(self, self._staff)
        self._reporting = Reporting(self, self._staff)
        self._began = False
        self.closed = False
        self._together = False
        self._examination = Examination(
            lambda *call: self._staff.each("layer_ran", *call),
            lambda loss: self._staff.each("examine_loss", loss),
        )
        self._examined = False

    # --- what the monitors ask -----------------------------------------------------------------------------------

    def read(self, name: str, value: Tensor) -> None:
        """Records a scalar that is still on its device, when the window closes."""
        self.window.put(self.run.step, value, lambda step, numbers: self.history.record(name, step, numbers[0]))

    @property
    def together(self) -> bool:
        """Whether every rank has a doctor, so that they may meet."""
        return self._together

    @property
    def sampling(self) -> bool:
        """Whether what is cheap is measured on the coming step, its gradients among it."""
        return self.pace.sampling

    @property
    def glancing(self) -> bool:
        """Whether the gradients of the coming step are measured, sampled or not."""
        return self.pace.sampling or self.pace.glancing

    @property
    def examining(self) -> bool:
        """Whether the coming step is examined: the monitors see its layers and its loss."""
        return self.pace.examining

    @property
    def trying(self) -> bool:
        """Whether the coming step is examined, and tried on a copy of the model as well."""
        return self.pace.examining and self.pace.tries

    @property
    def examining_next(self) -> bool:
        """Whether the step after the coming one is examined."""
        return self.pace.examining_next

    # --- the Trainer's hooks -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Training starts."""
        self.budget = Budget(self._settings.overhead)
        self._began = True
        self._staff.attempt("the doctor's start", self._prepare)
        self.history.absent.clear()
        for kind in self._unwatched:
            self.history.lack(kind.signals, f"there is no {kind.__name__}")
        self._staff.attempt("describing the run", self._describe)
        self.pace = Pace(
            self.budget,
            self._settings.every_n_steps,
            self.history.fact("trainer.planned_steps"),
            lambda: self._staff.kept,
            self._staff.attempt("reading the size of the model", lambda: trial_cost(self.run.module)) or 0.0,
            lambda: self.run.epoch_steps,
        )
        self.training_rows = RowSample(ROWS, self.history.fact("trainer.batches_per_epoch"))
        self._reporting.open()
        self._staff.each("begin")
        # In manual optimization every loss that is sent backward counts, and there is no telling which comes next.
        possible = self._staff.attempt("telling when to rest", lambda: self.run.automatic)
        self.rest = Rest(self, self._staff, possible=bool(possible))

    def _prepare(self) -> None:
        several = self.trainer.world_size > 1
        self._together = several and ranks.everyone()
        if several and not self._together:
            self.consultation.notes.append(
                "not every rank has a doctor: this one sees its own rank alone, and stops nothing"
            )
        device = self.trainer.strategy.root_device
        self.window = Window(self._together, device)
        self._staff.device_time = device_time(device)
        self.run = Run(self.trainer, self.module)

    def _examine(self, batch: Any, batch_idx: int) -> None:
        try:
            self._examination.start(self.trainer, self.module, batch, batch_idx)
        except Unrehearsable as error:
            self.history.lack(["loss_head"], f"the model is compiled, and {error}")

    def _describe(self) -> None:
        kept = {key: value for key, value in self.history.facts.items() if key in ("validation", "scored")}
        self.history.facts = {**facts.describe(self.trainer, self.module), **kept}

    def begin_epoch(self) -> None:
        """An epoch of training begins: its first batch is looked at, of later epochs that of two in a row at times."""
        epoch = self.trainer.current_epoch
        if epoch < _FIRST_EPOCHS or epoch % (1 << epoch.bit_length() - 2) < 2:
            self.rest.wake()
        self.pace.epoch_begins(whole=self.pace.steps > 0 or self.run.step == 0)

    def before_batch(self, batch: Any, batch_idx: int) -> None:
        """A training batch is about to be trained on."""
        if self.rest.on:
            return
        self._staff.each("before_batch", batch, batch_idx)
        if self.examining and not self._examined:
            # Of several micro-batches the first.
            self._examined = True
            began = self.budget.clock()
            self._staff.attempt("examining a forward pass", lambda: self._examine(batch, batch_idx))
            self.pace.examinations.add(self.budget.clock() - began)

    def before_backward(self, loss: Tensor) -> None:
        """A loss is about to be sent backward."""
        if self.rest.on:
            return
        if self._examined:
            self._examination.backward(loss)
        if not self.run.automatic:
            self._staff.each("before_backward", loss)

    def after_backward(self) -> None:
        """Gradients have been computed."""
        if not self.run.automatic:
            self._staff.each("after_backward")

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step.

        In automatic optimization there is one step a batch, and an optimizer that evaluates its closure several times
        announces each: only the first counts.
        """
        if not (self.run.automatic and self.stepped):
            self.stepped = True
            if not self.rest.on:
                self._staff.each("before_step", optimizer)
            elif self.pace.glancing:
                self._staff.each("glance", optimizer)
                self.pace.glanced()

    def after_batch(self, outputs: Any, batch_idx: int) -> None:
        """A training batch is done."""
        self.batch_idx = batch_idx
        if self.rest.on:
            self._pass(outputs, batch_idx)
            return
        # In manual optimization every batch is a step of the logged metrics, whether or not anybody announced one.
        self.stepped = self.stepped or not self.run.automatic
        self._examination.stop()
        if self.stepped:
            # Before the others close their books on this batch: what comes after counts as waiting for the next.
            self._staff.each("probe")
        self._staff.each("after_batch", outputs, batch_idx)
        if not self.stepped:
            return
        self._examined = False
        self._advance()

    def _pass(self, outputs: Any, batch_idx: int) -> None:
        """A batch is done that nobody looked at."""
        last = self.rest.is_last(self.pace.steps)
        # Whoever measures from the end of a batch to the next one begins here.
        self._staff.each("after_batch" if last else "rested", outputs, batch_idx)
        if self.stepped:
            if last:
                self.rest.wake()
            self._advance()

    def _advance(self) -> None:
        self.stepped = False
        self.pace.advance()
        closes = self.pace.closes
        if closes:
            self.close()
            self.consult()
        if closes or not self.rest.on:
            self.rest.wake()
            self.rest.plan()

    def before_validation_batch(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """A validation batch is about to be scored."""
        if batch_idx == dataloader_idx == 0:
            self.pace.validation_begins()
        self._staff.each("before_validation_batch", batch, batch_idx, dataloader_idx)

    def validation_batch(self, outputs: Any, dataloader_idx: int) -> None:
        """A validation batch is done."""
        self._staff.each("validation_batch", outputs, dataloader_idx)

    def after_validation(self) -> None:
        """A validation pass is done."""
        self.pace.validation_ends(self.history.fact("data.val_samples", 0) / self.trainer.world_size)
        self._staff.each("after_validation")
        if self.pace.closes_early:
            self.close()
            self.consult()
            self.rest.wake()
            self.rest.plan()

    def finish(self, exception: BaseException | None = None) -> None:
        """The fit is over, well or badly."""
        if self._began:
            self._staff.attempt("the end of the run", lambda: self._note_ending(exception))
            self.close(alone=exception is not None)
        self.consult(final=True)
        if self._began:
            self._reporting.summarize()
        self._release()

    def give_up(self, hook: str, error: Exception) -> None:
        """Takes an error of the doctor's own that nothing else has caught; from here on it only meets other ranks."""
        self._staff.dismiss()
        self.rest.end()
        self._examination.stop()
        self._reporting.close()
        with suppress(Exception):
            self.consultation.failed(f"the doctor ({hook})", error)
            self.report = self.consultation.compose(self.history, self.budget)
        if hook == "finish":
            self.closed = True
            with suppress(Exception):
                self._release()

    def _release(self) -> None:
        self.closed = True
        self.rest.end()
        self._examination.stop()
        if self._began:
            self._staff.each("end")
        self._staff.attempt("leaving the other ranks", lambda: ranks.announce(False))
        if self.report is not None and self.trainer.is_global_zero:
            report = self.report
            self._staff.attempt("handing the report over", lambda: self.leader.handover.leave(report))
        # The report outlives the run, and must not keep the model alive.
        del self.trainer, self.module, self.training_rows
        self.__dict__.pop("run", None)
        self._staff.dismiss()
        self._reporting.close()

    def _note_ending(self, exception: BaseException | None) -> None:
        self.history.facts["run"] = {"ended": facts.ending(self.trainer, exception), "ended_step": self.run.step}

    # --- windows and consultations -------------------------------------------------------------------------------

    def close(self, *, alone: bool = False) -> None:
        """Ends the window: what it holds is fetched and shown."""
        began = self.budget.clock()
        self._staff.each("before_close")
        self._agreement.reach(alone)
        self._reporting.show()
        self.pace.closed(self.budget.clock() - began)

    def consult(self, *, final: bool = False) -> None:
        """Asks the rules and publishes the report, where the budget allows; always at the end."""
        self._reporting.consult(final=final)

    def judge(self) -> None:
        """Asks the rules now."""
        self.report = self.consultation.judge(self.history, self.history.last_step, self.budget)
        if self.consultation.stop_wanted and self.trainer.world_size == 1:
            self.trainer.should_stop = True

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any] | None:
        """Returns what is known, as plain builtins; None where there is nothing."""
        if not self._began:
            return None
        if not self._together and not self.closed:
            # Not with other ranks: whether all of them save is the user's business.
            self._staff.each("before_close")
            self._agreement.reach(alone=True)
        return self._staff.attempt(
            "saving its state",
            lambda: {"history": self.history.to_dict(), "consultation": self.consultation.state_dict()},
        )

    def load_state_dict(self, state: Any) -> None:
        """Takes up where a checkpoint left off; what cannot be read is noted and left."""
        try:
            history = History.from_dict(state["history"])
            self.consultation.load_state_dict(state["consultation"])
            self.history = history
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.consultation.notes.append(f"the checkpoint's history cannot be read and begins anew: {error!r}")

    def followed_by(self, trainer: Trainer) -> bool:
        """Says whether a ``fit`` of this Trainer goes on where this case ended."""
        return self._trainer() is trainer and trainer.fit_loop.epoch_loop._batches_that_stepped > self.history.last_step

    def carry_on(self, earlier: Case) -> None:
        """Takes up where an earlier ``fit`` of the same Trainer left off."""
        self.history = earlier.history
        self.consultation.load_state_dict(earlier.consultation.state_dict())
