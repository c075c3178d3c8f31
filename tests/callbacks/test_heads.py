"""The loss head of real, small training runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor.callbacks.heads import HeadMonitor
from lightning_doctor.callbacks.losses import LossMonitor
from lightning_doctor.history import History
from tests.runs import IMAGES, LABELS, DigitsNet, flat, trainer

Loss = Callable[[Tensor, Tensor], Tensor]

HOT = functional.one_hot(LABELS, 10).float()
# A linear function of the pixels with a little noise, far from zero.
_noise = torch.randn(len(IMAGES), 1, generator=torch.Generator().manual_seed(0))
REAL = 50 + 20 * IMAGES @ torch.linspace(-1, 1, 64)[:, None] + _noise
# A digit under five, and a digit that is odd.
LOW = (LABELS < 5).float()[:, None]
TRAITS = torch.stack([LABELS < 5, LABELS % 2 == 1, LABELS == 7], 1).float()


class Net(LightningModule):
    """A small network with any loss and any last layer."""

    def __init__(self, loss: Loss, width: int, last: nn.Module | None = None, lr: float = 0.003) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loss = loss
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, width), last or nn.Identity())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        return self.loss(self.net(inputs), targets)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def watch(folder: Path, net: LightningModule, targets: Tensor, *, batch: int = 64, **options: Any) -> History:
    """Trains on 640 digits, looks at every step that a Doctor would, and returns what was seen."""
    seed_everything(0, verbose=False)
    monitor = HeadMonitor()
    monitor.settings.strict, monitor.settings.overhead = True, 1.0
    run = trainer(folder, monitor, LossMonitor(), **options)
    run.fit(net, DataLoader(TensorDataset(IMAGES[:640], targets[:640]), batch, shuffle=True))
    assert monitor.report is not None
    assert monitor.report.notes == []
    return monitor.report.history


def test_a_classifier_is_described(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.cross_entropy, 10), LABELS, max_epochs=10)
    head = history.facts["loss_head"]
    assert (head["loss"], head["activation"], head["reduction"]) == ("cross_entropy", None, "mean")
    assert (head["targets"], head["classes"], head["terms"]) == ("class_index", 10, 1)
    assert (head["target_min"], head["target_max"]) == (0.0, 9.0)
    assert (head["output_shape"], head["target_shape"]) == ([64, 10], [64])
    assert head["output_min"] < 0 < head["output_max"]
    assert not any(head[name] for name in ("written_by_hand", "weighted", "broadcast", "label_smoothing"))
    assert "loss_head" not in history.absent


def test_what_it_records_is_plain_json(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.cross_entropy, 10), LABELS)
    facts = {name: history.facts[name] for name in ("loss_head", "labels", "predictions")}
    assert json.loads(json.dumps(facts)) == facts


def test_the_baseline_of_a_classifier_is_the_entropy_of_its_labels(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.cross_entropy, 10), LABELS, batch=640, max_epochs=4)
    shares = torch.bincount(LABELS[:640]).double() / 640
    entropy = -float((shares * shares.log()).sum())
    assert history["baseline_loss"].values == pytest.approx([entropy] * 2, rel=1e-9)
    assert history["baseline_loss"].steps == [1, 3]
    constant = log_loss(LABELS[:640], shares.expand(640, 10).numpy())
    assert entropy == pytest.approx(constant, rel=1e-9)


def test_skill_rises_from_nothing_to_nearly_one_as_a_classifier_learns(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.cross_entropy, 10), LABELS, max_epochs=40)
    skill, accuracy = history["skill"].values, history["train_accuracy"].values
    assert skill[0] < 0.3
    assert skill[-1] > 0.9
    # Nearly a tenth of a batch is right by chance.
    assert skill[-1] == pytest.approx((accuracy[-1] - 0.1) / 0.9, abs=0.02)


def test_labels_and_predictions_are_counted(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.cross_entropy, 10), LABELS, batch=640, max_epochs=31, max_steps=80)
    labels, predictions = history.facts["labels"], history.facts["predictions"]
    exact = torch.bincount(LABELS[:640]).tolist()
    # Steps 1, 3, 7 and 15 saw all of them; step 0 reads nothing.
    assert labels == {"counts": {str(i): 4 * n for i, n in enumerate(exact)}, "samples": 2560}
    assert sum(predictions["counts"].values()) == predictions["samples"] == 640
    assert set(predictions["recall"]) == {str(i) for i in range(10)}
    right = sum(share * exact[int(label)] for label, share in predictions["recall"].items())
    assert right / 640 == pytest.approx(history["train_accuracy"].values[-1], rel=1e-6)


def test_a_regression_is_described_and_scored(tmp_path: Path) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(50 + 10 * outputs, targets)

    history = watch(tmp_path, Net(loss, 1), REAL, max_epochs=30)
    head = history.facts["loss_head"]
    assert (head["loss"], head["targets"], head["classes"]) == ("mse", "real", None)
    # Of seven batches of 64.
    assert head["target_mean"] == pytest.approx(float(REAL[:640].mean()), rel=0.05)
    assert head["target_std"] == pytest.approx(float(REAL[:640].std()), rel=0.1)
    assert history["baseline_loss"].values[-1] == pytest.approx(float(REAL[:640].var()), rel=0.2)
    assert history["skill"].values[0] < 0.3
    assert history["skill"].values[-1] > 0.9
    assert history.absent["train_accuracy"] == "the targets are not classes"


def test_skill_of_a_regression_is_one_less_its_error_over_the_variance(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.mse_loss, 1), REAL, batch=640, max_epochs=8)
    targets, losses = REAL[:640].double(), history["train_loss"].values
    about_median = float((targets - targets.median()).square().mean())
    # About the mean as of samples, of which there seem to be more each time.
    constant = {n: min(about_median, float(targets.var(correction=0)) * n / (n - 1)) for n in (640, 1280, 1920)}
    expected = [1 - losses[step] / constant[n] for step, n in ((1, 640), (3, 1280), (7, 1920))]
    assert history["skill"].values == pytest.approx(expected, rel=1e-5)


def test_targets_rebuilt_from_a_difference_give_the_same_as_those_that_are_saved(tmp_path: Path) -> None:
    def by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((targets - outputs) ** 2).mean()

    fused = watch(tmp_path, Net(functional.mse_loss, 1), REAL)
    written = watch(tmp_path, Net(by_hand, 1), REAL)
    for name in ("baseline_loss", "skill", "output_spread", "worst_share"):
        assert written[name].steps == fused[name].steps
        assert written[name].values == pytest.approx(fused[name].values, rel=1e-4)
    assert written.facts["loss_head"]["written_by_hand"]


def test_squared_error_on_one_hot_rows_is_seen_and_scored_by_class(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(lambda o, t: (o - t).square().mean(), 10, nn.Softmax(1)), HOT, max_epochs=40)
    head = history.facts["loss_head"]
    assert (head["loss"], head["activation"], head["targets"], head["classes"]) == ("mse", "softmax", "one_hot", 10)
    assert history["train_accuracy"].values[-1] > 0.8
    assert history["skill"].values[-1] > 0.8
    assert sum(history.facts["labels"]["counts"].values()) == history.facts["labels"]["samples"]


def test_a_binary_column_is_two_classes(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.binary_cross_entropy_with_logits, 1), LOW, max_epochs=20)
    head = history.facts["loss_head"]
    assert (head["loss"], head["targets"], head["classes"]) == ("bce_with_logits", "binary", 2)
    assert set(history.facts["labels"]["counts"]) == {"0", "1"}
    assert history["skill"].values[-1] == pytest.approx(2 * history["train_accuracy"].values[-1] - 1, abs=0.1)
    assert history["skill"].values[-1] > 0.8


def test_several_binary_columns_are_scored_by_their_squared_error(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.binary_cross_entropy_with_logits, 3), TRAITS, max_epochs=30)
    head = history.facts["loss_head"]
    assert (head["targets"], head["classes"]) == ("binary", None)
    assert "train_accuracy" not in history
    assert history["skill"].values[-1] > 0.7


def test_each_pixel_of_a_mask_is_one_of_two_classes(tmp_path: Path) -> None:
    mask = (IMAGES > 0.9).float().reshape(-1, 1, 8, 8)
    loss = functional.binary_cross_entropy_with_logits
    history = watch(tmp_path, Net(loss, 64, nn.Unflatten(1, (1, 8, 8))), mask)
    head, labels, predictions = (history.fact(name) for name in ("loss_head", "labels", "predictions"))
    assert (head["targets"], head["classes"]) == ("binary", None)
    assert labels["counts"]["1"] / labels["samples"] == pytest.approx(float(mask[:640].mean()), rel=0.05)
    assert predictions["samples"] == 64 * 64
    assert predictions["recall"]["1"] < predictions["recall"]["0"]
    # As good as the best constant of each pixel has no skill, not as the commoner of the two.
    assert "train_accuracy" not in history
    assert "skill" in history


def test_pixels_between_black_and_white_are_no_classes(tmp_path: Path) -> None:
    loss = functional.binary_cross_entropy_with_logits
    history = watch(tmp_path, Net(loss, 64, nn.Unflatten(1, (1, 8, 8))), IMAGES.reshape(-1, 1, 8, 8))
    assert history.fact("loss_head.targets") == "probabilities"
    assert history.fact("labels") is None
    assert history.fact("predictions") is None


def test_pixels_that_are_no_bits_are_probabilities(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.binary_cross_entropy, 64, nn.Sigmoid()), IMAGES, max_epochs=4)
    head = history.facts["loss_head"]
    assert (head["loss"], head["activation"], head["targets"]) == ("bce", "sigmoid", "probabilities")
    assert history["baseline_loss"].values[-1] > 0


def test_labels_beyond_one_leave_no_constant_that_is_best(tmp_path: Path) -> None:
    three = (LABELS % 3).float()[:, None]

    def keras(outputs: Tensor, targets: Tensor) -> Tensor:
        p = outputs.clamp(1e-7, 1 - 1e-7)
        return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()

    history = watch(tmp_path, Net(keras, 1, nn.Sigmoid()), 2 * three)
    head = history.facts["loss_head"]
    assert (head["loss"], head["targets"], head["target_max"]) == ("bce", "real", pytest.approx(4.0))
    assert history.absent["baseline_loss"] == "no constant is best under these targets"


def test_a_softmax_made_of_other_operations_is_known_by_its_values(tmp_path: Path) -> None:
    class Shares(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            powers = (values - values.amax(1, keepdim=True)).exp()
            return powers / powers.sum(1, keepdim=True)

    history = watch(tmp_path, Net(functional.cross_entropy, 10, Shares()), LABELS)
    assert history.facts["loss_head"]["activation"] == "softmax"


def test_one_softmax_unit_puts_out_one(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(functional.binary_cross_entropy, 1, nn.Softmax(1)), LOW)
    head = history.facts["loss_head"]
    assert (head["activation"], head["output_min"], head["output_max"]) == ("softmax", 1.0, 1.0)
    assert history["output_spread"].values == [0.0] * 5


def test_a_broadcast_difference_names_both_shapes(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(lambda o, t: (o - t).square().mean(), 1), REAL[:, 0])
    head = history.facts["loss_head"]
    assert head["broadcast"]
    assert (head["output_shape"], head["target_shape"]) == ([64, 1], [64])


@pytest.mark.parametrize(
    ("loss", "reduction", "times"),
    [
        (lambda o, t: functional.cross_entropy(o, t, reduction="sum"), "sum", 32),
        (lambda o, t: functional.cross_entropy(o, t, reduction="sum") / len(o), "mean", 1),
        (lambda o, t: 3 * functional.cross_entropy(o, t), "mean", 3),
    ],
)
@pytest.mark.parametrize("micro", [1, 4])
def test_the_baseline_is_in_the_units_of_the_training_loss(
    tmp_path: Path, loss: Loss, reduction: str, times: int, micro: int
) -> None:
    history = watch(tmp_path, Net(loss, 10), LABELS, batch=32, accumulate_grad_batches=micro, max_epochs=10)
    assert history.facts["loss_head"]["reduction"] == reduction
    # Ten classes, nearly even, of which some hundred samples were seen.
    assert history["baseline_loss"].values[-1] == pytest.approx(times * math.log(10), rel=0.05)
    # An untrained network is no better than a constant.
    assert history["train_loss"].values[0] == pytest.approx(times * math.log(10), rel=0.1)


def test_an_fp16_scale_is_taken_out(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    history = watch(tmp_path, Net(functional.cross_entropy, 10), LABELS, plugins=[plugin])
    assert history["baseline_loss"].values[-1] == pytest.approx(math.log(10), rel=0.05)
    assert history.facts["loss_head"]["loss"] == "cross_entropy"


def test_a_compiled_model_is_read_from_its_uncompiled_copy(tmp_path: Path) -> None:
    net = Net(functional.cross_entropy, 10)
    net.net = torch.compile(net.net, backend="eager")
    history = watch(tmp_path, net, LABELS, accumulate_grad_batches=2)
    assert history.facts["loss_head"]["loss"] == "cross_entropy"
    assert history["baseline_loss"].values[-1] == pytest.approx(math.log(10), rel=0.05)


def test_weight_decay_in_the_loss_leaves_the_baseline_of_the_data(tmp_path: Path) -> None:
    class Decayed(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + 0.01 * sum(p.square().sum() for p in self.parameters())

    history = watch(tmp_path, Decayed(functional.cross_entropy, 10), LABELS)
    assert history.facts["loss_head"]["terms"] == 2
    assert history["baseline_loss"].values[-1] == pytest.approx(math.log(10), rel=0.05)


def test_outputs_that_collapse_have_no_spread(tmp_path: Path) -> None:
    net = Net(functional.mse_loss, 1)
    history = watch(tmp_path, net, REAL)
    assert min(history["output_spread"].values) > 0
    last = net.net[2]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    last.weight.requires_grad_(False)
    collapsed = watch(tmp_path, net, REAL)
    # Not quite: the mean of equal numbers is rounded.
    assert max(collapsed["output_spread"].values) < 1e-6 * collapsed["output_level"].values[-1]


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_a_constant_answer_has_no_skill_however_rare_the_other_class(tmp_path: Path, share: float) -> None:
    rare = (torch.rand(len(IMAGES), 1, generator=torch.Generator().manual_seed(0)) < share).float()
    net = Net(functional.binary_cross_entropy_with_logits, 1, lr=0.0)
    nn.init.constant_(net.net[2].bias, -9.0)  # type: ignore[arg-type]
    history = watch(tmp_path, net, rare, batch=16, max_epochs=10)
    assert set(history.facts["predictions"]["counts"]) == {"0"}
    # With as many of both the other answer may have been the better one so far.
    assert max(history["skill"].values) <= (0.0 if share < 0.1 else 0.5)
    if share < 0.1:
        assert history["skill"].values == [0.0] * len(history["skill"])


def test_skill_counts_a_class_as_the_loss_does(tmp_path: Path) -> None:
    def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, targets, pos_weight=torch.tensor(30.0))

    seven = (LABELS == 7).float()[:, None]
    always = Net(weighted, 1, lr=0.0)
    nn.init.constant_(always.net[2].bias, 9.0)  # type: ignore[arg-type]
    history = watch(tmp_path, always, seven, max_epochs=4)
    # To say seven to all is right for a tenth, and the best that a constant can do where one counts as much as thirty.
    assert history["train_accuracy"].values[-1] < 0.2
    assert history["skill"].values == [0.0] * len(history["skill"])


def test_the_mean_and_the_median_have_no_skill_where_a_few_targets_are_far_out(tmp_path: Path) -> None:
    wild = REAL - 50
    wild[::25] += 10_000
    for constant in (wild[:640].mean(), wild[:640].median()):
        net = Net(functional.mse_loss, 1, lr=0.0)
        nn.init.zeros_(net.net[2].weight)  # type: ignore[arg-type]
        nn.init.constant_(net.net[2].bias, float(constant))  # type: ignore[arg-type]
        history = watch(tmp_path, net, wild, batch=16, max_epochs=10)
        # Batches of sixteen have none of those as often as not.
        assert median(history["skill"].values) < 0.05


def test_a_few_wild_targets_carry_the_squared_error(tmp_path: Path) -> None:
    wild = REAL.clone()
    wild[::40] += 5000
    calm, strange = (watch(tmp_path, Net(functional.mse_loss, 1), t, batch=640, max_epochs=8) for t in (REAL, wild))
    assert strange["worst_share"].values[-1] > 0.95
    assert calm["worst_share"].values[-1] < 0.3
    assert strange["worst_ratio"].values[-1] > 20 * calm["worst_ratio"].values[-1]


def test_the_typical_error_tells_how_the_usual_sample_does_whatever_the_wild_ones_do(tmp_path: Path) -> None:
    wild = REAL.clone()
    wild[::40] += 5000
    net = Net(functional.mse_loss, 1, lr=0.0)
    before, after = (watch(tmp_path, net, t, batch=640)["typical_error"].values[-1] for t in (REAL, wild))
    assert before == pytest.approx(after, rel=0.05)


@pytest.mark.parametrize("rare", [0.02, 0.0])
def test_counts_of_which_most_are_zero_are_no_classes(tmp_path: Path, rare: float) -> None:
    counts = (LABELS == 3).float()[:, None] + (torch.arange(len(LABELS)) % 50 == 7)[:, None] * (rare > 0)
    history = watch(tmp_path, Net(functional.poisson_nll_loss, 1), counts, max_epochs=4)
    assert history.fact("loss_head.targets") == "real"
    assert not {"labels", "predictions"} & set(history.facts)


@pytest.mark.parametrize(("steps", "kind"), [(4, "binary"), (10, "real")])
def test_labels_that_turn_out_to_be_numbers_are_forgotten(tmp_path: Path, steps: int, kind: str) -> None:
    amounts = (LABELS < 5).float()[:, None]
    # Of the eighth batch.
    amounts[448:512] = 0.5
    seed_everything(0, verbose=False)
    monitor = HeadMonitor()
    monitor.settings.strict, monitor.settings.overhead = True, 1.0
    rows = DataLoader(TensorDataset(IMAGES[:640], amounts[:640]), 64)
    trainer(tmp_path, monitor, max_epochs=1, max_steps=steps).fit(Net(functional.mse_loss, 1), rows)
    assert monitor.report is not None
    history = monitor.report.history
    assert history.fact("loss_head.targets") == kind
    assert ("labels" in history.facts) is (kind == "binary")


def test_several_terms_leave_the_reason_everywhere(tmp_path: Path) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets) + functional.mse_loss(outputs, torch.zeros_like(outputs))

    history = watch(tmp_path, Net(loss, 10), LABELS)
    assert "loss_head" not in history.facts
    for name in ("loss_head", *HeadMonitor.signals):
        assert history.absent[name] == "the loss is a sum of 2 terms"


class ByHand(Net):
    """Sends its loss backward itself, as often as it is told."""

    def __init__(self, *args: Any, times: int = 1) -> None:
        super().__init__(*args)
        self.automatic_optimization, self.times = False, times

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for _ in range(self.times):
            self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


@pytest.mark.parametrize("net", [Net, ByHand])
def test_each_of_several_terms_is_followed_beside_its_constant(tmp_path: Path, net: type[Net]) -> None:
    targets = torch.stack([LABELS, 3000 + 900 * IMAGES[:, 20]], 1)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        named = functional.cross_entropy(outputs[:, :10], targets[:, 0].long())
        return named + functional.mse_loss(outputs[:, 10], targets[:, 1])

    history = watch(tmp_path, net(loss, 11), targets, max_epochs=32)
    terms = {term["loss"]: term for term in history.facts["loss_terms"]["terms"]}
    amounts = targets[:640, 1].double()
    squared = terms["mse"]
    assert squared["first_share"] > 0.99999
    assert squared["target_mean"] == pytest.approx(float(amounts.mean()), rel=0.02)
    assert squared["target_std"] == pytest.approx(float(amounts.std()), rel=0.1)
    assert terms["cross_entropy"]["first_share"] == pytest.approx(2.3 / 9e6, rel=0.5)
    assert squared["share"] > 0.99
    # Of the second half of 320 steps.
    assert 3 <= terms["cross_entropy"]["looks"] == squared["looks"] <= 4
    assert terms["cross_entropy"]["learned"] < 0.2
    assert squared["to_zero"] is terms["cross_entropy"]["to_zero"] is True


def test_terms_are_not_followed_where_a_step_sends_more_than_their_sum(tmp_path: Path) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets) + functional.mse_loss(outputs, HOT[: len(outputs)])

    assert "loss_terms" in watch(tmp_path, ByHand(loss, 10), LABELS, max_epochs=32).facts
    assert "loss_terms" not in watch(tmp_path, ByHand(loss, 10, times=2), LABELS, max_epochs=32).facts


@pytest.mark.parametrize(
    ("weight", "low", "seen"),
    # A term that is little of the loss, and one of marks, rare ones of which carry most of the error by right.
    [(1.0, -9999.0, True), (1e-9, -9999.0, False), (1e6, None, False)],
    ids=["amounts", "a small term", "marks"],
)
def test_of_a_sum_that_is_all_but_a_squared_error_of_amounts_wild_targets_are_seen(
    tmp_path: Path, weight: float, low: float | None, seen: bool
) -> None:
    amounts = REAL.clone() if low is not None else torch.zeros_like(REAL)
    amounts[::40] += low or 1.0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        named = functional.cross_entropy(outputs[:, :10], targets[:, 0].long())
        return named + weight * functional.mse_loss(outputs[:, 10], targets[:, 1])

    history = watch(tmp_path, Net(loss, 11), torch.stack([LABELS, amounts[:, 0]], 1), batch=640, max_epochs=8)
    assert ("worst_share" in history) is seen
    if seen:
        assert history["worst_share"].values[-1] > 0.95
        assert history["typical_error"].values[-1] > 0


def _smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, label_smoothing=0.1)


def _softened(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, 0.9 * functional.one_hot(targets, 10).float() + 0.01)


def _tagged(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs, functional.one_hot(targets, 10).float())


@pytest.mark.parametrize(("likelihood", "to_zero"), [(_smoothed, False), (_softened, False), (_tagged, True)])
def test_a_term_whose_targets_are_shares_of_classes_has_no_end_at_zero(
    tmp_path: Path, likelihood: Loss, to_zero: bool
) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return likelihood(outputs[:, :10], targets) + functional.mse_loss(outputs[:, 10], 3.0 * targets)

    terms = watch(tmp_path, Net(loss, 11), LABELS).facts["loss_terms"]["terms"]
    assert {term["loss"]: term["to_zero"] for term in terms if term["loss"] != "mse"}.popitem()[1] is to_zero
    assert next(term for term in terms if term["loss"] == "mse")["to_zero"] is True


def _advantages(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a policy, whose first term is weighed by what came of the actions."""
    chosen = outputs[:, :10].log_softmax(1).gather(1, targets.long()[:, None])[:, 0]
    return -(chosen * (targets - 4.5)).mean() + functional.mse_loss(outputs[:, 10], 300 * targets)


def _by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
    one, other = outputs[:, 0] - targets, outputs[:, 0] - 2 * targets
    return (one * other).mean() + functional.mse_loss(outputs[:, 1], 300 * targets)


def _third(outputs: Tensor, targets: Tensor) -> Tensor:
    named = functional.cross_entropy(outputs[:, :10], targets.long())
    return named + functional.mse_loss(outputs[:, 10], 300 * targets) + outputs.sin().mean()


@pytest.mark.parametrize("loss", [_advantages, _by_hand, _third])
def test_terms_that_are_not_all_understood_are_not_followed(tmp_path: Path, loss: Loss) -> None:
    history = watch(tmp_path, Net(loss, 11), LABELS.float())
    assert "loss_terms" not in history.facts
    assert "loss_head" not in history.facts


def test_a_custom_function_leaves_its_name(tmp_path: Path) -> None:
    class Mine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, outputs: Tensor) -> Tensor:
            ctx.save_for_backward(outputs)
            return outputs.square().mean()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (outputs,) = ctx.saved_tensors
            return gradient * 2 * outputs / outputs.numel()

    history = watch(tmp_path, Net(lambda o, t: Mine.apply(o), 10), LABELS)
    assert history.absent["loss_head"] == "the loss cannot be read: it is computed by a custom autograd Function (Mine)"


class Fused(torch.autograd.Function):
    """A cross-entropy with a backward pass of its own, as fused kernels have."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(scores.softmax(1) - functional.one_hot(labels, scores.shape[1]))
        return functional.cross_entropy(scores, labels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (errors,) = ctx.saved_tensors
        return gradient * errors / len(errors), None


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_a_custom_function_is_known_by_the_value_of_the_loss_that_it_is(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    fused = watch(tmp_path / "fused", Net(lambda o, t: Fused.apply(o.float(), t), 10), LABELS, **options)
    plain = watch(tmp_path / "plain", Net(lambda o, t: functional.cross_entropy(o.float(), t), 10), LABELS, **options)
    read, known = fused.fact("loss_head"), plain.fact("loss_head")
    assert {key: value for key, value in read.items() if not isinstance(value, float)} == {
        key: value for key, value in known.items() if not isinstance(value, float)
    }
    assert fused["baseline_loss"].values == pytest.approx(plain["baseline_loss"].values)
    assert fused["skill"].values[-3:] == pytest.approx(plain["skill"].values[-3:], abs=0.1)


class Hidden(torch.autograd.Function):
    """Nothing at all, which hides what the loss was made of."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


def test_a_column_that_meets_a_row_is_seen_by_the_value_of_its_loss_too(tmp_path: Path) -> None:
    history = watch(tmp_path, Net(lambda o, t: Hidden.apply((o - t).square().mean()), 1), REAL[:, 0])
    assert history.fact("loss_head.output_shape") == [64, 1]
    assert history.fact("loss_head.target_shape") == [64]


def test_what_was_known_by_a_value_that_another_loss_had_for_a_while_is_forgotten(tmp_path: Path) -> None:
    class Turning(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if self.global_step < 8 else 1.5 * loss

    history = watch(tmp_path, Turning(lambda o, t: Fused.apply(o, t), 10), LABELS)
    assert "baseline_loss" not in history
    assert "skill" not in history
    assert "Fused" in history.absent["loss_head"]


def test_a_loss_of_ones_own_is_tried_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr("lightning_doctor.callbacks.heads.recognise", lambda *_: asked.append(1.0))
    watch(tmp_path, Net(lambda o, t: Fused.apply(o, t), 10), LABELS)
    assert len(asked) == 4


def test_no_loss_leaves_a_reason(tmp_path: Path) -> None:
    class Nothing(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

    history = watch(tmp_path, Nothing(), LABELS)
    assert history.absent["loss_head"] == "the loss has not been examined"


def test_two_optimizers_have_no_single_loss(tmp_path: Path) -> None:
    class Two(Net):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__(functional.cross_entropy, 10)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(layer.parameters(), 0.1) for layer in (self.net[0], self.net[2])]

    history = watch(tmp_path, Two(), LABELS)
    assert history.absent["loss_head"] == "2 optimizers: no single loss has to fall"
    assert "broadcast_terms" not in history.facts


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_terms_that_broadcast_are_listed_where_there_is_no_single_one(tmp_path: Path) -> None:
    class Slips(Net):
        """Of the terms two are slips, and one has several raters."""

        def __init__(self, pairs: float = 0.0) -> None:
            super().__init__(functional.cross_entropy, 10)
            self.one, self.pairs = nn.Linear(64, 1), pairs

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (inputs, labels), raters = batch, batch[0][:, :5]
            one = self.one(inputs)
            slips = functional.mse_loss(one, labels.float()) + (one - labels).square().mean()
            loss = super().training_step(batch, batch_idx) + slips + (one - raters).square().mean()
            return loss - self.pairs * (one - one.T).abs().mean() if self.pairs else loss

    history = watch(tmp_path, Slips(), LABELS)
    assert history.absent["loss_head"] == "the loss is a sum of 4 terms"
    assert sorted(history.facts["broadcast_terms"], key=str) == [
        {"output_shape": [64, 1], "target_shape": [64, 5]},
        {"output_shape": [64, 1], "target_shape": [64]},
    ]
    # As of an energy distance: all are compared with all on purpose.
    assert "broadcast_terms" not in watch(tmp_path, Slips(pairs=0.1), LABELS).facts


def test_slips_within_a_loss_that_is_no_single_one_are_noted(tmp_path: Path) -> None:
    class Acts(Net):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__(functional.cross_entropy, 10)
            self.last, self.one = layer, nn.Linear(64, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, labels = batch
            chosen = torch.distributions.Categorical(logits=self.last(self.net(inputs)))
            ranked = functional.softplus(-(2.0 * (labels > 4) - 1) * self.one(inputs)).mean()
            gate = functional.logsigmoid(self.one(inputs).sigmoid() if isinstance(self.last, nn.Softmax) else inputs)
            return ranked - (chosen.log_prob(labels) * labels).mean() - gate.mean()

    history = watch(tmp_path, Acts(nn.Softmax(-1)), LABELS)
    assert history.facts["softmax_twice"] == {"classes": 10}
    assert history.facts["sigmoid_twice"] is True
    assert history.facts["broadcast_terms"] == [{"output_shape": [64, 1], "target_shape": [64]}]
    assert {"softmax_twice", "sigmoid_twice"}.isdisjoint(watch(tmp_path, Acts(nn.Identity()), LABELS).facts)


def test_a_grid_that_happens_to_have_as_many_points_as_a_batch_has_rows_is_no_slip(tmp_path: Path) -> None:
    class Rates(Net):
        """Puts out one rate a row, and fits what comes of it at each of some times."""

        def __init__(self) -> None:
            super().__init__(functional.mse_loss, 1)
            self.register_buffer("times", torch.linspace(0, 1, 64))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, _ = batch
            curves = self.net(inputs) * self.times
            return functional.mse_loss(curves, inputs) + functional.l1_loss(curves, inputs)

    history = watch(tmp_path, Rates(), LABELS)
    assert "terms" in history.absent["loss_head"]
    assert "broadcast_terms" not in history.facts


def test_losses_of_several_kinds_in_one_step_are_not_mixed(tmp_path: Path) -> None:
    class Both(Net):
        def __init__(self) -> None:
            super().__init__(functional.cross_entropy, 10)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.manual_backward(functional.mse_loss(self.net(batch[0]), HOT[: len(batch[0])]))
            optimizer.step()

    history = watch(tmp_path, Both(), LABELS)
    assert history.absent["loss_head"] == "several losses are sent backward in a step"


def test_a_loss_in_place_too_late_is_still_refused(tmp_path: Path) -> None:
    class Spoiled(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = self.net(batch[0])
            loss = functional.mse_loss(outputs, batch[1])
            with torch.no_grad():
                outputs.mul_(2)
            return loss

    # By Lightning's own backward pass, as it would be without anybody looking.
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        watch(tmp_path, Spoiled(functional.mse_loss, 1, nn.Sigmoid()), REAL)


@pytest.mark.parametrize("loss", [functional.cross_entropy, lambda o, t: -o.log_softmax(1).gather(1, t[:, None]).sum()])
def test_weights_are_the_same_bit_for_bit_with_the_monitor(tmp_path: Path, loss: Loss) -> None:
    after = []
    for callbacks in ([], [HeadMonitor()]):
        seed_everything(0, verbose=False)
        net = Net(loss, 10)
        trainer(tmp_path, *callbacks).fit(net, DataLoader(TensorDataset(IMAGES[:320], LABELS[:320]), 32, shuffle=True))
        after.append(flat(net))
    assert torch.equal(*after)


def test_nothing_of_the_model_is_kept_after_the_run(tmp_path: Path) -> None:
    monitor = HeadMonitor()
    trainer(tmp_path, monitor).fit(Net(functional.cross_entropy, 10), DataLoader(TensorDataset(IMAGES, LABELS), 320))
    kept = [value for value in vars(monitor).values() if isinstance(value, (Tensor, nn.Module))]
    assert kept == []
    assert (len(monitor._outputs), monitor._read, monitor._terms, monitor._tally) == (0, [], [], None)


class Regularised(DigitsNet):
    """Cross-entropy with a call for small outputs of this weight, and a penalty on weights of that one."""

    def __init__(self, weight: float, decay: float) -> None:
        super().__init__()
        self.weight, self.decay = weight, decay

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        outputs = self.net(batch[0])
        loss = functional.cross_entropy(outputs, batch[1]) + self.weight * outputs.square().mean()
        return loss + self.decay * sum(p.square().sum() for p in self.net.parameters()) if self.decay else loss


def test_what_terms_of_layers_outputs_weigh_is_told(tmp_path: Path) -> None:
    light, heavy = (
        watch(tmp_path / str(weight), Regularised(weight, 0.0), LABELS)["regulariser_share"].values[0]
        for weight in (0.01, 100.0)
    )
    assert 0 < light < 0.01
    assert heavy > 1


def test_penalties_on_weights_are_not_taken_for_terms_of_layers_outputs(tmp_path: Path) -> None:
    history = watch(tmp_path, Regularised(0.01, 1.0), LABELS)
    assert history.fact("loss_head.regularisers") == 1
    assert "regulariser_share" not in history


def test_tags_are_counted_and_how_many_are_found(tmp_path: Path) -> None:
    tags = functional.one_hot(LABELS, 10).float()
    tags[:, 0] = 1.0
    history = watch(tmp_path, Net(functional.binary_cross_entropy_with_logits, 10, lr=0.01), tags, max_epochs=5)
    table = history.facts["tags"]
    # Of 64 rows at a look, each with one and another, but for the zeros.
    assert table["answers"] >= 640
    assert table["tags"] == pytest.approx(0.19 * table["answers"], rel=0.1)
    assert 0.4 < table["found"] / table["tags"] < 1
    assert "tags" not in watch(tmp_path, Net(functional.cross_entropy, 10), LABELS).facts


@pytest.mark.parametrize("holes", [False, True])
def test_times_at_which_a_thing_may_happen_are_no_tags(tmp_path: Path, holes: bool) -> None:
    times = torch.arange(10)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        # What is seen of a class: nothing after its time, or all but the time after it.
        happens, seen = targets[:, :10], targets[:, 10:]
        losses = functional.binary_cross_entropy_with_logits(outputs, happens, reduction="none")
        return (losses * seen).sum() / seen.sum()

    seen = times != LABELS[:, None] + 1 if holes else times <= LABELS[:, None]
    # Of the odd ones nobody saw it happen.
    happens = functional.one_hot(LABELS, 10) * (LABELS % 2 == 0)[:, None]
    targets = torch.cat([happens, seen], 1).float()
    assert ("tags" in watch(tmp_path, Net(loss, 10), targets).facts) is holes


def test_what_the_classes_weigh_in_a_likelihood_by_hand_is_told_where_batches_of_one_class_come_first(
    tmp_path: Path,
) -> None:
    rare = torch.zeros(len(IMAGES), 1)
    # One row in sixteen, so that some batches of sixteen hold none.
    rare[::16] = 1.0

    def weighted(p: Tensor, y: Tensor) -> Tensor:
        return -(0.1 * y * p.clamp(1e-7).log() + 2.0 * (1 - y) * (1 - p).clamp(1e-7).log()).mean()

    history = watch(tmp_path, Net(weighted, 1, nn.Sigmoid()), rare, batch=16, max_epochs=2)
    head = history.facts["loss_head"]
    assert (head["loss"], head["targets"], head["classes"], head["weighted"]) == ("bce", "binary", 2, True)
    assert head["class_weights"] == pytest.approx([2.0, 0.1])
    assert set(history.facts["labels"]["counts"]) == {"0", "1"}
    # The best constant is p = 0.1 q / (0.1 q + 2 (1 - q)) for a share q of ones.
    counts = history.facts["labels"]["counts"]
    q = counts["1"] / (counts["0"] + counts["1"])
    p = 0.1 * q / (0.1 * q + 2 * (1 - q))
    expected = -(0.1 * q * math.log(p) + 2 * (1 - q) * math.log(1 - p))
    assert history["baseline_loss"].values[-1] == pytest.approx(expected, rel=1e-4)
