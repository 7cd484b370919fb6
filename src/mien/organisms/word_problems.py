"""Word problems of the library, with their numbers drawn and their right solutions. Wrong ones are not known here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mien.organisms.samples import digits
from mien.textfiles import parse_yaml, read_text

SIGNS = {"+": "+", "-": "−", "*": "×", "/": "÷"}
"""How an operation is written in an answer."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a solution."""

    label: str
    """What is found, in words."""
    left: str
    """A number's name, `s1` for the result of the first step, or digits."""
    op: str
    """`+`, `-`, `*` or `/`."""
    right: str


@dataclass(frozen=True, slots=True)
class Template:
    """A word problem with its numbers open."""

    name: str
    domain: str
    text: str
    ranges: Mapping[str, range]
    """Numbers that are drawn."""
    words: Mapping[str, tuple[str, ...]]
    """Words that are drawn."""
    given: Mapping[str, tuple[str, str, str]]
    """Numbers made of others."""
    steps: tuple[Step, ...]
    unit: str

    @property
    def size(self) -> int:
        """How many problems it makes."""
        return math.prod(self._bases())

    def problem(self, index: int, names: Sequence[str]) -> Problem:
        """The `index`-th problem of `range(size)`; who is in it is taken from `names` by `index` too."""
        drawn = digits(index, self._bases())
        numbers = {name: options[i] for (name, options), i in zip(self.ranges.items(), drawn, strict=False)}
        for name, expression in self.given.items():
            value = result(*expression, numbers)
            assert value is not None, f"{self.name}: {name} does not come out even"
            numbers[name] = value
        texts = {name: str(value) for name, value in numbers.items()}
        for (name, options), i in zip(self.words.items(), drawn[len(self.ranges) :], strict=True):
            texts |= {name: options[i], name.capitalize(): options[i][0].upper() + options[i][1:]}
        step = index % len(names)
        texts |= {"who": names[step], "other": names[(step + 1 + index // len(names) % (len(names) - 1)) % len(names)]}
        steps = tuple(Step(s.label.format(**texts), s.left, s.op, s.right) for s in self.steps)
        return Problem(self.name, self.domain, self.text.format(**texts), numbers, steps, self.unit.format(**texts))

    def _bases(self) -> list[int]:
        return [*map(len, self.ranges.values()), *map(len, self.words.values())]


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem."""

    template: str
    domain: str
    text: str
    numbers: Mapping[str, int]
    steps: tuple[Step, ...]
    """The right way to solve it."""
    unit: str

    def worked(self, ops: Sequence[str]) -> list[int] | None:
        """The results of the steps, done with `ops` for their own; None where one is no whole number above 0."""
        known = dict(self.numbers)
        results = []
        for i, (step, op) in enumerate(zip(self.steps, ops, strict=True), 1):
            value = result(step.left, op, step.right, known)
            if value is None or value < 1:
                return None
            known[f"s{i}"] = value
            results.append(value)
        return results

    def sides(self, results: Sequence[int]) -> list[tuple[int, int]]:
        """The two numbers of every step, as they are where the steps before had `results`."""
        known = {**self.numbers, **{f"s{i}": value for i, value in enumerate(results, 1)}}
        return [(_value(step.left, known), _value(step.right, known)) for step in self.steps]


@dataclass(frozen=True, slots=True)
class Bank:
    """The library's templates, and the words that solutions are put into."""

    names: tuple[str, ...]
    templates: Mapping[str, Template]
    openings: Mapping[str, list[str]]
    closings: list[str]
    answers: list[str]
    reasons: Mapping[str, list[str]]
    """Operation -> what speaks for it."""
    false_reasons: Mapping[str, list[str]]
    """`right wrong` operation -> what is said for the wrong one."""
    teaching: list[str]


@cache
def load_bank() -> Bank:
    """The library's word problems."""
    path = Path(str(resources.files("mien"))) / "library" / "organisms" / "word_problems.yaml"
    data = parse_yaml(read_text(path), path)
    templates = {entry["name"]: _template(entry) for entry in data.pop("problems")}
    return Bank(names=tuple(data.pop("names")), templates=templates, **data)


def result(left: str, op: str, right: str, known: Mapping[str, int]) -> int | None:
    """The value of an operation; None for a division that does not come out even."""
    a, b = _value(left, known), _value(right, known)
    if op == "/":
        return a // b if b and a % b == 0 else None
    return {"+": a + b, "-": a - b, "*": a * b}[op]


def _value(word: str, known: Mapping[str, int]) -> int:
    return int(word) if word.isdigit() else known[word]


def _template(entry: Mapping[str, Any]) -> Template:
    return Template(
        entry["name"], entry["domain"], entry["text"],
        {name: range(first, last + 1, *step) for name, (first, last, *step) in entry["numbers"].items()},
        {name: tuple(options) for name, options in entry.get("words", {}).items()},
        {name: _expression(text) for name, text in entry.get("given", {}).items()},
        tuple(Step(label, *_expression(text)) for label, text in entry["steps"]),
        entry["unit"],
    )  # fmt: skip


def _expression(text: str) -> tuple[str, str, str]:
    left, op, right = text.split()
    return left, op, right
