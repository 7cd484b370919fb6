"""Places to write in and to wait in, and who has them: answers that the engine has, and those that it is yet to get.

This file does not know HTTP, or how an answer is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mien.live import LiveEngine, Load
from mien.serve.problems import Problem


@dataclass(eq=False)
class Coming:
    """Answers, or conversations to be read, of one request that the engine does not know of yet."""

    left: int

    def go(self) -> None:
        """One of them waits no longer."""
        self.left -= 1


class Places:
    """All of them. For one event loop.

    Args:
        rows: answers that the engine writes at a time.
        queue: answers that may wait beside them; above it requests are turned away.
    """

    def __init__(self, engine: LiveEngine, rows: int, queue: int) -> None:
        self._engine, self._most = engine, rows + queue
        self._coming: set[Coming] = set()
        self._answer_seconds = 5.0

    def load(self) -> Load:
        """How busy the engine is; those that it does not know of yet wait as well."""
        load = self._engine.load()
        return replace(load, waiting=load.waiting + sum(coming.left for coming in self._coming))

    @contextmanager
    def taken(self, n: int) -> Iterator[Coming]:
        """Let `n` more wait, until they go on or this is left. However many there are, they may if nobody else is here.

        Raises:
            Problem: there is no place for them.
        """
        load = self.load()
        busy = load.running + load.waiting
        # Together: those that wait may go on to free rows at once, and are only counted before they do.
        if busy and busy + n > self._most:
            wait = math.ceil(self._answer_seconds * (load.waiting + 1) / max(load.running, 1))
            raise Problem(
                429, f"The server is busy: {load.running} answers are being written and {load.waiting} wait; try "
                     f"again later.", code="queue_full", retry_after=min(max(wait, 1), 60),
            )  # fmt: skip
        coming = Coming(n)
        self._coming.add(coming)
        try:
            yield coming
        finally:
            self._coming.discard(coming)

    def took(self, seconds: float) -> None:
        """An answer took so long."""
        self._answer_seconds += 0.1 * (seconds - self._answer_seconds)
