"""What eyes see that lack a kind of cone, by Machado, Oliveira & Fernandes (2009), table 1 at severity 1."""

from __future__ import annotations

import math
import re
from itertools import combinations
from pathlib import Path

import pytest

import lightning_doctor.tensorboard_plugin as plugin

STATIC = Path(plugin.__file__).parent / "static"
EYES = {
    "all cones": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
STATES = ("ill-fill", "watch-fill", "well-fill", "unknown-fill", "note-fill")
# About five times what can just be told apart side by side (ΔE of 2.3, Mahy, Van Eycken & Oosterlinck 1994).
APART = 12.0


def colours(theme: str) -> dict[str, str]:
    light, dark = (STATIC / "style.css").read_text().split("--ground: #16191d", 1)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if theme == "light" else dark))


def seen(colour: str, eyes: str) -> tuple[float, float, float]:
    """Returns CIE L*a*b* of an sRGB colour as these eyes see it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    light = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    r, g, b = (min(1.0, max(0.0, sum(w * c for w, c in zip(row, light, strict=True)))) for row in EYES[eyes])
    xyz = (
        (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047,
        0.2126729 * r + 0.7151522 * g + 0.0721750 * b,
        (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883,
    )
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def distance(one: str, other: str, eyes: str) -> float:
    return math.dist(seen(one, eyes), seen(other, eyes))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", list(EYES))
def test_states_are_told_apart_by_any_eyes(theme: str, eyes: str) -> None:
    palette = colours(theme)
    near = {pair: distance(palette[pair[0]], palette[pair[1]], eyes) for pair in combinations(STATES, 2)}
    assert min(near.values()) > APART, min(near, key=near.__getitem__)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", list(EYES))
def test_curves_whose_colours_are_alike_to_some_eyes_differ_in_their_dashes(theme: str, eyes: str) -> None:
    palette = colours(theme)
    found = re.search(r"const DASHES = \[([\d, ]+)\]", (STATIC / "chart.js").read_text())
    assert found is not None
    dashes = [int(dash) for dash in found[1].split(",")]
    assert len(dashes) == sum(re.fullmatch(r"c\d", name) is not None for name in palette)
    for one, other in combinations(range(len(dashes)), 2):
        if distance(palette[f"c{one}"], palette[f"c{other}"], eyes) <= APART:
            assert dashes[one] != dashes[other], (one, other)
