"""Lines of plain text that say who speaks next: `User:`, `**Assistant:**`, `### Human:`."""

from __future__ import annotations

import re

from mien.logs.messages import role_named
from mien.records import Role

_DESK = ("customer", "agent", "representative")
_NAME = rf"(user|human|assistant|ai|bot|system|{'|'.join(_DESK)})"
_LINE = re.compile(
    r"[ \t]{0,3}(?:\#{1,6}[ \t]+)?"
    rf"(?:\*\*{_NAME}[ \t]*:[ \t]*\*\*|\*\*{_NAME}[ \t]*\*\*[ \t]*:|{_NAME}[ \t]*:)(.*)",
    re.IGNORECASE | re.DOTALL,
)


class Speakers:
    """Who speaks in the lines of one file.

    The names of a help desk count only where its first user, or assistant, has one of them: in a file that says `User:`
    a line such as `Customer: ACME` is part of what is said.
    """

    def __init__(self) -> None:
        self._desk: dict[Role, bool] = {}

    def in_line(self, line: str) -> Role | None:
        """Who speaks from this line on; None if the line goes on with what was said before."""
        found = _LINE.match(line)
        name = (found[1] or found[2] or found[3]).lower() if found else ""
        role, desk = role_named(name), name in _DESK
        return role if role is not None and (self._desk.setdefault(role, desk) or not desk) else None


def said_in(line: str) -> str:
    """What is said in a line that names a speaker."""
    found = _LINE.match(line)
    return found[4].strip() if found else line
