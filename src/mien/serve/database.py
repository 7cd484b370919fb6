"""Tables of the history and how a database is opened. It does not know what a turn means, nor HTTP.

    mien_schema        one row: version, the history's name, and the last alarm's id; its lock is the writers' lock
    mien_conversations id, when it was last spoken in
    mien_turns         one answer
    mien_readings      a turn's gauges
    mien_texts         messages as a tree, kept only if asked for: a turn points to its last one
    mien_alarms        ids without gaps, ascending in the order of their commits
    mien_deliveries    what is owed to webhooks

Only the pragmas, set where a connection opens, are SQLite's own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.pool import StaticPool

from mien.errors import FormatError, InputError, MienError, RunError

VERSION = 2
BUSY = 30.0
"""Seconds that a writer waits for another one."""
MAX_NAME = 200
"""Characters of an id, a gauge's name, and what else is looked up by."""
MAX_MODEL = 1000
TRIES = 5
"""Looks at a new database, that several processes may be setting up at once."""

_MYSQL = ("mysql", "mariadb")
# There, names would be equal that differ in case only, and bytes would be cut at 64 KiB.
_Name = sa.String(MAX_NAME).with_variant(mysql.VARCHAR(MAX_NAME, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)
_Bytes = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *_MYSQL)
# SQLite counts up by itself only in a column of exactly this type.
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Float: sa.Double[float] = sa.Double()

metadata = sa.MetaData()

schema = sa.Table(
    "mien_schema",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("name", sa.String(32), nullable=False),
    sa.Column("last_alarm", sa.BigInteger, nullable=False),
)

conversations = sa.Table(
    "mien_conversations",
    metadata,
    sa.Column("id", _Name, primary_key=True),
    sa.Column("last_at", _Float, nullable=False, index=True),
)

turns = sa.Table(
    "mien_turns",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("conversation", _Name, nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("request", _Name, nullable=False),
    sa.Column("model", sa.String(MAX_MODEL), nullable=False),
    sa.Column("at", _Float, nullable=False, index=True),
    sa.Column("finish", sa.String(MAX_NAME), nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("held", sa.Boolean, nullable=False),
    sa.Column("fired", _Float),
    sa.Column("source", sa.String(20), nullable=False),
    sa.Column("owner", _Name, nullable=False),
    sa.Column("text", sa.String(64)),
    sa.UniqueConstraint("request", "place", name="mien_turns_once"),
    sa.Index("mien_turns_in_order", "conversation", "place", "id"),
    sa.Index("mien_turns_latest", "conversation", "id"),
)

readings = sa.Table(
    "mien_readings",
    metadata,
    sa.Column("turn", _Id, sa.ForeignKey(turns.c.id), primary_key=True, autoincrement=False),
    sa.Column("rank", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("gauge", _Name, nullable=False),
    sa.Column("projection", _Float),
    sa.Column("sigma", _Float),
    sa.Column("statistic", _Float, nullable=False),
    sa.Column("alarm", sa.String(10)),
    sa.Column("since", sa.Integer),
)

texts = sa.Table(
    "mien_texts",
    metadata,
    sa.Column("conversation", _Name, primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("parent", sa.String(64)),
    sa.Column("role", sa.String(20), nullable=False),
    sa.Column("content", _Bytes, nullable=False),
)

alarms = sa.Table(
    "mien_alarms",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("turn", _Id, sa.ForeignKey(turns.c.id), nullable=False, index=True),
    sa.Column("conversation", _Name, nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("request", _Name, nullable=False),
    sa.Column("model", sa.String(MAX_MODEL), nullable=False),
    sa.Column("at", _Float, nullable=False),
    sa.Column("gauge", _Name, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("sigma", _Float),
    sa.Column("statistic", _Float, nullable=False),
    sa.Column("since", sa.Integer),
    sa.Index("mien_alarms_of", "conversation", "place"),
)

deliveries = sa.Table(
    "mien_deliveries",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("alarm", sa.BigInteger, sa.ForeignKey(alarms.c.id), nullable=False),
    sa.Column("target", sa.String(64), nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("made", _Float, nullable=False),
    sa.Column("due", _Float, nullable=False),
    sa.Column("note", sa.String(MAX_NAME)),
    sa.UniqueConstraint("alarm", "target", name="mien_deliveries_once"),
    sa.Index("mien_deliveries_due", "state", "target", "due"),
)


def hold(connection: sa.Connection) -> None:
    """Take the one row that every writer holds to the end of its transaction. So what one has read stays true until
    it is done, and alarms' ids ascend in the order of their commits, which lets a listener go on from the last one."""
    connection.execute(schema.update().where(schema.c.id == 1).values(last_alarm=schema.c.last_alarm))


def where_is(url: sa.URL) -> str:
    """The database for a message: a path, or a URL without its password."""
    if url.get_backend_name() == "sqlite":
        return url.database or "memory"
    return url.set(query={}).render_as_string(hide_password=True)


def open_database(address: str) -> tuple[sa.Engine, str, str]:
    """Open, and make the tables if there are none: engine, the history's name, where it is (for messages).

    Raises:
        InputError: the URL cannot be used.
        FormatError: it is not a database, or a history of another version.
        RunError: it cannot be reached or written.
    """
    url = _checked(address)
    where = where_is(url)
    engine = _engine(url, where)
    try:
        return engine, _ready(engine, where), where
    except MienError:
        engine.dispose()
        raise
    except sa.exc.SQLAlchemyError as error:
        engine.dispose()
        raise opening_error(error, where) from None


def reason(error: Exception) -> str:
    """First line of what the database says, without the statement and its values."""
    said = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig is not None else error
    return (str(said).strip().splitlines() or [type(said).__name__])[0][:200].rstrip(".")


def opening_error(error: Exception, where: str) -> MienError:
    """The sentence for a database that does not open."""
    said = reason(error)
    if "not a database" in said or "malformed" in said:
        return FormatError(f"{where} is not a database, or a damaged one ({said}); name another file for the history.")
    return RunError(f"The history in {where} cannot be opened: {said}; check that it is there and may be written.")


def _checked(address: str) -> sa.URL:
    try:
        url = sa.make_url(address)
        dialect = url.get_dialect()
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError):
        raise InputError(
            "The history's database cannot be used: it must be a URL of SQLAlchemy's, like sqlite:///history.db or "
            "postgresql+psycopg://user@host/name."
        ) from None
    if dialect.is_async:
        raise InputError(
            f"The history's database cannot be used: {url.drivername} is an asynchronous driver; "
            f"take another one of {url.get_backend_name()}."
        )
    return url


def _engine(url: sa.URL, where: str) -> sa.Engine:
    settings: dict[str, Any] = {"hide_parameters": True}
    sqlite = url.get_backend_name() == "sqlite"
    if not sqlite:
        settings["pool_pre_ping"] = True
    elif in_memory(url):
        # One connection is the whole database, so all threads share it, one at a time.
        settings |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    else:
        settings["connect_args"] = {"timeout": BUSY}
        _make_private(url, where)
    try:
        engine = sa.create_engine(url, **settings)
    except ImportError as error:
        driver = error.name or url.get_driver_name()
        raise InputError(f"The database's driver {driver} is not installed: pip install {driver}.") from None
    except (sa.exc.ArgumentError, TypeError, ValueError):
        raise InputError(
            "The history's database cannot be used: its URL has options that its driver refuses."
        ) from None
    if sqlite:
        sa.event.listen(engine, "connect", _pragmas)
        sa.event.listen(engine, "begin", _begin)
    return engine


def in_memory(url: sa.URL) -> bool:
    """Whether it is a SQLite database without a file."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def _make_private(url: sa.URL, where: str) -> None:
    """What people said may be in it: a new file is for its owner's eyes. SQLite gives its side files the same mode."""
    path = url.database or ""
    if path.startswith("file:"):
        return
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else "no such name can be"
        raise RunError(f"The history in {where} cannot be opened: {said}; check its folder.") from None


def _pragmas(connection: Any, _: object) -> None:
    """WAL: readers and a writer do not wait for one another. FULL: what was committed outlives a power cut too."""
    # The driver would begin transactions where it sees fit; `_begin` does it instead.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={int(BUSY * 1000)}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: sa.Connection) -> None:
    # A writer takes its lock at once: to upgrade a reading transaction is refused without waiting.
    write = connection.get_execution_options().get("mien_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _ready(engine: sa.Engine, where: str) -> str:
    """Make the tables unless they are there; the history's name."""
    failure: sa.exc.DBAPIError | None = None
    for _ in range(TRIES):
        try:
            found = _version(engine) or _make_tables(engine)
            if found[0] == 1:
                found = _add_owners(engine)
        except sa.exc.DBAPIError as error:
            failure = error  # another process may be making them at this moment, which the next look tells
            continue
        version, name = found
        if version != VERSION:
            raise FormatError(
                f"The history in {where} is of version {version} and this mien writes version {VERSION}; "
                "name another database, or use the mien that made it."
            )
        return name
    assert failure is not None
    raise failure


def _add_owners(engine: sa.Engine) -> tuple[int, str]:
    """Version 1 did not keep whose key a turn was asked for with: those that are there are nobody's."""
    with engine.execution_options(mien_write=True).begin() as connection:
        row = connection.execute(sa.select(schema.c.version, schema.c.name).where(schema.c.id == 1)).one()
        if row.version == 1:  # no other process was faster
            connection.exec_driver_sql(
                f"ALTER TABLE {turns.name} ADD COLUMN owner VARCHAR({MAX_NAME}) DEFAULT '' NOT NULL"
            )
            connection.execute(schema.update().where(schema.c.id == 1).values(version=VERSION))
    return VERSION, row.name


def _version(engine: sa.Engine) -> tuple[int, str] | None:
    if not sa.inspect(engine).has_table(schema.name):
        return None
    with engine.begin() as connection:
        row = connection.execute(sa.select(schema.c.version, schema.c.name).where(schema.c.id == 1)).first()
    return None if row is None else (row.version, row.name)


def _make_tables(engine: sa.Engine) -> tuple[int, str]:
    name = secrets.token_hex(4)
    with engine.execution_options(mien_write=True).begin() as connection:
        metadata.create_all(connection)
        connection.execute(schema.insert().values(id=1, version=VERSION, name=name, last_alarm=0))
    return VERSION, name
