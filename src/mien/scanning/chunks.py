"""A scan's results on disk, a chunk at a time, so that memory stays flat and a stopped scan goes on.

A chunk is two files: the rows of its turns (Parquet) and its conversations (JSON lines: one head, then one line a
record). The second is written last and proves the first; its head has a digest of the conversations that went in, so a
chunk is taken up again only if the same conversations come. This file does not know models or pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from mien.logs import Broken, LoggedConversation
from mien.store import write_atomic

CHUNK_CONVERSATIONS, CHUNK_CHARACTERS = 64, 200_000
"""A chunk is full at either."""

Record = LoggedConversation | Broken


@dataclass(frozen=True)
class Chunk:
    """Neighbouring records of the input."""

    number: int
    records: tuple[Record, ...]

    @property
    def digest(self) -> str:
        """Names what went in: the same records, the same digest."""
        text = json.dumps([_plain(r) for r in self.records], ensure_ascii=True, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def conversations(self) -> list[LoggedConversation]:
        return [r for r in self.records if isinstance(r, LoggedConversation)]


def _plain(record: Record) -> object:
    return asdict(record) if isinstance(record, LoggedConversation) else ["broken", record.line, record.reason]


def chunked(records: Iterable[Record]) -> Iterator[Chunk]:
    """Records in chunks; where one ends depends on the records alone."""
    part: list[Record] = []
    size = number = 0
    for record in records:
        part.append(record)
        size += sum(len(m.content) for m in record.messages) if isinstance(record, LoggedConversation) else 0
        if len(part) >= CHUNK_CONVERSATIONS or size >= CHUNK_CHARACTERS:
            yield Chunk(number, tuple(part))
            part, size, number = [], 0, number + 1
    if part:
        yield Chunk(number, tuple(part))


class ChunkFolder:
    """Where the chunks of one run lie.

    Args:
        tables: whether a chunk has a table of rows beside its lines.
    """

    def __init__(self, folder: Path, tables: bool = True) -> None:
        self.folder = folder
        self._tables = tables

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"chunk-{number:06d}.{suffix}"

    def has(self, chunk: Chunk) -> bool:
        """Whether the chunk was done before, from the same records."""
        try:
            with self._path(chunk.number, "jsonl").open(encoding="utf-8") as file:
                head = json.loads(file.readline())
            whole = not self._tables or self._path(chunk.number, "parquet").exists()
            return bool(head["digest"] == chunk.digest) and whole
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def put(
        self, chunk: Chunk, rows: dict[str, list[Any]] | None, lines: list[dict[str, Any]], tokens: int, **about: Any
    ) -> None:
        """Keep a chunk; what is said `about` it stands in its head.

        Raises:
            RunError: the disk refuses.
        """
        if rows is not None:
            import pyarrow.parquet as pq

            buffer = BytesIO()
            pq.write_table(table_of(rows), buffer, compression="zstd")
            write_atomic(self._path(chunk.number, "parquet"), buffer.getvalue())
        head = {"digest": chunk.digest, "tokens": tokens, **about}
        text = "".join(json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n" for line in [head, *lines])
        write_atomic(self._path(chunk.number, "jsonl"), text)

    def forget_after(self, count: int) -> None:
        """Remove chunks that an earlier, longer input left."""
        for path in self.folder.glob("chunk-*"):
            if int(path.name[6:12]) >= count:
                path.unlink()

    def lines(self, number: int) -> Iterator[dict[str, Any]]:
        """A chunk's head and records."""
        with self._path(number, "jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def join_tables(self, count: int, path: Path) -> None:
        """All rows of the first `count` chunks in one Parquet file, whole or not at all.

        Raises:
            RunError: the disk refuses.
        """
        import pyarrow.parquet as pq

        from mien.store import disk_errors

        temporary = path.with_name(f".{path.name}.0.tmp")
        with disk_errors(path):
            try:
                with pq.ParquetWriter(temporary, table_of(empty_rows()).schema, compression="zstd") as writer:
                    for number in range(count):
                        writer.write_table(pq.read_table(self._path(number, "parquet")))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


def empty_rows() -> dict[str, list[Any]]:
    """No rows yet: one list a column."""
    return {name: [] for name in _COLUMNS}


_COLUMNS = (
    "conversation", "message_index", "role", "gauge", "projection", "sigma", "probability", "alarm",
    "statistic", "drifted", "model", "time", "source", "line",
)  # fmt: skip


def table_of(rows: dict[str, list[Any]]) -> Any:
    """The columns as an Arrow table."""
    import pyarrow as pa

    kinds = {
        "message_index": pa.int32(), "projection": pa.float32(), "sigma": pa.float32(), "probability": pa.float32(),
        "alarm": pa.bool_(), "statistic": pa.float32(), "drifted": pa.bool_(), "line": pa.int64(),
    }  # fmt: skip
    texts = pa.string()
    return pa.table(
        {name: pa.array(_clean(rows[name]), kinds.get(name, texts)) for name in _COLUMNS},
    )


def _clean(values: list[Any]) -> list[Any]:
    """Half a surrogate pair cannot be put in UTF-8."""
    return [v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for v in values]
