"""Small charts as pictures, for what TensorBoard has no chart for: a curve over something else than steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT = 480, 300
# What is larger, or nearer to each other than its inverse, is drawn as if it were not: floats end not far beyond.
_MOST = 1e150
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 34, 46
_INK, _GRID, _LINE, _MARK = (60, 60, 60), (225, 225, 225), (0, 114, 178), (213, 94, 0)
_COLOURS = (_LINE, (0, 158, 115), (204, 121, 167))


def curve(
    points: Sequence[tuple[float, float]], *, title: str, across: str, up: str, mark: float | None = None
) -> np.ndarray:
    """Draws a curve.

    Args:
        points: Across and up, at least two, finite.
        title: Over it.
        across: What the horizontal axis shows.
        up: What the vertical axis shows.
        mark: Where to draw a vertical line.

    Returns:
        ``[height, width, 3]`` of uint8.
    """
    chart = _Chart([x for x, _ in points], [y for _, y in points], title, across, up)
    chart.line(points)
    if mark is not None:
        chart.mark(mark)
    return chart.picture()


def bars(points: Sequence[tuple[float, float]], *, title: str, across: str, up: str) -> np.ndarray:
    """Draws a bar for each point, on a logarithmic vertical axis; what is not over zero is left out.

    Args:
        points: Across and up, finite, at least one of them over zero.
        title: Over it.
        across: What the horizontal axis shows.
        up: What the vertical axis shows.

    Returns:
        ``[height, width, 3]`` of uint8.
    """
    logs = [(x, math.log10(y)) for x, y in points if y > 0]
    floor = min(y for _, y in logs) - 0.5
    chart = _Chart([x for x, _ in logs], [floor, *(y for _, y in logs)], title, across, f"log10 of {up}")
    for x, y in logs:
        chart.bar(x, floor, y)
    return chart.picture()


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    across: str,
    up: str,
    mark: float | None = None,
    marks: Mapping[float, str] | None = None,
) -> np.ndarray:
    """Draws up to three curves with their names.

    Args:
        lines: Points by the name of the curve, across and up, finite; at least one point in all.
        title: Over them.
        across: What the horizontal axis shows.
        up: What the vertical axis shows.
        mark: Where to draw a vertical line.
        marks: What stands at the horizontal axis, by place, instead of numbers.

    Returns:
        ``[height, width, 3]`` of uint8.
    """
    places = [point for points in lines.values() for point in points]
    chart = _Chart([x for x, _ in places], [y for _, y in places], title, across, up, marks)
    if mark is not None:
        chart.mark(mark)
    for index, (name, points) in enumerate(lines.items()):
        chart.line(points, _COLOURS[index % len(_COLOURS)])
        chart.legend(index, name, _COLOURS[index % len(_COLOURS)])
    return chart.picture()


class _Chart:
    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        title: str,
        across: str,
        up: str,
        marks: Mapping[float, str] | None = None,
    ) -> None:
        self._image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._font = ImageFont.load_default()
        self._x, self._y = _span(xs), _span(ys)
        self._draw.text((_LEFT, 8), title, _INK, self._font)
        self._draw.text((_LEFT, _HEIGHT - 18), across, _INK, self._font)
        self._draw.text((4, _TOP - 14), up, _INK, self._font)
        for tick, text in (marks or {tick: f"{tick:.3g}" for tick in _ticks(*self._x)}).items():
            x = self._across(tick)
            self._draw.line([(x, _TOP), (x, _HEIGHT - _BOTTOM)], _GRID)
            self._draw.text((x - 10, _HEIGHT - _BOTTOM + 6), text, _INK, self._font)
        for tick in _ticks(*self._y):
            y = self._up(tick)
            self._draw.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], _GRID)
            self._draw.text((6, y - 6), f"{tick:.4g}", _INK, self._font)

    def line(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int] = _LINE) -> None:
        places = [(self._across(x), self._up(y)) for x, y in points]
        self._draw.line(places, colour, width=2)
        for x, y in places:
            self._draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)

    def legend(self, index: int, name: str, colour: tuple[int, int, int]) -> None:
        # Beside the title, where no curve comes.
        x = _WIDTH - _RIGHT - 100 * (index + 1)
        self._draw.line([(x, 14), (x + 16, 14)], colour, width=2)
        self._draw.text((x + 22, 8), name, _INK, self._font)

    def mark(self, x: float) -> None:
        place = self._across(x)
        self._draw.line([(place, _TOP), (place, _HEIGHT - _BOTTOM)], _MARK, width=2)

    def bar(self, x: float, floor: float, y: float) -> None:
        place = self._across(x)
        self._draw.rectangle([place - 1, self._up(y), place + 1, self._up(floor)], fill=_LINE)

    def picture(self) -> np.ndarray:
        return np.asarray(self._image)

    def _across(self, x: float) -> float:
        low, high = self._x
        return _LEFT + (min(max(x, low), high) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def _up(self, y: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (min(max(y, low), high) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = max(-_MOST, min(values)), min(_MOST, max(values))
    low, high = min(low, high), max(low, high)
    margin = 0.05 * (high - low) or 0.5 * (abs(high) or 1.0)
    return low - max(margin, 1 / _MOST), high + max(margin, 1 / _MOST)


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]
