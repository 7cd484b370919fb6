"""Line charts with 95 % bands, horizontal reference lines, direct labels and a readout under the pointer.

The readout needs no script: each x has an invisible column, and the stylesheet shows what is inside the one hovered.
Knows no card: a chart is given as data (`LineChart`) and drawn at the width it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from markupsafe import Markup

from mien.report.svg import CHARACTER_WIDTH, Scale, drawing, spaced, tag, ticks
from mien.report.words import short


@dataclass(frozen=True, slots=True)
class Point:
    """One value with its interval; None or NaN leaves a gap."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points in order of x."""

    label: str
    """Written at the right end of the line, in the line's colour."""
    style: str
    """Class that the stylesheet gives a colour and a dash to."""
    points: tuple[Point, ...]
    dots: bool = True
    square: bool = False
    """Square dots, so that two series differ in more than colour."""


@dataclass(frozen=True, slots=True)
class Readout:
    """What is told about one x when the pointer is over it."""

    x: float
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LineChart:
    """Everything a line chart shows."""

    key: str
    title: str
    description: str
    caption: str
    x_label: str
    series: tuple[Series, ...]
    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: tuple[float, ...]
    levels: tuple[tuple[float, str], ...] = ()
    """Horizontal reference lines with their names."""
    mark: tuple[float, str] | None = None
    """One x that is pointed out, with its name."""
    span: tuple[float, float, str] | None = None
    """A stretch of x with a tint and a name."""
    readouts: tuple[Readout, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Plot:
    width: float
    height: float
    x: Scale
    y: Scale


def draw_lines(chart: LineChart, variant: str, width: float, height: float) -> Markup:
    """The chart as SVG, `width` x `height` pixels; `variant` is the class it is shown or hidden by."""
    labels = max((len(series.label) for series in chart.series), default=0)
    right = width - 14 - labels * CHARACTER_WIDTH if labels else width - 10
    plot = _Plot(
        width,
        height,
        Scale(*chart.x, 38, right),
        Scale(*chart.y, height - 40, 44),
    )
    parts = [
        *_span(chart, plot),
        *_grid(chart, plot),
        *_mark(chart, plot),
        *(_band(series, plot) for series in chart.series),
        *(part for series in chart.series for part in _line(series, plot)),
        *_end_labels(chart, plot),
        *_readouts(chart, plot),
    ]
    return drawing(chart.key, variant, width, height, chart.title, chart.description, parts)


def _span(chart: LineChart, plot: _Plot) -> Iterator[Markup]:
    if chart.span:
        low, high, name = chart.span
        left, right = plot.x(low), plot.x(high)
        yield tag("rect", class_="span", x=left, y=plot.y.end, width=right - left, height=plot.y.start - plot.y.end)
        half = len(name) * CHARACTER_WIDTH / 2
        yield tag("text", name, class_="faint middle", x=max((left + right) / 2, half), y=plot.y.end - 7)


def _grid(chart: LineChart, plot: _Plot) -> Iterator[Markup]:
    left, right, bottom = plot.x.start, plot.x.end, plot.y.start
    yield tag("text", chart.caption, class_="faint", x=0, y=12)
    for value in ticks(*chart.y, 5):
        yield tag("line", class_="grid", x1=left, x2=right, y1=plot.y(value), y2=plot.y(value))
        yield tag("text", short(value), class_="tick end", x=left - 7, y=plot.y(value) + 4)
    for value in _fitting(chart.x_ticks, plot):
        yield tag("line", class_="axis", x1=plot.x(value), x2=plot.x(value), y1=bottom, y2=bottom + 4)
        yield tag("text", short(value), class_="tick middle", x=plot.x(value), y=bottom + 17)
    yield tag("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom)
    yield tag("text", chart.x_label, class_="faint middle", x=(left + right) / 2, y=plot.height - 5)
    for value, name in chart.levels:
        yield tag("line", class_="level", x1=left, x2=right, y1=plot.y(value), y2=plot.y(value))
        yield tag("text", name, class_="faint middle", x=_free_place(chart, plot, value, name), y=plot.y(value) - 5)


def _free_place(chart: LineChart, plot: _Plot, value: float, name: str) -> float:
    """Where along a horizontal line its name is furthest from every point of every series."""
    half = len(name) * CHARACTER_WIDTH / 2 + 5
    y = plot.y(value) - 9
    segments = [pair for series in chart.series for run in _runs(series.points, plot, "y") for pair in pairwise(run)]

    def distance(middle: float) -> float:
        """Least vertical distance between the words and the lines above or below them."""
        gaps = [1e3]
        for (x1, y1), (x2, y2) in segments:
            for step in range(5):
                x = x1 + (x2 - x1) * step / 4
                if abs(x - middle) < half + 6:
                    gaps.append(abs(y1 + (y2 - y1) * step / 4 - y))
        return min(min(gaps), 40.0)

    span = plot.x.end - plot.x.start
    places = [plot.x.start + half + share * max(span - 2 * half, 0) for share in (0, 1, 0.25, 0.75, 0.5)]
    return max(places, key=distance)


def _fitting(values: Sequence[float], plot: _Plot) -> Iterator[float]:
    """Those ticks whose words do not run into the one before."""
    free = -math.inf
    for value in values:
        half = len(short(value)) * CHARACTER_WIDTH / 2
        if plot.x(value) - half >= free:
            free = plot.x(value) + half + 7
            yield value


def _mark(chart: LineChart, plot: _Plot) -> Iterator[Markup]:
    if chart.mark:
        value, name = chart.mark
        x, half = plot.x(value), len(name) * CHARACTER_WIDTH / 2
        yield tag("line", class_="mark", x1=x, x2=x, y1=plot.y.start, y2=plot.y.end - 4)
        middle = min(max(x, plot.x.start - 30 + half), plot.width - half)
        yield tag("text", name, class_="strong middle", x=middle, y=plot.y.end - 9)


def _runs(points: Sequence[Point], plot: _Plot, *fields: str) -> Iterator[list[tuple[float, ...]]]:
    """Unbroken stretches of pixel coordinates `(x, *fields)`."""

    def pixels(point: Point) -> tuple[float, ...] | None:
        values = [getattr(point, name) for name in fields]
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        return plot.x(point.x), *(plot.y(value) for value in values)

    for present, group in groupby(map(pixels, points), key=lambda place: place is not None):
        if present:
            yield [place for place in group if place is not None]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _band(series: Series, plot: _Plot) -> Markup:
    """The interval: a band where neighbours have one, a whisker where a point stands alone."""
    parts = []
    for run in _runs(series.points, plot, "low", "high"):
        edge = [(x, low) for x, low, _ in run] + [(x, high) for x, _, high in reversed(run)]
        if len(run) > 1:
            parts.append(tag("path", class_=f"band {series.style}", d=_path(edge) + "Z"))
        else:
            parts.append(tag("path", class_=f"whisker {series.style}", d=_path(edge)))
    return tag("g", *parts)


def _line(series: Series, plot: _Plot) -> Iterator[Markup]:
    for run in _runs(series.points, plot, "y"):
        places = [(x, y) for x, y in run]
        if len(places) > 1:
            yield tag("path", class_=f"line {series.style}", d=_path(places))
        elif not series.dots:
            (x, y), reach = places[0], 9.0
            yield tag("path", class_=f"line {series.style}", d=_path([(x - reach, y), (x + reach, y)]))
        if series.dots:
            yield from (_dot(series, x, y) for x, y in places)


def _dot(series: Series, x: float, y: float) -> Markup:
    if series.square:
        return tag("rect", class_=f"dot {series.style}", x=x - 3, y=y - 3, width=6, height=6)
    return tag("circle", class_=f"dot {series.style}", cx=x, cy=y, r=3.4)


def _end_labels(chart: LineChart, plot: _Plot) -> Iterator[Markup]:
    ends: list[tuple[Series, float, float]] = []
    for series in chart.series:
        runs = list(_runs(series.points, plot, "y"))
        if runs:
            x, y = runs[-1][-1]
            ends.append((series, x, y))
    places = spaced([y for _, _, y in ends], 15, plot.y.end, plot.y.start)
    for (series, x, _), place in zip(ends, places, strict=True):
        yield tag("text", series.label, class_=f"name {series.style}", x=x + 9, y=place + 4)


def _readouts(chart: LineChart, plot: _Plot) -> Iterator[Markup]:
    """A column over each x, halfway to its neighbours, that holds a hair line and words for the top of the chart."""
    xs = [readout.x for readout in chart.readouts]
    middles = [(plot.x(a) + plot.x(b)) / 2 for a, b in pairwise(xs)]
    edges = [plot.x.start - 12, *middles, plot.x.end + 8]
    for readout, left, right in zip(chart.readouts, edges, edges[1:], strict=False):
        x, lines = plot.x(readout.x), _wrap(readout, plot)
        yield tag(
            "g",
            tag("rect", class_="hit", x=left, y=plot.y.end - 6, width=max(right - left, 0), height=plot.y.start - 36),
            tag("line", class_="hair", x1=x, x2=x, y1=plot.y.start, y2=plot.y.end),
            tag("rect", class_="cover", x=0, y=0, width=plot.width, height=18 if len(lines) < 2 else 37),
            *(tag("text", line, class_="told", x=0, y=12 + 16 * k) for k, line in enumerate(lines)),
            class_="readout",
        )


def _wrap(readout: Readout, plot: _Plot) -> list[str]:
    """The parts on one line, or on two where the chart is narrow."""
    lines = [""]
    for part in readout.parts:
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) * (CHARACTER_WIDTH - 0.3) > plot.width and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines[:2]
