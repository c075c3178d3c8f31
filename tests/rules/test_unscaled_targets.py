from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.unscaled_targets import unscaled_targets
from tests.histories import COMPLETED, HEAD, LOGITS, headed, reading
from tests.runs import trainer


def run_of(mean: float, std: float, *, level: float = 0.3, head: dict[str, Any] = HEAD, **more: Any) -> History:
    """A run that learns nothing of targets with this mean and deviation, whose first outputs are of this size."""
    history = headed({**head, "target_mean": mean, "target_std": std}, **{"skill": 0.1, **more})
    return reading(history, "output_level", [level] * 5)


def test_sick_targets_in_the_hundreds_are_suspected() -> None:
    finding = unscaled_targets(run_of(152.0, 77.0))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence, finding.onset) == ("LD602", "warning", "suspected", 0)
    assert "mean 152 and std 77" in finding.summary
    assert "(y − 152) / 77" in finding.remedy


def test_healthy_run_that_reaches_such_targets_is_left_alone() -> None:
    assert unscaled_targets(run_of(152.0, 77.0, skill=0.9)) is None


def test_healthy_targets_about_one_are_not_why_a_run_does_badly() -> None:
    assert unscaled_targets(run_of(0.0, 1.0)) is None


@pytest.mark.parametrize(("std", "ill"), [(9.0, False), (11.0, True)])
def test_targets_must_be_ten_times_as_large_as_what_a_network_begins_with(std: float, ill: bool) -> None:
    assert (unscaled_targets(run_of(0.0, std)) is not None) is ill


@pytest.mark.parametrize(("level", "ill"), [(14.0, True), (16.0, False)])
def test_healthy_outputs_that_begin_as_large_have_no_way_to_go(level: float, ill: bool) -> None:
    # A tenth of 150.
    assert (unscaled_targets(run_of(0.0, 150.0, level=level)) is not None) is ill


@pytest.mark.parametrize(("share", "ill"), [(0.2, False), (0.3, True)])
def test_a_run_on_its_way_is_waited_for(share: float, ill: bool) -> None:
    assert (unscaled_targets(run_of(152.0, 77.0, share=share)) is not None) is ill


@pytest.mark.parametrize("losses", [[30000.0, 1e9, float("nan")], [30000.0, *[2e5] * 9]])
def test_a_loss_that_is_lost_need_not_be_waited_for(losses: list[float]) -> None:
    history = run_of(152.0, 77.0, losses=losses, skill=None, baseline=None, share=0.01)
    assert unscaled_targets(history) is not None


@pytest.mark.parametrize(("layers", "ill"), [(1, False), (2, True)])
def test_healthy_targets_of_a_linear_model_whose_steps_are_too_long_whatever_they_are(layers: int, ill: bool) -> None:
    history = run_of(152.0, 77.0, losses=[30000.0, 1e9, float("nan")], skill=None, baseline=None, share=0.01)
    history.facts["activations"] = [{"layer": str(index), "kind": "linear"} for index in range(layers)]
    assert (unscaled_targets(history) is not None) is ill


def test_a_loss_that_breaks_without_growing_has_another_cause() -> None:
    losses = [30000.0, 29000.0, float("nan")]
    assert unscaled_targets(run_of(152.0, 77.0, losses=losses, skill=None, baseline=None, share=0.01)) is None


@pytest.mark.parametrize(("skill", "ill"), [(0.25, False), (0.15, True)])
def test_healthy_run_that_has_come_near_its_targets_lacks_what_noise_hides(skill: float, ill: bool) -> None:
    assert (unscaled_targets(run_of(152.0, 77.0, skill=skill)) is not None) is ill


@pytest.mark.parametrize(("mean", "farthest", "ill"), [(5.0, 800.0, False), (5.0, 500.0, True), (70.0, 800.0, True)])
def test_healthy_targets_of_which_a_few_lie_far_out_are_another_illness(
    mean: float, farthest: float, ill: bool
) -> None:
    # At a standard deviation of 100: eight of it, or five; a mean as large says that all of them are.
    history = run_of(mean, 100.0, head={**HEAD, "target_min": -50.0, "target_max": farthest})
    assert (unscaled_targets(history) is not None) is ill


@pytest.mark.parametrize("head", [LOGITS, {**HEAD, "loss": "poisson"}, {**HEAD, "targets": "binary"}])
def test_classes_and_counts_have_no_scale(head: dict[str, Any]) -> None:
    assert unscaled_targets(run_of(152.0, 77.0, head=head)) is None


def test_a_head_that_cannot_be_read_is_not_judged() -> None:
    history = run_of(152.0, 77.0)
    del history.facts["loss_head"]
    history.absent["loss_head"] = "the loss is written by hand"
    with pytest.raises(Undecided, match="the loss is written by hand"):
        unscaled_targets(history)


LOUD: dict[str, Any] = {
    "loss": "mse",
    "first_share": 0.9999999,
    "share": 0.99995,
    "first_output": 0.3,
    "target_mean": 3000.0,
    "target_std": 1000.0,
    "target_min": 100.0,
    "target_max": 6000.0,
    "learned": 0.85,
    "learned_error": 0.01,
    "looks": 8,
}
DROWNED: dict[str, Any] = {
    "loss": "cross_entropy",
    "first_share": 1e-7,
    "share": 5e-5,
    "first_output": 0.3,
    "learned": 0.01,
    "learned_error": 0.01,
    "looks": 8,
}


def summed(
    loud: dict[str, Any], drowned: dict[str, Any], share: float = 0.6, steps: int = 400, late: float = 1.5e5
) -> History:
    """A run whose loss is a sum of two terms; of one share there is no plan."""
    losses = [1e7] * 8 + [late] * (steps - 8)
    terms = {"step": steps - 10, "terms": [{**DROWNED, **drowned}, {**LOUD, **loud}]}
    history = headed({}, skill=None, baseline=None, losses=losses, share=share, loss_terms=terms)
    del history.facts["loss_head"]
    history.absent["loss_head"] = "the loss is a sum of 2 terms"
    if not share < 1:
        del history.facts["trainer"]
    return history


def test_sick_term_beside_which_another_counts_for_nothing() -> None:
    finding = unscaled_targets(summed({}, {}))
    assert finding is not None
    assert (finding.severity, finding.confidence) == ("warning", "suspected")
    assert "mse, has targets of mean 3e+03 and std 1e+03 and is 99.9950% of the loss" in finding.summary
    assert "cross_entropy, 1.0% ± 2.0% of what a constant costs is learned" in finding.summary
    assert "(y − 3000) / 1000" in finding.remedy
    assert unscaled_targets(summed({}, {"learned": -3.0, "learned_error": 1.0})) is not None
    assert unscaled_targets(summed({}, {}, share=1.0, steps=600)) is not None


@pytest.mark.parametrize(
    ("loud", "drowned"),
    [
        ({}, {"learned": 0.06}),
        ({}, {"learned_error": 0.03}),
        ({"first_share": 0.98}, {}),
        ({"share": 0.98}, {}),
        ({"target_mean": 0.0, "target_std": 5.0}, {}),
        ({"first_output": 900.0}, {}),
        ({"target_mean": 0.0, "target_max": 1e4}, {}),
        ({"loss": "poisson"}, {}),
    ],
    ids=["noisy, learned", "uncertain", "not all", "no longer all", "near", "outputs too", "outliers", "no square"],
)
def test_healthy_sum_of_terms_is_left_alone(loud: dict[str, Any], drowned: dict[str, Any]) -> None:
    assert unscaled_targets(summed(loud, drowned)) is None


@pytest.mark.parametrize("drowned", [{}, {"learned": 0.5}, {"looks": 2}], ids=["drowned", "learned", "few looks"])
def test_sick_term_that_is_all_of_the_loss_and_worse_than_a_constant_to_the_end(drowned: dict[str, Any]) -> None:
    finding = unscaled_targets(summed({}, drowned, late=2e6))
    assert finding is not None
    assert "mse, has targets of mean 3e+03 and std 1e+03 and is 99.9950% of the loss; of it -100.0%" in finding.summary
    assert finding.evidence["learned"] == pytest.approx(-1.0)


def test_a_loud_term_that_still_comes_down_is_given_time() -> None:
    history = summed({}, {"learned": 0.5})
    falling = [1e7 * (1 - 0.8 * step / 400) for step in range(400)]
    history["train_loss"].values[:] = falling
    assert unscaled_targets(history) is None
    history.facts["run"] = COMPLETED
    assert unscaled_targets(history) is not None


@pytest.mark.parametrize(
    ("drowned", "more", "reason"),
    [
        ({"looks": 2}, {}, "looked at 3 times"),
        ({"learned": None, "learned_error": None, "looks": 0}, {}, "looked at 3 times"),
        ({"learned_error": "nonsense"}, {}, "looked at 3 times"),
        ({}, {"share": 0.4}, "half of the run"),
        ({}, {"share": 1.0, "steps": 400}, "half of the run"),
    ],
    ids=["few looks", "no constant", "nonsense", "early", "early, no plan"],
)
def test_terms_that_do_not_tell_yet_are_not_judged(drowned: dict[str, Any], more: dict[str, Any], reason: str) -> None:
    with pytest.raises(Undecided, match=reason):
        unscaled_targets(summed({}, drowned, **more))


def test_what_was_learned_long_ago_tells_nothing_of_now() -> None:
    history = summed({}, {})
    history.facts["loss_terms"]["step"] = 32
    with pytest.raises(Undecided, match="step 32: too old"):
        unscaled_targets(history)


class Regression(LightningModule):
    def __init__(self, rate: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1))
        self.rate = rate

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), self.rate)


@pytest.mark.parametrize(
    ("scale", "rate", "ill"),
    # Too far for steps of a thousandth; as far, but with steps that get there; near.
    [(100.0, 1e-3, True), (100.0, 0.1, False), (1.0, 1e-2, False)],
)
def test_on_a_real_run(tmp_path: Path, scale: float, rate: float, ill: bool) -> None:
    source = torch.Generator().manual_seed(0)
    rows = torch.randn(256, 6, generator=source)
    targets = scale * (2 + rows[:, :1] + rows[:, 1:2].relu())
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    data = DataLoader(TensorDataset(rows, targets), 16, shuffle=True)
    trainer(tmp_path, doctor, max_epochs=15).fit(Regression(rate), data)
    assert doctor.report is not None
    found = [finding.code for finding in doctor.report.findings if finding.severity != "note"]
    assert found[:1] == ["LD602"] if ill else not found


@pytest.mark.parametrize(("std", "learned", "ill"), [(1e-5, -50.0, True), (1e-5, 0.1, False), (0.05, -50.0, False)])
def test_sick_targets_so_faint_that_the_first_outputs_drown_them(std: float, learned: float, ill: bool) -> None:
    assert (unscaled_targets(run_of(3 * std, std, skill=learned, baseline=None)) is not None) is ill
