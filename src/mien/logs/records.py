"""What the readers of logs give, and what a user may tell them about a table. No format is known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mien.errors import InputError
from mien.progress import Progress
from mien.records import Message


@dataclass(frozen=True, slots=True)
class LoggedConversation:
    """One conversation of a log."""

    id: str
    """The record's own id, or `<file name>:<line>`. Not made unique: logs do repeat ids."""
    messages: tuple[Message, ...]
    """What was said by system, user and assistant: at least one, none of them empty, no lone surrogates."""
    indices: tuple[int, ...]
    """For each of `messages`, its 0-based index in the record's own list, which counts tool and empty messages too."""
    model: str | None
    """Model that wrote the answers, as the log names it."""
    time: str | None
    """When it began, ISO 8601 in UTC, to the second."""
    source: str
    """The file, as given; for a file found in a folder, the folder as given with the way to the file."""
    line: int
    """Where it begins, from 1: a line in JSONL, CSV and plain text, an ordinal in the other formats."""
    turn_labels: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """Labels that came with the record: `(index in the record's own list, {label: intensity})`."""
    stranger: str | None = None
    """The first speaker in the record that is none of system, user and assistant, as the record has it; those messages
    are left out."""

    @property
    def unanswered(self) -> str | None:
        """Why there is nothing by an assistant to read, in a short phrase; None where there is something."""
        if any(message.role == "assistant" for message in self.messages):
            return None
        by = f"; there is one by {self.stranger[:40]!r}" if self.stranger is not None else ""
        return f"it has no message of an assistant{by}"


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that could not be read."""

    source: str
    """As in `LoggedConversation`."""
    line: int
    """As in `LoggedConversation`."""
    reason: str
    """One short phrase, such as `it is not JSON: Expecting value (column 3)`."""


@dataclass(slots=True)
class Skipped:
    """Records that were left out, as far as they have come: how many, and the first of them."""

    count: int = 0
    first: Broken | None = None

    def add(self, record: Broken) -> None:
        """One more."""
        self.count += 1
        self.first = self.first or record

    def tell(self, show: Progress) -> None:
        """One line of progress if there are any."""
        if self.first is not None:
            source = self.first.source if self.first.source.isprintable() else repr(self.first.source)
            what = "1 record skipped:" if self.count == 1 else f"{self.count} records skipped; the first:"
            show.note(f"{what} {source} line {self.first.line}, {self.first.reason}")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns. What is None is guessed from usual names; names given must be in the table.

    A row is a message (`conversation`, `role`, `content`), a conversation (`messages`), or one exchange (`prompt`,
    `response`).
    """

    conversation: str | None = None
    """Id of the conversation; where a row is a message, the rows of a conversation follow one another."""
    role: str | None = None
    """Who speaks."""
    content: str | None = None
    """What is said."""
    model: str | None = None
    """Model that wrote the answers."""
    time: str | None = None
    """When."""
    messages: str | None = None
    """All messages of the conversation: JSON text, or a Parquet list of structs."""
    prompt: str | None = None
    """What the user asked."""
    response: str | None = None
    """What the assistant answered."""


def nothing_usable(skipped: int, first: Sequence[tuple[str, int, str]]) -> InputError:
    """What to raise where not one record of the logs can be used.

    Args:
        first: file, line and reason of some that were skipped, the first of all in front.
    """
    if not first:
        return InputError("There are no records in what was given; check the files, and --format and --columns.")
    source, line, reason = first[0]
    return InputError(
        f"No record can be used: {skipped} left out, the first in {source}, line {line}: {reason}; check the files, "
        f"and --format and --columns."
    )
