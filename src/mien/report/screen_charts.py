"""A screen's drawings: shifts of all traits as dots with intervals, and histograms of records. Knows no HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import Markup

from mien.report import screen_words
from mien.report.rows import Row, RowChart, draw_dots
from mien.report.screen_data import ScreenReport, TraitLine
from mien.report.svg import Scale, domain, drawing, tag, ticks
from mien.report.words import count, known, number, short

_WIDE, _PHONE = 912.0, 358.0
_HALF = 440.0


def shift_chart(report: ScreenReport) -> Markup | None:
    """Every trait's shift in sigma, with its interval."""
    there = [t for t in report.traits if known(t.shift)]
    if not there:
        return None
    style = {"towards": "coherence", "away": "score", "chance": "random", "unknown": "random"}
    rows = tuple(Row(t.name, t.shift, screen_words.shift(t), style[screen_words.standing(t)], *_ends(t)) for t in there)
    every = [v for t in there for v in (t.shift, t.low, t.high) if known(v)]
    low, high = domain(every, low=-0.5, high=0.5)
    told = "; ".join(f"{t.name}: {screen_words.shift(t)} sigma" for t in there)
    what = "pull" if screen_words.by_influence(report) else "shift"
    title = f"{screen_words.title(report)}: each trait, in sigma"
    chart = RowChart("shifts", title, told, rows, (low, high), 0.0, f"no {what}")
    return draw_dots(chart, "wide", _WIDE) + draw_dots(chart, "narrow", _PHONE)


def _ends(trait: TraitLine) -> tuple[float | None, float | None]:
    return (trait.low if known(trait.low) else None), (trait.high if known(trait.high) else None)


def histogram(trait: TraitLine, key: int) -> Markup | None:
    """Records by their difference; None where there is none."""
    if not any(n for *_, n in trait.bins):
        return None
    return _columns(trait, key, "wide", _HALF) + _columns(trait, key, "narrow", _PHONE)


def _columns(trait: TraitLine, key: int, variant: str, width: float) -> Markup:
    step = next(right - left for left, right, _ in trait.bins if math.isfinite(right - left))
    drawn = _bars(trait, step)
    x = Scale(min(drawn[0][0], -1.0), max(drawn[-1][1], 1.0), 8, width - 8)
    y = Scale(0, max(n for *_, n in drawn), 150, 14)
    parts = [*_axis(x, y, width), *(_bar(left, right, n, x, y, trait) for left, right, n in drawn if n)]
    told = "; ".join(f"{number(left, 1)} to {number(right, 1)}: {n:,}" for left, right, n in drawn if n)
    return drawing(f"bins-{key}", variant, width, 190, f"Records by difference on {trait.name}", told, parts)


def _bars(trait: TraitLine, step: float) -> list[tuple[float, float, int]]:
    """From the first to the last bin with records in it; the open ones get the width of the others."""
    there = [i for i, (*_, n) in enumerate(trait.bins) if n]
    found = []
    for left, right, n in trait.bins[there[0] : there[-1] + 1]:
        found.append((right - step if math.isinf(left) else left, left + step if math.isinf(right) else right, n))
    return found


def _axis(x: Scale, y: Scale, width: float) -> Iterator[Markup]:
    for value in ticks(x.low, x.high, 7 if width > 400 else 5):
        yield tag("line", class_="grid", x1=x(value), x2=x(value), y1=y.start, y2=y.end)
        yield tag("text", short(value), class_="tick middle", x=x(value), y=y.start + 16)
    yield tag("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start)
    yield tag("line", class_="origin", x1=x(0.0), x2=x(0.0), y1=y.start, y2=y.end)
    yield tag("text", "difference in sigma", class_="faint middle", x=(x.start + x.end) / 2, y=186)


def _bar(left: float, right: float, n: int, x: Scale, y: Scale, trait: TraitLine) -> Markup:
    hot = screen_words.towards(trait, left if trait.side == "high" else right) >= 2
    return tag(
        "g",
        tag("title", f"{number(left)} to {number(right)} sigma: {count(n, 'record')}"),
        tag("rect", class_=f"bar {'coherence' if hot else 'random'}", x=x(left) + 0.5, y=y(n),
            width=max(x(right) - x(left) - 1, 0.5), height=y.start - y(n)),
    )  # fmt: skip
