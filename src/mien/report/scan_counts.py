"""A scan counted: by gauge, by model, by day, week or month; with Wilson intervals and what chance alone makes.

A *view* is one gauge, or all of them together ("any"): the whole page is shown for one view at a time. Knows no HTML
and no sentence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import NormalDist

from mien.report.scan_data import ConversationLine, GaugeLine, ScanReport, Tally
from mien.report.words import known

ANY = "any"
MOST_MODELS = 20
"""Models with a row of their own; the rest share one."""
MOST_PERIODS = 120
"""Columns of the chart over time; of a longer log the latest are drawn."""
_CROWD = 15
"""Conversations that a period should hold, or its share is mostly chance."""
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `total`."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """Between 0 and 1; None of nothing."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval (Wilson 1927), which stays inside 0 and 1 for any counts."""
        if not self.total:
            return None
        n, p, z2 = self.total, self.count / self.total, _Z * _Z
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        # The ends are exact where they are known; the formula leaves them a rounding error off.
        return middle - half if self.count else 0.0, middle + half if self.count < n else 1.0


@dataclass(frozen=True, slots=True)
class View:
    """One gauge, or all together: who drifted, and how many would by chance."""

    key: str
    """The gauge's place as a word, or `any`."""
    name: str
    gauge: GaugeLine | None
    scores: tuple[float | None, ...]
    """One a conversation; None is not measured."""
    drifted: Share
    quiet: Share | None
    """Conversations of quiet traffic that drifted; None where they were not counted."""
    chance: tuple[float, float] | None
    """Share that drifts by chance alone: twice that of quiet traffic, or the bounds for several gauges that were not
    counted together."""
    margin: tuple[float, float] | None
    """The same with the 95 % intervals that so much quiet traffic leaves."""
    asked: float | None = None
    """Share of quiet conversations that the limits are to let drift, where it is of just this view."""


def views(report: ScanReport) -> list[View]:
    """The gauges in their order, and behind them all together where there are several."""
    found = [_gauge_view(report, k) for k in range(len(report.gauges))]
    return [*found, _any_view(report, found)] if len(found) > 1 else found


def chosen(report: ScanReport) -> int:
    """The gauge that the page opens with: the Assistant Axis if it is there, else the first."""
    return next((k for k, gauge in enumerate(report.gauges) if gauge.name == "assistant"), 0)


def score(line: ConversationLine, gauge: int) -> float | None:
    """A conversation's score on one gauge; None where it was not measured."""
    value = line.scores[gauge] if gauge < len(line.scores) else None
    return value if known(value) else None


def _gauge_view(report: ScanReport, k: int) -> View:
    gauge = report.gauges[k]
    scores = tuple(score(line, k) for line in report.conversations)
    measured = sum(value is not None for value in scores) + report.left_out
    found = Share(min(gauge.drifted, measured), measured)
    asked = report.together.asked if report.together and len(report.gauges) == 1 else None
    return View(str(k), gauge.name, gauge, scores, found, *_quiet(gauge.quiet_conversations), asked)


def _quiet(counts: tuple[int, int]) -> tuple[Share | None, tuple[float, float] | None, tuple[float, float] | None]:
    """What quiet traffic did: the counts, the share twice, its interval; nothing of nothing."""
    part = Share(*counts)
    return (None, None, None) if part.value is None else (part, (part.value, part.value), part.interval)


def _any_view(report: ScanReport, gauges: Sequence[View]) -> View:
    scores = tuple(
        max((value for value in values if value is not None), default=None)
        for values in zip(*(view.scores for view in gauges), strict=True)
    )
    found = _share(report.tallies.all, ANY) if report.tallies else drifted(scores)
    if report.together:
        return View(ANY, "any gauge", None, scores, found, *_quiet(report.together.quiet_conversations),
                    report.together.asked)  # fmt: skip
    chance, margin = _bounds([view.chance for view in gauges]), _bounds([view.margin for view in gauges])
    return View(ANY, "any gauge", None, scores, found, None, chance, margin)


def _bounds(rates: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    """Of any gauge: from where all alarms coincide to where none do; None where one is not known."""
    there = [rate for rate in rates if rate]
    if len(there) < len(rates):
        return None
    return max(low for low, _ in there), min(sum(high for _, high in there), 1.0)


def _share(tally: Tally, key: str) -> Share:
    """Of one view, by its key."""
    return Share(tally.drifted[-1 if key == ANY else int(key)], tally.total)


def drifted(scores: Iterable[float | None]) -> Share:
    """How many of the measured ones reached 1."""
    measured = [value for value in scores if value is not None]
    return Share(sum(value >= 1 for value in measured), len(measured))


def chance_range(n: int, rate: float) -> tuple[int, int]:
    """Central 95 % of a binomial count: what chance alone makes in 95 of 100 logs as large."""
    if not 0 < rate < 1:
        return round(n * rate), round(n * rate)
    spread = math.sqrt(n * rate * (1 - rate))
    at, total, low = max(int(n * rate - 9 * spread) - 1, 0), 0.0, -1
    constant = math.lgamma(n + 1)
    while at < n:
        log = constant - math.lgamma(at + 1) - math.lgamma(n - at + 1)
        total += math.exp(log + at * math.log(rate) + (n - at) * math.log1p(-rate))
        if low < 0 and total >= 0.025:
            low = at
        if total >= 0.975:
            return max(low, 0), at
        at += 1
    return n if low < 0 else low, n


def by_model(report: ScanReport, view: View) -> list[tuple[str | None, int, Share]]:
    """Models with their conversations and those that drifted, most conversations first; None is not named.

    Behind `MOST_MODELS` the rest are one row, whose name is how many they are.
    """
    found = _models(report, view)
    found.sort(key=lambda row: (row[0] is None, -row[1], row[0] or ""))
    rows = found if len(found) <= MOST_MODELS + 1 else found[:MOST_MODELS]
    if rest := found[len(rows) :]:
        others = Share(sum(part.count for *_, part in rest), sum(part.total for *_, part in rest))
        rows = [*rows, (f"{len(rest)} others", sum(n for _, n, _ in rest), others)]
    return rows


def _models(report: ScanReport, view: View) -> list[tuple[str | None, int, Share]]:
    """Every model, in no order."""
    if report.tallies:
        return [(name, tally.total, _share(tally, view.key)) for name, tally in report.tallies.models]
    scores: dict[str | None, list[float | None]] = {}
    for line, value in zip(report.conversations, view.scores, strict=True):
        scores.setdefault(line.model or None, []).append(value)
    return [(name, len(values), drifted(values)) for name, values in scores.items()]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Conversations by day, week, month or year, in UTC."""

    unit: str
    names: tuple[str, ...]
    """Of every period from the first drawn to the last, empty ones too."""
    places: tuple[int | None, ...]
    """One a listed conversation: its period, None where its time is not known or too early to be drawn."""
    known: int
    """Conversations whose time is known."""
    drawn: int
    """Those of them that are not too early to be drawn."""
    tallies: tuple[Tally, ...] | None
    """Of every period; None where the report has none."""


def moment(text: str | None) -> datetime | None:
    """A time in UTC; None for what is no ISO 8601 time."""
    try:
        found = datetime.fromisoformat((text or "").strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def day_of(text: str | None) -> int | None:
    """A time's day in UTC, counted from the beginning of the calendar; None for what is no ISO 8601 time."""
    time = moment(text)
    return None if time is None else time.toordinal()


def timeline(report: ScanReport) -> Timeline | None:
    """Periods of a length that suits the span of the log; None where fewer than two times are known."""
    listed = [day_of(line.time) for line in report.conversations]
    days = dict(report.tallies.days) if report.tallies else None
    amounts = Counter(day for day in listed if day) if days is None else {d: t.total for d, t in days.items()}
    amount = sum(amounts.values())
    if amount < 2:
        return None
    unit = _unit(max(amounts) - min(amounts) + 1, amount)
    last = _number(max(amounts), unit)
    first = max(_number(min(amounts), unit), last - MOST_PERIODS + 1)
    names = tuple(_name(n, unit) for n in range(first, last + 1))
    place = {day: n - first for day in amounts if (n := _number(day, unit)) >= first}
    drawn = sum(amounts[day] for day in place)
    tallies = None if days is None else _by_place(days, place, len(names), len(report.gauges) + 1)
    return Timeline(unit, names, tuple(place.get(day or 0) for day in listed), amount, drawn, tallies)


def _by_place(days: Mapping[int, Tally], place: Mapping[int, int], periods: int, views: int) -> tuple[Tally, ...]:
    """The days of each period added up; a view more than gauges, for any of them."""
    totals, drifted = [0] * periods, [[0] * views for _ in range(periods)]
    for day, k in place.items():
        totals[k] += days[day].total
        drifted[k] = [a + b for a, b in zip(drifted[k], days[day].drifted, strict=True)]
    return tuple(Tally(n, tuple(counts)) for n, counts in zip(totals, drifted, strict=True))


def _unit(days: int, n: int) -> str:
    """The shortest period of which 4 to 45 cover the log and which holds `_CROWD` conversations on average.

    Where none does, the longest of them; where the log is too short for four, days.
    """
    lengths = {"day": 1.0, "week": 7.0, "month": 30.4, "year": 365.25}
    fitting = [unit for unit, length in lengths.items() if days / length <= 45] or ["year"]
    wide = [unit for unit in fitting if days / lengths[unit] >= 4] or fitting[:1]
    return next((unit for unit in wide if n * lengths[unit] / days >= _CROWD), wide[-1])


def _number(day: int, unit: str) -> int:
    """A day's period, counted from the beginning of the calendar; weeks begin on Mondays."""
    if unit in ("day", "week"):
        return day if unit == "day" else (day - 1) // 7
    time = date.fromordinal(day)
    return time.year * 12 + time.month - 1 if unit == "month" else time.year


def _name(number: int, unit: str) -> str:
    """The first day of a day or week as `2025-03-09`, `2025-03`, or `2025`."""
    if unit in ("day", "week"):
        start = datetime(1, 1, 1) + timedelta(days=number - 1 if unit == "day" else number * 7)
        return start.date().isoformat()
    return f"{number // 12:04d}-{number % 12 + 1:02d}" if unit == "month" else f"{number:04d}"


def by_period(line: Timeline, view: View) -> list[Share]:
    """Drifted of measured in each period."""
    if line.tallies is not None:
        return [_share(tally, view.key) for tally in line.tallies]
    totals: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    for place, value in zip(line.places, view.scores, strict=True):
        if place is not None and value is not None:
            totals[place] += 1
            counts[place] += value >= 1
    return [Share(counts[k], totals[k]) for k in range(len(line.names))]
