"""JSONL: a conversation a line. What one looks like is for `shapes` to know."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader

from mien.logs.found import TOO_LONG, Item, Unreadable
from mien.logs.shapes import decode, found_in
from mien.logs.streams import lines


def read_jsonl(stream: BufferedReader) -> Iterator[Item]:
    """The conversation in each line that is not blank.

    Raises:
        Cut: the file cannot be read to its end.
    """
    for number, line in lines(stream):
        if line is None:
            yield number, TOO_LONG
        elif line.strip():
            try:
                yield number, found_in(decode(line))
            except Unreadable as error:
                yield number, str(error)
