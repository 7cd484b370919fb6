"""Reads chat logs of every format: finds out what each file is, and puts its name to what is found in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mien.errors import FormatError, InputError
from mien.logs.delimited import read_delimited
from mien.logs.document import read_document
from mien.logs.found import Cut, Defaults, Item
from mien.logs.inspect_archive import read_archive
from mien.logs.jsonl import read_jsonl
from mien.logs.parquet import read_parquet
from mien.logs.records import Broken, Columns, LoggedConversation
from mien.logs.sniff import KNOWN, format_of
from mien.logs.sources import Source, sources_of
from mien.logs.streams import Log, opened
from mien.logs.transcript import read_transcript

FORMATS = tuple(dict.fromkeys(KNOWN.values()))
"""What `format` may be: jsonl, json, inspect (a zip), text, csv (or TSV), parquet."""


def read_logs(
    paths: Sequence[str | Path], *, columns: Columns | None = None, format: str | None = None
) -> Iterator[LoggedConversation | Broken]:
    """Conversations of chat logs, in the order of the files and of the records in them.

    `paths` are files, folders (all logs in them and below, sorted, nothing hidden) or `-`, standard input. Each may be
    gzip'ed. `columns` names the columns of tables whose names are not usual. `format`, one of `FORMATS`, is for files
    that are not recognised; else every file's own content and name tell it.

    A record that cannot be read is given as `Broken`, and so is a file in a folder that is no log. Paths are checked,
    and regular files recognised, before this returns; the rest is raised while it is iterated over.

    Raises:
        InputError: no path, an unknown format, a folder without logs.
        FormatError: a path that leads to nothing, a file that cannot be read or recognised, a table whose columns are
            not clear.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"There is no log format {format!r}; the formats are {', '.join(FORMATS)}.")
    sources = sources_of(paths, KNOWN)
    for source in sources:
        if source.path is None and sys.stdin is None:
            raise InputError("There is no standard input to read; give a file.")
        if source.path is not None and source.path.is_file() and not source.found:
            with opened(source.path, source.name) as log:  # now, and not after hours of reading others
                _format_of(log, format)
    return (record for source in sources for record in _read(source, columns, format))


def _read(source: Source, columns: Columns | None, format: str | None) -> Iterator[LoggedConversation | Broken]:
    last = 0
    try:
        for line, found in _items(source, columns, format):
            last = max(last, line)
            if isinstance(found, str):
                yield Broken(source.name, line, found)
                continue
            yield LoggedConversation(
                id=found.id or f"{source.short}:{line}",
                messages=found.messages,
                indices=found.indices,
                model=found.model,
                time=found.time,
                source=source.name,
                line=line,
                turn_labels=found.turn_labels,
                stranger=found.stranger,
            )
        if not last:
            yield Broken(source.name, 1, "there is no conversation in it")
    except Cut as cut:
        yield Broken(source.name, cut.line or last + 1, str(cut))
    except FormatError as error:
        if not source.found:
            raise
        yield Broken(source.name, last + 1, str(error))


def _items(source: Source, columns: Columns | None, format: str | None) -> Iterator[Item]:
    with opened(source.path, source.name) as log:
        kind = _format_of(log, format)
        if kind is None:
            raise log.cut or Cut("it cannot be read")
        if kind == "jsonl":
            yield from read_jsonl(log.stream)
        elif kind == "json":
            yield from read_document(log.stream, Defaults())
        elif kind == "text":
            yield from read_transcript(log.stream)
        elif kind == "csv":
            yield from read_delimited(log, columns)
        else:
            with log.seekable() as file:
                yield from read_archive(file) if kind == "inspect" else read_parquet(file, columns, log.name)


def _format_of(log: Log, told: str | None) -> str | None:
    """What the file is to be read as; None where too little of it can be read to tell."""
    if log.cut is None and not log.head.strip():
        raise FormatError(f"{log.name} is empty; there is no conversation in it.")
    try:
        return told or format_of(log)
    except FormatError:
        if log.cut is None:
            raise
        return None
