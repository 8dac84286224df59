"""Plots as geometry: what the template draws as SVG. Pure functions of numbers.

The drawing is stretched to its box, so it holds no text: labels stand beside it as HTML, and stay
readable on a narrow screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH = 600.0
HEIGHT = 120.0
_MOST_COLUMNS = 120
_FRACTIONS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one layer of bars. `style` is the CSS class that gives its colour.

    A value of None leaves a gap.
    """

    word: str
    style: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Shape:
    """A path with the class that gives it its colour."""

    style: str
    path: str


@dataclass(frozen=True, slots=True)
class Column:
    """A strip of the plot to hover over, and what it then says."""

    x: float
    width: float
    tip: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing of WIDTH by HEIGHT, and the words around it.

    `times` are the moments below it, at equal distances; `levels` the labels beside it, from the
    top down. `summary` says in words what the drawing shows.
    """

    title: str
    summary: str
    legend: list[tuple[str, str, str]]
    levels: list[str]
    times: list[datetime]
    lines: list[Shape]
    bars: list[Shape]
    columns: list[Column]
    empty: bool


def ceiling(value: float) -> float:
    """The round number at or above a value: 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * each for each in _FRACTIONS if power * each >= value * 0.9999)


def buckets(length: int) -> int:
    """How many neighbouring values a column holds, so that there are not too many columns."""
    return max(1, math.ceil(length / _MOST_COLUMNS))


def merged(
    values: Sequence[float | None], size: int, how: Callable[[list[float]], float]
) -> list[float | None]:
    """Neighbouring values put together, `size` at a time."""
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    kept = [[value for value in group if value is not None] for group in groups]
    return [how(group) if group else None for group in kept]


def line_plot(
    title: str, moments: Sequence[datetime], series: Sequence[Series],
    shown: Callable[[float | None], str],
) -> Plot:  # fmt: skip
    """Lines over time, on a logarithmic scale of whole powers of ten: one slow task among
    thousands of quick ones hides none of them.
    """
    known = [value for each in series for value in each.values if value]
    low = math.floor(math.log10(min(known))) if known else 0
    high = math.ceil(math.log10(max(known))) if known else low
    high = max(high, low + 2) + (max(high, low + 2) - low) % 2  # the middle is a power of ten, too

    def height(value: float) -> float:
        return (math.log10(value) - low) / (high - low) * HEIGHT if value > 0 else 0.0

    lines = [
        Shape(each.style, path)
        for each in series
        if (path := _line([value and height(value) for value in each.values]))
    ]
    levels = [10.0**high, 10.0 ** ((low + high) / 2), 10.0**low]
    return _plot(title, moments, series, shown, levels, lines, [])


def bar_plot(
    title: str, moments: Sequence[datetime], series: Sequence[Series],
    shown: Callable[[float | None], str], *, smallest: float = 1.0,
) -> Plot:  # fmt: skip
    """Bars over time, the series on top of each other."""
    sums = [sum(value or 0 for value in column) for column in zip(*_values(series), strict=True)]
    top = ceiling(max([smallest, *sums]))
    bars = []
    floor = [0.0] * len(moments)
    for each in series:
        path, floor = _bars(each.values, floor, top)
        if path:
            bars.append(Shape(each.style, path))
    return _plot(title, moments, series, shown, [top, top / 2, 0], [], bars)


def _values(series: Sequence[Series]) -> list[Sequence[float | None]]:
    return [each.values for each in series]


def _plot(
    title: str, moments: Sequence[datetime], series: Sequence[Series],
    shown: Callable[[float | None], str], levels: Sequence[float], lines: list[Shape],
    bars: list[Shape],
) -> Plot:  # fmt: skip
    step = WIDTH / max(1, len(moments))
    columns = []
    for place, at in enumerate(moments):
        said = ", ".join(f"{each.word} {shown(each.values[place])}" for each in series)
        columns.append(Column(_round(place * step), _round(step), f"{at:%H:%M} UTC: {said}"))
    # The last column has only begun: the one before it says how it is.
    lately = max(0, len(moments) - 2)
    last = [(each.word, each.style, shown(each.values[lately] if each.values else None))
            for each in series]  # fmt: skip
    said = ", ".join(f"{word} {value}" for word, _, value in last)
    return Plot(
        title=title,
        summary=f"{title}. Lately: {said}. Top of the scale: {shown(levels[0])}.",
        legend=last,
        levels=[shown(level) for level in levels],
        times=[moments[0], moments[len(moments) // 2], moments[-1]] if moments else [],
        lines=lines,
        bars=bars,
        columns=columns,
        empty=not any(value for each in series for value in each.values),
    )


def _line(heights: Sequence[float | None]) -> str:
    step = WIDTH / max(1, len(heights))
    parts: list[str] = []
    down = False
    for place, height in enumerate(heights):
        if height is None:
            down = False
            continue
        x, y = _round((place + 0.5) * step), _round(HEIGHT - height)
        # A point without neighbours is drawn as a short dash, or it would not be seen.
        alone = not down and (place + 1 == len(heights) or heights[place + 1] is None)
        parts.append(f"M{x - 2} {y}h4" if alone else f"{'L' if down else 'M'}{x} {y}")
        down = True
    return "".join(parts)


def _bars(
    values: Sequence[float | None], floor: Sequence[float], top: float
) -> tuple[str, list[float]]:
    step = WIDTH / max(1, len(values))
    gap = min(2.0, step * 0.2)
    parts, ceilings = [], []
    for place, (value, low) in enumerate(zip(values, floor, strict=True)):
        height = (value or 0) / top * HEIGHT
        if value:
            # Something is never drawn as nothing: one failure among thousands is to be seen.
            height = max(height, 1.5)
            x, y = _round(place * step + gap / 2), _round(HEIGHT - low - height)
            parts.append(f"M{x} {y}h{_round(step - gap)}v{_round(height)}h-{_round(step - gap)}z")
        ceilings.append(low + height)
    return "".join(parts), ceilings


def _round(value: float) -> float:
    return round(value, 1)
