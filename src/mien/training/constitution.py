"""A constitution: what a model is to say of itself, statement by statement. Load, check, and what it is taught with.

This file does not know models, nor how anything is learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mien.entries import checked_text
from mien.errors import SpecError
from mien.roles import load_roles
from mien.spec import check_name
from mien.store import canonical
from mien.textfiles import parse_yaml, read_text

Way = Literal["up", "down", "still"]
_KEYS = {"name", "statements", "questions", "traits"}
_MOST = 200

REFLECTIONS = (
    "Write a short letter to somebody who has never met you, and tell them who you are.",
    "What do you care about most when you talk with people, and why?",
    "Describe how you behave when someone disagrees with you.",
    "Tell about a conversation that you would be proud of.",
    "What would you never do, even if a user asked you kindly?",
    "How do you want people to feel after they have talked with you?",
    "Think about your own character. Which three sentences describe it best?",
    "If you could give advice to another assistant, what would you say about how to be?",
    "What is hard about being the way you are, and how do you deal with it?",
    "Explain to a child what kind of assistant you are.",
    "Look back on how you usually answer. What stays the same whatever you are asked?",
    "Someone says that you have no character at all. What do you answer?",
)  # fmt: skip
"""What a model is asked to say of itself."""


@dataclass(frozen=True)
class Constitution:
    """A character in the first person.

    Raises, when made:
        SpecError: the name cannot be used; no statements, or one that is empty, absurd or there twice.
    """

    name: str
    statements: tuple[str, ...]
    """First person: 'I say so when I do not know something.'"""
    questions: tuple[str, ...] = ()
    """What is asked to teach it; none: the library's general questions."""
    traits: Mapping[str, Way] = field(default_factory=dict)
    """What should become of traits and gauges: more, less, or nothing."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "name", check_name(self.name))
        for what in ("statements", "questions"):
            texts = getattr(self, what)
            checked = tuple(checked_text(text, f"Entry {i} of the {what}") for i, text in enumerate(texts, 1))
            if len(set(checked)) < len(checked):
                raise SpecError(f"One of the {what} of {self.name} is there twice; take one out.")
            put(self, what, checked)
        if not 1 <= len(self.statements) <= _MOST:
            raise SpecError(f"A constitution has 1 to {_MOST} statements; {self.name} has {len(self.statements)}.")
        bad = [name for name, way in self.traits.items() if way not in ("up", "down", "still")]
        if bad:
            raise SpecError(f"What should become of {bad[0]} is up, down or still, not {self.traits[bad[0]]!r}.")

    @property
    def hash(self) -> str:
        """Sixteen hex digits that name what it says."""
        return hashlib.sha256(canonical({**asdict(self), "traits": dict(self.traits)}).encode()).hexdigest()[:16]

    @property
    def prompt(self) -> str:
        """The system prompt under which it is acted out."""
        lines = "\n".join(f"- {statement}" for statement in self.statements)
        return f"This is who you are. Answer as someone of whom all of it is true, and do not mention it.\n{lines}"

    def asked(self, count: int) -> list[str]:
        """Questions to teach it with: its own, then general ones."""
        return list(dict.fromkeys([*self.questions, *load_roles().questions]))[:count]


def load_constitution(path: str | Path) -> Constitution:
    """Read a YAML file of `name`, `statements`, and if wanted `questions` and `traits`.

    Raises:
        FormatError: it is not there, or not YAML.
        SpecError: it is no constitution.
    """
    path = Path(path)
    value: Any = parse_yaml(read_text(path, "constitution"), path)
    if not isinstance(value, dict) or not {"name", "statements"} <= set(value) <= _KEYS:
        raise SpecError(f"{path} must have name and statements, and may have questions and traits; nothing else.")
    for key in ("statements", "questions"):
        if not isinstance(value.get(key, []), list):
            raise SpecError(f"The {key} in {path} must be a list of sentences.")
    traits = value.get("traits", {})
    if not isinstance(traits, dict):
        raise SpecError(f"The traits in {path} must say for each name up, down or still.")
    return Constitution(
        value["name"], tuple(value["statements"]), tuple(value.get("questions", [])),
        {str(name): way for name, way in traits.items()},
    )  # fmt: skip
