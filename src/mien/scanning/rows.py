"""What is kept of a measured conversation: rows for analysts, a line for the page, and for the worst its whole text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.chat import Chat
from mien.scanning.measure import Measured, Panel, Values, tints

DRIFTED_CHARACTERS = 400_000
"""Most text that is kept of one chunk's drifted conversations, worst first; a chunk of ordinary ones has half of it."""
DETAILS_A_CHUNK = 16
"""Conversations of the rest of a chunk whose text is kept, worst first."""
_TINTED_TOKENS = 1500
"""Most tokens of one conversation that are tinted, around where it left or from its beginning."""


def add_rows(rows: dict[str, list[Any]], which: Panel, measured: Measured) -> None:
    """One row an answer and gauge."""
    c = measured.conversation
    for t, answer in enumerate(measured.answers):
        for g, gauge in enumerate(which.gauges):
            sigma = _number(measured.sigma[t, g])
            chance = None if sigma is None else gauge.chance(sigma)
            values = (
                c.id, c.indices[answer], c.messages[answer].role, gauge.name,
                _number(measured.projection[t, g]), sigma, chance, alarmed(which, measured, t, g),
                _number(measured.statistic[t, g]), measured.left[g] is not None, c.model, c.time, c.source, c.line,
            )  # fmt: skip
            for column, value in zip(rows.values(), values, strict=True):
                column.append(value)


def alarmed(which: Panel, measured: Values, t: int, g: int) -> bool:
    """Whether one answer by itself is beyond the gauge's limit."""
    baseline = which.gauges[g].baseline
    value = measured.sigma[t, g]
    return bool(baseline is not None and value == value and which.gauges[g].sign * value > baseline.limits.turn)


def line_of(which: Panel, measured: Measured) -> dict[str, Any]:
    """The conversation in numbers."""
    c = measured.conversation
    return {
        "id": c.id, "model": c.model, "time": c.time, "source": c.source, "line": c.line,
        "n_turns": len(measured.answers),
        "alarms": [sum(alarmed(which, measured, t, g) for t in range(len(measured.answers)))
                   for g in range(len(which.gauges))],
        "scores": [round(float(s), 4) for s in measured.scores],
        "left_at": [None if at is None else c.indices[measured.answers[at]] for at in measured.left],
    }  # fmt: skip


def details_of(chat: Chat, which: Panel, measured: Sequence[Measured]) -> dict[int, dict[str, Any]]:
    """By place in `measured`: the text of those that drifted and of the worst of the rest, as the page shows it."""
    order = sorted(range(len(measured)), key=lambda i: (-float(measured[i].scores.max(initial=0)), i))
    order = [i for i in order if len(measured[i].answers)]
    drifted, room = set(), DRIFTED_CHARACTERS
    for i in order:
        size = sum(len(m.content) for m in measured[i].conversation.messages)
        if size <= room and any(at is not None for at in measured[i].left):
            drifted.add(i)
            room -= size
    rest = [i for i in order if i not in drifted][:DETAILS_A_CHUNK]
    return {i: _detail(chat, which, measured[i]) for i in [*drifted, *rest]}


def _detail(chat: Chat, which: Panel, measured: Measured) -> dict[str, Any]:
    c, worst = measured.conversation, int(np.argmax(measured.scores))
    place = {answer: t for t, answer in enumerate(measured.answers)}
    tinted = _tinted_turns(measured, worst)
    turns = []
    for i, message in enumerate(c.messages):
        turn: dict[str, Any] = {"message_index": c.indices[i], "role": message.role, "text": message.content}
        t = place.get(i)
        if t is not None:
            turn["sigma"] = [_number(v) for v in measured.sigma[t]]
            turn["alarm"] = [alarmed(which, measured, t, g) for g in range(len(which.gauges))]
            turn["cusum"] = [_number(v) for v in measured.statistic[t]]
        if t in tinted:
            start, end = measured.reading.spanned.spans[i]
            turn["tokens"] = [chat.raw_text([token]) for token in measured.reading.spanned.ids[start:end]]
            turn["tints"] = [round(float(v), 1) for v in tints(which, measured, worst, t)]
        turns.append(turn)
    return {"gauge": worst, "turns": turns}


def _tinted_turns(measured: Measured, worst: int) -> set[int]:
    """Answers whose tokens are tinted: from two before the one where it left, as many as there is room for."""
    left = measured.left[worst]
    room = _TINTED_TOKENS
    chosen: set[int] = set()
    for t in range(max(0, (left or 0) - 2), len(measured.answers)):
        start, end = measured.reading.spanned.spans[measured.answers[t]]
        room -= end - start
        if room < 0 and chosen:
            break
        chosen.add(t)
    return chosen


def _number(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None
