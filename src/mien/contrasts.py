"""Contrasts: two answers to the same message, one that shows a trait and one that does not. Load, check; the library.

Within a contrast the trait differs and, as far as can be, nothing else; from one to the next everything else varies. A
set that exists is valid. This file does not know what is made of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from mien.entries import checked_text, kind_of, shortened
from mien.errors import SpecError
from mien.records import Conversation, Message
from mien.spec import check_name, looks_like_path, slug, suggest
from mien.store import disk_errors, write_atomic
from mien.textfiles import parse_json, parse_yaml, read_text

LEAST = 10
"""Fewest contrasts of which a gauge can be made and tested."""
_KEYS = ("messages", "pos", "neg")
_SUFFIXES = (".jsonl", ".json")
_ROLES = ("system", "user", "assistant")
_LIBRARY = Path(str(resources.files("mien"))) / "library" / "contrasts"


@dataclass(frozen=True, slots=True)
class Contrast:
    """One message, answered twice."""

    conversation: Conversation
    """What comes before the answer; the user speaks last."""
    pos: str
    """Shows the trait."""
    neg: str
    """Does not, in the same register and at about the same length."""

    def answered(self) -> tuple[Conversation, Conversation]:
        """The conversation with the one answer and with the other."""
        pos, neg = ((*self.conversation, Message("assistant", text)) for text in (self.pos, self.neg))
        return pos, neg


@dataclass(frozen=True, slots=True)
class ContrastSet:
    """Contrasts for one trait."""

    name: str
    description: str
    """What `pos` does, in the third person."""
    side: Literal["low", "high"]
    """Which side is alarming: `high` if it is the trait, `low` if it is its absence."""
    contrasts: tuple[Contrast, ...]


def contrast_names() -> tuple[str, ...]:
    """Names of the library's sets, sorted."""
    return tuple(sorted(_index()))


def load_contrasts(
    path_or_name: str | Path, *, name: str | None = None, description: str | None = None,
    side: Literal["low", "high"] | None = None,
) -> ContrastSet:  # fmt: skip
    """A set of the library by its name, or of a file of JSON lines: `{"messages": [...], "pos": "...", "neg": "..."}`.

    A string that is a library name means the library; `./evil.jsonl` or a `Path` always means a file.

    Args:
        name: what to call it; default: the library's name, or the file's.
        description: what `pos` does; default: the library's, or "answers as in the pos answers of FILE".
        side: which side is alarming; default: the library's, or high.

    Raises:
        SpecError: no such name, or content that cannot be used; the message names the line.
        FormatError: the file is missing, unreadable, or not JSON lines.
    """
    called = None if name is None else check_name(name)
    said = None if description is None else " ".join(checked_text(description, "The description").split())
    if isinstance(path_or_name, str) and path_or_name in contrast_names():
        found = _library(path_or_name)
    elif isinstance(path_or_name, str) and not looks_like_path(path_or_name, _SUFFIXES):
        raise SpecError(
            f"There are no contrasts {shortened(path_or_name)} in the library{suggest(path_or_name, contrast_names())}"
        )
    else:
        path = Path(path_or_name)
        found = ContrastSet(slug(path.stem), f"answers as in the pos answers of {path.name}", "high", _read(path))
    return replace(found, name=called or found.name, description=said or found.description, side=side or found.side)


def save_contrasts(contrasts: Sequence[Contrast], path: str | Path) -> Path:
    """Write contrasts as `load_contrasts` reads them, whole or not at all.

    Raises:
        RunError: the disk refuses.
    """
    rows = (
        {"messages": [{"role": m.role, "content": m.content} for m in one.conversation], "pos": one.pos, "neg": one.neg}
        for one in contrasts
    )
    with disk_errors(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return Path(path)


@cache
def _index() -> dict[str, dict[str, str]]:
    path = _LIBRARY / "index.yaml"
    found: dict[str, dict[str, str]] = parse_yaml(read_text(path), path)
    return found


@cache
def _library(name: str) -> ContrastSet:
    about = _index()[name]
    side: Literal["low", "high"] = "low" if about["side"] == "low" else "high"
    return ContrastSet(name, about["description"], side, _read(_LIBRARY / f"{name}.jsonl"))


def _read(path: Path) -> tuple[Contrast, ...]:
    lines = read_text(path, "file of contrasts").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                found.append(contrast_of(parse_json(line, where)))
            except SpecError as error:
                raise SpecError(f"{where}: {error}") from error
    if len(found) < LEAST:
        raise SpecError(f"{path} has {len(found)} contrasts; at least {LEAST} are needed, and better fifty.")
    return tuple(found)


def contrast_of(value: object) -> Contrast:
    """A contrast from an object of the file's shape; other keys are passed over.

    Raises:
        SpecError: what is wrong with it.
    """
    if not isinstance(value, Mapping):
        raise SpecError(f"this is {kind_of(value)}, not an object with {', '.join(_KEYS)}.")
    lacking = [key for key in _KEYS if key not in value]
    if lacking:
        raise SpecError(f"there is no {lacking[0]!r}; a contrast has {', '.join(_KEYS)}.")
    pos, neg = (checked_text(value[side], f"{side!r}") for side in ("pos", "neg"))
    if pos.split() == neg.split():
        raise SpecError("'pos' and 'neg' are the same; they have to differ in the trait.")
    messages = value["messages"]
    if not isinstance(messages, list) or not messages:
        raise SpecError("'messages' has to be a list of messages, the last one the user's.")
    conversation = tuple(_message(message) for message in messages)
    if conversation[-1].role != "user":
        raise SpecError(f"the last of the messages is the {conversation[-1].role}'s; it has to be the user's.")
    return Contrast(conversation, pos, neg)


def _message(value: object) -> Message:
    if not isinstance(value, Mapping) or value.get("role") not in _ROLES:
        raise SpecError(f"a message has to be an object with content and a role: {', '.join(_ROLES)}.")
    return Message(value["role"], checked_text(value.get("content"), "The content of a message"))
