"""Plain text of conversations: who speaks begins a line, and a rule of dashes or equals signs parts conversations.

Answers written in Markdown hold such rules too: one parts conversations only where the next line names a speaker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedReader

from mien.logs.found import MAX_RECORD, TOO_LONG, Found, Item, Unreadable
from mien.logs.messages import gather
from mien.logs.speakers import Speakers, said_in
from mien.logs.streams import lines
from mien.records import Role

NO_SPEAKER = "no line begins with User: or Assistant:"
_RULE = re.compile(r"\s*(-{3,}|={3,})\s*")


class _Talk:
    """A conversation while its lines come in."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.turns: list[tuple[Role, list[str]]] = []
        self._size = 0
        self._problem: str | None = None

    def spoil(self, reason: str) -> None:
        self._problem = self._problem or reason
        self.turns.clear()

    def add(self, text: str, role: Role | None = None) -> None:
        self._size += len(text) + 1
        if self._size > MAX_RECORD:
            self.spoil(TOO_LONG)
        elif self._problem is None and role is not None:
            self.turns.append((role, [text]))
        elif self.turns:
            self.turns[-1][1].append(text)

    def alternates(self) -> bool:
        """Whether an answer is due in a conversation that the user began."""
        said = [role for role, _ in self.turns if role != "system"]
        return bool(said) and said[0] == "user" and self.turns[-1][0] == "user"

    def found(self) -> Found | str:
        """The conversation, or why there is none."""
        if self._problem is not None:
            return self._problem
        try:
            said = ({"role": role, "content": "\n".join(said).strip()} for role, said in self.turns)
            messages, indices, _ = gather(said)
        except Unreadable as error:
            return str(error)
        return Found(messages, indices)


def read_transcript(stream: BufferedReader) -> Iterator[Item]:
    """Every conversation of a file of plain text, with the line of its first word.

    Text before the first speaker is passed over.

    Raises:
        Cut: the file cannot be read to its end.
    """
    talk: _Talk | None = None
    speakers = Speakers()
    held: list[str] = []  # a rule and blank lines behind it, until it is known what follows
    joining: set[str] = set()  # rules that stand between turns in this file, told by the first that does
    for number, raw in lines(stream):
        line, problem = _text(raw)
        role = speakers.in_line(line)
        if problem is not None:
            talk = talk or _Talk(number)
            talk.spoil(problem)
        elif held and not line.strip():
            held.append(line)
        elif role is not None:
            kind = held[0].strip()[0] if held else ""
            if talk is not None and kind and role == "assistant" and talk.alternates():
                joining.add(kind)
            if talk is not None and kind and kind not in joining:
                yield talk.line, talk.found()
                talk = None
            talk, held = talk or _Talk(number), []
            talk.add(said_in(line), role)
        elif talk is not None:
            for before in held:
                talk.add(before)
            held = [line] if _RULE.fullmatch(line) else []
            if not held:
                talk.add(line)
    yield (1, NO_SPEAKER) if talk is None else (talk.line, talk.found())


def _text(raw: bytes | None) -> tuple[str, str | None]:
    """A line and, if it cannot be read, why."""
    if raw is None:
        return "", TOO_LONG
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError:
        return "", "it is not UTF-8 text"
