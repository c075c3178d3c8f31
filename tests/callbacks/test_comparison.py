from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_doctor import Doctor
from lightning_doctor.budget import FIRST_LOOK, Budget
from lightning_doctor.callbacks import case
from lightning_doctor.callbacks.comparison import ComparisonProbe
from lightning_doctor.callbacks.hand_step import SEVERAL
from lightning_doctor.callbacks.heads import HeadMonitor
from lightning_doctor.callbacks.holdout import HoldoutProbe
from lightning_doctor.callbacks.scoring import Scorer
from lightning_doctor.callbacks.scoring_plan import ScoringPlan
from lightning_doctor.history import History
from lightning_doctor.scores import scoring_step
from tests.callbacks.test_scans import ByHand, Memory, Uncopied
from tests.runs import IMAGES, LABELS, DigitsNet, Fitted, digits, fit, flat, trainer, validation_digits


def comparing() -> ComparisonProbe:
    monitor = ComparisonProbe()
    monitor.settings.strict = True
    monitor.settings.overhead = 1.0
    return monitor


def watch(folder: Path, net: Any, *loaders: Any, **options: Any) -> History:
    seed_everything(0, verbose=False)
    monitor = comparing()
    run = trainer(folder, HeadMonitor(), monitor, **options)
    run.fit(net, loaders[0] if loaders else digits(), loaders[1] if len(loaders) > 1 else validation_digits())
    assert monitor.report is not None
    return monitor.report.history


def test_the_samples_are_scored_as_the_model_scores_them_itself(tmp_path: Path) -> None:
    net = DigitsNet()
    # Batches of a size that divides all: the mean over batches is that over rows.
    history = watch(tmp_path, net, digits(), digits(1400, 1720, 64, shuffle=False))
    with torch.no_grad():
        scores = net.net(IMAGES[:320])
        held = net.net(IMAGES[1400:1720])
    loss = nn.functional.cross_entropy
    # All 320 rows of each side are kept; float32 sums in another order differ in the seventh digit.
    assert history["eval_loss/train"].values[-1] == pytest.approx(float(loss(scores, LABELS[:320])), rel=1e-5)
    assert history["eval_loss/validation"].values[-1] == pytest.approx(float(loss(held, LABELS[1400:1720])), rel=1e-5)
    right = float((held.argmax(1) == LABELS[1400:1720]).float().mean())
    assert history["eval_accuracy/validation"].values[-1] == pytest.approx(right, rel=1e-6)
    assert history["eval_loss/train"].steps == [9, 19]
    assert history.fact("scored") == {"step": "training_step", "train": 320, "validation": 320}


def test_rows_are_right_or_wrong_whatever_the_classes_weigh_in_a_likelihood_by_hand(tmp_path: Path) -> None:
    low = (LABELS < 3).float()[:, None]

    def weighted(p: Tensor, y: Tensor) -> Tensor:
        return -(0.2 * y * p.clamp(1e-7).log() + (1 - y) * (1 - p).clamp(1e-7).log()).mean()

    class Validated(Fitted):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

    net = Validated(nn.Sequential(nn.Linear(64, 1), nn.Sigmoid()), weighted, 0.5)
    rows = TensorDataset(IMAGES[:320], low[:320])
    history = watch(tmp_path, net, DataLoader(rows, 32, shuffle=True), DataLoader(rows, 32))
    with torch.no_grad():
        right = float(((net.net(IMAGES[:320]) > 0.5) == (low[:320] > 0.5)).float().mean())
    assert history["eval_accuracy/train"].values[-1] == pytest.approx(right, rel=1e-6)


def test_the_standard_error_is_that_of_a_mean_of_batches(tmp_path: Path) -> None:
    net = DigitsNet()
    history = watch(tmp_path, net)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(net.net(IMAGES[1400:]), LABELS[1400:], reduction="none")
    # Estimated from eight batches: within a factor of 2 in all but 1 % of draws (chi squared with 7 degrees).
    expected = float(losses.std() / len(losses) ** 0.5)
    assert 0.45 * expected < history["eval_error/validation"].values[-1] < 1.9 * expected


def test_the_error_bar_is_drawn_from_the_losses_of_all_rows(tmp_path: Path) -> None:
    net = DigitsNet()
    history = watch(tmp_path, net)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(net.net(IMAGES[1400:]), LABELS[1400:], reduction="none")
    # The 2.5 % points of 1,000 draws are uncertain by about 5 %; of a skewed loss they are not quite the normal ones.
    expected = 1.96 * float(losses.std()) / len(losses) ** 0.5
    assert history["eval_bar/validation"].values[-1] == pytest.approx(expected, rel=0.15)
    assert history["eval_bar/validation"].steps == history["eval_loss/validation"].steps


def test_one_batch_of_several_is_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hurried(Scorer):
        def __init__(self, rehearsal: Any, **options: Any) -> None:
            super().__init__(rehearsal, **{**options, "may_go_on": lambda: False})

    monkeypatch.setattr("lightning_doctor.callbacks.comparison.Scorer", Hurried)
    history = watch(tmp_path, DigitsNet(), digits(), digits(1400, 1720, 64, shuffle=False))
    assert history.fact("scored") == {"step": "training_step"}
    assert history.absent["eval_loss/train"] == "the time sufficed for one batch of these rows"


def test_held_out_rows_are_scored_in_as_small_batches_as_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(plan: ScoringPlan, *_: Any) -> bool:
        plan.rows = 64
        return True

    class Noted(Scorer):
        def score(self, batches: Any) -> Any:
            sizes.append([rows for _, rows in batches])
            return super().score(batches)

    sizes: list[list[int]] = []
    monkeypatch.setattr(ScoringPlan, "due", few)
    monkeypatch.setattr("lightning_doctor.callbacks.comparison.Scorer", Noted)
    monitor = comparing()
    run = trainer(tmp_path, HeadMonitor(), HoldoutProbe(0.25), monitor)
    run.fit(DigitsNet(), digits(0, 1000), validation_digits())
    assert all(len(each) == 8 and {8, 9}.issuperset(each) for each in sizes[:3])
    assert monitor.report.history.fact("scored.holdout") == 64


def test_a_loss_that_is_more_than_its_rows_has_no_bar_of_theirs(tmp_path: Path) -> None:
    class Penalised(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + 0.1 * self.net[0].weight.square().sum()

    history = watch(tmp_path, Penalised())
    assert "eval_bar/validation" not in history
    assert len(history["eval_error/validation"]) == 2


def test_regression_has_a_skill_and_no_accuracy(tmp_path: Path) -> None:
    class Straight(DigitsNet):
        def __init__(self) -> None:
            super().__init__(lr=0.02)
            self.net = nn.Sequential(nn.Linear(64, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.mse_loss(self.net(batch[0])[:, 0], batch[0].mean(1) * 10)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

    history = watch(tmp_path, Straight(), max_epochs=12)
    assert history["eval_skill/validation"].values[-1] > 0.5
    assert history["eval_bar/validation"].values[-1] > 0
    assert "eval_accuracy/train" not in history


def scaled(factor: float) -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES[1400:] * factor, LABELS[1400:]), 100)


def test_inputs_that_are_scaled_on_one_side_are_named_with_their_numbers(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), digits(), scaled(16.0))
    inputs = history.fact("comparison.inputs")
    # One of 400 permutations, the data itself.
    assert inputs["p_value"] == 1 / 400
    assert inputs["separation"] > 0.99
    most = inputs["largest"][0]
    assert most["name"].startswith("[0][")
    assert most["means"][1] > 8 * most["means"][0] > 0
    assert history.fact("comparison.targets.p_value") > 0.01


def test_labels_in_other_proportions_are_named_by_class(tmp_path: Path) -> None:
    rare = LABELS[1000:] < 5
    validation = DataLoader(TensorDataset(IMAGES[1000:][rare], LABELS[1000:][rare]), 100)
    history = watch(tmp_path, DigitsNet(), digits(0, 1000), validation)
    targets = history.fact("comparison.targets")
    assert targets["p_value"] <= 0.005
    assert targets["largest"][0]["name"].startswith("class ")


def test_rows_that_are_in_both_are_found(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), digits(0, 1000), digits(950, 1150, 64, shuffle=False))
    overlap = history.fact("overlap")
    assert (overlap["train_rows"], overlap["validation_rows"]) == (1000, 200)
    assert overlap["exact"] == overlap["rounded"] == 0.25
    assert overlap["repeated"] == 0.0


def test_a_step_that_changes_its_batch_does_not_make_it_look_different(tmp_path: Path) -> None:
    class InPlace(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batch[0].add_(5.0)
            return super().training_step(batch, batch_idx)

    history = watch(tmp_path, InPlace(), digits(0, 1000))
    # Pixels are in [0, 1] before the step.
    assert all(max(column["means"]) <= 1 for column in history.fact("comparison.inputs.largest"))


def test_nothing_of_the_run_changes_whatever_its_step_does(tmp_path: Path) -> None:
    def train(*callbacks: Any) -> tuple[Any, ...]:
        torch.manual_seed(1)
        net = Memory()
        run = fit(tmp_path, net, *callbacks)
        metrics = {name: float(value) for name, value in run.callback_metrics.items()}
        state = {name: value.clone() for name, value in net.state_dict().items()}
        return state, len(net.queue), metrics, torch.get_rng_state()

    watched, plain = train(monitor := comparing()), train()
    assert len(monitor.report.history["eval_loss/train"]) == 2
    assert all(torch.equal(watched[0][name], plain[0][name]) for name in plain[0])
    assert watched[1:3] == plain[1:3]
    assert torch.equal(watched[3], plain[3])


class Fed(DigitsNet):
    """Takes its batch from a dictionary, or images of any size."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch["image"]), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


def test_labels_inside_a_dictionary_are_found(tmp_path: Path) -> None:
    rows = [{"image": image, "label": label} for image, label in zip(IMAGES, LABELS, strict=True)]
    history = watch(tmp_path, Fed(), DataLoader(rows[:320], 32), DataLoader(rows[320:640], 32))  # type: ignore[arg-type]
    assert len(history["eval_loss/validation"]) == 2
    assert history.fact("comparison.targets.rows") == [320, 320]


class Unlabelled(DigitsNet):
    """An autoencoder, whose batches are images and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self.net(batch), batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


def test_rows_without_labels_are_compared_by_their_inputs(tmp_path: Path) -> None:
    images = [DataLoader(IMAGES[at : at + 320], 32) for at in (0, 320)]  # type: ignore[arg-type]
    history = watch(tmp_path, Unlabelled(), *images)
    assert history.fact("comparison.inputs.rows") == [320, 320]
    assert history.fact("comparison.targets.reason") == "which part of the batch this is cannot be told"
    assert len(history["eval_loss/validation"]) == 2


class Wider(DigitsNet):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0][:, :64]), batch[1]))


def test_validation_rows_of_another_shape_leave_the_reason(tmp_path: Path) -> None:
    wide = DataLoader(TensorDataset(torch.cat([IMAGES[:100], IMAGES[:100]], 1), LABELS[:100]), 50)
    history = watch(tmp_path, Wider(), digits(), wide)
    assert history.fact("comparison.inputs.reason") == "a training row has shape [64], a validation row [128]"
    reason = history.absent["eval_loss/validation"]
    assert "a rehearsed training step failed" in reason
    assert reason.endswith(", and the validation step returned no loss")


class Remembering(Memory):
    """Its validation step changes whatever it can, and returns the loss, which it counts double."""

    def __init__(self) -> None:
        super().__init__()
        self.right = MulticlassAccuracy(10)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        images, labels = batch
        scores = self.net(images)
        loss = 2 * nn.functional.cross_entropy(scores, labels)
        self.right(scores, labels)
        self.metric(loss)
        self.queue.append((random.random(), float(torch.rand(()))))
        self.average.weight.data.mul_(0.9)
        self.log("val_loss", loss)
        self.log("val_right", self.right)
        return {"loss": loss}


class Choosy(Remembering):
    """Takes training batches only."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not self.training:
            raise RuntimeError("only in training")
        return super().training_step(batch, batch_idx)


class Lossless(Remembering):
    """Has no loss in eval mode."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss if self.training else None


class Handmade(Remembering):
    """Steps by hand, with two optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[:2], self.net[2:])]


@pytest.mark.parametrize("kind", [Choosy, Lossless, Handmade])
def test_where_the_training_step_cannot_score_the_validation_step_does_and_nothing_changes(
    tmp_path: Path, kind: type[Remembering]
) -> None:
    def train(*callbacks: Any) -> tuple[Any, ...]:
        random.seed(1)
        torch.manual_seed(1)
        net = kind()
        run = fit(tmp_path, net, *callbacks)
        metrics = {name: float(value) for name, value in run.callback_metrics.items()}
        state = {name: value.clone() for name, value in net.state_dict().items()}
        modes = [part.training for part in net.modules()]
        return state, (net.queue, random.getstate(), metrics, modes, run.lately), torch.get_rng_state(), net

    watched, plain = train(HeadMonitor(), monitor := comparing()), train()
    history = monitor.report.history
    assert history.fact("scored.step") == "validation_step"
    with torch.no_grad():
        scores = watched[3].eval().net(IMAGES[1400:])
    loss = 2 * nn.functional.cross_entropy(scores, LABELS[1400:])
    # That of the validation step, twice the other; of some of the rows where the training loss is not known as a mean.
    assert history["eval_loss/validation"].values[-1] == pytest.approx(float(loss), rel=0.1)
    assert len(history["eval_loss/train"]) == len(history["eval_loss/validation"]) == 2
    assert all(torch.equal(watched[0][name], plain[0][name]) for name in plain[0])
    assert watched[1] == plain[1]
    assert torch.equal(watched[2], plain[2])


def test_a_validation_step_that_bears_no_gradient_scores_without_one(tmp_path: Path) -> None:
    class Counts(Handmade):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().validation_step(batch, batch_idx)
            # As metrics from outside torch are fed, in inference mode.
            self.net(batch[0]).numpy()
            return loss

    fit(tmp_path, Counts(), monitor := comparing())
    history = monitor.report.history
    assert history.fact("scored.step") == "validation_step"
    assert len(history["eval_loss/train"]) == len(history["eval_loss/validation"]) == 2
    assert "eval_skill/train" not in history


def test_a_second_fit_goes_on_with_the_step_that_scored(tmp_path: Path) -> None:
    net, monitor = Handmade(), comparing()
    run = fit(tmp_path, net, monitor)
    run.fit_loop.max_epochs = 4
    first = len(monitor.report.history["eval_loss/train"])
    run.fit(net, digits(), validation_digits())
    history = monitor.report.history
    assert len(history["eval_loss/train"]) > first
    assert history.fact("scored.step") == "validation_step"
    assert scoring_step(history) == "validation_step"


def test_held_out_rows_are_scored_by_the_same_step(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    doctor = Doctor(strict=True, overhead=1.0, holdout=0.2)
    trainer(tmp_path, doctor).fit(Handmade(), digits(), validation_digits())
    history = doctor.report.history
    assert history.fact("scored.step") == "validation_step"
    assert history.fact("scored.holdout") == 64
    samples = ("train", "validation", "holdout")
    assert all(len(history[f"eval_loss/{sample}"]) >= 1 for sample in samples)


def test_a_step_that_has_scored_is_not_left_for_another(tmp_path: Path) -> None:
    class Tiring(Remembering):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not self.training and self.current_epoch > 0:
                raise RuntimeError("tired")
            return super().training_step(batch, batch_idx)

    fit(tmp_path, Tiring(), monitor := comparing())
    history = monitor.report.history
    assert history.fact("scored.step") == "training_step"
    assert history["eval_loss/train"].steps == history["eval_loss/validation"].steps == [9]


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (ByHand, f"{SEVERAL}, and the validation step returned no loss"),
        (Uncopied, "the model cannot be copied (TypeError: there is only one of me)"),
    ],
)
def test_a_model_that_cannot_be_copied_is_not_scored_and_its_rows_are_still_compared(
    tmp_path: Path, net: type[DigitsNet], reason: str
) -> None:
    plain, watched = net(), net()
    fit(tmp_path, plain)
    fit(tmp_path, watched, monitor := comparing())
    history = monitor.report.history
    assert history.absent["eval_loss/train"] == reason
    assert "p_value" in history.fact("comparison.inputs")
    assert torch.equal(flat(plain), flat(watched))


def test_without_validation_there_is_nothing_to_compare(tmp_path: Path) -> None:
    fit(tmp_path, DigitsNet(), monitor := comparing(), validate=False)
    assert monitor.report.history.absent["comparison"] == "there was no validation pass"


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from zip(IMAGES[:320], LABELS[:320], strict=True)


def test_a_stream_is_compared_by_what_it_serves(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), DataLoader(Stream(), 32))
    # Fifteen rows of each of its first 32 batches, of which there are ten.
    assert history.fact("comparison.inputs.rows") == [150, 397]


def test_five_rows_are_too_few_to_compare(tmp_path: Path) -> None:
    history = watch(tmp_path, DigitsNet(), digits(0, 5, 5), digits(5, 10, 5))
    assert history.fact("comparison.inputs") is None
    assert history.absent["comparison"] == "5 rows are too few to compare"
    assert len(history["eval_loss/train"]) > 0


def test_scores_are_spaced_by_what_the_budget_allows(tmp_path: Path) -> None:
    doctor = Doctor(strict=True, overhead=0.02)
    seed_everything(0, verbose=False)
    trainer(tmp_path, doctor, max_epochs=40).fit(DigitsNet(), digits(), validation_digits())
    steps = doctor.report.history["eval_loss/train"].steps
    # From ten steps to four hundred in steps of a half more, and once at the end.
    assert 3 <= len(steps) <= 12
    assert steps[-1] == 399


class Timed(DigitsNet):
    """Takes as long for a batch whatever its size, by a clock that stands still otherwise."""

    now = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        Timed.now += 0.01
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        Timed.now += 0.005
        return super().validation_step(batch, batch_idx)


def test_rows_of_small_batches_take_less_to_score_than_to_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case, "Budget", partial(Budget, clock=lambda: Timed.now))
    doctor = Doctor(strict=True, overhead=1e-6)
    trainer(tmp_path, doctor, max_epochs=1).fit(Timed(), digits(0, 400, 2), validation_digits())
    # By steps alone 400 and 320 rows would take 1.8 seconds; what 16 batches take is 0.16.
    assert doctor.report.history.fact("scored.train") == 400
    assert doctor.report.seconds < FIRST_LOOK


class Idle(Timed):
    """Takes as long for a row whatever the batch, and does nothing to validate."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        # Half of a step is the way back.
        Timed.now += (0.02 if self.training else 0.01) * len(batch[0]) - 0.01
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return None


def test_a_validation_step_that_does_nothing_makes_no_score_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case, "Budget", partial(Budget, clock=lambda: Timed.now))
    monitor = ComparisonProbe()
    monitor.settings.overhead = 1e-6
    trainer(tmp_path, HeadMonitor(), monitor, max_epochs=1).fit(Idle(), digits(0, 640), validation_digits())
    assert monitor.report is not None
    assert monitor.report.seconds < FIRST_LOOK


class RandomShift:
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image


class Compose:
    def __init__(self, *transforms: Any) -> None:
        self.transforms = list(transforms)


class Transformed(TensorDataset):
    def __init__(self) -> None:
        super().__init__(IMAGES[:320], LABELS[:320])
        self.transform = Compose(str, RandomShift())


def test_random_transforms_of_training_rows_are_named(tmp_path: Path) -> None:
    subset = torch.utils.data.Subset(Transformed(), range(320))
    history = watch(tmp_path, DigitsNet(), DataLoader(subset, 32, shuffle=True))
    assert history.fact("comparison.augmentation") == "RandomShift"
