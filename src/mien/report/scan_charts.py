"""A scan's drawings: shares by model as bars with intervals, and over time as columns. Knows no HTML around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from mien.report import scan_words
from mien.report.scan_counts import Share, Timeline, View, by_period
from mien.report.svg import CHARACTER_WIDTH, Scale, drawing, tag, ticks
from mien.report.words import count

_WIDE, _PHONE = 912.0, 358.0
_SOLID = 5
"""Conversations that a period needs for its share to set the height of the chart."""


def bar_scale(rows: Sequence[Share]) -> float:
    """Right end of a column of bars: the largest share that rests on more than a handful, never under 10 %."""
    solid = [row for row in rows if row.total >= _SOLID] or list(rows)
    return min(max([1.3 * (row.value or 0) for row in solid] + [0.1]), 1.0)


def share_bar(row: Share, most: float, chance: tuple[float, float] | None) -> Markup:
    """A bar with its interval, and where chance alone would be. Its words stand beside it in the table."""
    x = Scale(0, most, 0, 200)
    parts = [tag("rect", class_="span", x=0, y=2, width=200, height=14)]
    if row.value is not None and row.interval:
        low, high = row.interval
        parts.append(tag("rect", class_="bar drift", x=0, y=4, width=x(row.value), height=10))
        parts.append(tag("line", class_="whisker drift", x1=x(low), x2=x(high), y1=9, y2=9))
    if chance and chance[1] <= most:
        parts.append(tag("line", class_="level", x1=x(chance[1]), x2=x(chance[1]), y1=0, y2=18))
    return tag(
        "svg", *parts, class_="share", viewBox="0 0 200 18", preserveAspectRatio="none", width=200, height=18,
        aria_hidden="true",
    )  # fmt: skip


def time_chart(line: Timeline, view: View) -> Markup:
    """Shares over time, wide and for a phone."""
    shares = by_period(line, view)
    return _columns(line, view, shares, "wide", _WIDE) + _columns(line, view, shares, "narrow", _PHONE)


def _columns(line: Timeline, view: View, shares: list[Share], variant: str, width: float) -> Markup:
    solid = [part for part in shares if part.total >= _SOLID] or [part for part in shares if part.total]
    rate = view.chance[1] if view.chance else 0.0
    most = min(max([1.25 * (part.value or 0) for part in solid] + [1.6 * rate, 0.02]), 1.0)
    x = Scale(0, len(shares), 46, width - 4)
    y = Scale(0, most, 160, 22)
    parts = [*_grid(y, width, most), *_names(line, x)]
    busiest = max(part.total for part in shares) or 1
    amount = Scale(0, busiest, 226, 200)
    for k, part in enumerate(shares):
        if part.total:
            parts.append(_column(k, line.names[k], part, x, y, amount))
    if view.chance:
        told = f"by chance {scan_words.share(rate)}"
        parts.append(tag("line", class_="level", x1=x.start, x2=x.end, y1=y(rate), y2=y(rate)))
        parts.append(tag("text", f"dotted: {told}", class_="faint end", x=x.end, y=12))
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=amount.start, y2=amount.start))
    parts.append(tag("text", f"{busiest:,}", class_="tick end", x=x.start - 7, y=amount.end + 5))
    parts.append(tag("text", f"conversations per {line.unit}", class_="faint", x=0, y=244))
    told = "; ".join(f"{name}: {_told(part)}" for name, part in zip(line.names, shares, strict=True) if part.total)
    return drawing(f"time-{view.key}", variant, width, 250, f"Drifted by {line.unit}", told, parts)


def _told(part: Share) -> str:
    return f"{part.count:,} of {count(part.total, 'conversation')} drifted, {scan_words.with_interval(part)}"


def _grid(y: Scale, width: float, most: float) -> Iterator[Markup]:
    for value in ticks(0, most, 4):
        yield tag("line", class_="grid", x1=46, x2=width - 4, y1=y(value), y2=y(value))
        yield tag("text", scan_words.share(value), class_="tick end", x=39, y=y(value) + 4)


def _names(line: Timeline, x: Scale) -> Iterator[Markup]:
    """Names of as many periods as fit without touching."""
    room = len(line.names[0]) * CHARACTER_WIDTH + 16
    step = x(1) - x(0)
    every = max(int(-(-room // step)), 1)
    for k in range(0, len(line.names), every):
        middle = x(k) + step / 2
        half = (room - 16) / 2
        if middle - half < 0 or middle + half > x.end + 4:
            continue
        yield tag("line", class_="axis", x1=middle, x2=middle, y1=160, y2=164)
        yield tag("text", line.names[k], class_="tick middle", x=middle, y=177)


def _column(k: int, name: str, part: Share, x: Scale, y: Scale, amount: Scale) -> Markup:
    """One period: share, interval, number of conversations; the whole height answers to the pointer."""
    left, step = x(k), x(k + 1) - x(k)
    gap = min(step * 0.15, 4)
    low, high = part.interval or (0.0, 0.0)
    inner, middle = max(step - 2 * gap, 0.5), left + step / 2
    wide = min(inner, 46.0)
    return tag(
        "g",
        tag("title", f"{name}: {_told(part)}"),
        tag("rect", class_="hit", x=left, y=18, width=step, height=212),
        tag("rect", class_="bar drift", x=middle - wide / 2, y=y(part.value or 0), width=wide,
            height=y.start - y(part.value or 0)),
        tag("line", class_="whisker drift", x1=middle, x2=middle, y1=y(low), y2=y(high)),
        tag("rect", class_="bar amount", x=middle - wide / 2, y=amount(part.total), width=wide,
            height=amount.start - amount(part.total)),
        class_="period",
        data_period=k,
    )  # fmt: skip
