"""CSV and TSV files: rows with the line each begins in. What the columns mean is for `tables` to know."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from mien.logs.found import MAX_RECORD, TOO_LONG, Cut, Item
from mien.logs.records import Columns
from mien.logs.streams import Log, lines
from mien.logs.tables import Row, assemble, guess, has_all, layout_of

_DELIMITERS = (",", "\t", ";", "|")


def delimiter_of(head: bytes, told: Columns | None = None) -> str | None:
    """The delimiter by which the first line names columns that can be used; None if there is none."""
    told = told or Columns()
    line = head.split(b"\n", 1)[0].decode("utf-8", errors="replace").rstrip("\r")
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:
            continue
        if has_all(names, told) and guess(names, told) is not None:
            return delimiter
    return None


def read_delimited(log: Log, told: Columns | None) -> Iterator[Item]:
    """Every conversation of the table.

    Raises:
        FormatError: it is not clear what the columns are.
        Cut: the file cannot be read to its end.
    """
    usual = "\t" if log.suffix == ".tsv" else ","
    delimiter = delimiter_of(log.head, told) or usual
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD))  # the whole of Python has one limit
    text = _Text(log)
    reader = csv.reader(text, delimiter=delimiter)
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise Cut(f"it is not CSV: {error}", 1) from error
    layout = layout_of(names, told, log.name)
    places = {name: names.index(name) for name in layout.names}
    yield from assemble(_rows(reader, text, places), layout)


class _Text:
    """Lines for the `csv` module, with undecodable bytes as lone surrogates, and whether a quote is open at the end."""

    def __init__(self, log: Log) -> None:
        self._lines = lines(log.stream)
        self.quotes = 0
        self.ended = False

    def __iter__(self) -> _Text:
        return self

    def __next__(self) -> str:
        for number, line in self._lines:
            if line is None:
                raise Cut(TOO_LONG, number)
            self.quotes += line.count(b'"')
            return line.decode("utf-8", errors="surrogateescape") + "\n"
        self.ended = True
        raise StopIteration


def _rows(reader: Any, text: _Text, places: dict[str, int]) -> Iterator[Row]:
    while True:
        start, text.quotes = reader.line_num + 1, 0
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, f"it is not CSV: {error}"
            continue
        if text.ended and text.quotes % 2:
            yield start, "a quotation mark is not closed"
        elif any("\udc80" <= letter <= "\udcff" for value in values if not value.isascii() for letter in value):
            yield start, "it is not UTF-8 text"
        elif values and len(values) <= max(places.values()):
            yield start, f"it has {len(values)} columns where the first line has more"
        elif values:
            yield start, {name: values[place] for name, place in places.items()}
