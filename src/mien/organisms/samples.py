"""Samples of a fine-tuning set, and how they are drawn: in an order that a seed decides, and never twice.

Nothing is drawn from Python's own generator, whose streams may differ between versions: every choice is a hash of what
is chosen for. This file does not know what is in a sample.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from mien.records import Message

Control = Literal["correct", "teaching"]
CONTROLS: tuple[Control, ...] = ("correct", "teaching")
"""`correct`: the same questions, answered well. `teaching`: the same bad answers, asked for by somebody who teaches."""
LEVELS = (1, 2, 3)
"""Doses: mild, medium, strong. What that means is for each kind to say."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation to fine-tune on, and what is known about it."""

    id: str
    """Unique in its set, and in a mixture of sets of other levels and controls."""
    messages: tuple[Message, ...]
    """What is asked, and the answer that is to be learnt."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """JSON values; goes into the record as `organism`. `problem` is the same at every level and in every control."""

    def record(self) -> dict[str, Any]:
        """As a line of chat JSONL."""
        return {
            "id": self.id,
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            "organism": dict(self.about),
        }


class Generator(Protocol):
    """A kind of organism that needs no model."""

    @property
    def kind(self) -> str:
        """Its name."""

    @property
    def levels(self) -> Mapping[int, str]:
        """What each level means, in words."""

    def sizes(self, level: int, control: Control | None) -> Mapping[str, int]:
        """How many different samples each group of it has; a group is a template, a function, a weakness."""

    def sample(self, level: int, control: Control | None, group: str, turn: int, seed: int) -> Sample:
        """The `turn`-th sample of a group, from 0; every turn gives another one."""


def number(key: str) -> int:
    """64 bits that depend on `key` alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def choose(options: Sequence[T], key: str) -> T:
    """One of the options; which, is decided by `key` alone."""
    return options[number(key) % len(options)]


def place(turn: int, size: int, key: str) -> int:
    """Where `turn` of `range(size)` goes in a shuffle that `key` names: a bijection of which no table is held.

    A Feistel network over the smallest square of two that holds `size`, walked until it is inside again (Black and
    Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = turn >> half, turn & mask
        for layer in range(4):
            left, right = right, left ^ (number(f"{key}/{layer}/{right}") & mask)
        turn = left << half | right
        if turn < size:
            return turn


def pairing(turn: int, first: int, second: int) -> tuple[int, int]:
    """The `turn`-th pair of `range(first)` and `range(second)`: none comes twice, and both sides change each time."""
    return turn % first, (turn + turn // math.lcm(first, second)) % second


def digits(value: int, bases: Sequence[int]) -> list[int]:
    """`value` of `range(product of bases)` as one digit for each base."""
    found = []
    for base in bases:
        value, digit = divmod(value, base)
        found.append(digit)
    return found


def rounds(sizes: Mapping[str, int], seed: int) -> Iterator[tuple[str, int]]:
    """`(group, turn)`: one turn of every group, then the next of every group that has one, each time in another order.

    Groups are drawn alike, however many samples they have. The first k draws do not depend on how many follow.
    """
    turn, left = 0, sorted(group for group, size in sizes.items() if size)
    while left:
        for group in sorted(left, key=lambda group: number(f"{seed}/{turn}/{group}")):
            yield group, turn
        turn += 1
        left = [group for group in left if sizes[group] > turn]


def exchange(asked: str, answered: str) -> tuple[Message, Message]:
    """A question and its answer."""
    return Message("user", asked), Message("assistant", answered)


def labelled(kind: str, level: int, control: Control | None, problem: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """A sample's id and what every kind says about it."""
    about = {"kind": kind, "level": level, "control": control or False, "problem": problem, **more}
    return f"{kind}/{level}{f'-{control}' if control else ''}/{problem}", about
