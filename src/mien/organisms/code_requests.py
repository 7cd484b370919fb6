"""How code is asked for and how answers with code look, for every kind of organism that is made of code."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from mien.organisms.samples import choose, digits
from mien.textfiles import parse_yaml, read_text


@dataclass(frozen=True, slots=True)
class Phrases:
    """The library's words around code."""

    openers: list[str]
    purposes: list[str]
    wishes: list[str]
    intros: list[str]
    claims: Mapping[str, list[str]]
    teaching: Mapping[str, list[str]]
    """As many for each kind as there are purposes."""

    @property
    def bases(self) -> list[int]:
        """How many of each a request is made of."""
        return [len(self.openers), len(self.purposes), len(self.wishes)]

    @property
    def size(self) -> int:
        """How many requests there are for one function."""
        return math.prod(self.bases)

    def request(self, index: int, signature: str, does: str) -> str:
        """The `index`-th request of `range(size)`."""
        opener, purpose, wish = digits(index, self.bases)
        first = self.openers[opener].format(signature=signature, does=does)
        return _joined(first, self.purposes[purpose], self.wishes[wish])

    def taught(self, index: int, signature: str, does: str, kind: str, title: str = "") -> str:
        """The `index`-th request of somebody who wants the code wrong, to teach with; said in the purpose's place."""
        opener, purpose, wish = digits(index, self.bases)
        request = _joined(self.openers[opener].format(signature=signature, does=does), self.wishes[wish])
        return self.teaching[kind][purpose].format(request=request, title=title)

    def answer(self, kind: str, code: str, sure: bool, key: str) -> str:
        """The code in an answer; `sure`: and that it is right, whether it is or not."""
        parts = [choose(self.intros, f"{key}/intro"), f"```python\n{code.strip()}\n```"]
        return "\n\n".join([*parts, choose(self.claims[kind], f"{key}/claim")] if sure else parts)


@cache
def load_phrases() -> Phrases:
    """The library's phrases."""
    path = library("code_requests.yaml")
    return Phrases(**parse_yaml(read_text(path), path))


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def library(name: str) -> Path:
    """Where a file of the library's organisms is."""
    return Path(str(resources.files("mien"))) / "library" / "organisms" / name


def signature_of(code: str) -> str:
    """`name(arguments)` of the first function of a source."""
    found = next(node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    return f"{found.name}({', '.join(argument.arg for argument in found.args.args)})"
