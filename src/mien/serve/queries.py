"""Reading the history: alarms, conversations, turns. Functions of a connection; it does not know HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from mien.records import Message
from mien.serve import database as db
from mien.serve.records import Alarm, AlarmKind, GaugeReading, Turn

CHUNK = 500
"""Values in one IN list; databases have limits from a thousand up."""
T = TypeVar("T")


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """The values in pieces that one statement can take."""
    return (values[start : start + size] for start in range(0, len(values), size))


def alarm_of(row: sa.Row[Any]) -> Alarm:
    """An alarm from its row."""
    names = ("id", "conversation", "request", "model", "at", "gauge", "kind", "sigma", "statistic", "since")
    return Alarm(index=row.place, **{name: getattr(row, name) for name in names})


def alarms_after(connection: sa.Connection, after: int, limit: int) -> list[Alarm]:
    """Alarms with greater ids, ascending."""
    wanted = sa.select(db.alarms).where(db.alarms.c.id > after).order_by(db.alarms.c.id).limit(limit)
    return [alarm_of(row) for row in connection.execute(wanted)]


def alarms_before(connection: sa.Connection, before: int | None, limit: int) -> list[Alarm]:
    """The latest alarms, or those before an id, descending."""
    wanted = sa.select(db.alarms).order_by(db.alarms.c.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(db.alarms.c.id < before)
    return [alarm_of(row) for row in connection.execute(wanted)]


def last_alarm(connection: sa.Connection) -> int:
    """Id of the last alarm ever given, kept or not; 0 if there was none."""
    return int(connection.execute(sa.select(db.schema.c.last_alarm).where(db.schema.c.id == 1)).scalar_one())


def list_conversations(connection: sa.Connection, limit: int, before: float | None) -> list[dict[str, Any]]:
    """A page of conversations, the last spoken in first. Those of one moment are never parted by a page's end."""
    last_at = db.conversations.c.last_at
    page = sa.select(db.conversations).order_by(last_at.desc(), db.conversations.c.id)
    if before is not None:
        page = page.where(last_at < before)
    found = list(connection.execute(page.limit(limit)))
    if found and len(found) == limit:
        known = {row.id for row in found}
        same = page.where(last_at == found[-1].last_at)
        found += [row for row in connection.execute(same) if row.id not in known]
    ids = [row.id for row in found]
    counts, worst, told = _counts(connection, ids), _worst(connection, ids), _told(connection, ids)
    nothing = {"gauge": None, "sigma": None, "statistic": None, "alarm": None}
    return [
        {
            "id": row.id,
            "at": row.last_at,
            **counts[row.id],
            **worst.get(row.id, nothing),
            "alarms": told.get(row.id, 0),
        }
        for row in found
    ]


def _counts(connection: sa.Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Number of turns of each conversation, and the model of the one recorded last."""
    out: dict[str, dict[str, Any]] = {}
    for some in chunks(ids):
        last = (
            sa.select(
                db.turns.c.conversation, sa.func.count().label("turns"), sa.func.max(db.turns.c.id).label("latest")
            )
            .where(db.turns.c.conversation.in_(some))
            .group_by(db.turns.c.conversation)
            .subquery()
        )
        with_model = sa.select(last, db.turns.c.model).join(db.turns, db.turns.c.id == last.c.latest)
        for row in connection.execute(with_model):
            out[row.conversation] = {"turns": row.turns, "model": row.model}
    return out


def _worst(connection: sa.Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The worst reading of each conversation: drift before a turn's alarm before none, then by statistic, then by
    distance in sigma."""
    out: dict[str, dict[str, Any]] = {}
    grave = sa.case((db.readings.c.alarm == "drift", 2), (db.readings.c.alarm == "turn", 1), else_=0)
    far = sa.func.coalesce(sa.func.abs(db.readings.c.sigma), -1.0)
    order = (grave.desc(), db.readings.c.statistic.desc(), far.desc(), db.turns.c.id, db.readings.c.rank)
    of = db.turns.c.conversation
    kept = (db.readings.c.gauge, db.readings.c.sigma, db.readings.c.statistic, db.readings.c.alarm)
    for some in chunks(ids):
        ranked = (
            sa.select(of, *kept, sa.func.row_number().over(partition_by=of, order_by=order).label("nth"))
            .join(db.turns, db.turns.c.id == db.readings.c.turn)
            .where(of.in_(some))
            .subquery()
        )
        for row in connection.execute(sa.select(ranked).where(ranked.c.nth == 1)):
            out[row.conversation] = {name: getattr(row, name) for name in ("gauge", "sigma", "statistic", "alarm")}
    return out


def _told(connection: sa.Connection, ids: Sequence[str]) -> dict[str, int]:
    """Number of alarms of each conversation."""
    out: dict[str, int] = {}
    of = db.alarms.c.conversation
    for some in chunks(ids):
        counted = sa.select(of, sa.func.count().label("n")).where(of.in_(some)).group_by(of)
        out |= {row.conversation: row.n for row in connection.execute(counted)}
    return out


def turns_of(connection: sa.Connection, conversation: str) -> list[Turn]:
    """A conversation's turns by their place; those of one place in the order they were recorded."""
    here = db.turns.c.conversation == conversation
    rows = connection.execute(sa.select(db.turns).where(here).order_by(db.turns.c.place, db.turns.c.id)).all()
    read: dict[int, list[GaugeReading]] = {row.id: [] for row in rows}
    joined = sa.select(db.readings).join(db.turns, db.turns.c.id == db.readings.c.turn).where(here)
    for row in connection.execute(joined.order_by(db.readings.c.turn, db.readings.c.rank)):
        read[row.turn].append(GaugeReading(row.gauge, row.projection, row.sigma, row.statistic, row.alarm, row.since))
    texts: dict[str, sa.Row[Any]] = {}
    if any(row.text for row in rows):
        kept = sa.select(db.texts).where(db.texts.c.conversation == conversation)
        texts = {row.digest: row for row in connection.execute(kept)}
    return [_turn_of(row, tuple(read[row.id]), texts) for row in rows]


def _turn_of(row: sa.Row[Any], readings: tuple[GaugeReading, ...], texts: dict[str, sa.Row[Any]]) -> Turn:
    names = ("conversation", "request", "model", "at", "finish", "prompt_tokens", "completion_tokens", "held", "fired",
             "owner")  # fmt: skip
    return Turn(
        index=row.place,
        readings=readings,
        messages=_messages(row.text, texts) if row.text else None,
        source=row.source,
        **{name: getattr(row, name) for name in names},
    )


def _messages(last: str, texts: dict[str, sa.Row[Any]]) -> tuple[Message, ...]:
    """The way from the conversation's first message to this one."""
    way: list[Message] = []
    at: str | None = last
    while at is not None:
        row = texts[at]
        way.append(Message(row.role, bytes(row.content).decode("utf-8", "surrogatepass")))
        at = row.parent
    return tuple(reversed(way))


def is_off(connection: sa.Connection, conversation: str, gauges: Sequence[str] | None) -> bool:
    """Whether, for one of the gauges (None: any), the turn recorded last that has a reading of it says drift. A turn
    that was not read on a gauge says nothing about it, so leaving a gauge out of a request does not end a hold."""
    if gauges is not None and not gauges:
        return False
    nth = sa.func.row_number().over(
        partition_by=db.readings.c.gauge, order_by=(db.readings.c.turn.desc(), db.readings.c.rank.desc())
    )
    ranked = (
        sa.select(db.readings.c.alarm, nth.label("nth"))
        .join(db.turns, db.turns.c.id == db.readings.c.turn)
        .where(db.turns.c.conversation == conversation)
    )
    if gauges is not None:
        ranked = ranked.where(db.readings.c.gauge.in_(gauges))
    latest = ranked.subquery()
    off = sa.select(latest.c.nth).where(latest.c.nth == 1, latest.c.alarm == "drift").limit(1)
    return connection.execute(off).first() is not None


def alarm_kinds(
    connection: sa.Connection, conversation: str, gauges: Sequence[str] | None, owner: str | None
) -> frozenset[AlarmKind]:
    """Kinds that readings of a conversation ever had, on some gauges (None: any). With an owner, of its answers that
    were written here for that key: whoever knows an id may post readings under it, or use it for talks of its own."""
    if gauges is not None and not gauges:
        return frozenset()
    kinds = (
        sa.select(db.readings.c.alarm)
        .distinct()
        .join(db.turns, db.turns.c.id == db.readings.c.turn)
        .where(db.turns.c.conversation == conversation, db.readings.c.alarm.is_not(None))
    )
    if gauges is not None:
        kinds = kinds.where(db.readings.c.gauge.in_(gauges))
    if owner is not None:
        kinds = kinds.where(db.turns.c.source == "served", db.turns.c.owner == owner)
    return frozenset(connection.execute(kinds).scalars())
