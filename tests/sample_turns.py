"""Turns as the server records them, and histories to put them in."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from mien.records import Message
from mien.serve import database
from mien.serve.history import History
from mien.serve.records import AlarmKind, GaugeReading, Turn


def reading(gauge: str, alarm: AlarmKind | None = None, statistic: float | None = None) -> GaugeReading:
    """A reading whose numbers fit its alarm."""
    given = {None: 0.25, "turn": 0.5, "drift": 1.5}[alarm] if statistic is None else statistic
    return GaugeReading(gauge, -3.5, -2.0 * given, given, alarm, 1 if alarm == "drift" else None)


def turn(
    conversation: str = "c",
    index: int = 1,
    request: str = "",
    at: float = 1000.0,
    messages: Sequence[str] | None = None,
    **alarms: AlarmKind | None,
) -> Turn:
    """A turn with a reading for each gauge named; `messages` are the texts, spoken in turns."""
    said = messages and tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(messages))  # type: ignore[arg-type]
    return Turn(
        conversation=conversation,
        index=index,
        request=request or f"{conversation}-{index}",
        model="m",
        at=at,
        readings=tuple(reading(gauge, alarm) for gauge, alarm in alarms.items()),
        finish="stop",
        prompt_tokens=7,
        completion_tokens=5,
        messages=said or None,
    )


def stormy(index: int, alarms: int) -> Turn:
    """A turn that raises so many alarms."""
    many: dict[str, AlarmKind | None] = {f"g{i}": "turn" for i in range(alarms)}
    return turn("storm", index, **many)


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def empty(address: str) -> None:
    """Take mien's tables out of a database."""
    engine = sa.create_engine(address)
    database.metadata.drop_all(engine)
    engine.dispose()


def wipe(history: History) -> None:
    """Make a history as if it were new."""
    with history._writing() as connection:
        for table in reversed(database.metadata.sorted_tables):
            if table is not database.schema:
                connection.execute(table.delete())
        connection.execute(database.schema.update().values(last_alarm=0))
