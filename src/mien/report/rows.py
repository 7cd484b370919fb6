"""Charts made of rows: dots with whiskers on a common axis, and bars from a common zero.

Knows no card: rows are given as data and drawn at the width asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from mien.report.svg import CHARACTER_WIDTH, Scale, drawing, tag, ticks
from mien.report.words import known, short, shorten


@dataclass(frozen=True, slots=True)
class Row:
    """One named value, with its interval if it has one and the words written at its end."""

    label: str
    value: float
    words: str
    style: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class RowChart:
    """Rows on one axis."""

    key: str
    title: str
    description: str
    rows: tuple[Row, ...]
    axis: tuple[float, float]
    origin: float
    """Where nothing is: chance, zero, the foot of the bars."""
    origin_name: str = ""


def draw_dots(chart: RowChart, variant: str, width: float) -> Markup:
    """Each row is a line of words above a line with a dot and its 95 % whisker."""
    step, foot = 44.0, 34.0
    height = step * len(chart.rows) + foot
    x = Scale(*chart.axis, 10, width - 10)
    parts = [*_axis(chart, x, height - foot, height)]
    for k, row in enumerate(chart.rows):
        parts += [*_strip(chart, x, k * step), *_dot(row, x, k * step)]
    return drawing(chart.key, variant, width, height, chart.title, chart.description, parts)


def _axis(chart: RowChart, x: Scale, bottom: float, height: float) -> Iterator[Markup]:
    for value in ticks(*chart.axis, 5):
        yield tag("text", short(value), class_="tick middle", x=x(value), y=bottom + 12)
    if chart.origin_name:
        half = len(chart.origin_name) * CHARACTER_WIDTH / 2
        middle = min(max(x(chart.origin), half), x.end + 10 - half)
        yield tag("text", chart.origin_name, class_="faint middle", x=middle, y=height - 4)


def _strip(chart: RowChart, x: Scale, top: float) -> Iterator[Markup]:
    """The axis again under each row, so that no rule runs through words."""
    yield tag("rect", class_="span", x=x.start - 6, y=top + 20, width=x.end - x.start + 12, height=16)
    for value in ticks(*chart.axis, 5):
        yield tag("line", class_="strip", x1=x(value), x2=x(value), y1=top + 20, y2=top + 36)
    yield tag("line", class_="origin", x1=x(chart.origin), x2=x(chart.origin), y1=top + 18, y2=top + 38)


def _dot(row: Row, x: Scale, top: float) -> Iterator[Markup]:
    words, line = top + 13, top + 28
    end = len(row.words) * CHARACTER_WIDTH + 10
    room = int((x.end + 10 - end) / CHARACTER_WIDTH)
    yield tag("text", shorten(row.label, max(room, 8)), class_=f"name {row.style}", x=0, y=words)
    yield tag("text", row.words, class_="tick end", x=x.end + 10, y=words)
    if row.low is not None and row.high is not None and known(row.low) and known(row.high):
        yield tag("line", class_=f"whisker {row.style}", x1=x(row.low), x2=x(row.high), y1=line, y2=line)
    if known(row.value):
        yield tag("circle", class_=f"dot {row.style}", cx=x(row.value), cy=line, r=4.5)


def draw_bars(chart: RowChart, variant: str, width: float, *, numbered: bool = True) -> Markup:
    """Bars from `origin`: names on the left, or above where they are long; words at the ends; ticks if `numbered`."""
    longest = max(len(row.label) for row in chart.rows) * CHARACTER_WIDTH + 12
    above = longest > width * 0.52
    column = 1 if above else longest
    step, foot = 40.0 if above else 24.0, 20.0 if numbered else 2.0
    height = step * len(chart.rows) + foot
    words = max(len(row.words) for row in chart.rows) * CHARACTER_WIDTH + 8
    two_sided = chart.axis[0] < chart.origin
    x = Scale(*chart.axis, column + (words if two_sided else 0), width - words)
    parts: list[Markup] = []
    if numbered:
        for value in ticks(*chart.axis, 4):
            parts.append(tag("line", class_="grid", x1=x(value), x2=x(value), y1=0, y2=height - foot))
            parts.append(tag("text", short(value), class_="tick middle", x=x(value), y=height - 5))
    for k, row in enumerate(chart.rows):
        top = k * step + (15 if above else 0)
        parts.append(
            tag("text", shorten(row.label, int(width / CHARACTER_WIDTH)), x=0, y=k * step + (13 if above else 16))
        )
        parts += _bar(row, chart, x, top)
        zero = x(chart.origin)
        parts.append(tag("line", class_="axis", x1=zero, x2=zero, y1=top + 2, y2=top + (22 if above else 24)))
    return drawing(chart.key, variant, width, height, chart.title, chart.description, parts)


def _bar(row: Row, chart: RowChart, x: Scale, top: float) -> Iterator[Markup]:
    zero, tip = x(chart.origin), x(row.value)
    yield tag("rect", class_=f"bar {row.style}", x=min(zero, tip), y=top + 5, width=abs(tip - zero), height=14)
    if row.value < chart.origin:
        yield tag("text", row.words, class_="tick end", x=tip - 6, y=top + 16)
    else:
        yield tag("text", row.words, class_="tick", x=tip + 6, y=top + 16)
