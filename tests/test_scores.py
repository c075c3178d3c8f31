from __future__ import annotations

import math

import pytest

from lightning_doctor.history import History
from lightning_doctor.scores import known_bars, scores, sureness
from tests.scored import scored


def test_a_figure_is_told_with_the_bar_of_its_rows_or_else_of_its_batches() -> None:
    history = scored(History(), "train", [0.4, 0.3, 0.35], error=0.01)
    history.record("eval_bar/train", 40, 0.03)
    found = scores(history, "train")
    assert found is not None
    # 0.01 times the normal quantile of 0.975 where no losses of rows were drawn from.
    assert found.bars == pytest.approx([0.0196, 0.0196, 0.03], abs=1e-4)
    assert str(found) == "0.35 ± 0.03"
    # The lowest of three: the quantile of 1 − 0.05 / 3 / 2.
    assert found.bar_of_best == pytest.approx(0.0239, abs=1e-4)


def test_without_any_scatter_a_figure_is_told_alone() -> None:
    history = History()
    history.record("eval_loss/train", 0, 0.3)
    found = scores(history, "train")
    assert found is not None
    assert str(found) == "0.3"
    assert sureness(found.bar) == ""
    assert known_bars(train=found.bar) == {}


def test_how_sure_is_said_where_any_bar_is_known() -> None:
    assert sureness(math.nan, 0.1) == " (95%)"
    assert sureness(0.1, looked_at=4) == " (95%, the best of 4)"
    assert known_bars(train=0.1, validation=math.nan) == {"train_bar": 0.1}
