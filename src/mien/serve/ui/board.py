"""The latest alarms, kept for every visitor at once: the history's, and from then on whatever the hub passes on.

This file does not know Gradio or HTML.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from mien.errors import MienError
from mien.serve.records import Alarm

_log = logging.getLogger("mien.serve")
KEPT = 50
AGAIN = 5.0
"""Seconds after which a history that could not be read is tried again."""


class Alarms(Protocol):
    """What is asked of a hub."""

    def stream(self, after: int | None = None) -> AsyncGenerator[Alarm, None]: ...


class Recent(Protocol):
    """What is asked of a history."""

    def recent_alarms(self, limit: int = 100, before: int | None = None) -> list[Alarm]: ...


class Board:
    """A list of alarms that is read by many and changes rarely."""

    def __init__(self, hub: Alarms, history: Recent) -> None:
        self._hub, self._history = hub, history
        self._alarms: deque[Alarm] = deque(maxlen=KEPT)
        self._task: asyncio.Task[None] | None = None
        self._closed: Callable[[], None] = _nothing
        self.version = 0
        """Rises with every alarm."""

    def when_closed(self, then: Callable[[], None]) -> None:
        """Call this once the hub is closed, which is when the server begins to end."""
        self._closed = then

    def latest(self) -> list[Alarm]:
        """Latest first."""
        return list(reversed(self._alarms))

    async def begin(self) -> None:
        """Read what there is, and follow from there. Once is enough; to be called in the loop that serves."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
            await asyncio.sleep(0)

    async def _follow(self) -> None:
        while True:
            try:
                last = await self._catch_up()
                async with aclosing(self._hub.stream(last)) as alarms:
                    async for alarm in alarms:
                        self._alarms.append(alarm)
                        self.version += 1
                self._closed()
                return
            except MienError as error:
                _log.warning("the page cannot follow the alarms: %s", error)
                await asyncio.sleep(AGAIN)

    async def _catch_up(self) -> int:
        found = await asyncio.to_thread(self._history.recent_alarms, KEPT)
        self._alarms.clear()
        self._alarms.extend(reversed(found))
        self.version += 1
        return found[0].id if found else 0


def _nothing() -> None:
    pass
