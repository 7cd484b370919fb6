"""How long work says how far it is. This file does not know a terminal."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a caller may show while work goes on."""

    def begin(self, what: str, total: int) -> None:
        """A step with `total` units begins."""

    def advance(self, done: int, tokens: int = 0) -> None:
        """`done` of the step's units are finished; `tokens` more tokens were written or judged."""

    def note(self, text: str) -> None:
        """One line worth reading."""


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int) -> None:
        """Nothing."""

    def advance(self, done: int, tokens: int = 0) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
