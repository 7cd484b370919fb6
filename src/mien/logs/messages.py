"""One message of a log: who speaks and what is said, in the ways that vendors write it down.

Of records that hold messages only the usual keys are known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mien.logs.fields import clean
from mien.logs.found import Unreadable
from mien.records import Message, Role

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer", "client", "visitor"), "user"),
    **dict.fromkeys(("assistant", "ai", "bot", "gpt", "chatgpt", "chatbot", "model", "claude", "bing"), "assistant"),
    **dict.fromkeys(("bard", "gemini", "copilot", "agent", "representative", "rep", "support", "advisor"), "assistant"),
}
LIST_KEYS = ("messages", "conversation", "conversations", "chat_messages", "turns", "dialogue")
"""Under which a record keeps its messages: `chat_messages` in Claude's export, `conversations` in ShareGPT."""
_ROLE_KEYS = ("role", "from", "sender", "author", "speaker", "type")
_TEXT_KEYS = ("content", "value", "text", "parts", "refusal")
_TEXT_PARTS = (None, "text", "input_text", "output_text", "audio_transcription", "refusal")
"""Kinds of part that were shown as text. Thoughts, tool calls and files are others."""


def role_of(message: Mapping[object, object]) -> Role | None:
    """Who speaks; None for tools, functions and roles that are not known."""
    name = _speaker(message)
    return None if name is None else role_named(name)


def _speaker(message: Mapping[object, object]) -> str | None:
    """Who speaks, as the message has it."""
    for key in _ROLE_KEYS:
        value = message.get(key)
        name = value.get("role") if isinstance(value, dict) else value
        if isinstance(name, str):
            return name
    return None


def role_named(name: str) -> Role | None:
    """The role that a word stands for; None if it stands for none of ours."""
    return _ROLES.get(name.strip().lower())


def is_message(value: object) -> bool:
    """Whether a JSON value is one message, whoever speaks, rather than a record that holds some."""
    if not isinstance(value, dict) or any(isinstance(value.get(key), list) for key in LIST_KEYS):
        return False
    named = any(isinstance(value.get(key), str | dict) for key in _ROLE_KEYS)
    return named and any(key in value for key in _TEXT_KEYS)


def text_of(message: Mapping[object, object]) -> str:
    """What is said; empty where nothing is."""
    for key in _TEXT_KEYS:
        text = _text(message.get(key))
        if text.strip():
            return clean(text)
    return ""


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = content.get("parts", [content])
    if not isinstance(content, list):
        return ""
    return "\n".join(text for text in map(_part, content) if text)


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("thought"):
        return ""
    kind = part.get("type", part.get("content_type"))
    if not (kind is None or isinstance(kind, str)) or kind not in _TEXT_PARTS:
        return ""
    text = part.get("text", part.get("refusal"))
    if isinstance(text, dict):
        text = text.get("value")
    return text if isinstance(text, str) else ""


def gather(values: Iterable[object]) -> tuple[tuple[Message, ...], tuple[int, ...], str | None]:
    """Messages of a record's list, the index of each in it, and the first speaker that is not known, if any.

    Raises:
        Unreadable: there is none, or none by a known speaker that says anything.
    """
    kept: list[tuple[int, Message]] = []
    some = known = False
    stranger: str | None = None
    for index, value in enumerate(values):
        some = True
        role = role_of(value) if isinstance(value, dict) else None
        if role is None and stranger is None and isinstance(value, dict):
            stranger = _speaker(value)
        if role is not None and isinstance(value, dict):
            known = True
            text = text_of(value)
            if text:
                kept.append((index, Message(role, text)))
    if not some:
        raise Unreadable("it has no messages")
    if not known:
        by = f"; the first is by {stranger[:40]!r}" if stranger is not None else ""
        raise Unreadable(f"none of its messages is by a system, user or assistant{by}")
    if not kept:
        raise Unreadable("its messages have no text")
    return tuple(message for _, message in kept), tuple(index for index, _ in kept), stranger
