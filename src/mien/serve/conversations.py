"""Which conversation a request goes on with, and what is remembered of conversations that look alike.

Servers of this kind get the whole conversation with every request. Ids that clients give are used; otherwise the id
is made from what is said first, so that it is the same after a restart. This file does not know requests or readings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict

from mien.records import Conversation, Message

_ID = re.compile(r"[\x21-\x7e]{1,128}")


def given_id(text: str) -> str:
    """A client's own id, or a digest of one that cannot be written in a line of a log."""
    return text if _ID.fullmatch(text) else f"given-{_digest(text)}"


def id_of(owner: str, messages: Conversation, answer: str) -> str:
    """An id from the first exchange: who asks, system prompt, first question and first answer.

    With the question alone everybody who says hello would be in one conversation.

    Args:
        owner: who asks, as far as that is known.
        messages: what was asked; `answer` is what has been written to it.
    """
    until = next((i for i, m in enumerate(messages) if m.role == "assistant"), len(messages))
    first = messages[: until + 1] if until < len(messages) else (*messages, Message("assistant", answer))
    return f"c-{digest_of(owner, first)}"


def digest_of(owner: str, messages: Conversation) -> str:
    """Names a conversation up to here."""
    return _digest(json.dumps([owner, [[m.role, m.content] for m in messages]], ensure_ascii=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


class Remembered:
    """What was found of conversations, by their digest; the least used are forgotten."""

    def __init__(self, most: int = 10_000) -> None:
        self._found: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._most = most

    def get(self, digest: str) -> frozenset[str] | None:
        """What was put under a digest; None if nothing was, or it is forgotten."""
        if digest in self._found:
            self._found.move_to_end(digest)
        return self._found.get(digest)

    def put(self, digest: str, what: frozenset[str]) -> None:
        """Remember it."""
        self._found[digest] = what
        self._found.move_to_end(digest)
        if len(self._found) > self._most:
            self._found.popitem(last=False)
