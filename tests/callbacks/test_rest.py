"""Steps between measured ones rest: only their loss is kept, and Lightning passes over the hooks they do not need."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from lightning_doctor import BatchMonitor, Doctor, GradientMonitor
from lightning_doctor.budget import Budget
from lightning_doctor.callbacks.losses import LossMonitor
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.pace import Pace
from lightning_doctor.callbacks.rest import CHANGED, HUSHED, passes_over_none
from lightning_doctor.measure.waiting import Waiting
from tests.callbacks.test_pace import Clock
from tests.runs import IMAGES, LABELS, DigitsNet, digits, fit, flat, trainer


@pytest.fixture
def sparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures every twentieth step once the first windows have ended, as a spent budget would have it."""

    def heed(self: Pace, means: list[float]) -> None:
        self._sample_every, self._affordable = (20 if self.steps >= 32 else 1), True

    monkeypatch.setattr(Pace, "heed", heed)


# Where the end of a batch is the leader's own, each step is announced.
ASLEEP = set(HUSHED) - {"on_before_optimizer_step"}


class Watched(GradientMonitor):
    """Notes at the end of each step which hooks are asleep."""

    def __init__(self) -> None:
        super().__init__()
        self.settings.strict = True
        self.asleep: list[set[str]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        Monitor.on_train_batch_end(self, *args)
        self.asleep.append({name for name in HUSHED if vars(self).get(name, 0) is None})


class WatchedDoctor(Doctor):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asleep: list[set[str]] = []

    on_train_batch_end = Watched.on_train_batch_end


@pytest.mark.usefixtures("sparing")
def test_resting_steps_keep_their_loss_and_change_nothing(tmp_path: Path) -> None:
    plain, net = DigitsNet(), DigitsNet()
    fit(tmp_path, plain, max_epochs=12)
    doctor = WatchedDoctor(strict=True)
    fit(tmp_path, net, doctor, max_epochs=12)
    history = doctor.report.history
    assert torch.equal(flat(net), flat(plain))
    assert history["train_loss"].steps == list(range(120))
    measured = history["grad_norm"].steps
    assert {32, 52, 72, 92, 112} <= set(measured)
    assert len(measured) < 70
    # How many depends on what the probes have time for, which keep the steps awake that they collect.
    assert any(asleep == ASLEEP for asleep in doctor.asleep)
    assert len(history["val_loss"]) == 12
    # The examined steps, and what begins with the step before them.
    assert 81 in history["update_ratio"].steps
    assert 81 in history["gradient_cosine"].steps


@pytest.mark.usefixtures("sparing")
def test_the_losses_are_those_of_a_run_that_never_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resting, awake = Watched(), Watched()
    fit(tmp_path, DigitsNet(), resting, max_epochs=12, accumulate_grad_batches=3)
    monkeypatch.setattr(Pace, "quiet", lambda _: 0)
    fit(tmp_path, DigitsNet(), awake, max_epochs=12, accumulate_grad_batches=3)
    # Four steps an epoch: the last batch makes one of its own.
    assert awake.report.history["train_loss"].steps == list(range(48))
    assert resting.report.history["train_loss"] == awake.report.history["train_loss"]
    assert any("on_train_batch_start" in asleep for asleep in resting.asleep)
    assert not any("on_train_batch_start" in asleep for asleep in awake.asleep)


class Peeks(DigitsNet):
    """Notes in each training step which of a callback's hooks are not its own."""

    def __init__(self, callback: Monitor) -> None:
        super().__init__()
        self.peeks: list[set[str]] = []
        # In a list, so that it is no part of the model.
        self.callbacks = [callback]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.peeks.append(set(CHANGED) & set(vars(self.callbacks[0])))
        return super().training_step(batch, batch_idx)


@pytest.mark.usefixtures("sparing")
def test_where_each_batch_is_a_step_a_resting_one_has_one_light_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting, awake = GradientMonitor(), GradientMonitor()
    resting.settings.strict = awake.settings.strict = True
    net, plain = Peeks(resting), DigitsNet()
    fit(tmp_path, net, resting, max_epochs=12)
    fit(tmp_path, plain, max_epochs=12)
    monkeypatch.setattr(Pace, "quiet", lambda _: 0)
    fit(tmp_path, DigitsNet(), awake, max_epochs=12)
    assert torch.equal(flat(net), flat(plain))
    assert resting.report.history["train_loss"] == awake.report.history["train_loss"]
    assert resting.report.history["grad_norm"].steps[-3:] == [72, 92, 112]
    assert net.peeks.count(set(CHANGED)) > 40
    assert not set(CHANGED) & set(vars(resting))


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 2}],
    ids=["each batch a step", "clipped", "accumulated"],
)
def test_gradients_are_glanced_at_while_steps_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    plain, net, doctor, awake = DigitsNet(), DigitsNet(), Doctor(strict=True), Doctor(strict=True)
    fit(tmp_path, plain, max_epochs=24, **options)
    fit(tmp_path, DigitsNet(), awake, max_epochs=24, **options)

    def heed(self: Pace, means: list[float]) -> None:
        rests = self.steps >= 32
        self._sample_every, self._affordable, self._glance_every = (1000 if rests else 1), False, (4 if rests else 1000)

    monkeypatch.setattr(Pace, "heed", heed)
    fit(tmp_path, net, doctor, max_epochs=24, **options)
    assert torch.equal(flat(net), flat(plain))
    glanced, all_norms = doctor.report.history["grad_norm"], awake.report.history["grad_norm"]
    late = [step for step in glanced.steps if step > 36]
    assert late == list(range(late[0], 240 // options.get("accumulate_grad_batches", 1), 4))
    of_step = dict(zip(all_norms.steps, all_norms.values, strict=True))
    assert [of_step[step] for step in late] == pytest.approx(glanced.values[-len(late) :])
    # Nothing else is measured on these steps.
    assert not {*doctor.report.history["batch_size"].steps} & {*late[2:]}
    assert not set(CHANGED) & set(vars(doctor))


class Unsized(IterableDataset[Any]):
    """The digits in their order; nobody knows how many there are."""

    def __iter__(self) -> Any:
        return zip(IMAGES[:480], LABELS[:480], strict=True)


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
def test_a_budget_that_is_spent_leaves_gradients_in_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sized: bool
) -> None:
    monkeypatch.setattr("lightning_doctor.callbacks.pace.FIRST_LOOK", 0.0)
    doctor = Doctor(strict=True, overhead=1e-9)
    loader = digits(last=480, batch_size=16) if sized else DataLoader(Unsized(), 16)
    trainer(tmp_path, doctor, max_epochs=24).fit(DigitsNet(), loader)
    gradients = doctor.report.history["grad_norm"]
    counts = Counter(step // 30 for step in gradients.steps)
    assert min(counts[epoch] for epoch in range(24)) >= 3
    # Which nothing else is measured for.
    assert len(doctor.report.history["batch_size"]) < len(gradients) / 2


def test_a_monitor_that_fails_at_a_glance_is_let_go_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no norms today")

    def heed(self: Pace, means: list[float]) -> None:
        self._sample_every, self._affordable, self._glance_every = 1000, False, 7

    monkeypatch.setattr(Pace, "heed", heed)
    monkeypatch.setattr(GradientMonitor, "glance", fail)
    plain, net, doctor = DigitsNet(), DigitsNet(), Doctor()
    fit(tmp_path, plain, max_epochs=20)
    fit(tmp_path, net, doctor, max_epochs=20)
    assert torch.equal(flat(net), flat(plain))
    assert len([note for note in doctor.report.notes if "no norms today" in note]) == 1
    assert doctor.report.history["train_loss"].steps == list(range(200))


def test_a_window_that_a_validation_pass_ends_is_followed_by_a_plan_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heed(self: Pace, means: list[float]) -> None:
        self._sample_every, self._affordable = (1000 if self.steps < 200 else 8), False

    monkeypatch.setattr(Pace, "heed", heed)
    doctor = GradientMonitor()
    doctor.settings.strict = True
    fit(tmp_path, DigitsNet(), doctor, max_epochs=24)
    # Ten steps an epoch. After the sixteenth most begin at rest, so that validation alone ends windows.
    assert [step for step in doctor.report.history["grad_norm"].steps if step > 180] == [201, 209, 217, 225, 233]


@pytest.mark.usefixtures("sparing")
def test_the_newest_batch_is_known_while_steps_rest(tmp_path: Path) -> None:
    class Notes(LossMonitor):
        seen: ClassVar[list[tuple[int, int]]] = []

        def after_validation(self, case: Any) -> None:
            self.seen.append((case.batch_idx, case.trainer.fit_loop.epoch_loop.batch_idx))

    net = Peeks(Notes())
    fit(tmp_path, net, net.callbacks[0], max_epochs=12, val_check_interval=5)
    assert "on_train_batch_end" in set().union(*net.peeks)
    assert [known for known, _ in Notes.seen] == [4, 9] * 12
    assert all(known == is_ for known, is_ in Notes.seen)


def test_a_checkpoint_that_moves_the_end_of_a_window_loses_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heed(self: Pace, means: list[float]) -> None:
        self._sample_every, self._affordable = 1000, False

    monkeypatch.setattr(Pace, "heed", heed)
    doctor = GradientMonitor()
    doctor.settings.strict = True
    saved = ModelCheckpoint(tmp_path, every_n_train_steps=37)
    run = fit(tmp_path, DigitsNet(), doctor, saved, max_epochs=24, validate=False, enable_checkpointing=True)
    # Neither validation nor the first of an epoch wakes the last ones.
    assert run.global_step == 240
    assert doctor.report.history["train_loss"].steps == list(range(240))


@pytest.mark.usefixtures("sparing")
def test_accumulated_batches_have_no_light_hook(tmp_path: Path) -> None:
    doctor = GradientMonitor()
    net = Peeks(doctor)
    fit(tmp_path, net, doctor, max_epochs=12, accumulate_grad_batches=3)
    assert {"on_train_batch_start", "on_before_backward"} < set().union(*net.peeks)
    assert not {"on_train_batch_end", "on_before_optimizer_step"} & set().union(*net.peeks)


@pytest.mark.usefixtures("sparing")
def test_batches_that_a_schedule_accumulates_later_have_no_light_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(doctor: GradientMonitor, net: DigitsNet) -> None:
        doctor.settings.strict = True
        # It comes after the doctor, and in an epoch that does not wake it.
        schedule = GradientAccumulationScheduler({0: 1, 20: 5})
        assert fit(tmp_path, net, doctor, schedule, max_epochs=22, validate=False).global_step == 204

    resting, awake = GradientMonitor(), GradientMonitor()
    net = Peeks(resting)
    train(resting, net)
    monkeypatch.setattr(Pace, "quiet", lambda _: 0)
    train(awake, DigitsNet())
    assert awake.report.history["train_loss"].steps == list(range(204))
    assert resting.report.history["train_loss"] == awake.report.history["train_loss"]
    assert "on_train_batch_end" not in set().union(*net.peeks)


@pytest.mark.usefixtures("sparing")
def test_a_monitor_that_fails_in_a_light_hook_is_let_go(tmp_path: Path) -> None:
    class Fails(LossMonitor):
        newest = -1

        def resting(self, case: Any) -> Any:
            keep = super().resting(case)

            def fail_once(outputs: Any, batch_idx: int) -> None:
                keep(outputs, batch_idx)
                self.newest = case.run.step
                if self.newest == 45:
                    raise RuntimeError("mine")

            return fail_once

    doctor = Fails()
    net = Peeks(doctor)
    fit(tmp_path, net, doctor, GradientMonitor(), max_epochs=12)
    assert set(CHANGED) in net.peeks[46:]
    report = doctor.report
    assert any("mine" in note for note in report.notes)
    assert doctor.newest == 45
    assert report.history["grad_norm"].steps[-1] > 45
    doctor = Fails()
    doctor.settings.strict = True
    with pytest.raises(RuntimeError, match="mine"):
        fit(tmp_path, DigitsNet(), doctor, max_epochs=12)
    assert not set(CHANGED) & set(vars(doctor))


@pytest.mark.usefixtures("sparing")
def test_a_monitor_that_was_let_go_elsewhere_is_not_called_in_a_light_hook(tmp_path: Path) -> None:
    class Fails(LossMonitor):
        gone = -1

        def after_validation(self, case: Any) -> None:
            if case.run.step > 40:
                self.gone = case.run.step
                raise RuntimeError("mine")

        def resting(self, case: Any) -> Any:
            keep = super().resting(case)

            def watch(outputs: Any, batch_idx: int) -> None:
                if self.gone >= 0:
                    raise RuntimeError("called after it was let go")
                keep(outputs, batch_idx)

            return watch

    doctor = Fails()
    net = Peeks(doctor)
    fit(tmp_path, net, doctor, GradientMonitor(), max_epochs=12, val_check_interval=3)
    assert set(CHANGED) in net.peeks[doctor.gone + 1 :]
    notes = doctor.report.notes
    assert any("mine" in note for note in notes)
    assert not any("let go" in note for note in notes)


@pytest.mark.usefixtures("sparing")
def test_a_model_that_steps_every_other_batch_itself_has_no_light_hook(tmp_path: Path) -> None:
    class EveryOther(Peeks):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if batch_idx % 2:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    doctor = GradientMonitor()
    doctor.settings.strict = True
    net = EveryOther(doctor)
    fit(tmp_path, net, doctor, max_epochs=14)
    assert {"on_train_batch_start"} < set().union(*net.peeks)
    assert "on_train_batch_end" not in set().union(*net.peeks)
    # One of every two batches stepped.
    losses = doctor.report.history["train_loss"]
    assert {step % 2 for step in losses.steps} == {1}
    # Of both, which have been added up.
    assert losses.values[0] > 1.5 * math.log(10)


@pytest.mark.usefixtures("sparing")
def test_in_a_light_hook_the_callback_can_be_pickled_and_a_failing_run_gives_it_back(tmp_path: Path) -> None:
    class Fails(Peeks):
        pickled = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if self.peeks[-1] == set(CHANGED):
                state = pickle.loads(pickle.dumps(self.callbacks[0].__getstate__()))
                assert not set(CHANGED) & set(state)
                self.pickled += 1
            if self.pickled == 20:
                raise RuntimeError("the user's own")
            return loss

    doctor = GradientMonitor()
    net = Fails(doctor)
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(tmp_path, net, doctor, max_epochs=12)
    failed_at = len(net.peeks) - 1
    assert doctor.report.history["train_loss"].steps == list(range(failed_at))
    assert not set(CHANGED) & set(vars(doctor))


@pytest.mark.usefixtures("sparing")
def test_a_batch_that_is_none_is_no_step_of_a_resting_run_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gaps:
        """Every third batch is missing."""

        def __iter__(self) -> Any:
            return (batch if i % 3 else None for i, batch in enumerate([*digits(shuffle=False)] * 12))

    resting, awake = LossMonitor(), LossMonitor()
    net = Peeks(resting)
    trainer(tmp_path, resting).fit(net, Gaps())
    monkeypatch.setattr(Pace, "quiet", lambda _: 0)
    trainer(tmp_path, awake).fit(DigitsNet(), Gaps())
    assert set(CHANGED) in net.peeks
    assert len(awake.report.history["train_loss"]) > 40
    assert resting.report.history["train_loss"] == awake.report.history["train_loss"]


@pytest.mark.usefixtures("sparing")
def test_the_first_batch_of_each_epoch_is_looked_at_and_later_of_pairs(tmp_path: Path) -> None:
    doctor = BatchMonitor()
    trainer(tmp_path, doctor, max_epochs=30).fit(DigitsNet(), digits(shuffle=False))
    # Every epoch brings the same batches in the same order, as each epoch's first one shows.
    repeats = doctor.report.history["order_repeat"]
    assert {*range(50, 160, 10), 170, 250} <= set(repeats.steps)
    assert not {190, 200, 210, 220} & set(repeats.steps)
    assert set(repeats.values) == {1.0}


@pytest.mark.usefixtures("sparing")
def test_waits_are_measured_between_neighbouring_batches_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(DigitsNet):
        batches = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.batches += 1
            return super().training_step(batch, batch_idx)

    net, monitor = Counting(), BatchMonitor()
    # A clock that goes while a batch is worked on: a wait that were one over resting steps would have a length.
    monkeypatch.setattr("lightning_doctor.callbacks.batches.Waiting", lambda: Waiting(lambda: float(net.batches)))
    fit(tmp_path, net, monitor, max_epochs=12, validate=False)
    waits = monitor.report.history["data_wait_seconds"]
    assert [step for step in waits.steps if step > 32]
    assert set(waits.values) == {0.0}


@pytest.mark.usefixtures("sparing")
def test_a_lightning_that_calls_whatever_it_finds_gets_hooks_that_can_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_doctor.callbacks.rest.passes_over_none", lambda _: False)
    doctor, usual = Watched(), Watched()
    fit(tmp_path, DigitsNet(), doctor, max_epochs=12)
    monkeypatch.undo()
    fit(tmp_path, DigitsNet(), usual, max_epochs=12)
    assert set().union(*doctor.asleep) == set()
    assert doctor.report.history["train_loss"] == usual.report.history["train_loss"]


def test_this_lightning_passes_over_none_and_one_that_does_not_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.trainer import call

    run = trainer(tmp_path)
    assert passes_over_none(run)
    monkeypatch.setattr(call, "_call_callback_hooks", lambda trainer, hook: getattr(trainer.callbacks[0], hook)())
    assert not passes_over_none(run)
    monkeypatch.delattr(call, "_call_callback_hooks")
    assert not passes_over_none(run)


@pytest.mark.usefixtures("sparing")
def test_a_hook_that_a_subclass_overrides_is_called_on_every_step(tmp_path: Path) -> None:
    class Mine(Watched):
        started = 0

        def on_train_batch_start(self, *args: Any) -> None:
            super().on_train_batch_start(*args)
            self.started += 1

    doctor = Mine()
    fit(tmp_path, DigitsNet(), doctor, max_epochs=12)
    assert doctor.started == 120
    assert any("on_before_backward" in asleep for asleep in doctor.asleep)


@pytest.mark.usefixtures("sparing")
def test_after_a_fit_every_hook_is_there_again_and_during_one_it_can_be_pickled(tmp_path: Path) -> None:
    class Pickles(Watched):
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            if self.asleep[-1] == ASLEEP:
                copied = pickle.loads(pickle.dumps(Monitor.__getstate__(self)))
                assert not set(HUSHED) & set(copied)

    doctor = Pickles()
    fit(tmp_path, DigitsNet(), doctor, max_epochs=8)
    assert ASLEEP in doctor.asleep
    assert all(callable(getattr(doctor, name)) for name in HUSHED)
    fit(tmp_path, DigitsNet(), doctor, max_epochs=8)
    assert doctor.report.history["train_loss"].steps == list(range(80))


@pytest.mark.usefixtures("sparing")
def test_a_run_that_fails_while_a_step_rests_gets_its_hooks_back(tmp_path: Path) -> None:
    class Fails(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == 55:
                raise RuntimeError("the user's own")
            return super().training_step(batch, batch_idx)

    doctor = Watched()
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(tmp_path, Fails(), doctor, max_epochs=8)
    assert ASLEEP in doctor.asleep
    assert doctor.report.history["train_loss"].steps == list(range(55))
    assert all(callable(getattr(doctor, name)) for name in HUSHED)


def test_manual_optimization_does_not_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Manual(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    monkeypatch.setattr(Pace, "quiet", lambda _: 10)
    doctor = Watched()
    fit(tmp_path, Manual(), doctor, validate=False, max_epochs=4)
    assert set().union(*doctor.asleep) == set()
    assert doctor.report.history["train_loss"].steps == list(range(40))


def test_a_loss_that_somebody_changes_afterwards_is_not_recorded(tmp_path: Path) -> None:
    class Doubles(DigitsNet):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == 7:
                outputs["loss"].mul_(2)

    doctor = Doctor(strict=True)
    fit(tmp_path, Doubles(), doctor)
    assert doctor.report.history["train_loss"].steps == [step for step in range(20) if step != 6]


def test_steps_beside_a_measured_or_an_examined_one_are_not_quiet() -> None:
    pace = Pace(Budget(0.02, Clock()), 50)
    for _ in range(32):
        pace.advance()
        if pace.closes:
            pace.wishes()
    pace._sample_every = 20
    quiet = {}
    while pace.steps < 82:
        quiet[pace.steps] = pace.quiet()
        pace.advance()
    # Measured: 32, 52 and 72; examined: 81, which some begin the step before.
    assert quiet[33] == 0
    assert quiet[34] == 18
    assert quiet[51] == 1
    assert quiet[52] == quiet[53] == 0
    assert quiet[54] == 18
    assert quiet[74] == 6
    assert quiet[80] == quiet[81] == 0


def test_windows_grow_where_their_ends_cost_too_much_but_not_in_a_short_run() -> None:
    pace = Pace(Budget(0.02, Clock()), 50)
    for steps, grown in ((399, 50), (1600, 200), (2800, 350), (100_000, 350)):
        pace.steps = steps
        pace.wishes()
        # Of a step of a millisecond 2 % are earned, and windows may take a tenth: 0.7 ms are that of 350 steps.
        pace.heed([0.0, 1.0, 1.0, 0.0, 0.0, 1e-4, 7e-4, 1e-3, 0.0])
        assert pace._length == grown
    assert not pace.closes_early
    # Eight times at most, however dear.
    pace.heed([0.0, 1.0, 1.0, 0.0, 0.0, 1e-4, 1.0, 1e-3, 0.0])
    assert pace._length == 400
    assert pace._sample_every == 100
    pace.heed([1.0, 1.0, 1.0, 0.0, 0.0, 1e-4, 1.0, 1e-3, 0.0])
    assert pace._length == 50
    assert pace.closes_early


def test_a_monitor_that_awaits_a_batch_is_called_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Waits(Monitor):
        def awaits(self, case: Any) -> int | None:
            return max(0, 5 - (case.batch_idx + 1))

        def before_batch(self, case: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch_idx)

    def heed(self: Pace, means: list[float]) -> None:
        self._sample_every, self._affordable = 1000, False

    monkeypatch.setattr(Pace, "heed", heed)
    monitor = Waits()
    monitor.settings.strict = True
    fit(tmp_path, DigitsNet(), monitor, LossMonitor(), max_epochs=6, validate=False)
    # The first of each epoch, which every monitor is called for, and those it asks for.
    assert seen[-12:] == [0, 5, 6, 7, 8, 9] * 2
