"""Every combination that Lightning accepts is trained with and without the doctor: not a bit may differ."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_doctor import CurvatureProbe, Doctor
from lightning_doctor.callbacks.scoring_plan import ScoringPlan
from tests.harmless.ingredients import FEATURES, MACHINERY, OPTIMIZERS, PRECISIONS, Cell
from tests.harmless.trained import difference, score_all, train

# Compiling takes seconds: one network each of those whose random numbers or buffers a second pass could disturb.
_COMPILED = [
    Cell("SGD", "dropout", "32-true", "compile"),
    Cell("Adam", "batch normalisation", "32-true", "compile"),
    Cell("SGD", "random step", "bf16-mixed", "compile"),
]
CELLS = [
    *(Cell(*parts) for parts in product(OPTIMIZERS, FEATURES, PRECISIONS, MACHINERY) if parts[-1] != "compile"),
    *_COMPILED,
]
_SCORES = ("eval_loss/train", "eval_loss/validation")
# Without a verdict on the point, which asks for a gradient near zero or a plateau.
_PROBED = ("scan/1", "curvature/loss", "curvature/sharpness", "curvature/high", "curvature/low", *_SCORES)
_MEASURED = ("grad_non_finite", "update_ratio", "weight_norm", "batch_size", "activation_mean/head", "learning_rate")


def doctors() -> list[Any]:
    """Everything on, and what else only comes now and then forced."""
    return [Doctor(strict=True, overhead=1.0, every_n_steps=2), CurvatureProbe(samples=8, every_n_steps=2)]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_not_a_bit_differs_and_the_probes_gave_their_numbers(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A run of twelve steps is not scored for want of time.
    monkeypatch.setattr(ScoringPlan, "due", score_all)
    watching = doctors()
    watched = train(tmp_path, cell, *watching)
    plain = train(tmp_path, cell)
    assert difference(watched, plain) is None
    report = watching[0].report
    assert report is not None
    assert report.notes == []
    history = report.history
    several = cell.machinery == "manual, two optimizers"
    losses = ["train_loss/0", "train_loss/1", "grad_norm/optimizer0"] if several else ["train_loss", "grad_norm"]
    expected = [*losses, *_MEASURED, *(() if several else _PROBED), "val_loss"]
    assert [name for name in expected if name not in history] == [], history.absent
    assert history.fact("parameters.steps") > 0
    if several:
        # What cannot be had is said, with its reason.
        assert all("optimizers" in history.absent[name] for name in _PROBED)
    else:
        assert history.fact("leak.tested") is True
        assert history.fact("curvature.kind") is not None


REFUSED = [
    ("manual, two optimizers", {"gradient_clip_val": 0.5}, "32-true", "Automatic gradient clipping is not supported"),
    ("manual, two optimizers", {"accumulate_grad_batches": 2}, "32-true", "Automatic gradient accumulation is not"),
    ("several validation loaders", {}, "64-true-mixed", "Precision '64-true-mixed' is invalid"),
]


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(("machinery", "options", "precision", "message"), REFUSED)
def test_what_lightning_refuses_it_refuses_with_the_doctor_in_the_same_words(
    tmp_path: Path, machinery: str, options: dict[str, Any], precision: str, message: str, watched: bool
) -> None:
    cell = Cell("SGD", "dropout", "32-true", machinery)
    with pytest.raises(Exception, match=message):
        train(tmp_path, cell, *(doctors() if watched else []), **{**options, "precision": precision})


def test_a_difference_of_one_bit_is_found() -> None:
    one = {"weights": [torch.tensor([0.0, 1.0])], "state": (1, None)}
    assert difference(one, {"weights": [torch.tensor([0.0, 1.0])], "state": (1, None)}) is None
    assert difference(one, {"weights": [torch.tensor([-0.0, 1.0])], "state": (1, None)}) is not None
    assert difference(one, {"weights": [torch.tensor([0.0, 1.0])], "state": (2, None)}) == ".state[0]: 1 and 2"
