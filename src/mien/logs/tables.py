"""Tables of conversations: which columns hold what, and rows put together into conversations.

How rows are read from a file is not known here; a row is a mapping from column names to values.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Literal

from mien.errors import FormatError
from mien.logs.fields import as_text, moment
from mien.logs.found import MAX_RECORD, TOO_LONG, Found, Item, Unreadable
from mien.logs.messages import gather
from mien.logs.records import Columns
from mien.logs.shapes import decode, found_in

Row = tuple[int, Mapping[str, object] | str]
"""Line or ordinal, and the row's values or the reason why they cannot be read."""

_LISTS = ("messages", "conversations", "chat_messages")
_LISTS_TOO = ("conversation", "dialogue", "dialog", "turns", "chat")
"""These name an id as often: they are taken for lists only where nothing else is a message."""
_CONVERSATION = (
    *("conversation_id", "conversationid", "conv_id", "conversation_hash", "chat_id", "session_id", "thread_id"),
    *("dialogue_id", "dialog_id", "conversation", "chat", "session", "thread", "dialogue", "dialog"),
)
_ID = ("id", "uuid")
"""Of the conversation only where a row is one: else of the message."""
_NAMES = {
    "role": ("role", "author_role", "from", "sender", "speaker", "author"),
    "content": ("content", "text", "message", "value", "body", "utterance", "message_text"),
    "model": ("model", "model_name", "model_id", "model_slug"),
    "time": ("created_at", "create_time", "created", "timestamp", "time", "datetime", "date"),
    "prompt": ("prompt", "instruction", "question", "query", "user", "human", "user_message", "input"),
    "response": ("response", "completion", "answer", "assistant", "reply", "model_response", "bot", "output"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What a row is, and the table's own names of the columns that are used."""

    kind: Literal["message", "conversation", "exchange"]
    columns: Columns
    more: tuple[tuple[str, str], ...] = ()
    """Of an exchange: what else bears on it, as a record has it (`input`, `system`), and the column that holds it."""

    @property
    def names(self) -> list[str]:
        """Columns that are read."""
        return list(dict.fromkeys([*_given(self.columns), *(name for _, name in self.more)]))


def _given(columns: Columns) -> list[str]:
    names = (getattr(columns, field.name) for field in fields(columns))
    return [name for name in names if name is not None]


def has_all(names: Collection[str], told: Columns) -> bool:
    """Whether a table with these columns has all that were named."""
    return all(name in names for name in _given(told))


def layout_of(names: Sequence[str], told: Columns | None, source: str) -> Layout:
    """How to read a table with these columns.

    Raises:
        FormatError: a column that was named is not there, or there is nothing to make messages of.
    """
    told = told or Columns()
    shown = ", ".join(name.strip()[:40] or '""' for name in names[:30]) or "none"
    missing = next((name for name in _given(told) if name not in names), None)
    if missing is not None:
        raise FormatError(f"{source} has no column {missing!r}; its columns are: {shown}.")
    layout = guess(names, told)
    if layout is None:
        raise FormatError(
            f"It is not clear which columns of {source} hold the conversations; name those of conversation id, role "
            f"and content, or that of messages, or those of prompt and response. Its columns are: {shown}."
        )
    return layout


def guess(names: Sequence[str], told: Columns) -> Layout | None:
    """The layout by what was told and by usual names; None if there is none. Of equal names the first is taken."""
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(name.strip().lower().replace("-", "_").replace(" ", "_").replace(".", "_"), name)

    def pick(given: str | None, usual: Collection[str]) -> str | None:
        return given if given is not None else next((known[name] for name in usual if name in known), None)

    about = {key: pick(getattr(told, key), _NAMES[key]) for key in ("model", "time")}
    role, content = pick(told.role, _NAMES["role"]), pick(told.content, _NAMES["content"])
    prompt, response = pick(told.prompt, _NAMES["prompt"]), pick(told.response, _NAMES["response"])
    messages, messages_too = pick(told.messages, _LISTS), pick(None, _LISTS_TOO)
    by_rows, by_exchange = told.role or told.content, told.prompt or told.response
    beside_text = content is not None and content != messages_too
    if messages is not None and (told.messages or not (by_rows or by_exchange)):
        id = pick(told.conversation, (*_CONVERSATION, *_ID))
        return Layout("conversation", Columns(conversation=None if id == messages else id, messages=messages, **about))
    if role is not None and content is not None and not by_exchange:
        id = pick(told.conversation, _CONVERSATION)
        return None if id is None else Layout("message", Columns(conversation=id, role=role, content=content, **about))
    if prompt is not None and response is not None:
        id = pick(told.conversation, (*_CONVERSATION, *_ID))
        more = [("system", pick(None, ("system", "system_prompt")))]
        if prompt == known.get("instruction"):
            more.append(("input", known.get("input")))
        beside = tuple((key, name) for key, name in more if name is not None and name not in (prompt, response))
        return Layout("exchange", Columns(conversation=id, prompt=prompt, response=response, **about), beside)
    if messages_too is not None and not by_rows and not beside_text:
        id = pick(told.conversation, (*(name for name in _CONVERSATION if known.get(name) != messages_too), *_ID))
        return Layout("conversation", Columns(conversation=id, messages=messages_too, **about))
    return None


def assemble(rows: Iterable[Row], layout: Layout) -> Iterator[Item]:
    """Conversations of a table's rows, in order."""
    if layout.kind == "message":
        yield from _grouped(rows, layout.columns)
        return
    make = _from_list if layout.kind == "conversation" else _from_exchange
    for number, row in rows:
        try:
            yield number, row if isinstance(row, str) else make(row, layout)
        except Unreadable as error:
            yield number, str(error)


def _value(row: Mapping[str, object], name: str | None) -> object:
    return None if name is None else row.get(name)


def _about(row: Mapping[str, object], columns: Columns) -> tuple[str | None, str | None, str | None]:
    """Id, model and time as a row's own columns have them."""
    model = as_text(_value(row, columns.model))
    return as_text(_value(row, columns.conversation)), model, moment(_value(row, columns.time))


def _from_list(row: Mapping[str, object], layout: Layout) -> Found:
    columns = layout.columns
    value = _value(row, columns.messages)
    if isinstance(value, str):
        if not value.strip():
            raise Unreadable("it has no messages")
        value = decode(value.encode("utf-8", errors="surrogatepass"))
    if value is None:
        raise Unreadable("it has no messages")
    return found_in(value).told(*_about(row, columns))


def _from_exchange(row: Mapping[str, object], layout: Layout) -> Found:
    columns = layout.columns
    asked, answered = _value(row, columns.prompt), _value(row, columns.response)
    record: dict[object, object] = {key: _value(row, name) for key, name in layout.more}
    return found_in({"instruction": asked or "", "response": answered or "", **record}).told(*_about(row, columns))


def _grouped(rows: Iterable[Row], columns: Columns) -> Iterator[Item]:
    """Rows that follow one another with the same id, as one conversation; more rows of one that has ended are refused.

    A row that cannot be read counts as a message without text of the conversation it lies in.
    """
    group: _Group | None = None
    begun = _Begun()
    for number, row in rows:
        id = None if isinstance(row, str) else as_text(_value(row, columns.conversation))
        if isinstance(row, str) or id is None:
            yield number, row if isinstance(row, str) else f"its column {columns.conversation} names no conversation"
            if group is not None:
                group.values.append(None)
            continue
        if group is None or group.id != id:
            if group is not None:
                yield group.line, group.found()
            group = _Group(number, id, torn=begun.before(id))
        group.add(row, columns)
    if group is not None:
        yield group.line, group.found()


class _Begun:
    """Ids of conversations that have begun, in memory that does not grow: one may take the place of an older one."""

    _PLACES = 2**18

    def __init__(self) -> None:
        self._marks = array("Q", bytes(8 * self._PLACES))

    def before(self, id: str) -> bool:
        """Whether it has begun already; from now on it has."""
        mark = int.from_bytes(blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        place = mark % self._PLACES
        known = self._marks[place] == mark
        self._marks[place] = mark
        return known


class _Group:
    """The rows of one conversation, as far as they have come; `torn` if other rows of it stand elsewhere above."""

    def __init__(self, line: int, id: str, torn: bool) -> None:
        self.line, self.id, self._torn = line, id, torn
        self.values: list[object] = []
        self._model: str | None = None
        self._time: str | None = None
        self._size = 0

    def add(self, row: Mapping[str, object], columns: Columns) -> None:
        _, model, time = _about(row, columns)
        self._model, self._time = model or self._model, self._time or time
        role, content = _value(row, columns.role), _value(row, columns.content)
        self._size += len(content) if isinstance(content, str) else 0
        if self._size > MAX_RECORD:
            self.values.clear()
        else:
            self.values.append({"role": role, "content": content})

    def found(self) -> Found | str:
        """The conversation, or why there is none."""
        if self._torn:  # an answer without what it answers would be read as another conversation
            return (
                f"the rows of conversation {self.id[:40]!r} do not follow one another; sort the table by conversation"
            )
        if self._size > MAX_RECORD:
            return TOO_LONG
        try:
            messages, indices, stranger = gather(self.values)
        except Unreadable as error:
            return str(error)
        return Found(messages, indices, self.id, self._model, self._time, stranger=stranger)
