"""`Hub`: alarms to whoever listens, each once and in order. It does not know HTTP.

What is passed on live is kept in one ring for all listeners, who only remember how far they are. One that has fallen
behind the ring reads on in the history, so no number of slow listeners takes memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from itertools import islice
from typing import Protocol

from mien.serve.records import Alarm

RING = 1024
"""Alarms kept for listeners that keep up."""
PAGE = 100
"""Alarms that a listener takes at a time."""
LOOK = 5.0
"""Seconds without an alarm after which the history is asked whether another process has recorded any."""


class AlarmLog(Protocol):
    """What is asked of a history: ids ascend without gaps in the order in which alarms become visible."""

    def alarms(self, after: int = 0, limit: int = 100) -> list[Alarm]:
        """Alarms with greater ids, ascending."""

    def last_alarm(self) -> int:
        """Id of the last one; 0 if there was none."""


class _Listener:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.woken = asyncio.Event()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed, and so is whoever listened
            self.loop.call_soon_threadsafe(self.woken.set)


class Hub:
    """Passes alarms on to any number of listeners.

    Args:
        history: where alarms are kept.
        look: seconds of silence after which the history is asked for what other processes recorded.
    """

    def __init__(self, history: AlarmLog, *, look: float = LOOK) -> None:
        self._history = history
        self._look = look
        self._lock = threading.Lock()
        self._ring: deque[Alarm] = deque(maxlen=RING)
        self._end = history.last_alarm()
        self._listeners: set[_Listener] = set()
        self._looking = threading.Lock()
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def publish(self, alarms: Sequence[Alarm]) -> None:
        """Tell recorded alarms to the listeners. From any thread; never waits for one."""
        with self._lock:
            before = self._end
            for alarm in sorted(alarms, key=lambda alarm: alarm.id):
                if alarm.id <= self._end:
                    continue
                if alarm.id != self._end + 1:
                    # Alarms between were recorded but not passed on yet: the ring has no gaps, the history fills them.
                    self._ring.clear()
                self._ring.append(alarm)
                self._end = alarm.id
            if self._end == before:
                return
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()

    def stream(self, after: int | None = None) -> AsyncGenerator[Alarm, None]:
        """Alarms as they come, beginning now; with `after` (an id, as in Last-Event-ID) first those that came since.

        Ends when the hub is closed. An id that was never given is taken for one of another history: everything is new.
        Raises RunError if the history cannot be read.
        """
        with self._lock:
            start = self._end if after is None else max(after, 0)
        return self._follow(start)

    def close(self) -> None:
        """End every stream, once it has passed on what is in the ring."""
        with self._lock:
            self._closed = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()

    async def _follow(self, last: int) -> AsyncGenerator[Alarm, None]:
        listener = _Listener()
        with self._lock:
            self._listeners.add(listener)
            end = self._end
        try:
            if last > end and last > await asyncio.to_thread(self._history.last_alarm):
                last = 0
            while True:
                listener.woken.clear()
                batch, end, closed = self._from_ring(last)
                if batch is None:
                    if closed:
                        return
                    batch = await asyncio.to_thread(self._history.alarms, last, PAGE)
                    if not batch:
                        last = max(last, end)  # what there was is deleted
                for alarm in batch:
                    yield alarm
                    last = alarm.id
                if batch or last < self._end:
                    continue
                if closed:
                    return
                await self._wait(listener)
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _from_ring(self, last: int) -> tuple[list[Alarm] | None, int, bool]:
        """The next alarms, None if the ring does not reach back so far; the ring's end; whether the hub is closed."""
        with self._lock:
            if last >= self._end:
                return [], self._end, self._closed
            first = self._ring[0].id if self._ring else self._end + 1
            if last < first - 1:
                return None, self._end, self._closed
            start = last + 1 - first
            return list(islice(self._ring, start, start + PAGE)), self._end, self._closed

    async def _wait(self, listener: _Listener) -> None:
        try:
            async with asyncio.timeout(self._look):
                await listener.woken.wait()
        except TimeoutError:
            await self._look_for_others()

    async def _look_for_others(self) -> None:
        """Publish what another process has recorded. One listener asks for all."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            found = PAGE
            while found == PAGE:
                with self._lock:
                    end = self._end
                alarms = await asyncio.to_thread(self._history.alarms, end, PAGE)
                self.publish(alarms)
                found = len(alarms)
        finally:
            self._looking.release()
