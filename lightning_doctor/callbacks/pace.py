"""Which steps are measured and when a window closes: alike on every rank, and as the budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable

from lightning_doctor.budget import FIRST_LOOK, Budget
from lightning_doctor.callbacks.ledger import Ledger

# Windows end after these many steps, and then every so many, so that a run that is lost at once is told so at once.
_FIRST_WINDOWS = (1, 2, 4, 8, 16, 32)
# What sampling may take of the share, and of the first look, and what the ends of windows may take of the share; the
# rest is for examinations, rules and sinks.
_SAMPLING_SHARE, _SAMPLING_LOOK, _CLOSING_SHARE = 0.05, 0.2, 0.1
# Where their ends cost more than that windows become longer: so many times at most, where more was spent than may be so
# many times longer again, and no longer than this share of the steps so far: a short run is told as soon as ever.
_LONGEST, _LONGEST_STRETCH, _LONGEST_SHARE = 8, 16, 1 / 8
# Gradients are measured so many times an epoch, whatever the budget says, but no sooner than so many steps after the
# last time.
_GLANCES, _GLANCES_APART = 3, 10
# What examinations are sure of, and what is left of the first look for the rules and the sinks [seconds]; of that a
# quarter for the last time that they are asked.
_EXAMINING_LOOK, _RULES_LOOK, _LAST_LOOK = 0.2, 0.4, 0.1
# What trying the very first step on a copy may be expected to take of the first look, and how many training steps that
# takes at most, about: a dozen forward passes, two copies of the weights and their differences.
_TRIAL_LOOK, _TRIAL_STEPS = 0.4, 6
# How many times longer a run without a planned end must have become to be examined before the time is earned.
_GROWTH = 1.1
_STEP_HOOKS = ("before_batch", "before_backward", "after_backward", "before_step", "after_batch")
_EXAMINING_HOOKS = (*_STEP_HOOKS, "layer_ran", "examine_loss")


class Pace:
    """Counts the steps of a run.

    Every rank heeds the means over ranks of :meth:`wishes`, so that all of them measure the same steps.

    Args:
        budget: What may be spent.
        every_n_steps: The length of a window that the budget allows for, and the least distance between examined steps.
        planned: How many steps the run is to have; None where nobody knows.
        kept: Tells what samples and examinations are to leave of the first look for probes [seconds].
        trial_cost: What trying an examined step on a copy of the model is expected to take [seconds].
        epoch_steps: Tells how many steps an epoch has; 0 where nobody knows, and it has as many as the longest so far.

    Attributes:
        steps: How many steps are done.
        sampling: Whether what is cheap is measured on the coming step.
        tries: Whether examined steps are tried on a copy of the model as well: once that is affordable, all of them.
        trial_cost: What that is expected to take, before it has been done [seconds].
        next_close: After how many steps the window is full.
        step_time: What a step took in the quickest window, the doctor's part apart [seconds]; 0 before there was one.
        validation_time: What a sample took in the quickest validation pass, likewise [seconds].
        examinations: What they cost.
    """

    def __init__(
        self,
        budget: Budget,
        every_n_steps: int,
        planned: int | None = None,
        kept: Callable[[], float] = lambda: 0.0,
        trial_cost: float = 0.0,
        epoch_steps: Callable[[], int] = lambda: 0,
    ) -> None:
        self.steps = 0
        self.sampling = True
        self._budget = budget
        self._every = self._length = every_n_steps
        self._planned = planned
        self._kept = kept
        self._epoch_steps = epoch_steps
        self._epoch_began: int | None = None
        self._whole_epoch = 0
        self.next_close = 1
        self.step_time = self.validation_time = 0.0
        self._validation_began = 0.0
        self._next_examination = 0
        self._affordable = True
        self.trial_cost = trial_cost
        self.tries = trial_cost <= _TRIAL_LOOK * FIRST_LOOK
        self._tried = 0
        self._examined_at = self._measured_at = -1
        self._sampled_at = self._glanced_at = 0
        self._sample_every = self._stretch = 1
        self._glance_every: float = math.inf
        self.examinations = Ledger()
        self._samples, self._closings = Ledger(), Ledger()
        self._closed_at = (budget.clock(), 0)
        self._spent_at = budget.spent

    @property
    def examining(self) -> bool:
        """Whether the coming step is examined: its forward pass and its loss are looked at."""
        return self._affordable and self.steps == self._next_examination

    @property
    def examining_next(self) -> bool:
        """Whether the step after the coming one is examined, as far as it can be known."""
        following = self._next_examination
        if self.steps == following:
            following = self.following(self.steps + 1) - 1
        return self._affordable and self.steps + 1 == following

    @property
    def glancing(self) -> bool:
        """Whether the gradients of the coming step are measured even if nothing else is."""
        return self.steps >= self.next_glance

    @property
    def next_glance(self) -> float:
        """After how many steps that is so; infinite for never."""
        return self._glanced_at + self._glance_every

    @property
    def kept(self) -> float:
        """What is to be kept for examinations of the first look [seconds]: most rules rest on them."""
        # A stall takes nothing away from those to come.
        return max(0.0, _EXAMINING_LOOK * self._to_come - self.examinations.times * self.examinations.cost)

    @property
    def left_for_rules(self) -> float:
        """What is to be left of the first look for the rules and the sinks [seconds]."""
        return max(_LAST_LOOK, _RULES_LOOK * self._to_come)

    @property
    def _to_come(self) -> float:
        return 1.0 if self._planned is None else max(0.0, 1 - self.steps / max(1, self._planned))

    @property
    def closes(self) -> bool:
        """Whether the window is full."""
        return self.steps >= self.next_close

    @property
    def closes_early(self) -> bool:
        """Whether a validation pass may end the window: where it was made longer, not before half of it has gone by."""
        return self._length == self._every or 2 * (self.steps - self._closed_at[1]) >= self._length

    def quiet(self) -> int:
        """Returns how many steps, from the coming one on, are neither measured nor beside one that is."""
        if self.sampling or self.steps - self._measured_at <= 1:
            return 0
        upcoming = self._sampled_at + self._sample_every
        if self._affordable:
            # Some begin with the step before an examined one.
            upcoming = min(upcoming, self._next_examination - 1)
        return max(0, upcoming - self.steps)

    def closed(self, seconds: float) -> None:
        """Books what the end of a window took."""
        self._closings.add(seconds)
        self._closings.count()

    def ledger(self, hook: str) -> Ledger | None:
        """Returns where to book what the monitors take for a hook now."""
        # What follows an examination happens before the next batch.
        follows = hook == "before_batch" and self.steps == self._examined_at
        if (self.examining and hook in _EXAMINING_HOOKS) or follows:
            return self.examinations
        # Of the steps beside a measured one too.
        return self._samples if hook in _STEP_HOOKS else None

    def advance(self) -> None:
        """A step is done."""
        examined = self.examining
        if examined or self.sampling:
            self._measured_at = self.steps
        if self.sampling:
            self._sampled_at = self.steps
        if self.sampling or self.glancing:
            self.glanced()
        self.steps += 1
        if examined:
            self.examinations.count()
            self._tried += self.tries
            self._examined_at = self.steps
        elif self.sampling:
            self._samples.count()
        if self.steps > self._next_examination:
            self._next_examination = self.following(self.steps) - 1
        self.sampling = self.steps - self._sampled_at >= self._sample_every

    def glanced(self) -> None:
        """The gradients of the step that comes next, or is under way, are measured."""
        self._glanced_at = self.steps

    def epoch_begins(self, *, whole: bool = True) -> None:
        """An epoch of training begins, and the one before is over; not whole where it goes on after a checkpoint."""
        if self._epoch_began is not None:
            self._whole_epoch = max(self._whole_epoch, self.steps - self._epoch_began)
        self._epoch_began = self.steps if whole else None

    def validation_begins(self) -> None:
        """A validation pass begins."""
        self._validation_began = self._budget.clock() - self._budget.spent

    def validation_ends(self, samples: float) -> None:
        """A validation pass is done, of so many samples; 0 where that is not known."""
        if samples > 0:
            took = self._budget.clock() - self._budget.spent - self._validation_began
            spent = max(0.0, took) / samples
            self.validation_time = min(self.validation_time or spent, spent)

    def wishes(self) -> list[float]:
        """Ends the window and returns what this rank would like; :meth:`heed` takes the means over ranks."""
        now, (then, steps) = self._budget.clock(), self._closed_at
        self._closed_at = (now, self.steps)
        self.next_close = self.following(self.steps)
        for ledger in (self._samples, self.examinations, self._closings):
            ledger.settle()
        step_time = (now - then) / max(1, self.steps - steps)
        own, self._spent_at = self._budget.spent - self._spent_at, self._budget.spent
        if self.steps > steps:
            # Others hold validation, or workers that had to be started.
            spent = max(0.0, now - then - own) / (self.steps - steps)
            self.step_time = min(self.step_time or spent, spent)
        sample, (examine, try_out) = self._may_sample(), self._may_examine_and_try()
        # What a single probe or sink has taken too much is earned again; what each window takes is not.
        dear = own > self._budget.share * (now - then)
        overdrawn = not self._budget.allows(_LAST_LOOK)
        answers = [float(answer) for answer in (sample, examine, try_out, overdrawn, overdrawn and dear)]
        epoch = float(self._epoch_steps() or self._whole_epoch)
        return [*answers, self._samples.cost, self._closings.cost, step_time, epoch]

    def heed(self, means: list[float]) -> None:
        """Plans the next window."""
        affordable, examine, try_out, overdrawn, too_dear, cost, closing_cost, step_time, epoch = means
        earned = self._budget.share * max(step_time, 1e-9)
        # What is done on every step has no price here: it shows in what is left.
        if too_dear > 0.0:
            self._stretch = min(_LONGEST_STRETCH, 2 * self._stretch)
        elif overdrawn == 0.0:
            self._stretch = max(1, self._stretch // 2)
        spacing, times = 1, 1
        if affordable != 1.0:
            spacing = math.ceil(cost / (_SAMPLING_SHARE * earned))
            times = self._stretch * min(_LONGEST, math.ceil(closing_cost / (_CLOSING_SHARE * earned * self._every)))
        self._length = max(self._every, min(self._every * times, int(_LONGEST_SHARE * self.steps)))
        self._sample_every = min(self._length, _LONGEST * self._every, max(1, spacing))
        self._glance_every = math.inf
        if epoch > 0:
            self._glance_every = max(_GLANCES_APART, epoch // _GLANCES)
        self._affordable = examine == 1.0
        self.tries = self.tries or try_out == 1.0

    def _may_sample(self) -> bool:
        # Every step, whatever it costs; after that first look as many as the share allows.
        kept = self.left_for_rules + self.kept + self._kept()
        return self._samples.total <= _SAMPLING_LOOK * FIRST_LOOK and self._budget.allows(kept)

    def _may_examine_and_try(self) -> tuple[bool, bool]:
        """Says whether there is time for an examination, and for one that is tried on a copy too."""
        cost = self.examinations.cost
        # What trying a step takes is booked by the time that a second one is examined.
        if self._tried < 2:
            if self.step_time:
                self.trial_cost = min(self.trial_cost, _TRIAL_STEPS * self.step_time)
            still_to_come = self.trial_cost if self._tried and self._examined_at == self.steps else 0.0
            tried = self._may_examine(cost + self.trial_cost + still_to_come)
            return (tried if self.tries else self._may_examine(cost)), tried
        may = self._may_examine(cost)
        return may, may

    def _may_examine(self, cost: float) -> bool:
        if self._budget.has_earned(cost):
            return True
        left = self._budget.left()
        if self.examinations.dearest > left:
            # It may be as dear again.
            return False
        # The only one so far may have stalled: what is left for others is no reason against a second one.
        if self.examinations.times > 1:
            left -= self.left_for_rules
            # Where the probes have taken what was kept for others too.
            left = max(left - self._kept(), min(left, self.kept))
        if cost > left:
            return False
        # The first look is shared out over what is left of the run.
        coming = self.following(self.steps)
        if self._planned is None:
            return coming >= _GROWTH * self._examined_at
        spacing = (self._planned - self.steps) * cost / max(left, 1e-9)
        return coming <= _FIRST_WINDOWS[-1] or coming - self._examined_at >= spacing

    def following(self, steps: int) -> int:
        """Returns after how many steps the first window ends that ends after so many."""
        return next((n for n in _FIRST_WINDOWS if n > steps), steps + self._length)
