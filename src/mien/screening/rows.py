"""What is kept of measured records: a line each on disk, and the table that programs read.

This file does not know how a record is measured, or what is added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.logs import Broken, LoggedConversation
from mien.scanning.chunks import ChunkFolder
from mien.screening.estimates import Raw
from mien.screening.measure import Measured, Numbers
from mien.store import disk_errors

Floats = NDArray[np.float64]


def line_of(record: LoggedConversation | Broken, found: Numbers | Broken) -> dict[str, Any]:
    """A record in numbers, or why there are none."""
    if isinstance(found, Broken):
        return {"skipped": [found.source, found.line, found.reason]}
    assert isinstance(record, LoggedConversation)
    line: dict[str, Any] = {
        "id": record.id, "source": record.source, "line": record.line, "answers": found.answers, "tokens": found.tokens,
        "answer": _rounded(found.answer), "prompt": _rounded(found.prompt),
    }  # fmt: skip
    if not np.isnan(found.base).any():
        line["base"] = _rounded(found.base)
    return line


def _rounded(values: Floats) -> list[float]:
    return [round(float(v), 6) for v in values]


def twins_of(measured: Measured) -> dict[str, Any]:
    """Sums over a group's records along random twins, `[g][r]`: differences, own answers and their squares."""
    there = [f for f in measured.found if isinstance(f, Numbers) and not np.isnan(f.base).any()]
    if not there:
        return {"n": 0}
    base = np.stack([f.twins_base for f in there])
    return {
        "n": len(there), "difference": np.stack([f.twins for f in there]).sum(0).tolist(),
        "base": base.sum(0).tolist(), "square": (base**2).sum(0).tolist(),
    }  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One chunk's lines, with the places of its records in the data set."""

    number: int
    start: int
    head: dict[str, Any]
    lines: list[dict[str, Any]]

    @property
    def good(self) -> list[int]:
        """Which lines have numbers."""
        return [i for i, line in enumerate(self.lines) if "skipped" not in line]

    def raw(self, g: int, which: Sequence[int]) -> Raw:
        """Values of some lines on one watched direction."""
        lines = [self.lines[i] for i in which]
        base = [line["base"][g] if "base" in line else math.nan for line in lines]
        return Raw(
            np.array([line["answer"][g] for line in lines], np.float64),
            np.array([line["prompt"][g] for line in lines], np.float64), np.array(base, np.float64),
        )  # fmt: skip


def blocks(folder: ChunkFolder, count: int) -> Iterator[Block]:
    """The chunks, in order."""
    start = 0
    for number in range(count):
        head, *lines = folder.lines(number)
        yield Block(number, start, head, lines)
        start += len(lines)


class SampleTable:
    """`samples.parquet`: given row by row as records come, written trait after trait, the furthest first; it appears
    whole, or not at all.

    Rows wait in a file a trait, so that no more than one trait's are in memory at the end, some hundred bytes a record.

    Args:
        path: of the table.
        signs: trait -> +1 if large differences are alarming, -1 if small ones are; in the order of the table.
    """

    def __init__(self, path: Path, signs: Mapping[str, int]) -> None:
        self._path, self._signs = path, dict(signs)
        self._parts = {name: _Part(_waiting(path, str(i))) for i, name in enumerate(self._signs)}

    def __enter__(self) -> SampleTable:
        return self

    def add(self, trait: str, columns: dict[str, list[Any]]) -> None:
        """Rows of one trait as columns; a column that is not given is empty.

        Raises:
            RunError: the disk refuses.
        """
        with disk_errors(self._path):
            self._parts[trait].add(columns)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        temporary = _waiting(self._path, "all")
        with disk_errors(self._path):
            try:
                if kind is None:
                    self._join(temporary)
                    temporary.replace(self._path)
            finally:
                for part in self._parts.values():
                    part.close()
                    part.path.unlink(missing_ok=True)
                temporary.unlink(missing_ok=True)

    def _join(self, path: Path) -> None:
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, _table({}).schema, compression="zstd") as writer:
            for name, part in self._parts.items():
                part.close()
                if part.path.exists():
                    for rows in _ranked(pq.read_table(part.path, read_dictionary=_REPEATED), self._signs[name]):
                        writer.write_table(rows)


class _Part:
    """The rows of one trait in the order in which they came, in groups large enough for a short list of groups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Any = None
        self._rows: list[Any] = []
        self._n = 0

    def add(self, columns: dict[str, list[Any]]) -> None:
        rows = _table(columns)
        self._rows.append(rows)
        self._n += rows.num_rows
        if self._n >= _GROUP:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, _table({}).schema, compression="zstd")
        self._writer.write_table(pa.concat_tables(self._rows))
        self._rows, self._n = [], 0


_GROUP = 8192
"""Rows that are written at a time."""
_REPEATED = ["trait", "method", "source"]
"""Columns that say the same in many rows."""
_KINDS = {
    "index": "int64", "id": "string", "trait": "string", "difference": "float64", "sigma": "float64",
    "method": "string", "answer": "float64", "base": "float64", "prompt": "float64",
    "answers": "int32", "tokens": "int64", "source": "string", "line": "int64", "rank": "int64",
}  # fmt: skip


def _waiting(path: Path, what: str) -> Path:
    """A file that is swept away if the process is killed."""
    return path.with_name(f".{path.name}-{what}.0.tmp")


def _ranked(table: Any, sign: int) -> Iterator[Any]:
    """The rows of one trait with their ranks, the furthest towards the alarming side first, equals in their order;
    those without a difference last and without a rank.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    known = len(table) - table["difference"].null_count
    keys = [("difference", "descending" if sign > 0 else "ascending"), ("index", "ascending")]
    order = pc.sort_indices(table, sort_keys=keys)  # nulls go to the end
    place = table.schema.get_field_index("rank")
    for start in range(0, len(table), _GROUP):
        rows = table.take(order[start : start + _GROUP])
        ranks = [n if n <= known else None for n in range(start + 1, start + len(rows) + 1)]
        yield rows.set_column(place, "rank", pa.array(ranks, pa.int64())).cast(_table({}).schema)


def _table(columns: dict[str, list[Any]]) -> Any:
    import pyarrow as pa

    n = len(next(iter(columns.values()), []))
    arrays = {}
    for name, kind in _KINDS.items():
        values = [_clean(v) for v in columns.get(name, [None] * n)]
        arrays[name] = pa.array(values, getattr(pa, kind)())
    return pa.table(arrays)


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
