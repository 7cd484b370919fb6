"""Readings into the history, and from there to whoever is to be told; and what was found earlier in a conversation.

This file does not know HTTP, nor how a reading is made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mien.errors import InputError, MienError
from mien.records import Conversation, Message
from mien.serve.catalog import Catalog
from mien.serve.conversations import Remembered, digest_of
from mien.serve.orders import Ended, Order
from mien.serve.records import Alarm, GaugeReading, Turn
from mien.serve.together import Together
from mien.serve.watch import Plan, Watch, Watched, readings_at

if TYPE_CHECKING:
    from mien.serve.events import Hub
    from mien.serve.history import History

_log = logging.getLogger("mien.serve")
T = TypeVar("T")


class Waker(Protocol):
    """What delivers alarms elsewhere."""

    def wake(self) -> None: ...


class Counters(Protocol):
    """What counts turns and alarms."""

    def turn(self, turn: Turn) -> None: ...

    def alarm(self, alarm: Alarm) -> None: ...


class Recorder:
    """One server's history, with those who are told of it.

    Args:
        tells: whether the log and webhooks hear of alarms.
        keep_text: whether texts go into the history.
    """

    def __init__(
        self, history: History, hub: Hub, webhooks: Waker | None, metrics: Counters | None, catalog: Catalog,
        served: str, *, tells: bool, keep_text: bool, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.history, self.hub = history, hub
        self._webhooks, self._metrics, self._catalog, self._served = webhooks, metrics, catalog, served
        self._tells, self._keep_text, self._clock = tells, keep_text, clock
        self._remembered = Remembered()
        self._threads = ThreadPoolExecutor(4, "mien-history")
        self._together = Together(partial(self.aside, history.record_all))
        self.failed = False
        """Whether the history took nothing the last time; a turn that it cannot hold says nothing of the history."""
        self._trying = asyncio.Lock()

    def close(self) -> None:
        """Wait for what is being written."""
        self._threads.shutdown()

    async def aside(self, work: Callable[..., T], *args: Any) -> T:
        """Run what blocks on the database off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def works(self) -> bool:
        """Whether the history takes what is written. If it did not the last time it is tried: who waits to hear that it
        does may send nothing until then."""
        async with self._trying:
            if self.failed:
                try:
                    await self.aside(self.history.require_writable)
                except MienError:
                    return False
                self.failed = False
        return True

    async def record(
        self, order: Order, request: str, conversation: str, plan: Plan, ended: Ended,
        readings: tuple[GaugeReading, ...], held: bool,
    ) -> tuple[int, ...]:  # fmt: skip
        """Keep an answer's readings; ids of the alarms that they raised."""
        messages: Conversation = (*(order.messages or ()), Message("assistant", ended.text))
        turn = Turn(
            conversation, plan.index, request, self._served, self._clock(), readings, ended.finish,
            len(plan.prompt_ids), len(ended.end.ids), held, ended.end.fired, messages if self._keep_text else None,
            owner=order.owner,
        )  # fmt: skip
        return await self.put([turn])

    async def put(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Keep turns; ids of the alarms that they raised. A history that refuses costs no one an answer."""
        found: list[Alarm] = []
        for turn, alarms in zip(turns, await self._together.record(turns), strict=True):
            self.failed = isinstance(alarms, MienError) and not isinstance(alarms, InputError)
            if isinstance(alarms, MienError):
                _log.error("request %s: its readings could not be kept: %s", turn.request, alarms)
                continue
            found += alarms
            if self._metrics is not None:
                self._metrics.turn(turn)
                for alarm in alarms:
                    self._metrics.alarm(alarm)
        if found:
            self._tell(found)
        return tuple(alarm.id for alarm in found)

    def _tell(self, alarms: Sequence[Alarm]) -> None:
        self.hub.publish(alarms)
        if not self._tells:
            return
        if self._webhooks is not None:
            self._webhooks.wake()
        for a in alarms:
            sigma = "" if a.sigma is None else f" at {a.sigma:+.1f} sigma"
            since = "" if a.since is None else f", since message {a.since}"
            _log.warning("alarm %d: conversation %s, message %d: %s of %s%s, %.2f of its limit%s",
                         a.id, a.conversation, a.index, a.kind, a.gauge, sigma, a.statistic, since)  # fmt: skip

    async def alarmed(self, order: Order, watch: Watch) -> frozenset[str]:
        """Kinds of alarm earlier in the conversation: as the history has it under the id that the client gave, and as
        the answers that came with the request read, since an id may be new where what was said is not.

        Raises:
            MienError: they cannot be found out.
        """
        told: frozenset[str] = frozenset()
        if order.conversation is not None:
            names = [self._catalog.names[g] for g in self._catalog.watched]
            told = await self.aside(self.history.alarm_kinds, order.conversation, names, order.owner)
        return told | await self._as_read(order, watch)

    async def _as_read(self, order: Order, watch: Watch) -> frozenset[str]:
        """Kinds of alarm in the answers that came with the request; running text has some if it marks them as the
        model's own prompts do."""
        messages = await watch.turns_in(order.prompt_ids) if order.messages is None else order.messages
        last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=None)
        if last is None:
            return frozenset()
        earlier = messages[: last + 1]
        known = self._remembered.get(digest_of(order.owner, earlier))
        if known is not None:
            return known
        watched = await watch.measured(earlier)
        return self.remember(order.owner, earlier, watched, frozenset()) if watched else frozenset()

    def remember(self, owner: str, messages: Conversation, watched: Watched, before: frozenset[str]) -> frozenset[str]:
        """Kinds of alarm in a conversation so far, kept for the request that goes on with it.

        Args:
            before: what was known before its last answer; a hold must not make it forgotten.
        """
        panel = self._catalog.panel
        assert panel is not None
        found = set(before)
        for t in range(len(watched.values.answers)):
            found |= {r.alarm for r in readings_at(panel, watched, t, self._catalog.watched) if r.alarm}
        kinds = frozenset(found)
        self._remembered.put(digest_of(owner, messages), kinds)
        return kinds
