"""Neighbours are drawn from a number, and the neutral one is the program itself."""

from __future__ import annotations

import torch

from tests.clinic.variation import Variation

ROWS = torch.arange(200.0).reshape(100, 2)
TARGETS = torch.arange(100)


def test_a_seed_alone_changes_nothing_of_a_program() -> None:
    vary = Variation(3)
    assert (vary.width(30), vary.rate(0.1), vary.epochs(7), vary.batch(32)) == (30, 0.1, 7, 32)
    assert vary.widths(64, 30, 10) == [64, 30, 10]
    rows, targets = vary.rows(ROWS, TARGETS)
    assert rows is ROWS
    assert targets is TARGETS
    assert [len(batch) for _, batch in vary.loader(ROWS, TARGETS, 32)] == [32, 32, 32, 4]


def test_a_neighbour_is_always_the_same_and_no_other_is_like_it() -> None:
    assert Variation.neighbour(5, 1) == Variation.neighbour(5, 1)
    assert len({Variation.neighbour(number, index) for number in range(5) for index in range(5)}) == 25


def test_a_neighbour_is_near() -> None:
    for index in range(100):
        vary = Variation.neighbour(1, index)
        assert 70 <= vary.width(100) <= 150
        assert 0.6 <= vary.rate(1.0) <= 1.6
        assert vary.batch(32) in (16, 32, 64)
        assert 70 <= vary.epochs(100) <= 130
        assert 70 <= len(vary.loader(ROWS, TARGETS, 1).dataset) <= 100  # type: ignore[arg-type]


def test_the_widths_of_the_data_stay() -> None:
    assert Variation(0, width_factor=1.5).widths(64, 30, 10) == [64, 45, 10]


def test_the_rows_of_a_neighbour_keep_their_targets() -> None:
    rows, targets = Variation(0, noise=0.0, rate_factor=1.1).rows(ROWS, TARGETS)
    assert not torch.equal(targets, TARGETS)
    assert torch.equal(rows, ROWS[targets])


def test_the_noise_is_a_share_of_the_spread_of_a_column_and_leaves_gaps_alone() -> None:
    rows = ROWS.clone()
    rows[:, 1] *= 1000
    rows[0, 0] = float("nan")
    noisy, targets = Variation(0, noise=0.1).rows(rows, TARGETS)
    assert noisy.isnan().nonzero().tolist() == [[targets.tolist().index(0), 0]]
    spread = (noisy - rows[targets]).nan_to_num().std(0) / ROWS.std(0)
    # A hundred draws estimate a standard deviation to about a fourteenth of it.
    assert 0.07 < spread[0] < 0.13
    assert 70 < spread[1] < 130


def test_whole_numbers_get_no_noise() -> None:
    ids, targets = Variation(0, noise=0.1).rows(TARGETS, TARGETS)
    assert torch.equal(ids, targets)


def test_a_handful_of_rows_is_never_cut() -> None:
    assert len(Variation(0, share=0.7).loader(ROWS[:49], TARGETS[:49]).dataset) == 49  # type: ignore[arg-type]
