"""Events of an engine's thread, handed to an event loop: one wake-up serves all that has come.

This file does not know what is asked of the engine, nor what is done with the events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

from mien.live import LiveEnd, LiveEngine, LiveEvent, LiveRequest


class Mailbox:
    """The events of a few requests that belong together, in the order they came."""

    def __init__(self, bridge: Bridge, ids: Sequence[str]) -> None:
        self._bridge, self._place = bridge, {id: i for i, id in enumerate(ids)}
        self._open = set(ids)
        self._queue: asyncio.Queue[tuple[int, LiveEvent]] = asyncio.Queue()

    def put(self, id: str, event: LiveEvent) -> None:
        """In the loop's thread."""
        if isinstance(event, LiveEnd):
            self._open.discard(id)
        self._queue.put_nowait((self._place[id], event))

    async def get(self) -> tuple[int, LiveEvent]:
        """The next event, and which of the requests it is of."""
        return await self._queue.get()

    def close(self) -> None:
        """Give up what has not ended."""
        for id in self._open:
            self._bridge.engine.cancel(id)


class Bridge:
    """Between one engine and one event loop. Made in the loop's thread."""

    def __init__(self, engine: LiveEngine) -> None:
        self.engine = engine
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[tuple[Mailbox, str, LiveEvent]] = deque()
        self._woken = False

    def open(self, requests: Sequence[LiveRequest]) -> Mailbox:
        """Submit requests together; if one is refused, none is left running.

        Raises:
            MienError: whatever `LiveEngine.submit` does.
        """
        mailbox = Mailbox(self, [r.id for r in requests])
        try:
            for request in requests:
                self._submit(request, mailbox)
        except BaseException:
            mailbox.close()
            raise
        return mailbox

    def _submit(self, request: LiveRequest, mailbox: Mailbox) -> None:
        def sink(event: LiveEvent) -> None:  # in the engine's thread
            self._arrived.append((mailbox, request.id, event))
            if not self._woken:
                self._woken = True
                with contextlib.suppress(RuntimeError):  # the loop has closed, and nobody waits
                    self._loop.call_soon_threadsafe(self._deliver)

        self.engine.submit(request, sink)

    def _deliver(self) -> None:
        self._woken = False  # before anything is taken: what comes from now on wakes the loop again
        while self._arrived:
            mailbox, id, event = self._arrived.popleft()
            mailbox.put(id, event)
