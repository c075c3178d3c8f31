from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.nn import functional

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.over_regularized import over_regularized
from tests.histories import COMPLETED, LOGITS, headed, reading
from tests.runs import LABELS, found
from tests.scored import scored

HALF = {"model": {"dropout": {"drop1": 0.5, "drop2": 0.5}}}
WITH_TERMS = {"loss": "mse", "targets": "real", "target_std": 0.38, "terms": 4, "regularisers": 3}
STRONG = {"model": {"dropout": {"drop1": 0.9, "drop2": 0.1}}}


def dropped(gap: float, learned: float, *, skill: float = 0.2, **options: Any) -> Finding | None:
    """A run that has learned so much in train mode, with so much less loss in eval mode."""
    history = headed(LOGITS, losses=[1 - learned] * 400, skill=skill, **{**HALF, **options})
    return over_regularized(reading(history, "mode_gap", [gap] * 40))


def decayed(
    norms: Sequence[float],
    decay: float = 0.1,
    *,
    gradient: float = 0.5,
    optimizer: str = "SGD",
    ratio: float = 0.01,
    **options: Any,
) -> History:
    groups = [{"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.1, "weight_decay": decay}]
    history = headed(LOGITS, optimizers=[{"class": optimizer, "groups": groups}], **options)
    reading(history, "weight_norm", norms)
    reading(history, "grad_norm", [gradient] * 40)
    reading(history, "update_ratio", [ratio] * 40)
    return reading(history, "learning_rate", [0.1] * 40)


FADING = [6 * 0.9**i for i in range(40)]


def test_sick_dropout_takes_away_half_of_what_was_learned() -> None:
    # In eval mode the loss is 0.9 / 1.125 = 0.8 of that of a constant: 0.2 is learned, of which 0.1 is left.
    finding = dropped(0.125, 0.1)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD310", Severity.WARNING, Confidence.CONFIRMED)
    assert finding.evidence["taken"] == pytest.approx(0.5)
    assert "lower the dropout of drop1, drop2 from 0.5 to 0.2" in finding.remedy


@pytest.mark.parametrize(("gap", "ill"), [(0.047, False), (0.054, True)])
def test_taken_is_the_share_that_dropout_takes_away(gap: float, ill: bool) -> None:
    # 0.1 is left of 0.141, and of 0.146: 0.29 and 0.32 are taken.
    assert (dropped(gap, 0.1) is not None) is ill


@pytest.mark.parametrize(("seen", "ill"), [(20, False), (2000, True)])
def test_what_a_constant_costs_must_be_known_for_what_is_taken_to_be(seen: int, ill: bool) -> None:
    # By 20 of 600 labels to 18 %, so that 0.27 of 0.41 may be left of what was learned, by 2000 of 60,000 to 2 %.
    labels = {"counts": {"0": 29 * seen, "1": seen}}
    assert (dropped(0.125, 0.1, labels=labels) is not None) is ill


@pytest.mark.parametrize(("rate", "ill"), [(0.65, False), (0.7, True)])
def test_strong_dropout_is_suspected_where_nothing_at_all_is_learned(rate: float, ill: bool) -> None:
    finding = dropped(0.0, 0.0, model={"dropout": {"drop1": rate, "drop2": 0.1}})
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.confidence is Confidence.SUSPECTED
        assert "the dropout of drop1 from 0.7" in finding.remedy


@pytest.mark.parametrize(
    ("gap", "learned", "options"),
    [
        # The loss is 0.4 of a constant's in eval mode: that is learning, whatever train mode looks like.
        (0.75, 0.3, STRONG),
        # Held-out data is done well.
        (0.125, 0.1, {"validation": {"metric": "val_acc"}}),
        (0.125, 0.1, {"skill": 0.6}),
        (0.125, 0.1, {"share": 0.1}),
        # Batch normalisation alone.
        (0.125, 0.1, {"model": {}}),
        (0.125, 0.1, {"model": {"dropout": {"drop1": 0.0}}}),
        (0.0, 0.2, STRONG),
    ],
)
def test_healthy_dropout_is_silent(gap: float, learned: float, options: dict[str, Any]) -> None:
    history = headed(LOGITS, **{"losses": [1 - learned] * 400, "skill": 0.2, **HALF, **options})
    if "validation" in options:
        history.facts["labels"] = {"counts": {"0": 10, "1": 10}}
        reading(history, "val_metric", [0.95] * 3)
    assert over_regularized(reading(history, "mode_gap", [gap] * 40)) is None


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop"])
def test_sick_decay_pulls_harder_than_the_gradient_and_the_weights_fade(optimizer: str) -> None:
    finding = over_regularized(decayed(FADING, optimizer=optimizer))
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.CONFIRMED)
    # 0.1 times a norm of 5.4 over a gradient of 0.5.
    assert finding.evidence["pull"] == pytest.approx(1.08)
    assert "lower weight_decay from 0.1 to 0.0009" in finding.remedy


@pytest.mark.parametrize(("gradient", "ill"), [(5.5, False), (5.3, True)])
def test_outweighs_is_what_decay_must_be_of_the_gradient(gradient: float, ill: bool) -> None:
    # 0.54 is a tenth of 5.4.
    assert (over_regularized(decayed(FADING, gradient=gradient)) is not None) is ill


@pytest.mark.parametrize(("ratio", "ill"), [(0.021, False), (0.019, True)])
def test_the_decay_of_adamw_is_compared_with_its_steps(ratio: float, ill: bool) -> None:
    # A rate of 0.1 times a decay of 0.1 is half of a relative step of 0.02; the gradient's size does not matter.
    history = decayed(FADING, gradient=1e6, optimizer="AdamW", ratio=ratio)
    assert (over_regularized(history) is not None) is ill


@pytest.mark.parametrize(("end", "ill"), [(4.9, False), (4.7, True)])
def test_shrunk_is_what_the_norm_must_have_fallen_to(end: float, ill: bool) -> None:
    # 0.8 of 6 is 4.8.
    assert (over_regularized(decayed([6.0] * 20 + [end] * 20)) is not None) is ill


@pytest.mark.parametrize(
    "history",
    [
        decayed(FADING, 0.0),
        decayed(FADING, skill=0.9, run=COMPLETED),
        decayed(FADING, share=0.1),
        # A dead network has no gradient, and its decay does nothing much either.
        decayed([10.0 - 0.01 * i for i in range(40)], 1e-4, gradient=1e-6),
        decayed([6 + 0.1 * i for i in range(40)]),
    ],
)
def test_healthy_decay_is_silent(history: History) -> None:
    assert over_regularized(history) is None


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.95), nn.Linear(32, 10))


def test_sick_in_a_real_run_with_nearly_everything_dropped(tmp_path: Path) -> None:
    finding = found(tmp_path, "over_regularized", net, functional.cross_entropy, LABELS, max_epochs=6)
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert "net.2 from 0.95 to 0.2" in finding.remedy


@pytest.mark.parametrize(("evaluated", "ill"), [(2.3, True), (0.5, False)])
def test_where_batches_were_scanned_at_first_only_many_rows_tell_what_is_learned(evaluated: float, ill: bool) -> None:
    # The first scans are of a loud start: what they promise is not there.
    history = headed(
        LOGITS,
        losses=[4.0] * 10 + [2.3] * 290,
        baseline=2.3,
        model={"layers": {"Linear": 2, "Dropout": 1}, "dropout": {"net.2": 0.98}},
        run=COMPLETED,
    )
    reading(history, "mode_gap", [1.2, 1.8, 1.3], every=2)
    finding = over_regularized(scored(history, "train", [2.3, evaluated], every=250))
    assert (finding is not None) is ill


@pytest.mark.parametrize(("terms", "start", "ill"), [(2, 20.0, True), (1, 20.0, False), (2, 2.5, False)])
def test_sick_a_penalty_in_the_loss_that_pulls_all_weights_down(terms: int, start: float, ill: bool) -> None:
    losses = [*(start - (start - 2.3) * step / 100 for step in range(100)), *[2.3] * 200]
    history = headed({**LOGITS, "terms": terms}, losses=losses, baseline=2.3, skill=0.0, run=COMPLETED)
    reading(history, "weight_norm", [10.0 / (1 + index) for index in range(20)])
    finding = over_regularized(history)
    assert (finding is not None) is ill
    assert finding is None or "a penalty beside its predictions" in finding.summary


@pytest.mark.parametrize(
    ("terms", "spread", "skill", "ill"),
    [(3, 0.03, 0.0, True), (1, 0.04, 0.0, False), (0, 0.03, 0.0, False), (3, 0.03, 0.9, False)],
    ids=["sick", "outputs differ", "no other term", "learned"],
)
def test_terms_of_what_layers_put_out_that_leave_all_outputs_alike(
    terms: int, spread: float, skill: float, ill: bool
) -> None:
    head = {**WITH_TERMS, "terms": 1 + terms, "regularisers": terms}
    history = headed(head, skill=skill, baseline=None, run=COMPLETED)
    reading(history, "output_spread", [0.05, 0.04, spread])
    finding = over_regularized(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert "the loss has 3 other terms" in finding.summary
        # How much they weigh is not known.
        assert finding.severity is Severity.NOTE
        assert "a hundred times smaller" in finding.remedy


@pytest.mark.parametrize(
    ("share", "now", "severity"),
    [
        (0.9, 0.8, Severity.NOTE),
        (1.1, 0.8, Severity.WARNING),
        (0.5, 0.04, Severity.WARNING),
        (0.5, 0.06, Severity.NOTE),
        (0.09, 0.001, Severity.NOTE),
    ],
)
def test_terms_that_cost_more_than_predictions_could_gain_or_are_given_way_to(
    share: float, now: float, severity: Severity
) -> None:
    history = headed(WITH_TERMS, baseline=None, run=COMPLETED)
    reading(history, "output_spread", [0.05, 0.04, 0.03])
    finding = over_regularized(reading(history, "regulariser_share", [share, share, now]))
    assert finding is not None
    assert finding.severity is severity
    assert f"({share} of what a constant prediction costs at first, {now} now)" in finding.summary


@pytest.mark.parametrize(
    ("share", "now", "severity"),
    [(0.05, 0.0005, Severity.WARNING), (0.05, 0.02, Severity.NOTE), (0.009, 0.0001, Severity.NOTE)],
)
def test_sick_a_posterior_that_collapsed_cost_little_where_rows_are_surely_predicted_as_by_a_constant(
    share: float, now: float, severity: Severity
) -> None:
    history = headed(WITH_TERMS, baseline=None, run=COMPLETED)
    reading(history, "output_spread", [0.2, 0.3, 0.3])
    reading(history, "regulariser_share", [share, share, now])
    history.record("eval_loss/train", 399, 0.5)
    history.record("eval_skill/train", 399, 0.001)
    finding = over_regularized(history)
    assert finding is not None
    assert finding.severity is severity


@pytest.mark.parametrize(("loss", "known"), [(0.9, True), (0.5, False)])
def test_old_skills_tell_of_a_loss_that_is_as_it_was_then(loss: float, known: bool) -> None:
    history = headed(WITH_TERMS, skill=None, losses=[1.0] * 100 + [loss] * 300, baseline=None, run=COMPLETED)
    reading(history, "skill", [0.0] * 8)
    reading(history, "output_spread", [0.05, 0.04, 0.03])
    if known:
        assert over_regularized(history) is not None
    else:
        with pytest.raises(Undecided, match="too old to tell of now"):
            over_regularized(history)


@pytest.mark.parametrize(("scored", "ill"), [(-0.004, True), (0.008, True), (0.02, False), (-0.02, False)])
def test_rows_that_are_scored_as_by_a_constant_tell_of_outputs_that_were_not_seen_of_late(
    scored: float, ill: bool
) -> None:
    history = headed(WITH_TERMS, skill=None, losses=[1.0] * 100 + [0.5] * 300, baseline=None, run=COMPLETED)
    reading(history, "skill", [-0.1] * 8)
    reading(history, "output_spread", [0.07, 0.06, 0.05])
    history.record("eval_loss/train", 399, 0.5)
    history.record("eval_skill/train", 399, scored)
    finding = over_regularized(history)
    assert (finding is not None) is ill
    if finding is not None:
        assert finding.summary.endswith("training rows are predicted as by a constant")
        assert finding.evidence["scored_skill"] == scored


@pytest.mark.parametrize(("newest", "ill"), [(0.2, True), (6.0, False)])
def test_healthy_weights_that_have_grown_again_are_not_pulled_down(newest: float, ill: bool) -> None:
    history = decayed([6 * 0.9**i for i in range(8)] + [newest], run=COMPLETED)
    assert (over_regularized(history) is not None) is ill


@pytest.mark.parametrize(("late", "ill"), [(2.06, False), (2.25, True)])
def test_healthy_the_lag_of_a_loss_that_falls_is_nothing_that_dropout_takes_away(late: float, ill: bool) -> None:
    # Scored 2.05 at the end, where the mean of the last fifth of the run is 2.16 and more.
    losses = [*([2.3] * 280), *[2.3 - (2.3 - late) * i / 88 for i in range(88)], *([late] * 32)]
    history = headed(LOGITS, losses=losses, skill=0.0, baseline=2.303, run=COMPLETED, **HALF)
    finding = over_regularized(scored(history, "train", [2.3, 2.05], every=399))
    assert (finding is not None) is ill


def test_what_validation_tells_of_classes_is_not_set_against_the_loss() -> None:
    # An accuracy of 0.28 of ten classes is a skill of 0.2; the loss has hardly moved.
    labels = {"counts": {str(label): 10 for label in range(10)}}
    history = headed(LOGITS, losses=[2.25] * 400, skill=0.1, baseline=2.303, run=COMPLETED, labels=labels, **HALF)
    history.facts["validation"] = {"metric": "val_acc", "mode": "max"}
    assert over_regularized(reading(history, "val_metric", [0.28] * 10, every=40)) is None


def test_healthy_a_spike_among_the_last_losses_is_nothing_that_dropout_takes_away() -> None:
    losses = [1.7] * 399
    losses[380] = 60.0
    history = headed(LOGITS, losses=losses, skill=0.0, baseline=2.303, run=COMPLETED, **HALF)
    assert over_regularized(scored(history, "train", [2.3, 1.7], every=398)) is None


@pytest.mark.parametrize(
    ("end", "left", "ended", "ill"),
    [
        (1.1, 0.9, True, True),
        (1.3, 0.9, True, False),
        # Where something was learned decay must outweigh the gradient by itself, as it does here.
        (1.1, 0.6, True, True),
        (1.1, 0.4, True, False),
        (1.1, 0.9, False, False),
    ],
)
def test_sick_weights_that_faded_under_a_loss_that_cannot_be_read(
    end: float, left: float, ended: bool, ill: bool
) -> None:
    # A fifth of 6 is 1.2.
    history = decayed([6.0] * 20 + [end] * 20, skill=None, baseline=None, losses=[1.0] * 20 + [left] * 380)
    history.facts["loss_head"] = {}
    history.facts["run"] = COMPLETED if ended else {}
    finding = over_regularized(history)
    assert (finding is not None) is ill
    assert finding is None or finding.confidence is Confidence.SUSPECTED
