"""The programs of the clinic, by theme."""

from __future__ import annotations

from tests.clinic.patient import Pair
from tests.clinic.programs import controls, convolutional, digits, linear, points, sequences, tabular

PAIRS: tuple[Pair, ...] = tuple(
    sorted(
        (
            pair
            for theme in (controls, convolutional, digits, linear, points, sequences, tabular)
            for pair in theme.PAIRS
        ),
        key=lambda pair: pair.number,
    )
)
