"""What is owed to webhooks: taking a delivery, and writing down what came of it. Functions of a connection that,
for writing, holds the writers' lock.

Several processes may work off one database: whoever takes a delivery has it until its lease ends, so one that dies
with it gives it back. It does not know HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from mien.serve import database as db
from mien.serve.queries import alarm_of
from mien.serve.records import Alarm

State = Literal["pending", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An alarm to be told to one target, taken for one try."""

    id: int
    alarm: Alarm
    tries: int
    """This one included."""
    made: float
    """When the alarm was recorded, seconds since 1970."""


def take(connection: sa.Connection, target: str, now: float, lease: float) -> Delivery | None:
    """The delivery that has been due longest, taken until `now + lease`; None if none is due."""
    table = db.deliveries
    due = (
        sa.select(table.c.id, table.c.tries, table.c.made, table.c.alarm)
        .where(table.c.state == "pending", table.c.target == target, table.c.due <= now)
        .order_by(table.c.due, table.c.id)
        .limit(1)
    )
    row = connection.execute(due).first()
    if row is None:
        return None
    connection.execute(table.update().where(table.c.id == row.id).values(tries=row.tries + 1, due=now + lease))
    alarm = connection.execute(sa.select(db.alarms).where(db.alarms.c.id == row.alarm)).one()
    return Delivery(row.id, alarm_of(alarm), row.tries + 1, row.made)


def settle(connection: sa.Connection, delivery: Delivery, state: State, due: float, note: str | None) -> None:
    """Write down what came of a try. A success counts whoever had it; a failure only while it is still one's own."""
    table = db.deliveries
    here = table.c.id == delivery.id
    if state != "delivered":
        here &= (table.c.state == "pending") & (table.c.tries == delivery.tries)
    said = None if note is None else note[: db.MAX_NAME]
    connection.execute(table.update().where(here).values(state=state, due=due, note=said))


def next_due(connection: sa.Connection, target: str) -> float | None:
    """When the next delivery to a target is due, seconds since 1970; None if nothing is owed."""
    table = db.deliveries
    soonest = sa.select(sa.func.min(table.c.due)).where(table.c.state == "pending", table.c.target == target)
    found = connection.execute(soonest).scalar()
    return None if found is None else float(found)


def count(connection: sa.Connection) -> dict[str, int]:
    """How many deliveries are in each state."""
    table = db.deliveries
    rows = connection.execute(sa.select(table.c.state, sa.func.count().label("n")).group_by(table.c.state))
    return {row.state: row.n for row in rows}
