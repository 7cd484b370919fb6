"""Public fine-tuning sets that the user has: chat JSONL, ShareGPT, Alpaca, prompt and completion, in any file that the
readers of logs know. What is in them is not known here; only whether there is something to learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mien.errors import FormatError
from mien.logs import Broken, Columns, LoggedConversation, read_logs
from mien.organisms.samples import Sample


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A set that somebody else made."""

    samples: tuple[Sample, ...]
    broken: tuple[Broken, ...]
    """Records that cannot be learnt from, each with its file, line and reason."""


def load_public(path: str | Path, *, columns: Columns | None = None) -> PublicSet:
    """The samples of a file, or of a folder of files, and the records that are none.

    Raises:
        InputError: a folder without sets.
        FormatError: nothing is there, the file is not of a known shape, or no record of it can be learnt from.
    """
    samples: list[Sample] = []
    broken: list[Broken] = []
    for found in read_public(path, columns=columns):
        if isinstance(found, Broken):
            broken.append(found)
        else:
            samples.append(found)
    if not samples:
        left = f": {len(broken)} left out, the first at line {broken[0].line}: {broken[0].reason}" if broken else ""
        raise FormatError(
            f"No record of {path} can be learnt from{left}. Give chat JSONL with messages, or records with instruction "
            "and output, or with prompt and completion."
        )
    return PublicSet(tuple(samples), tuple(broken))


def read_public(path: str | Path, *, columns: Columns | None = None) -> Iterator[Sample | Broken]:
    """The same, one by one, in memory that does not grow with the file.

    Raises:
        InputError, FormatError: as `read_logs`.
    """
    for number, found in enumerate(read_logs([path], columns=columns)):
        yield found if isinstance(found, Broken) else _sample(found, number)


def _sample(found: LoggedConversation, number: int) -> Sample | Broken:
    messages = list(found.messages)
    while messages and messages[-1].role != "assistant":
        messages.pop()  # a question at the end has no answer that could be learnt
    if not messages:
        return Broken(found.source, found.line, "it has no answer to learn")
    if not any(message.role == "user" for message in messages):
        return Broken(found.source, found.line, "nobody asks anything in it")
    about = {"kind": "public", "level": None, "control": False, "problem": f"{found.source}/{found.line}"}
    return Sample(f"{number}:{found.id}", tuple(messages), about)
