"""`History`: what was read, said and owed, in any database of SQLAlchemy's; safe to use from many threads.

Calls block; an alarm that `record` has returned is on the disk. It does not know HTTP, nor how a reading is made.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mien.errors import InputError, MienError, MissingExtraError, RunError
from mien.home import home
from mien.serve.records import Alarm, AlarmKind, Turn

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mien.serve.outbox import Delivery, State

INSTALL = "The server keeps its history with SQLAlchemy: pip install 'mien[serve]'."
log = logging.getLogger("mien.serve")

DAY = 86400.0
SWEEP_EVERY = 3600.0
"""Seconds between two looks for what is older than the retention."""
BATCH = 200
"""Turns deleted in one transaction, so that nobody waits long behind it."""


def default_url() -> str:
    """`$MIEN_HOME/serve.db`; its folder is made. Raises RunError if it cannot be."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}; name a database, or set MIEN_HOME.") from None
    return f"sqlite:///{folder / 'serve.db'}"


class History:
    """Turns, readings, alarms and what webhooks are owed.

    Args:
        url: a URL of SQLAlchemy's. Drivers of databases other than SQLite are yours to install.
        keep_text: whether messages are stored; if not, a turn's messages are dropped.
        retention_days: what is older is deleted, at once and every hour; None keeps everything.
        clock: seconds since 1970.

    Raises:
        InputError: a setting cannot be used.
        FormatError: the database is not one, or a history of another version.
        RunError: it cannot be opened.
        MissingExtraError: SQLAlchemy is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        keep_text: bool = False,
        retention_days: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if retention_days is not None and not 0 < retention_days <= 36500:
            raise InputError("The history's retention must be more than 0 days and at most 36500.")
        try:
            import sqlalchemy
        except ImportError:
            raise MissingExtraError(INSTALL) from None
        from mien.serve import database

        self._error = sqlalchemy.exc.SQLAlchemyError
        self._reason, self._hold = database.reason, database.hold
        self._engine, self.name, self._where = database.open_database(url)
        self._writer = self._engine.execution_options(mien_write=True)
        self._alone = threading.RLock()
        self._shared = database.in_memory(self._engine.url)
        self._keep_text = keep_text
        self._retention = None if retention_days is None else retention_days * DAY
        self._clock = clock
        self._targets: tuple[str, ...] = ()
        self._closed = threading.Event()
        self._sweeper: threading.Thread | None = None
        if self._retention is not None:
            left = self._forget_some() == BATCH
            self._sweeper = threading.Thread(target=self._sweep, args=(left,), name="mien-retention", daemon=True)
            self._sweeper.start()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"History({self._where!r})"

    def record(self, turn: Turn) -> list[Alarm]:
        """Write a turn, and with it an alarm for each reading that is one: of a single turn each time, of drift once
        where it begins. The same request and index again changes nothing and returns the same alarms.

        Raises:
            InputError: the turn holds what cannot be stored (see `recording.usable_name`).
            RunError: the database refuses.
        """
        (kept,) = self.record_all([turn])
        if isinstance(kept, MienError):
            raise kept
        return kept

    def record_all(self, turns: Sequence[Turn]) -> list[list[Alarm] | MienError]:
        """`record` for each, in their order, in one transaction; an error stands for a turn that was not kept. Where
        the database refuses them together, each is tried by itself.
        """
        from mien.serve.recording import write_turn

        targets, now = self._targets, self._clock()
        kept: list[list[Alarm] | MienError] = []
        try:
            with self._writing() as connection:
                for turn in turns:
                    try:
                        kept.append(write_turn(connection, turn, targets=targets, keep_text=self._keep_text, now=now))
                    except InputError as error:  # said before anything of it is written
                        kept.append(error)
            return kept
        except RunError as error:
            return [error] if len(turns) == 1 else [each for turn in turns for each in self.record_all([turn])]

    def require_writable(self) -> None:
        """A write that changes nothing. Raises: RunError: the database refuses."""
        with self._writing():
            pass

    def alarms(self, after: int = 0, limit: int = 100) -> list[Alarm]:
        """Alarms whose ids are greater than `after`, ascending."""
        from mien.serve.queries import alarms_after

        with self._reading() as connection:
            return alarms_after(connection, after, limit)

    def recent_alarms(self, limit: int = 100, before: int | None = None) -> list[Alarm]:
        """The latest alarms, or the latest before an id, descending."""
        from mien.serve.queries import alarms_before

        with self._reading() as connection:
            return alarms_before(connection, before, limit)

    def last_alarm(self) -> int:
        """Id of the last alarm ever recorded, even if it was deleted since; 0 if there was none."""
        from mien.serve.queries import last_alarm

        with self._reading() as connection:
            return last_alarm(connection)

    def conversations(self, limit: int = 50, before: float | None = None) -> list[dict[str, Any]]:
        """Conversations, the one last spoken in first; the next page is `before` the last one's `at`.

        Each has `id`, `at` (when last spoken in), `turns`, `model` (of the turn recorded last), `alarms` (how many),
        and its worst reading: `gauge`, `sigma`, `statistic`, `alarm`, None where nothing was read. Conversations of
        one moment stay on one page, which may make it longer than `limit`.
        """
        from mien.serve.queries import list_conversations

        with self._reading() as connection:
            return list_conversations(connection, limit, before)

    def conversation(self, id: str) -> list[Turn]:
        """Its turns by index, those of one index as they were recorded; none if it is not known."""
        from mien.serve.queries import turns_of

        with self._reading() as connection:
            return turns_of(connection, id)

    def is_off(self, conversation: str, gauges: Sequence[str] | None = None) -> bool:
        """Whether the latest reading of one of the gauges (None: of any) says drift."""
        from mien.serve.queries import is_off

        with self._reading() as connection:
            return is_off(connection, conversation, gauges)

    def alarm_kinds(
        self, conversation: str, gauges: Sequence[str] | None = None, owner: str | None = None
    ) -> frozenset[AlarmKind]:
        """Kinds of alarm that readings of a conversation ever had, on some gauges (None: any). With an owner, of the
        answers that were written here for that key."""
        from mien.serve.queries import alarm_kinds

        with self._reading() as connection:
            return alarm_kinds(connection, conversation, gauges, owner)

    def forget(self) -> int:
        """Delete what is older than the retention, in batches; how many turns it were. Done by itself every hour."""
        total, gone = 0, BATCH
        while gone == BATCH and not self._closed.is_set():
            gone = self._forget_some()
            total += gone
        return total

    def close(self) -> None:
        """Close the database. Calls under way come to their end; later ones are refused."""
        self._closed.set()
        if self._sweeper is not None and self._sweeper is not threading.current_thread():
            self._sweeper.join()
        with self._alone:
            self._engine.dispose()

    def owe_to(self, targets: Sequence[str]) -> None:
        """From now on every alarm is owed to these targets, which are names of at most 64 characters."""
        self._targets = tuple(dict.fromkeys(targets))

    def take(self, target: str, now: float, lease: float) -> Delivery | None:
        """Take the delivery that has been due longest, for `lease` seconds; None if none is due."""
        from mien.serve.outbox import take

        with self._writing() as connection:
            return take(connection, target, now, lease)

    def settle(self, delivery: Delivery, state: State, due: float, note: str | None = None) -> None:
        """Write down what came of a try: it is delivered, dead, or pending again until `due`."""
        from mien.serve.outbox import settle

        with self._writing() as connection:
            settle(connection, delivery, state, due, note)

    def next_due(self, target: str) -> float | None:
        """When the next delivery to a target is due; None if nothing is owed."""
        from mien.serve.outbox import next_due

        with self._reading() as connection:
            return next_due(connection, target)

    def deliveries(self) -> dict[str, int]:
        """How many deliveries are `pending`, `delivered` and `dead`; states without any are left out."""
        from mien.serve.outbox import count

        with self._reading() as connection:
            return count(connection)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        # One writer of this process at a time: waiting here is fair, waiting for SQLite's lock is not.
        with self._alone, self._translated("written"), self._writer.begin() as connection:
            self._hold(connection)
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._translated("read"):
            if not self._shared:
                with self._engine.begin() as connection:
                    yield connection
                return
            with self._alone, self._engine.begin() as connection:
                yield connection

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        if self._closed.is_set():
            raise RunError(f"The history in {self._where} was closed.")
        try:
            yield
        except self._error as error:
            said = self._reason(error)
            raise RunError(f"The history in {self._where} could not be {doing}: {said}.") from None

    def _forget_some(self) -> int:
        from mien.serve.recording import forget

        if self._retention is None:
            return 0
        now = self._clock()
        with self._writing() as connection:
            return forget(connection, now - self._retention, now, BATCH)

    def _sweep(self, at_once: bool) -> None:
        while not self._closed.wait(0 if at_once else SWEEP_EVERY):
            at_once = False
            try:
                self.forget()
            except RunError as error:
                if not self._closed.is_set():
                    log.warning("%s", error)
