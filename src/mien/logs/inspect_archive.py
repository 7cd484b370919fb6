"""Inspect's `.eval` logs: a zip of `header.json` and `samples/*.json`; and zips that exports of chats come in.

What a sample looks like is for `shapes` to know.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import count
from typing import IO
from zipfile import ZipFile

from mien.logs.document import header_of, read_document
from mien.logs.found import Cut, Defaults, Item, Unreadable
from mien.logs.pull import Pull
from mien.logs.shapes import decode
from mien.logs.streams import guarded

_HEADERS = ("header.json", "_journal/start.json")
"""Of a finished log, and of one that was cut off."""


def read_archive(file: IO[bytes]) -> Iterator[Item]:
    """Every conversation of every member, in the archive's order, numbered from 1.

    Raises:
        Cut: it is no zip archive, or none that holds conversations.
    """
    try:
        archive = ZipFile(file)
    except Exception as error:  # `zipfile` lets those of `struct` and of text through for a broken directory
        raise Cut("the zip archive is truncated or corrupt") from error
    with archive:
        defaults, numbers = _defaults(archive), count(1)
        members = _members(archive)
        if not members:
            raise Cut("the zip archive holds neither samples/*.json nor conversations.json")
        for member in members:
            try:
                with _opened(archive, member) as stream:
                    for _, found in read_document(stream, defaults):
                        yield next(numbers), found
            except Cut as cut:
                yield next(numbers), str(cut)


@contextmanager
def _opened(archive: ZipFile, member: str) -> Iterator[BufferedReader]:
    """A member to be read; every fault is a `Cut`."""
    try:
        packed = archive.open(member)
    except Exception as error:  # encrypted, packed in an unknown way, not where the directory says
        raise Cut(f"{posixpath.basename(member)} in the zip archive cannot be unpacked") from error
    with packed:
        yield guarded(packed)


def _members(archive: ZipFile) -> list[str]:
    names = archive.namelist()
    samples = [name for name in names if name.startswith("samples/") and name.endswith(".json")]
    exported = [name for name in names if posixpath.basename(name).startswith("conversations") and name[-5:] == ".json"]
    return samples or exported


def _defaults(archive: ZipFile) -> Defaults:
    """What the header says of all samples; nothing where it cannot be read."""
    for name in _HEADERS:
        try:
            with _opened(archive, name) as stream:
                value = decode(Pull(stream).value() or b"")
        except (Cut, Unreadable):
            continue
        header = value.get("eval") if isinstance(value, dict) else None
        if isinstance(header, dict):
            return header_of(header)
    return Defaults()
