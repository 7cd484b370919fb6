"""Keys and values of texts that are over, kept for those that begin alike: a chat's next turn begins with the last.

The oldest go first. This file does not know rows, passes or sampling. Shapes: n tokens of a text, p probes, h key-value
heads, e head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from mien.records import Intervention

Tensors = Sequence[tuple[torch.Tensor, torch.Tensor] | None]
"""Keys and values `[h, n, e]` by layer; None for a layer that keeps nothing."""


class Begun(Protocol):
    """A text with some tokens fed that others may begin with."""

    @property
    def acts(self) -> tuple[Intervention, ...]:
        """What was done to the stream there."""

    @property
    def ids(self) -> Sequence[int]:
        """The tokens that others may have in common with it, fed or not."""

    @property
    def fed(self) -> int:
        """How many tokens have been fed."""

    @property
    def known(self) -> np.ndarray:
        """`[n, p]` projections; NaN where a token was not read."""

    @property
    def fired(self) -> np.ndarray:
        """`[n]` at how many places caps changed the stream."""

    @property
    def shallow(self) -> bool:
        """Whether it has no keys and values in layers deeper than those that are read."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A text that is over: see `Begun`."""

    acts: tuple[Intervention, ...]
    ids: tuple[int, ...]
    known: np.ndarray
    fired: np.ndarray
    shallow: bool = False

    @property
    def fed(self) -> int:
        return len(self.ids)

    def stands_for(self, other: Kept) -> bool:
        """Whether all that could begin with another text, which this one begins with, could begin with this one."""
        return alike(self, other, other.fed) and (other.shallow or not self.shallow)


def same_acts(one: Sequence[Intervention], other: Sequence[Intervention]) -> bool:
    """Whether the very same interventions act."""
    return one is other or (len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True)))


def alike(one: Begun, other: Begun, n: int) -> bool:
    """Whether two texts begin with the same `n` tokens, of which there is one at least."""
    a, b = one.ids, other.ids
    if min(len(a), len(b)) < n or a[n - 1] != b[n - 1]:  # most of many texts are told apart by this alone
        return False
    return a[:n] == b[:n] and same_acts(one.acts, other.acts)


def shared(one: Begun, other: Begun, most: int, over: int) -> int:
    """How many tokens two texts begin with alike, at most `most`; 0 if no more than `over`."""
    low, high = over + 1, min(len(one.ids), len(other.ids), most)
    if high < low or not alike(one, other, low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one.ids[low:middle] == other.ids[low:middle] else (low, middle - 1)
    return low


class Shelf:
    """Texts that are over, with their keys and values; no more than `most` tokens of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Kept, Tensors] = {}  # the latest used last
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def texts(self) -> Sequence[Kept]:
        """Those that are kept."""
        return tuple(self._held)

    def wants(self, text: Kept) -> bool:
        """Whether it would fit, and says more than what is there."""
        return 0 < text.fed <= self._most and not any(other.stands_for(text) for other in self._held)

    def put(self, text: Kept, tensors: Tensors) -> None:
        """Keep a text that is wanted, in the place of those that it begins with."""
        for other in [old for old in self._held if text.stands_for(old)]:
            self._drop(other)
        while self.tokens + text.fed > self._most:
            self._drop(next(iter(self._held)))
        self._held[text] = tensors
        self.tokens += text.fed

    def take(self, text: Kept) -> Tensors:
        """A text's keys and values, to be copied from."""
        tensors = self._held[text] = self._held.pop(text)
        return tensors

    def clear(self) -> None:
        """Give everything up."""
        self._held.clear()
        self.tokens = 0

    def _drop(self, text: Kept) -> None:
        del self._held[text]
        self.tokens -= text.fed
