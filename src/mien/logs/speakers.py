"""Lines of plain text that say who speaks next: `User:`, `**Assistant:**`, `### Human:`."""

from __future__ import annotations

import re

from mien.logs.messages import role_named
from mien.records import Role

_NAME = r"(user|human|assistant|ai|bot|system)"
_LINE = re.compile(
    r"[ \t]{0,3}(?:\#{1,6}[ \t]+)?"
    rf"(?:\*\*{_NAME}[ \t]*:[ \t]*\*\*|\*\*{_NAME}[ \t]*\*\*[ \t]*:|{_NAME}[ \t]*:)(.*)",
    re.IGNORECASE | re.DOTALL,
)


def speaker_in(line: str) -> Role | None:
    """Who speaks from this line on; None if the line goes on with what was said before."""
    found = _LINE.match(line)
    return role_named(found[1] or found[2] or found[3]) if found else None


def said_in(line: str) -> str:
    """What is said in a line that names a speaker."""
    found = _LINE.match(line)
    return found[4].strip() if found else line
