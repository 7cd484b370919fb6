"""A scan's conversations as JSON inside the page, for its script: lines of all, text of the worst.

Transcripts are hostile: `page.embed` cleans and escapes what is gathered here. Numbers that JSON lacks become None.
Knows no sentence and no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from mien.report.page import clean
from mien.report.scan_counts import Timeline, moment, score
from mien.report.scan_data import ConversationDetail, ScanReport, TurnDetail
from mien.report.words import known, shorten

MOST_TURN_CHARACTERS = 20_000
"""Of one message; the rest is in the log."""
MOST_CHARACTERS = 12_000_000
"""Of all texts together, so that a page can be opened; conversations that do not fit keep only their line."""
_OVERHEAD = 200
"""What a message costs beside its text, about."""


def finite(value: float | None, digits: int) -> float | None:
    """Rounded, or None for what is no number."""
    return round(value, digits) if known(value) else None


def _score(value: float | None) -> float | None:
    """Rounding never carries a score over the 1 that says drifted."""
    return None if value is None else min(round(value, 3), 0.999) if value < 1 else round(value, 3)


def _seconds(time: str | None) -> int | None:
    """Since 1970, in UTC."""
    found = moment(time)
    return None if found is None else int(found.timestamp())


def _coded(values: Iterable[str | None]) -> tuple[list[str], list[int]]:
    """The distinct strings, and for each value its place among them; -1 for None."""
    places: dict[str, int] = {}
    codes = [-1 if value is None else places.setdefault(value, len(places)) for value in values]
    return list(places), codes


def lines(report: ScanReport, timeline: Timeline | None) -> dict[str, Any]:
    """All conversations by column: a tenth of the size of one object a conversation."""
    conversations = report.conversations
    models, model = _coded(line.model or None for line in conversations)
    sources, source = _coded(line.source for line in conversations)
    gauges = range(len(report.gauges))
    return {
        "gauges": [
            {
                "name": shorten(gauge.name, 60),
                "side": gauge.side,
                "at": finite(math.copysign(gauge.turn_threshold, -1 if gauge.side == "low" else 1), 3),
            }
            for gauge in report.gauges
        ],
        "models": models,
        "sources": sources,
        "periods": list(timeline.names) if timeline else [],
        "unit": timeline.unit if timeline else "",
        "id": [line.id for line in conversations],
        "model": model,
        "source": source,
        "line": [line.line for line in conversations],
        "turns": [line.n_turns for line in conversations],
        "time": [_seconds(line.time) for line in conversations],
        "period": [-1 if place is None else place for place in timeline.places] if timeline else [],
        "scores": [[_score(score(line, k)) for line in conversations] for k in gauges],
        "left": [[line.left_at[k] if k < len(line.left_at) else None for line in conversations] for k in gauges],
    }


def tint_step(details: Sequence[ConversationDetail]) -> float:
    """Sigma of one step of the tints: three steps hold all but the outermost 3 % of the tokens."""
    sizes = sorted(
        abs(tint) for detail in details for turn in detail.turns for tint in turn.tints if math.isfinite(tint)
    )
    if not sizes:
        return 1.0
    wanted = min(max(sizes[int(0.97 * (len(sizes) - 1))] / 3, 0.5), 1e6)
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1, 1.5, 2, 3, 5, 10) if factor * power >= wanted * 0.999)


def texts(report: ScanReport, step: float) -> list[dict[str, Any]]:
    """Conversations with their text, the given order kept, as many as `MOST_CHARACTERS` allows."""
    room, kept = MOST_CHARACTERS, []
    for detail in report.details:
        cost = sum(min(len(turn.text), MOST_TURN_CHARACTERS) + _OVERHEAD for turn in detail.turns)
        known_gauge = 0 <= detail.gauge < len(report.gauges)
        if not detail.turns or cost > room or not known_gauge or not 0 <= detail.index < len(report.conversations):
            continue
        room -= cost
        turns = [_turn(turn, len(report.gauges), step) for turn in detail.turns]
        kept.append({"index": detail.index, "gauge": detail.gauge, "turns": turns})
    return kept


def _turn(turn: TurnDetail, n_gauges: int, step: float) -> dict[str, Any]:
    text = clean(turn.text[:MOST_TURN_CHARACTERS])
    return {
        "at": turn.message_index,
        "role": turn.role,
        "text": text,
        "more": max(len(turn.text) - MOST_TURN_CHARACTERS, 0),
        "sigma": [finite(value, 2) for value in _padded(turn.sigma, n_gauges)],
        "cusum": [finite(value, 3) for value in _padded(turn.cusum, n_gauges)],
        "alarm": [bool(value) for value in _padded(turn.alarm, n_gauges)],
        "runs": tinted_runs(text, turn.tokens, turn.tints, step),
    }


def _padded(values: Sequence[Any], n: int) -> list[Any]:
    return [*values[:n], *[None] * (n - len(values))]


def tinted_runs(text: str, tokens: Sequence[str], tints: Sequence[float], step: float) -> list[int]:
    """Lengths and levels by turns: `[12, 0, 5, 2]` is 12 characters untinted, then 5 at level 2.

    Levels are -3 to 3, in steps of `step` sigma; lengths are in UTF-16 units, as scripts count. The tail without
    tint is left out. `text` is clean; tokens are looked for in it from left to right, and one that is not there (a
    part of a character, a mark of the tokenizer) is passed over.
    """
    spans: list[tuple[int, int]] = []
    at, lost = 0, 0
    for token, tint in zip(tokens, tints, strict=False):
        piece = clean(token)
        space = len(text[at : at + 64]) - len(text[at : at + 64].lstrip())
        place = text.find(piece, at, at + space + 8 + 4 * lost + len(piece)) if piece else -1
        if place < 0:
            lost += len(piece)
            continue
        if place > at:
            spans.append((place - at, 0))
        spans.append((len(piece), _level(tint, step)))
        at, lost = place + len(piece), 0
    runs: list[int] = []
    start = 0
    for level, group in groupby(spans, key=lambda span: span[1]):
        end = start + sum(length for length, _ in group)
        runs += [_units(text[start:end]), level]
        start = end
    return runs[:-2] if runs and runs[-1] == 0 else runs


def _level(tint: float, step: float) -> int:
    return max(min(int(tint / step), 3), -3) if math.isfinite(tint) else 0


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)
