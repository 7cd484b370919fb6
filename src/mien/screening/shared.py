"""Own answers of models, kept in mien's cache for every screening: one SQLite file for all models and settings.

An answer is found again by the model's weights and type, how its turns end, the sampling, the seed and the prompt's
ids. A cache that cannot be read or written costs time and nothing else: nothing here raises. Several processes may use
it at once. This file does not know runs or how answers are written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mien.errors import RunError
from mien.machine import cache_dir
from mien.models import Model, weights_digest
from mien.records import Sampling

VERSION = 1
"""Part of every key: raised when answers come to be drawn differently."""
MOST_BYTES = 256 << 20
"""Beyond it the answers that were asked for longest ago go."""
_PATIENCE = 10.0
"""Seconds to wait for another process that writes."""
_TOGETHER = 500
"""Keys in one question: SQLite takes 999 at least."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def answers_file() -> Path:
    """Where they are kept. May be deleted at any time.

    Raises:
        RunError: there is no cache folder and none can be made.
    """
    return cache_dir() / "answers" / f"answers-{VERSION}.sqlite"


def writer_of(model: Model, sampling: Sampling, seed: int) -> str:
    """Names everything but the prompt that an answer depends on. Not the fingerprint alone: it is of a slice of the
    weights that a fine-tune may leave as it was.
    """
    chat = model.chat
    drawn = [VERSION, model.info.dtype, asdict(sampling), seed, sorted(chat.stop_ids), chat.stop_strings]
    text = json.dumps([weights_digest(model), chat.plain_ids("Twelve words, no more."), *drawn])
    return hashlib.sha256(text.encode()).hexdigest()


class SharedAnswers:
    """The answers of one model, drawn in one way.

    Args:
        path: the file; others write to it, too.
        writer: see `writer_of`.
        most_bytes: how large it may become.
    """

    def __init__(self, path: Path, writer: str, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._writer, self._most = path, writer, most_bytes
        self._db: sqlite3.Connection | None = None
        with self._forgiven():
            self._open()

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
        self._db = None

    def get(self, prompts: Sequence[str]) -> dict[str, str]:
        """Answers that are there, by prompt; what is damaged is not there."""
        found: dict[str, str] = {}
        names = {self._key(prompt): prompt for prompt in prompts}
        with self._forgiven():
            for some in _parts(list(names)):
                marks = ",".join("?" * len(some))
                rows = self._asked(f"SELECT key, text, digest FROM answers WHERE key IN ({marks})", some)  # noqa: S608
                there = {key: text for key, text, digest in rows if digest == _digest(key, text)}
                if there:
                    self._touch(list(there))
                found |= {names[key]: text for key, text in there.items()}
        return found

    def put(self, answers: Mapping[str, str]) -> None:
        """Keep answers by prompt; the oldest of all models' go where there would be too many."""
        pairs = [(self._key(prompt), text) for prompt, text in answers.items()]
        with self._forgiven():
            if self._db is None:
                return
            with self._db:
                turn = self._turn()
                self._db.executemany(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
                    [(key, text, _digest(key, text), turn) for key, text in pairs],
                )
            self._shrink()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self._path, timeout=_PATIENCE)
        # A file that a power cut has torn is found out and made anew; waiting for the disk would buy nothing.
        self._db.execute("PRAGMA synchronous = OFF")
        with self._db:
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(key TEXT PRIMARY KEY, text TEXT NOT NULL, digest TEXT NOT NULL, used INTEGER NOT NULL)"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS by_use ON answers (used)")

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._writer}/{prompt}".encode()).hexdigest()

    def _asked(self, what: str, values: Sequence[str]) -> list[tuple[str, str, str]]:
        return self._db.execute(what, values).fetchall() if self._db is not None else []

    def _touch(self, keys: Sequence[str]) -> None:
        if self._db is None:
            return
        with self._db:
            turn = self._turn()
            self._db.executemany("UPDATE answers SET used = ? WHERE key = ?", [(turn, key) for key in keys])

    def _turn(self) -> int:
        """A number above all that stand there: what has a small one was asked for long ago."""
        assert self._db is not None
        (last,) = self._db.execute("SELECT MAX(used) FROM answers").fetchone()
        return (last or 0) + 1

    def _shrink(self) -> None:
        """Let a quarter go where there is too much; the file's room is used again."""
        assert self._db is not None
        wanted = ("page_count", "freelist_count", "page_size")
        pages, free, size = (int(self._db.execute(f"PRAGMA {what}").fetchone()[0]) for what in wanted)
        if (pages - free) * size <= self._most:
            return
        with self._db:
            self._db.execute(
                "DELETE FROM answers WHERE key IN "
                "(SELECT key FROM answers ORDER BY used, key LIMIT (SELECT (COUNT(*) + 3) / 4 FROM answers))"
            )

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        """Whatever fails, the answers are written as if there were no cache; a damaged file goes."""
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            if getattr(error, "sqlite_errorcode", None) not in _DAMAGED:
                return
            self.close()
            with contextlib.suppress(sqlite3.Error, OSError):
                self._path.unlink(missing_ok=True)
                self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)
                self._open()


def shared_answers(model: Model, sampling: Sampling, seed: int) -> SharedAnswers | None:
    """The answers of this model in mien's cache; None if there is no place for them."""
    try:
        return SharedAnswers(answers_file(), writer_of(model, sampling, seed))
    except RunError:
        return None


def _digest(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()[:16]


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _TOGETHER):
        yield keys[start : start + _TOGETHER]
