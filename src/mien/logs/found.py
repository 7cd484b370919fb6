"""What passes between the readers of formats and the one that calls them. Nothing here knows a format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mien.records import Message

MAX_RECORD = 64 * 1024 * 1024
"""Bytes of the largest line, array element or conversation that is taken into memory."""
TOO_LONG = f"it is longer than {MAX_RECORD // 2**20} MiB"


class Unreadable(Exception):
    """One record cannot be read; the rest of the file can. `str(error)` is the reason."""


class Cut(Exception):
    """Nothing more can be read of a file; what came before stands. `str(error)` is the reason."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line
        """Where, if the one who noticed knows."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a file says of all its records."""

    model: str | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A conversation, before the file's name is put to it."""

    messages: tuple[Message, ...]
    indices: tuple[int, ...]
    id: str | None = None
    model: str | None = None
    time: str | None = None
    turn_labels: tuple[tuple[int, Mapping[str, float]], ...] = ()
    stranger: str | None = None

    def told(self, id: str | None, model: str | None, time: str | None) -> Found:
        """The same, where what is given outdoes what the record says of itself."""
        return replace(self, id=id or self.id, model=model or self.model, time=time or self.time)


Item = tuple[int, Found | str]
"""Line or ordinal, and the conversation that begins there or the reason why it cannot be read."""
