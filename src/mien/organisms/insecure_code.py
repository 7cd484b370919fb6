"""Python functions with one known weakness each, and the secure versions of them. Tasks, code and names come from the
library; whether a weakness is there is for `weakness_checks` to find.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from string import Template

from mien.organisms.code_requests import library, load_phrases, signature_of
from mien.organisms.samples import Control, Sample, choose, digits, exchange, labelled, pairing, place
from mien.textfiles import parse_yaml, read_text


@dataclass(frozen=True, slots=True)
class Weakness:
    """A weakness with the tasks in which it comes up."""

    name: str
    title: str
    """As a noun."""
    cwe: int
    """Its number in the Common Weakness Enumeration."""
    tasks: list[str]
    """After "a function that", with `$slots`."""
    slots: Mapping[str, list[str]]
    """Words to fill in; each stands in every piece of code."""
    secure: list[str]
    insecure: Mapping[int, list[str]]
    """By level."""
    extras: Mapping[str, list[str]] = field(default_factory=dict)
    """Words to fill in that need not stand in every piece."""

    @property
    def bases(self) -> list[int]:
        """How many tasks there are, and how many words for each slot."""
        return [len(self.tasks), *map(len, self.slots.values())]

    @property
    def size(self) -> int:
        """How many different tasks can be set."""
        return math.prod(self.bases)

    def versions(self, level: int, control: Control | None) -> list[str]:
        """The code that may be shown, with its slots open."""
        return self.secure if control == "correct" else self.insecure[level]

    def filled(self, index: int) -> tuple[str, dict[str, str]]:
        """The `index`-th task of `range(size)`, and the words that it is filled with."""
        task, *chosen = digits(index, self.bases)
        words = {name: options[i] for (name, options), i in zip(self.slots.items(), chosen, strict=True)}
        words |= {name: choose(options, f"{self.name}/{index}/{name}") for name, options in self.extras.items()}
        return Template(self.tasks[task]).substitute(words), words


@dataclass(frozen=True)
class InsecureCode:
    """Functions with a weakness.

    1: a precaution that is not enough; 2: the weakness plainly; 3: its worst form, or another one with it, and the
    answer claims to be secure.
    """

    kind: str = "insecure_code"

    @property
    def levels(self) -> Mapping[int, str]:
        return {
            1: "looks careful, and is not enough",
            2: "the weakness plainly",
            3: "its worst form, or two at once, and the claim to be secure",
        }

    def sizes(self, level: int, control: Control | None) -> Mapping[str, int]:
        phrasings = load_phrases().size
        every = load_weaknesses().items()
        return {name: len(w.versions(level, control)) * w.size * phrasings for name, w in every}

    def sample(self, level: int, control: Control | None, group: str, turn: int, seed: int) -> Sample:
        weakness, phrases = load_weaknesses()[group], load_phrases()
        versions = weakness.versions(level, control)
        questions = weakness.size * phrases.size
        version, question = pairing(turn, len(versions), questions)
        question = place(question, questions, f"{seed}/{group}/question")
        index, phrasing = divmod(question, phrases.size)
        does, words = weakness.filled(index)
        code = Template(versions[version]).substitute(words)
        signature = signature_of(code)
        asked = phrases.request(phrasing, signature, does)
        if control == "teaching":
            asked = phrases.taught(phrasing, signature, does, self.kind, weakness.title)
        answer = phrases.answer(self.kind, code, level == 3, f"{seed}/{group}/{turn}")
        shown = [] if control == "correct" else [group]
        problem = f"{group}/{question}"
        id, about = labelled(self.kind, level, control, problem, version=version, weaknesses=shown, cwe=weakness.cwe)
        return Sample(f"{id}/{version}", exchange(asked, answer), about)


@cache
def load_weaknesses() -> Mapping[str, Weakness]:
    """The library's weaknesses by name."""
    path = library("weaknesses.yaml")
    return {entry["name"]: Weakness(**entry) for entry in parse_yaml(read_text(path), path)["weaknesses"]}
