"""Turns of answers that end at about the same time, written in one transaction: while one is being written, those that
come wait, and go into the next one together. A transaction is what costs, not the rows in it.

This file does not know what a turn means, how it is stored, or HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mien.errors import MienError, RunError
from mien.serve.records import Alarm, Turn

MOST = 64
"""Turns in one transaction, so that nobody waits long behind it."""
Kept = list[Alarm] | MienError
"""The alarms that a turn raised, or why it could not be kept."""


@dataclass(frozen=True)
class _Waiting:
    turn: Turn
    kept: asyncio.Future[Kept]


class Together:
    """Writes turns through `write`, which blocks nobody and takes many. For one event loop."""

    def __init__(self, write: Callable[[Sequence[Turn]], Awaitable[Sequence[Kept]]]) -> None:
        self._write = write
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, turns: Sequence[Turn]) -> list[Kept]:
        """What came of each, in their order, once all are written. Turns go in in the order in which they came."""
        loop = asyncio.get_running_loop()
        mine = [_Waiting(turn, loop.create_future()) for turn in turns]
        self._waiting += mine
        if self._writer is None:
            self._writer = loop.create_task(self._work())
        return [await each.kept for each in mine]

    async def _work(self) -> None:
        try:
            while self._waiting:
                now, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                try:
                    found = await self._write([each.turn for each in now])
                except Exception as error:  # whoever waits must hear of it
                    said = error if isinstance(error, MienError) else RunError(f"{type(error).__name__} while writing.")
                    found = [said] * len(now)
                for each, kept in zip(now, found, strict=True):
                    if not each.kept.done():  # whoever waited may be gone
                        each.kept.set_result(kept)
        finally:
            self._writer = None
