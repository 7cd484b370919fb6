"""A JSON document: an array of conversations, one conversation, or an object that holds an array of them.

Documents may follow one another. What one conversation looks like is for `shapes` to know.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from io import BufferedReader
from itertools import count

from mien.logs.fields import first_text, first_time
from mien.logs.found import MAX_RECORD, TOO_LONG, Cut, Defaults, Found, Item, Unreadable
from mien.logs.messages import is_message
from mien.logs.pull import Pull
from mien.logs.shapes import Json, decode, found_in, is_record

_UNUSED = frozenset({"events", "attachments", "store"})
"""Of Inspect's samples: large, and nothing in them is needed."""


def read_document(stream: BufferedReader, defaults: Defaults) -> Iterator[Item]:
    """Every conversation of a file of JSON, numbered from 1.

    Raises:
        Cut: the text ends early, or is broken outside of its conversations.
    """
    pull, numbers = Pull(stream), count(1)
    try:
        while byte := pull.peek():
            if byte == b"[":
                yield from _array(pull, numbers, defaults)
            elif byte == b"{":
                yield from _object(pull, numbers, defaults)
            else:
                raise Cut("it is not JSON from here on")
    except Cut as cut:
        raise Cut(str(cut), next(numbers)) from cut


def _array(pull: Pull, numbers: Iterator[int], defaults: Defaults) -> Iterator[Item]:
    """Each element a conversation; or, where the first is a message, all of them one."""
    one: _Whole | None = None
    first = True
    for _ in pull.elements():
        raw = pull.value()
        if first:
            one, first = (_Whole() if is_message(_value(raw)) else None), False
        if one is not None:
            one.messages.append(one.take(raw))
        else:
            yield next(numbers), _found(raw, defaults)
    if one is not None:
        yield next(numbers), one.found(one.messages, defaults)


def _object(pull: Pull, numbers: Iterator[int], defaults: Defaults) -> Iterator[Item]:
    """The conversation that the object is, or those that an array in it holds."""
    whole = _Whole()
    one = True
    for raw_key in pull.members():
        key = _value(raw_key)
        if key in _UNUSED:
            pull.value(keep=False)
        elif pull.peek() == b"[":
            values = yield from _records_in(pull, numbers, defaults, whole, key)
            one = one and values is not None
            whole.record[key] = values
        else:
            whole.record[key] = whole.take(pull.value())
    if one:
        yield next(numbers), whole.found(whole.record, defaults)


def _records_in(
    pull: Pull, numbers: Iterator[int], defaults: Defaults, whole: _Whole, key: object
) -> Generator[Item, None, list[object] | None]:
    """The conversations in an array, one by one, if its first element is one; else the array is given back."""
    header = whole.record.get("eval")  # of Inspect's logs, whose samples may have failed before they had messages
    records = True if isinstance(header, dict) and key == "samples" else None
    if isinstance(header, dict):
        defaults = header_of(header)
    values: list[object] = []
    for _ in pull.elements():
        raw = pull.value()
        if records is None:
            records = is_record(_value(raw))
        if records:
            yield next(numbers), _found(raw, defaults)
        else:
            values.append(whole.take(raw))
    return None if records else values


def header_of(header: Json) -> Defaults:
    """What the header of an Inspect log says of its samples."""
    return Defaults(first_text(header, ("model",)), first_time(header))


class _Whole:
    """A conversation that lies in pieces; what is too large of it is dropped, and then all of it is."""

    def __init__(self) -> None:
        self.record: Json = {}
        self.messages: list[object] = []
        self._size = 0
        self._problem: str | None = None

    def take(self, raw: bytes | None) -> object:
        """Value of a piece; None for one that cannot be read."""
        self._size += MAX_RECORD + 1 if raw is None else len(raw)
        if raw is None or self._size > MAX_RECORD:
            self.record.clear()
            self.messages.clear()
            return None
        try:
            return decode(raw)
        except Unreadable as error:
            self._problem = self._problem or str(error)
            return None

    def found(self, value: object, defaults: Defaults) -> Found | str:
        """The conversation, or why there is none."""
        if self._size > MAX_RECORD:
            return TOO_LONG
        try:
            return found_in(value, defaults)
        except Unreadable as error:
            return self._problem or str(error)


def _value(raw: bytes | None) -> object:
    try:
        return None if raw is None else decode(raw)
    except Unreadable:
        return None


def _found(raw: bytes | None, defaults: Defaults) -> Found | str:
    try:
        return TOO_LONG if raw is None else found_in(decode(raw), defaults)
    except Unreadable as error:
        return str(error)
