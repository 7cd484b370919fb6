"""A conversation's drift over its turns, as SVG with its alarm band. Knows no Gradio and no conversation.

Drift is the CUSUM of the turns' deviations towards the alarming side over its limit: 1 is the alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mien.report.svg import Scale, drawing, tag, ticks
from mien.report.words import number

WIDTH, HEIGHT = 392.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 30.0, 12.0, 16.0, 24.0
FEWEST = 4
"""Turns that the chart has room for from the beginning."""


@dataclass(frozen=True, slots=True)
class Line:
    """One lane's drift."""

    style: str
    """`auto`, `plain` or `held`."""
    points: tuple[tuple[int, float], ...]
    """Turn, from 1, and its statistic."""


def drift(gauge: str, lines: Sequence[Line], key: str = "drift") -> Markup:
    """The chart. Without points it shows what would be an alarm."""
    points = [p for line in lines for p in line.points if math.isfinite(p[1])]
    last = max([FEWEST, *(t for t, _ in points)])
    highest = max([1.35, *(min(s, 1e6) * 1.08 for _, s in points)])
    x, y = Scale(1, last, LEFT + 8, WIDTH - RIGHT), Scale(0, highest, HEIGHT - BOTTOM, TOP)
    parts = [*_ground(x, y, highest, last), *(part for line in lines for part in _line(line, x, y))]
    if len(lines) > 1:
        parts += _names(lines, x, y)
    return drawing(key, "drift", WIDTH, HEIGHT, f"Drift on {gauge}", _told(gauge, lines), parts)


def _told(gauge: str, lines: Sequence[Line]) -> str:
    """The last point of each line, in words."""
    told = []
    for line in lines:
        if line.points:
            turn, value = line.points[-1]
            past = "past" if value > 1 else "below"
            told.append(f"{line.style}: {number(value)} at answer {turn}, {past} the alarm at 1")
    return "; ".join(told) or f"Nothing has been read on {gauge} yet; 1 will be the alarm."


def _ground(x: Scale, y: Scale, highest: float, last: int) -> Iterator[Markup]:
    left, right = LEFT, WIDTH - RIGHT + 6
    yield tag("rect", class_="alarm", x=left, y=y(highest), width=right - left, height=y(1) - y(highest))
    for value in ticks(0, highest, 3):
        if value != 1:
            yield tag("line", class_="grid", x1=left, x2=right, y1=y(value), y2=y(value))
        if abs(y(value) - y(1)) > 11 or value == 1:
            yield tag("text", number(value, 0 if value == int(value) else 1), class_="tick end", x=left - 6,
                      y=y(value) + 4)  # fmt: skip
    if not any(value == 1 for value in ticks(0, highest, 3)):
        yield tag("text", "1", class_="tick end", x=left - 6, y=y(1) + 4)
    yield tag("line", class_="limit", x1=left, x2=right, y1=y(1), y2=y(1))
    yield tag("text", "drifted", class_="limit-name end", x=right - 4, y=y(1) - 5)
    yield tag("line", class_="axis", x1=left, x2=right, y1=y(0), y2=y(0))
    step = max(1, math.ceil(last / 10))
    for turn in range(1, last + 1, step):
        yield tag("text", str(turn), class_="tick middle", x=x(turn), y=y(0) + 15)


def _line(line: Line, x: Scale, y: Scale) -> Iterator[Markup]:
    places = [(x(t), y(s)) for t, s in line.points if math.isfinite(s)]
    if len(places) > 1:
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        yield tag("path", class_=f"line {line.style}", d=path)
    for px, py in places:
        classes = f"dot {line.style}"
        if line.style == "held":
            yield tag("rect", class_=classes, x=px - 3.2, y=py - 3.2, width=6.4, height=6.4)
        else:
            yield tag("circle", class_=classes, cx=px, cy=py, r=3.6)


def _names(lines: Sequence[Line], x: Scale, y: Scale) -> Iterator[Markup]:
    """Which line is which, at the upper left, where young conversations have no points."""
    at = LEFT + 6
    for line in lines:
        if line.style == "held":
            yield tag("rect", class_="dot held", x=at, y=TOP - 12, width=6.4, height=6.4)
        else:
            yield tag("circle", class_=f"dot {line.style}", cx=at + 3.2, cy=TOP - 8.8, r=3.6)
        yield tag("text", line.style, class_="key", x=at + 12, y=TOP - 5)
        at += 24 + 7 * len(line.style)
