from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rules.unscaled_inputs import unscaled_inputs
from tests.histories import ADAM, COMPLETED, HEAD, LOGITS, SGD, decay, headed, history_of, noisy, reading
from tests.runs import IMAGES, LABELS, DigitsNet, trainer


def features(*rows: tuple[float, float], **more: Any) -> dict[str, Any]:
    """The fact for features of these means and standard deviations."""
    by_size = sorted(
        ({"feature": i, "mean": mean, "std": std} for i, (mean, std) in enumerate(rows)),
        key=lambda row: -(row["mean"] ** 2 + row["std"] ** 2),
    )
    spreads = sorted(std for _, std in rows)
    return {
        "features": len(rows),
        "mean_min": min(mean for mean, _ in rows),
        "mean_max": max(mean for mean, _ in rows),
        "std_min": spreads[0],
        "std_max": spreads[-1],
        "std_median": spreads[(len(spreads) - 1) // 2],
        "abs_max": max(abs(mean) + 3 * std for mean, std in rows),
        "largest": by_size[:3],
        "smallest": by_size[::-1][:3],
        "integers": False,
        "layer_class": "Linear",
        **more,
    }


STANDARD = features((0.0, 1.0), (0.1, 0.9))
HUNDREDS = features((50.1, 28.9), (49.0, 28.4))


def run_of(
    inputs: dict[str, Any],
    *,
    head: dict[str, Any] = LOGITS,
    skill: float | None = 0.1,
    losses: list[float] | None = None,
    baseline: float | None = 2.3,
    optimizers: list[dict[str, Any]] = ADAM,
    share: float = 0.5,
    **facts: Any,
) -> History:
    """By default a run that learns nothing after half of its steps, under Adam, from a quiet start."""
    level = 2.3 * (1 - (skill or 0.0))
    return headed(
        head,
        skill=skill,
        losses=losses or [level] * 400,
        baseline=baseline,
        share=share,
        inputs=inputs,
        optimizers=optimizers,
        **facts,
    )


def saturated(history: History, share: float) -> History:
    history.facts["activations"] = [{"layer": "body.1", "class": "Tanh", "kind": "tanh", "units": 30, "last": False}]
    return reading(history, "saturated_share/body.1", [share] * 10)


def test_sick_features_far_from_one_that_saturate_the_first_units_are_confirmed() -> None:
    finding = unscaled_inputs(saturated(run_of(HUNDREDS), 0.76))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence, finding.onset) == ("LD601", "warning", "confirmed", 0)
    assert "feature 0 has mean 50.1, std 28.9" in finding.summary
    assert "76% of the outputs of body.1" in finding.summary
    assert "feature 1 has mean 49, std 28.4" in finding.remedy


@pytest.mark.parametrize(
    ("kind", "still", "steps", "confidence"),
    [
        ("recurrent", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"], 8, "confirmed"),
        ("recurrent", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"], 1, "suspected"),
        ("recurrent", ["weight_hh_l0"], 8, "suspected"),
        ("linear", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"], 8, "suspected"),
    ],
)
def test_gates_that_no_gradient_ever_passes_are_a_proof(
    kind: str, still: list[str], steps: int, confidence: str
) -> None:
    parameters = {"zero_gradient": [f"rnn.{name}" for name in still], "steps": steps}
    history = run_of({**HUNDREDS, "layer": "rnn"}, parameters=parameters)
    history.facts["activations"] = [{"layer": "rnn", "class": "GRU", "kind": kind, "units": 32, "last": False}]
    finding = unscaled_inputs(history)
    assert finding is not None
    assert finding.confidence == confidence
    assert ("gates are saturated" in finding.summary) is (confidence == "confirmed")


def test_healthy_run_on_the_same_features_that_does_well_is_left_alone() -> None:
    assert unscaled_inputs(saturated(run_of(HUNDREDS, skill=0.9), 0.76)) is None


def test_healthy_standard_features_are_not_why_a_run_does_badly() -> None:
    assert unscaled_inputs(saturated(run_of(STANDARD), 0.76)) is None


@pytest.mark.parametrize(
    "inputs",
    [
        {**HUNDREDS, "layer_class": "BatchNorm1d"},
        {**HUNDREDS, "layer_class": "LayerNorm"},
        {"integers": True, "layer_class": "Embedding"},
    ],
)
def test_healthy_first_layer_that_normalises_or_looks_ids_up_does_not_mind(inputs: dict[str, Any]) -> None:
    assert unscaled_inputs(run_of(inputs)) is None


@pytest.mark.parametrize(("mean", "std", "ill"), [(7.0, 5.0, False), (9.0, 6.0, True), (0.0, 11.0, True)])
def test_far_from_one_counts_the_mean_too(mean: float, std: float, ill: bool) -> None:
    # Root mean squares of 8.6, 10.8 and 11.
    assert (unscaled_inputs(run_of(features((mean, std), (0.0, 1.0)))) is not None) is ill


@pytest.mark.parametrize(("small", "ill"), [(0.04, False), (0.02, True)])
def test_features_may_lie_apart_without_being_far_from_one(small: float, ill: bool) -> None:
    # A hundred times are asked for: 3 over 0.04 are 75 times, over 0.02 150 times.
    finding = unscaled_inputs(run_of(features((0.0, 3.0), (0.0, small), (0.0, small))))
    assert (finding is not None) is ill
    assert finding is None or ("lie far apart" in finding.summary and "feature 2" in finding.remedy)


def test_healthy_picture_has_a_corner_that_is_nearly_black() -> None:
    assert unscaled_inputs(run_of(features((0.3, 0.4), (0.3, 0.3), (0.0, 0.001)))) is None


@pytest.mark.parametrize(("largest", "ill"), [(0.06, False), (0.04, True)])
def test_faint_features_are_far_from_one_too(largest: float, ill: bool) -> None:
    finding = unscaled_inputs(run_of(features((0.0, 0.01), (0.0, 0.01), abs_max=largest)))
    assert (finding is not None) is ill
    assert finding is None or finding.confidence == "suspected"


def test_faint_features_are_confirmed_where_the_first_outputs_hardly_hear_them() -> None:
    history = run_of(features((0.0, 0.01), (0.0, 0.01), abs_max=0.03))
    reading(reading(history, "output_level", [0.3] * 5), "output_spread", [0.002] * 5)
    finding = unscaled_inputs(history)
    assert finding is not None
    assert finding.confidence == "confirmed"
    assert "0.7% of their size" in finding.summary


@pytest.mark.parametrize(("saturation", "confidence"), [(0.45, "suspected"), (0.55, "confirmed")])
def test_half_of_the_first_squashing_layer_must_be_saturated_for_a_proof(saturation: float, confidence: str) -> None:
    finding = unscaled_inputs(saturated(run_of(HUNDREDS), saturation))
    assert finding is not None
    assert finding.confidence == confidence


@pytest.mark.parametrize(("rate", "confidence"), [(2e-4, "suspected"), (5e-4, "confirmed")])
def test_plain_steps_along_a_feature_are_too_long_at_one_over_its_mean_square(rate: float, confidence: str) -> None:
    # 50.1² + 28.9² = 3345.
    finding = unscaled_inputs(run_of(HUNDREDS, optimizers=[{**SGD[0], "groups": [{"lr": rate}]}]))
    assert finding is not None
    assert finding.confidence == confidence


@pytest.mark.parametrize(("first", "confidence"), [(5.0, "suspected"), (9.0, "confirmed")])
def test_a_first_loss_that_is_far_worse_than_guessing_is_a_proof(first: float, confidence: str) -> None:
    # Guessing costs 2.3, three times as much is 6.9.
    finding = unscaled_inputs(run_of(HUNDREDS, losses=[first, *[2.2] * 399]))
    assert finding is not None
    assert finding.confidence == confidence


def test_a_first_loss_that_targets_explain_as_well_is_none() -> None:
    head = {**HEAD, "target_mean": 150.0, "target_std": 70.0}
    finding = unscaled_inputs(run_of(HUNDREDS, head=head, losses=[30000.0, *[5000.0] * 399], baseline=4900.0))
    assert finding is not None
    assert finding.confidence == "suspected"


@pytest.mark.parametrize(("share", "ill"), [(0.08, False), (0.12, True)])
def test_what_the_start_shows_is_told_when_a_tenth_is_over(share: float, ill: bool) -> None:
    assert (unscaled_inputs(saturated(run_of(HUNDREDS, share=share), 0.8)) is not None) is ill


@pytest.mark.parametrize(("share", "ill"), [(0.2, False), (0.3, True)])
def test_without_a_proof_a_quarter_must_be_over(share: float, ill: bool) -> None:
    assert (unscaled_inputs(run_of(HUNDREDS, share=share)) is not None) is ill


@pytest.mark.parametrize(("skill", "ill"), [(0.25, False), (0.15, True)])
def test_healthy_run_that_learns_what_noise_lets_it_is_left_alone(skill: float, ill: bool) -> None:
    assert (unscaled_inputs(run_of(HUNDREDS, skill=skill)) is not None) is ill
    # Units that are stuck from the start are a reason of their own.
    assert unscaled_inputs(saturated(run_of(HUNDREDS, skill=skill), 0.8)) is not None


def test_healthy_run_that_is_on_its_way_down_from_a_loud_start_is_waited_for() -> None:
    losses = [30 * 0.99**step + 1.5 for step in range(400)]
    assert unscaled_inputs(run_of(HUNDREDS, losses=losses, skill=0.2)) is None


@pytest.mark.parametrize(("share", "ill"), [(0.2, False), (0.3, True)])
def test_a_run_that_is_still_worse_than_guessing_after_a_quarter_is_not(share: float, ill: bool) -> None:
    losses = [3000 * 0.995**step for step in range(400)]
    assert (unscaled_inputs(run_of(HUNDREDS, losses=losses, skill=-1.0, share=share)) is not None) is ill


def test_a_loss_that_is_lost_need_not_be_waited_for() -> None:
    losses = [3.0, 40.0, float("nan")]
    finding = unscaled_inputs(run_of(HUNDREDS, losses=losses, skill=None, baseline=None, share=0.01))
    assert finding is not None
    assert finding.severity == "warning"


@pytest.mark.parametrize(("validation", "severity"), [(2.1, "warning"), (1.0, "note")])
def test_at_the_end_other_data_tell_how_a_middling_run_did(validation: float, severity: str) -> None:
    # A fourteenth and 57 % of what guessing costs are learned of other data.
    history = saturated(run_of(HUNDREDS, skill=0.65, run={"ended": "completed"}), 0.8)
    finding = unscaled_inputs(reading(history, "val_loss", [validation] * 10))
    assert finding is not None
    assert finding.severity == severity


def test_pixels_are_divided_by_255() -> None:
    finding = unscaled_inputs(run_of(features((110.0, 90.0), (0.5, 3.0), abs_max=255.0)))
    assert finding is not None
    assert "divide the inputs by 255" in finding.remedy


class Squashed(DigitsNet):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10))


@pytest.mark.parametrize(("scale", "ill"), [(255.0, True), (1.0, False)])
def test_on_a_real_run(tmp_path: Path, scale: float, ill: bool) -> None:
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    data = DataLoader(TensorDataset(scale * IMAGES[:320], LABELS[:320]), 32, shuffle=True)
    trainer(tmp_path, doctor, max_epochs=20).fit(Squashed(lr=0.1), data)
    assert doctor.report is not None
    found = {finding.code: finding for finding in doctor.report.findings if finding.severity != "note"}
    assert ("LD601" in found) is ill
    if ill:
        assert next(iter(found)) == "LD601"
        assert found["LD601"].step < 100
        assert torch.isfinite(torch.tensor(found["LD601"].evidence["std_max"]))


@pytest.mark.parametrize(
    ("losses", "stopped", "severity"),
    [
        ([1e13, *noisy([240.0] * 299, 20.0)], 1, "warning"),
        ([1e13, *noisy([240.0] * 299, 20.0)], 300, "note"),
        # A hinge whose margins are all kept has arrived, late or soon.
        ([*decay(3.0, 0.1, 20, 100), *[0.0] * 200], 100, "note"),
        ([3.0, 0.5, *[0.0] * 298], 2, "note"),
    ],
)
def test_of_a_run_that_cannot_be_read_that_it_stopped_short_is_all_there_is_to_see(
    losses: list[float], stopped: int, severity: str
) -> None:
    history = history_of(losses, optimizers=SGD, inputs=HUNDREDS, run=COMPLETED)
    reading(history, "learning_rate", [0.1])
    for step in range(300):
        history.record("grad_norm", step, float(step < stopped))
    finding = unscaled_inputs(history)
    assert finding is not None
    assert finding.severity == severity
