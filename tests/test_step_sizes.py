from __future__ import annotations

import math

from lightning_doctor.history import History
from lightning_doctor.step_sizes import median_change, rate_at, scanned_steps, smallest_limit
from tests.histories import scanned


def test_a_step_overshoots_where_it_raised_what_a_smaller_one_lowered() -> None:
    assert [s.overshoots for s in scanned_steps(scanned(History(), [0.5, -0.5]))] == [True, False]
    # The direction is wrong, not the length.
    assert [s.overshoots for s in scanned_steps(scanned(History(), [0.5], smaller=0.01))] == [False]


def test_a_limit_under_the_rate_tells_of_an_overshoot_that_no_scanned_factor_shows() -> None:
    far, near = (scanned(History(), [1e6], smaller=1e6, limit=limit, rate=3.0) for limit in (0.01, 5.0))
    assert [s.overshoots for s in scanned_steps(far)] == [True]
    assert [s.overshoots for s in scanned_steps(near)] == [False]


def test_limits_belong_to_their_steps_and_the_smallest_is_found() -> None:
    history = scanned(History(), [-0.1, 0.2, -0.1], limit=0.03)
    assert [s.limit for s in scanned_steps(history)] == [None, 0.03, None]
    assert smallest_limit(scanned_steps(history)) == 0.03
    assert smallest_limit([]) is None


def test_the_rate_of_a_step_is_the_last_one_recorded_before_it() -> None:
    history = History()
    for step, rate in ((2, 0.1), (10, 0.01)):
        history.record("learning_rate", step, rate)
    assert [rate_at(history, step) for step in (0, 2, 9, 10, 99)] == [None, 0.1, 0.1, 0.01, 0.01]


def test_without_scans_of_smaller_steps_none_is_known_to_lower_the_loss() -> None:
    history = History()
    history.record("scan/1", 0, 0.5)
    assert scanned_steps(history)[0].smaller == math.inf
    assert not scanned_steps(history)[0].overshoots


def test_the_median_change_is_that_of_the_later_scans() -> None:
    history = scanned(History(), [9.0, 9.0, -0.1, -0.2, -0.3])
    assert median_change(history, 1.0, 20) == -0.2
    assert median_change(history, 7.0, 0) is None


def test_what_a_longer_step_lowers_again_is_no_limit() -> None:
    history = scanned(History(), [1e-5, 1e-5], larger=0.5, limit=0.09)
    assert smallest_limit(scanned_steps(history)) == 0.09
    history = scanned(History(), [1e-5], larger=-0.001, limit=0.09)
    assert smallest_limit(scanned_steps(history)) is None
