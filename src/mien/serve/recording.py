"""Writing to the history: a turn with its readings, the alarms that follow from it, what is owed to webhooks, and
forgetting. Functions of a connection that holds the writers' lock; it does not know how a database is opened, nor HTTP.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from mien.errors import InputError
from mien.records import Message
from mien.serve import database as db
from mien.serve.queries import alarm_of, chunks
from mien.serve.records import Alarm, GaugeReading, Turn

DAY = 86400.0
KEPT_FOR_DELIVERY = 1.5 * DAY
"""Seconds. An alarm still owed to a webhook outlives a shorter retention for this long, and no longer."""


# Made once: to make them anew took a third of the time that it takes to write a turn.
_REQUEST: sa.BindParameter[str] = sa.bindparam("of_request")
_PLACE: sa.BindParameter[int] = sa.bindparam("of_place")
_CONVERSATION: sa.BindParameter[str] = sa.bindparam("of_conversation")
_OWNER: sa.BindParameter[str] = sa.bindparam("of_owner")
_GAUGE: sa.BindParameter[str] = sa.bindparam("of_gauge")
_KNOWN = sa.select(db.turns.c.id).where(db.turns.c.request == _REQUEST, db.turns.c.place == _PLACE)
_SPOKEN = sa.select(db.conversations.c.last_at).where(db.conversations.c.id == _CONVERSATION)
_SPEAK = db.conversations.insert()
_SPEAK_ON = (
    db.conversations.update().where(db.conversations.c.id == _CONVERSATION).values(last_at=sa.bindparam("of_time"))
)
_TURN, _READINGS, _TEXTS = db.turns.insert(), db.readings.insert(), db.texts.insert()
_ALARMS, _DELIVERIES = db.alarms.insert(), db.deliveries.insert()
_SAME = (db.turns.c.conversation == _CONVERSATION) & (db.turns.c.owner == _OWNER)
_BEFORE = (
    sa.select(db.readings.c.alarm)
    .join(db.turns, db.turns.c.id == db.readings.c.turn)
    .where(_SAME, db.turns.c.place < _PLACE, db.readings.c.gauge == _GAUGE)
    .order_by(db.turns.c.place.desc(), db.turns.c.id.desc(), db.readings.c.rank.desc())
    .limit(1)
)
_TOLD = (
    sa.select(db.alarms.c.id)
    .join(db.turns, db.turns.c.id == db.alarms.c.turn)
    .where(_SAME, db.alarms.c.conversation == _CONVERSATION, db.alarms.c.place == _PLACE)
    .where(db.alarms.c.gauge == _GAUGE, db.alarms.c.kind == "drift")
    .limit(1)
)


def usable_name(text: str, most: int = db.MAX_NAME) -> bool:
    """Whether the history can keep it as an id or a name: not empty, not too long, printable, no blanks around it."""
    return 0 < len(text) <= most and text.isprintable() and text.strip() == text


def write_turn(
    connection: sa.Connection, turn: Turn, *, targets: Sequence[str], keep_text: bool, now: float
) -> list[Alarm]:
    """Write a turn and what follows from it; if it is there already, only tell its alarms.

    Raises InputError if the turn holds what cannot be stored.
    """
    _check(turn)
    known = connection.execute(_KNOWN, {"of_request": turn.request, "of_place": turn.index}).scalar()
    if known is not None:
        rows = connection.execute(sa.select(db.alarms).where(db.alarms.c.turn == known).order_by(db.alarms.c.id))
        return [alarm_of(row) for row in rows]
    text = _write_texts(connection, turn.conversation, turn.messages) if keep_text and turn.messages else None
    turn_id = _insert_turn(connection, turn, text)
    off = [reading for reading in turn.readings if _is_news(connection, turn, reading)]
    alarms = _number(connection, turn, off)
    _insert(connection, _ALARMS, ({"turn": turn_id, **_alarm_row(alarm)} for alarm in alarms))
    owed = ((alarm.id, target) for alarm in alarms for target in targets)
    _insert(connection, _DELIVERIES, ({"alarm": a, "target": t, **_fresh(now)} for a, t in owed))
    return alarms


def forget(connection: sa.Connection, before: float, now: float, batch: int) -> int:
    """Delete up to `batch` turns that were over before that moment, with all that hangs on them; how many it were."""
    owed = (
        sa.select(db.deliveries.c.id)
        .join(db.alarms, db.alarms.c.id == db.deliveries.c.alarm)
        .where(db.alarms.c.turn == db.turns.c.id)
        .where(db.deliveries.c.state == "pending", db.deliveries.c.made > now - KEPT_FOR_DELIVERY)
    )
    old = (
        sa.select(db.turns.c.id, db.turns.c.conversation)
        .where(db.turns.c.at < before, ~owed.exists())
        .order_by(db.turns.c.at)
        .limit(batch)
    )
    found = connection.execute(old).all()
    for ids in chunks([row.id for row in found]):
        told = sa.select(db.alarms.c.id).where(db.alarms.c.turn.in_(ids))
        connection.execute(db.deliveries.delete().where(db.deliveries.c.alarm.in_(told)))
        connection.execute(db.alarms.delete().where(db.alarms.c.turn.in_(ids)))
        connection.execute(db.readings.delete().where(db.readings.c.turn.in_(ids)))
        connection.execute(db.turns.delete().where(db.turns.c.id.in_(ids)))
    for conversation in {row.conversation for row in found}:
        _forget_texts(connection, conversation)
    return len(found)


def _check(turn: Turn) -> None:
    names = {"conversation's id": turn.conversation, "request's id": turn.request, "finish reason": turn.finish}
    names |= {f"name of gauge {i + 1}": reading.gauge for i, reading in enumerate(turn.readings)}
    for what, name in names.items():
        if not usable_name(name):
            raise InputError(
                f"A turn cannot be recorded: its {what} must be 1 to {db.MAX_NAME} printable characters without "
                "blanks around them."
            )
    if not usable_name(turn.model, db.MAX_MODEL):
        raise InputError(f"A turn cannot be recorded: its model's name must be 1 to {db.MAX_MODEL} characters.")
    if not all(math.isfinite(x) for x in (turn.at, *(reading.statistic for reading in turn.readings))):
        raise InputError("A turn cannot be recorded: its time and its statistics must be finite numbers.")


def _insert(connection: sa.Connection, statement: sa.Insert, rows: Iterable[dict[str, object]]) -> None:
    listed = list(rows)
    if listed:
        connection.execute(statement, listed)


def _number_or_none(value: float | None) -> float | None:
    """A plain float. What is not finite says nothing, and some databases refuse it."""
    return None if value is None or not math.isfinite(value) else float(value)


def _insert_turn(connection: sa.Connection, turn: Turn, text: str | None) -> int:
    last_at = connection.execute(_SPOKEN, {"of_conversation": turn.conversation}).scalar()
    if last_at is None:
        connection.execute(_SPEAK, {"id": turn.conversation, "last_at": float(turn.at)})
    elif last_at < turn.at:
        connection.execute(_SPEAK_ON, {"of_conversation": turn.conversation, "of_time": float(turn.at)})
    row = {
        "conversation": turn.conversation,
        "place": turn.index,
        "request": turn.request,
        "model": turn.model,
        "at": float(turn.at),
        "finish": turn.finish,
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
        "held": bool(turn.held),
        "fired": _number_or_none(turn.fired),
        "source": turn.source,
        "owner": turn.owner,
        "text": text,
    }
    key = connection.execute(_TURN, row).inserted_primary_key
    assert key is not None
    turn_id = int(key[0])
    rows = ({"turn": turn_id, "rank": rank, **_reading_row(r)} for rank, r in enumerate(turn.readings))
    _insert(connection, _READINGS, rows)
    return turn_id


def _reading_row(reading: GaugeReading) -> dict[str, object]:
    return {
        "gauge": reading.gauge,
        "projection": _number_or_none(reading.projection),
        "sigma": _number_or_none(reading.sigma),
        "statistic": float(reading.statistic),
        "alarm": reading.alarm,
        "since": reading.since,
    }


def _is_news(connection: sa.Connection, turn: Turn, reading: GaugeReading) -> bool:
    """Whether the reading is an alarm. Drift is one only where it begins, once for each place it begins at: a
    conversation may be read again from its start, or go on from an earlier message. What came with another key says
    nothing of it, or a client that knows an id could keep alarms from being told."""
    if reading.alarm != "drift":
        return reading.alarm is not None
    here = {
        "of_conversation": turn.conversation, "of_owner": turn.owner, "of_place": turn.index, "of_gauge": reading.gauge,
    }  # fmt: skip
    if connection.execute(_BEFORE, here).scalar() == "drift":
        return False
    return connection.execute(_TOLD, here).first() is None


def _number(connection: sa.Connection, turn: Turn, off: Sequence[GaugeReading]) -> list[Alarm]:
    """Alarms with the next free ids."""
    if not off:
        return []
    count = db.schema.update().where(db.schema.c.id == 1).values(last_alarm=db.schema.c.last_alarm + len(off))
    connection.execute(count)
    last = int(connection.execute(sa.select(db.schema.c.last_alarm).where(db.schema.c.id == 1)).scalar_one())
    first = last - len(off) + 1
    return [
        Alarm(
            id=first + i,
            conversation=turn.conversation,
            index=turn.index,
            request=turn.request,
            model=turn.model,
            at=float(turn.at),
            gauge=reading.gauge,
            kind=reading.alarm,
            sigma=_number_or_none(reading.sigma),
            statistic=float(reading.statistic),
            since=reading.since,
        )
        for i, reading in enumerate(off)
        if reading.alarm is not None
    ]


def _alarm_row(alarm: Alarm) -> dict[str, object]:
    names = ("id", "conversation", "request", "model", "at", "gauge", "kind", "sigma", "statistic", "since")
    return {"place": alarm.index, **{name: getattr(alarm, name) for name in names}}


def _fresh(now: float) -> dict[str, object]:
    return {"state": "pending", "tries": 0, "made": now, "due": now}


def _write_texts(connection: sa.Connection, conversation: str, messages: Sequence[Message]) -> str:
    """Keep what of the messages is not there yet; the key of the last one. A message's key stands for all before it,
    so a conversation that grows is stored once and one that forks shares its beginning."""
    rows: dict[str, dict[str, object]] = {}
    parent: str | None = None
    for message in messages:
        content = message.content.encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(f"{parent}\0{message.role}\0".encode() + content).hexdigest()
        rows[digest] = {
            "conversation": conversation,
            "digest": digest,
            "parent": parent,
            "role": message.role,
            "content": content,
        }
        parent = digest
    assert parent is not None
    for digests in chunks(list(rows)):
        here = (db.texts.c.conversation == conversation) & db.texts.c.digest.in_(digests)
        for digest in connection.execute(sa.select(db.texts.c.digest).where(here)).scalars():
            del rows[digest]
    _insert(connection, _TEXTS, rows.values())
    return parent


def _forget_texts(connection: sa.Connection, conversation: str) -> None:
    """Delete what no turn left of the conversation leads to; with its last turn, the conversation."""
    here = db.turns.c.conversation == conversation
    last = connection.execute(sa.select(db.turns.c.text).where(here)).scalars().all()
    if not last:
        connection.execute(db.conversations.delete().where(db.conversations.c.id == conversation))
    tree = sa.select(db.texts.c.digest, db.texts.c.parent).where(db.texts.c.conversation == conversation)
    parents: dict[str, str | None] = {row.digest: row.parent for row in connection.execute(tree)}
    reached: set[str] = set()
    for text in last:
        while text is not None and text not in reached:
            reached.add(text)
            text = parents.get(text)
    for digests in chunks([digest for digest in parents if digest not in reached]):
        gone = (db.texts.c.conversation == conversation) & db.texts.c.digest.in_(digests)
        connection.execute(db.texts.delete().where(gone))
