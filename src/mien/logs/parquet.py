"""Parquet files: rows with their ordinals. What the columns mean is for `tables` to know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from mien.logs.found import Cut, Item
from mien.logs.records import Columns
from mien.logs.tables import Row, assemble, layout_of

_ROWS = 64
"""Rows taken out of a row group at a time."""
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def read_parquet(file: IO[bytes], told: Columns | None, name: str) -> Iterator[Item]:
    """Every conversation of the table.

    Raises:
        FormatError: it is not clear what the columns are.
        Cut: the file is corrupt.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    faults = (ArrowException, OSError, ValueError, OverflowError, LookupError, MemoryError)
    try:
        table = ParquetFile(file)
        names = list(table.schema_arrow.names)
    except faults as error:
        raise Cut("the Parquet file is truncated or corrupt") from error
    with table:
        layout = layout_of(names, told, name)
        yield from assemble(_rows(table, layout.names, faults), layout)


def _rows(table: Any, names: list[str], faults: tuple[type[Exception], ...]) -> Iterator[Row]:
    number = 0
    try:
        for batch in table.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
            columns = [(name, batch.column(name)) for name in names]
            for place in range(batch.num_rows):
                number += 1
                try:
                    row = {name: _cell(column[place]) for name, column in columns}
                except UnicodeDecodeError:
                    yield number, "it is not UTF-8 text"
                except faults:
                    yield number, "a value in it cannot be read"
                else:
                    yield number, row
    except faults as error:
        raise Cut("the Parquet file is corrupt", number + 1) from error


def _cell(value: Any) -> object:
    """A value as Python has it; a time as seconds since 1970, whatever its zone and however fine it is."""
    from pyarrow import types

    if types.is_timestamp(value.type):
        return None if value.value is None else value.value / _UNITS[value.type.unit]
    return value.as_py()
