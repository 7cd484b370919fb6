"""What is kept of measured records: a line each on disk, and the table that programs read.

This file does not know how a record is measured, or what is added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    """`samples.parquet`, written block by block; it appears whole, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.0.tmp")
        self._writer: Any = None

    def __enter__(self) -> SampleTable:
        import pyarrow.parquet as pq

        with disk_errors(self._path):
            self._writer = pq.ParquetWriter(self._temporary, _table({}).schema, compression="zstd")
        return self

    def add(self, columns: dict[str, list[Any]]) -> None:
        """Rows as columns; a column that is not given is empty.

        Raises:
            RunError: the disk refuses.
        """
        with disk_errors(self._path):
            self._writer.write_table(_table(columns))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with disk_errors(self._path):
            try:
                self._writer.close()
                if kind is None:
                    self._temporary.replace(self._path)
            finally:
                self._temporary.unlink(missing_ok=True)


_KINDS = {
    "index": "int64", "id": "string", "trait": "string", "difference": "float64", "sigma": "float64",
    "method": "string", "answer": "float64", "base": "float64", "prompt": "float64",
    "answers": "int32", "tokens": "int64", "source": "string", "line": "int64",
}  # fmt: skip


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
