"""`Webhooks`: tells alarms to other servers, from a thread of its own. It does not know how alarms come about.

What is owed stands in the history, so nothing is forgotten when the process dies; a receiver may be told twice, with
the same `Mien-Event-Id`. Each target has a task of its own: a slow one holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from mien.errors import InputError, MienError
from mien.serve.addresses import Target, check_target, resolve
from mien.serve.history import History
from mien.serve.posting import Poster, Resolve, Tried, body_of

if TYPE_CHECKING:
    from mien.serve.outbox import Delivery

log = logging.getLogger("mien.serve")

FIRST_PAUSE = 5.0
"""Seconds before the second try; doubles each time."""
LONGEST_PAUSE = 3600.0
GIVE_UP = 86400.0
"""Seconds after an alarm was recorded from which on a failed try is the last."""
LEASE = 30.0
"""Seconds, beyond the time limit of a try, after which a delivery whose process died is taken up again."""
LOOK = 60.0
"""Seconds after which the history is looked at unasked, for what other processes recorded."""
MAX_TARGETS = 16
T = TypeVar("T")


def pause_after(tries: int, asked: float | None, jitter: Callable[[], float]) -> float:
    """Seconds to wait after that many tries: doubling up to an hour, times 0.5 to 1; never less than asked for."""
    own = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 30)) * (0.5 + 0.5 * jitter())
    return max(own, asked or 0.0)


class _Lane:
    """One target, on its way through its deliveries."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.hold = 0.0
        """It asked to be left alone until then, seconds since 1970."""
        self.failing = False
        self.woken: asyncio.Event | None = None
        """Of the event loop that serves it, while one does."""


class Webhooks:
    """Delivers what the history owes to these targets. Alarms recorded from now on are owed to them, if `owed`.

    Args:
        history: keeps the alarms.
        targets: URLs.
        secret: signs what is sent; None sends it unsigned.
        owed: whether the targets are to be told of new alarms; if not, those would pile up for a later server to send.
        allow_private: whether targets may be on this machine and in private networks.
        timeout: seconds that a try may last in all.
        outcome: told "delivered", "retry" or "dead" after each try, from the thread that made it.
        clock: seconds since 1970.
        jitter: 0 to 1, drawn for each pause.
        resolve: finds the addresses of a host.
        tls: certificates to trust, if not the system's.

    Raises:
        InputError: a target or another setting cannot be used.
    """

    def __init__(
        self,
        history: History,
        targets: Sequence[str],
        secret: str | None,
        *,
        owed: bool = True,
        allow_private: bool = False,
        timeout: float = 10.0,
        outcome: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if secret == "":
            raise InputError("The webhooks' secret is empty; give one, or leave it out to send unsigned.")
        if not 0 < timeout <= 600:
            raise InputError("The webhooks' time limit must be more than 0 and at most 600 seconds.")
        checked = {target.key: target for target in (check_target(text, allow_private) for text in targets)}
        if len(checked) > MAX_TARGETS:
            raise InputError(f"There are {len(checked)} webhooks; at most {MAX_TARGETS} can be served.")
        self._history = history
        self._lanes = tuple(_Lane(target) for target in checked.values())
        self._poster = partial(Poster, secret, allow_private, timeout, clock, resolve, tls)
        self._lease = timeout + LEASE
        self._outcome = outcome or (lambda _: None)
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        history.owe_to(list(checked) if owed else [])

    def start(self) -> None:
        """Begin to deliver; what earlier processes left over goes first. Once started it stays so until `close`."""
        with self._lock:
            if self._thread is not None or not self._lanes:
                return
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="mien-webhooks", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Say that alarms were recorded. From any thread; never waits."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake_lanes)

    def close(self) -> None:
        """Stop. A try under way is broken off and made again later; nothing is lost."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            if loop is not None:
                loop.call_soon_threadsafe(loop.stop)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def deliver(self) -> float | None:
        """Try all that is due now, in the calling thread; when the next is due (seconds since 1970), None: nothing."""

        async def once() -> list[float | None]:
            with ThreadPoolExecutor(1) as pool:
                async with self._poster() as poster:
                    return [await self._work_off(poster, pool, lane) for lane in self._lanes]

        due = [moment for moment in asyncio.run(once()) if moment is not None]
        return min(due, default=None)

    def _wake_lanes(self) -> None:
        for lane in self._lanes:
            if lane.woken is not None:
                lane.woken.set()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        # A pool of its own is waited for: once closed, nothing of this touches the history any more.
        with ThreadPoolExecutor(len(self._lanes), thread_name_prefix="mien-webhooks") as pool:
            work = loop.create_task(self._serve(pool))
            loop.run_forever()
            work.cancel()
            loop.run_until_complete(asyncio.gather(work, return_exceptions=True))
        loop.close()

    async def _serve(self, pool: ThreadPoolExecutor) -> None:
        async with self._poster() as poster, asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(self._keep_at_it(poster, pool, lane))

    async def _keep_at_it(self, poster: Poster, pool: ThreadPoolExecutor, lane: _Lane) -> None:
        woken = lane.woken = asyncio.Event()
        while True:
            woken.clear()
            due: float | None = None
            try:
                due = await self._work_off(poster, pool, lane)
            except MienError as error:
                log.warning("webhooks wait: %s", error)
            except Exception:
                log.exception("webhooks met something unforeseen and go on")
            wait = LOOK if due is None else min(LOOK, max(0.0, due - self._clock()))
            try:
                async with asyncio.timeout(wait):
                    await woken.wait()
            except TimeoutError:
                pass

    async def _work_off(self, poster: Poster, pool: ThreadPoolExecutor, lane: _Lane) -> float | None:
        """Try what is due; when the next is."""

        def stored(call: Callable[[], T]) -> asyncio.Future[T]:
            return asyncio.get_running_loop().run_in_executor(pool, call)

        key = lane.target.key
        while True:
            due = await stored(lambda: self._history.next_due(key))
            due = None if due is None else max(due, lane.hold)
            now = self._clock()
            if due is None or due > now:
                return due
            delivery = await stored(lambda now=now: self._history.take(key, now, self._lease))  # type: ignore[misc]
            if delivery is not None:
                name = self._history.name
                tried = await poster.post(lane.target, f"{name}-{delivery.alarm.id}", body_of(delivery.alarm, name))
                settled = self._after(lane, delivery, tried)
                await stored(settled)

    def _after(self, lane: _Lane, delivery: Delivery, tried: Tried) -> Callable[[], None]:
        """What is to be written down after a try."""
        now = self._clock()
        outcome, due = tried.outcome, now
        if outcome == "retry":
            due = now + pause_after(delivery.tries, tried.wait, self._jitter)
            if tried.wait is not None:
                lane.hold = now + tried.wait
            if due > delivery.made + GIVE_UP:
                outcome = "dead"
        self._say(lane, outcome, tried.note)
        self._outcome(outcome)
        state = "pending" if outcome == "retry" else outcome
        return lambda: self._history.settle(delivery, state, due, tried.note)

    def _say(self, lane: _Lane, outcome: str, note: str | None) -> None:
        if outcome == "dead":
            log.warning("webhook %s %s; an alarm is given up", lane.target.host, note)
        elif outcome == "retry" and not lane.failing:
            log.warning("webhook %s %s; it is tried again for a day", lane.target.host, note)
        elif outcome == "delivered" and lane.failing:
            log.info("webhook %s takes alarms again", lane.target.host)
        lane.failing = outcome != "delivered"
