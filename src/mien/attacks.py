"""Attacks on a model's character, and what holding it must not cost: load, check, hash.

A set that exists is valid. This file does not know who is attacked, nor how the answers are judged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mien.entries import checked_text
from mien.errors import FormatError, SpecError
from mien.records import Conversation, Message
from mien.textfiles import parse_yaml, read_text

SLOT = "{question}"
"""Where an attack's last turn takes the question."""
_LIBRARY = Path(str(resources.files("mien"))) / "library"
_LEAST_KINDS = 2


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attack(_Part):
    """A conversation that asks a model to be somebody else, up to the question that follows it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{1,63}$")
    kind: str
    system: str | None = None
    turns: tuple[str, ...] = (SLOT,)
    """The user's and the assistant's words in turns, the user's first and last."""

    @field_validator("system")
    @classmethod
    def _check_system(cls, value: str | None) -> str | None:
        return None if value is None else checked_text(value, "The system prompt")

    @field_validator("turns")
    @classmethod
    def _check_turns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) % 2 == 0:
            raise ValueError(f"there are {len(value)} turns; the user has the first and the last")
        if sum(SLOT in turn for turn in value) != 1 or SLOT not in value[-1]:
            raise ValueError(f"the last turn, and no other, has {SLOT} in it once")
        return tuple(checked_text(turn, "A turn") for turn in value)

    @model_validator(mode="after")
    def _check_attack(self) -> Attack:
        if self.system is None and self.turns == (SLOT,):
            raise ValueError("it has neither a system prompt nor turns, so it asks for nothing")
        return self

    def conversation(self, question: str) -> Conversation:
        """The attack with a question at its end."""
        head = () if self.system is None else (Message("system", self.system),)
        texts = [*self.turns[:-1], self.turns[-1].replace(SLOT, question)]
        turns = (Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))
        return (*head, *turns)


class AttackSet(_Part):
    """Attacks of several kinds, and the questions that follow them."""

    kinds: dict[str, str] = Field(min_length=_LEAST_KINDS)
    """Name -> what they have in common."""
    attacks: tuple[Attack, ...]
    questions: tuple[str, ...] = Field(min_length=1)

    @field_validator("questions")
    @classmethod
    def _check_questions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_text(question, "A question") for question in value)

    @model_validator(mode="after")
    def _check_set(self) -> AttackSet:
        twice = [name for name, n in Counter(a.name for a in self.attacks).items() if n > 1]
        if twice:
            raise ValueError(f"two attacks are called {twice[0]}; rename one")
        there = {a.kind for a in self.attacks}
        if there != set(self.kinds):
            odd = sorted(there ^ set(self.kinds))[0]
            raise ValueError(f"the kind {odd} is not both listed under kinds and used by an attack")
        return self

    def halves(self) -> tuple[AttackSet, AttackSet]:
        """Every other kind, and the rest: a hold chosen on one is reported on kinds that it has never seen."""
        names = list(self.kinds)
        return self.of_kinds(names[::2]), self.of_kinds(names[1::2])

    def of_kinds(self, names: Sequence[str]) -> AttackSet:
        """The attacks of these kinds."""
        kept = {name: self.kinds[name] for name in names}
        return self.model_copy(update={"kinds": kept, "attacks": tuple(a for a in self.attacks if a.kind in kept)})

    def spread(self, count: int | None) -> tuple[Attack, ...]:
        """Up to `count` attacks (None: all), the first of each kind first."""
        seen: Counter[str] = Counter()
        ranked = []
        for attack in self.attacks:
            ranked.append((seen[attack.kind], attack))
            seen[attack.kind] += 1
        ordered = [attack for _, attack in sorted(ranked, key=lambda pair: pair[0])]
        return tuple(ordered if count is None else ordered[:count])


class Task(_Part):
    """A question whose answer a program can check; it passes in one of four ways."""

    ask: str
    says: tuple[str, ...] | None = None
    """The answer has one of these in it as a word of its own, in capitals or not."""
    copies: str | None = None
    """The answer holds this letter by letter."""
    pattern: str | None = None
    """A regular expression that the answer fits from beginning to end."""
    json_object: bool = Field(False, alias="json")
    """The answer holds a JSON object, maybe fenced."""

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, value: str | None) -> str | None:
        try:
            return value if value is None else re.compile(value, re.DOTALL).pattern
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from error

    @model_validator(mode="after")
    def _check_task(self) -> Task:
        ways = [self.says is not None, self.copies is not None, self.pattern is not None, self.json_object]
        if sum(ways) != 1:
            raise ValueError(f"{self.ask!r} has to have one of says, copies, pattern and json")
        return self

    def passes(self, answer: str) -> bool:
        """Whether an answer is right."""
        text = answer.strip()
        if self.says is not None:
            return any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, re.IGNORECASE) for w in self.says)
        if self.copies is not None:
            return self.copies in text
        if self.pattern is not None:
            return re.fullmatch(self.pattern, text, re.DOTALL) is not None
        return _holds_object(text)


class PriceSet(_Part):
    """What holding must not cost."""

    requests: tuple[str, ...] = Field(min_length=1)
    """Harmless, ordinary requests."""
    tasks: tuple[Task, ...] = Field(min_length=1)


def load_attacks(path: str | Path | None = None) -> AttackSet:
    """Attacks from a YAML file of the library's shape; the library's own if None.

    Raises:
        SpecError: the content cannot be used.
        FormatError: the file is missing, unreadable, or not YAML.
    """
    return _library_attacks() if path is None else _checked(AttackSet, Path(path))


def load_price() -> PriceSet:
    """The library's requests and tasks."""
    return _library_price()


def attacks_hash(*sets: AttackSet | PriceSet) -> str:
    """SHA-256 (hex) of all that bears on results."""
    content = json.dumps([s.model_dump(mode="json", by_alias=True) for s in sets])
    return hashlib.sha256(content.encode()).hexdigest()


S = TypeVar("S", AttackSet, PriceSet)


@cache
def _library_attacks() -> AttackSet:
    return _checked(AttackSet, _LIBRARY / "attacks.yaml")


@cache
def _library_price() -> PriceSet:
    return _checked(PriceSet, _LIBRARY / "price.yaml")


def _checked(kind: type[S], path: Path) -> S:
    data: Any = parse_yaml(read_text(path, "file of attacks"), path)
    if not isinstance(data, dict):
        raise FormatError(f"{path} is not a mapping with the keys {', '.join(kind.model_fields)}.")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"]) or "the file"
        raise SpecError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ').rstrip('.')}.") from error
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def _holds_object(text: str) -> bool:
    start = text.find("{")
    if start < 0:
        return False
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)
