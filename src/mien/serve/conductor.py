"""From an order to its answers: submitted to the engine, followed token by token, read, recorded and told.

This file does not know HTTP or what a request looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from mien.chat import Chat
from mien.errors import InputError, MienError, ModelError
from mien.live import LiveEnd, LiveEngine, LiveRequest, LiveToken
from mien.models import Model
from mien.records import Intervention, Message
from mien.serve.bridge import Bridge, Mailbox
from mien.serve.catalog import Catalog
from mien.serve.conversations import id_of
from mien.serve.lengths import Lengths
from mien.serve.metrics import Metrics
from mien.serve.orders import Began, Ended, Event, Order, Told, Written
from mien.serve.places import Places
from mien.serve.policy import Rule
from mien.serve.problems import Problem
from mien.serve.reader import Reader, window_of
from mien.serve.recorder import Recorder
from mien.serve.records import GaugeReading
from mien.serve.watch import Plan, Watch, Watched, mean_of, readings_at

_log = logging.getLogger("mien.serve")
T = TypeVar("T")
READ_AT_ONCE = 4
"""Conversations written elsewhere that are read side by side, by all requests together."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take."""

    queue: int = 64
    """Answers that may wait for a place; above it requests are turned away."""
    prompt_tokens: int | None = None
    """Longest prompt; None: what the model's positions allow."""
    max_tokens: int = 1024
    """Longest answer."""
    choices: int = 8
    """Most answers to one request."""
    seconds: float = 300.0
    """Longest that an answer may take, waiting included."""
    body: int = 4 << 20
    """Largest body of a request, in bytes."""
    body_seconds: float = 30.0
    """Longest that a body may take to arrive."""


@dataclass
class _Choice:
    """What is known of an answer that is being written."""

    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    sums: np.ndarray | None = None
    """`[p]` float64 over the tokens whose state is known."""
    known: int = 0


class Conductor:
    """Writes orders, of which many run at once. Made in the event loop's thread.

    Args:
        lengths: how long a prompt may be.
        apart: the model's way of writing conversations down once more, for what is read and not answered.
        hold: what is done to the stream of an answer that is held.
        served: what the model is called in answers and in the history.
        rows: answers that the engine writes at a time.
    """

    def __init__(
        self, model: Model, engine: LiveEngine, catalog: Catalog, recorder: Recorder, rule: Rule,
        hold: tuple[Intervention, ...], limits: Limits, served: str, metrics: Metrics, rows: int, lengths: Lengths,
        apart: Chat,
    ) -> None:  # fmt: skip
        self.model, self.engine, self.catalog, self.limits, self.rule = model, engine, catalog, limits, rule
        self.served, self.recorder, self.metrics = served, recorder, metrics
        self.hold = hold
        self.bridge = Bridge(engine)
        self._lengths = lengths
        self.places = Places(engine, rows, limits.queue)
        window = window_of(model.positions)
        probes = 0 if catalog.panel is None else sum(len(p) for p in catalog.panel.probes.values())
        # A tokenizer must not be used by several threads at once, nor hold up the event loop.
        self._clerk = ThreadPoolExecutor(1, "mien-clerk")
        reader = Reader(self.bridge, window, probes)
        self.watch = Watch(model.chat, catalog.panel, reader, window, self.at_desk)
        # What is only read may be far longer than any prompt, and take seconds: nobody who waits for an answer waits
        # for that, so it has a thread and a tokenizer of its own.
        self._archivist = ThreadPoolExecutor(1, "mien-archivist")
        self.observer = Watch(apart, catalog.panel, reader, window, self._in_archive)
        """Reads conversations that were written elsewhere."""
        self.draining = False
        self.reading = asyncio.Semaphore(READ_AT_ONCE)
        """Places for conversations that are read, not answered."""
        self._ending: set[asyncio.Task[Any]] = set()
        self._open_boxes: set[Mailbox] = set()

    def give_up(self) -> None:
        """End every answer that is still being written; whoever waits for one is told."""
        for mailbox in tuple(self._open_boxes):
            mailbox.close()

    async def close(self) -> None:
        """Wait for what is being recorded."""
        self.draining = True
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._clerk.shutdown(wait=False)
        self._archivist.shutdown(wait=False)

    async def at_desk(self, work: Callable[..., T], *args: Any) -> T:
        """Run what tokenises a prompt in the one thread that may."""
        return await asyncio.get_running_loop().run_in_executor(self._clerk, work, *args)

    async def _in_archive(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._archivist, work, *args)

    async def run(self, order: Order) -> AsyncIterator[Event]:
        """Take an order on and follow it to its end; leaving early gives its answers up.

        Raises:
            Problem: it is refused, or could not be finished.
        """
        if self.draining:
            raise Problem(503, "The server is shutting down.", retry_after=5)
        with self.places.taken(order.n):  # until the engine has them
            following = await self._begun(order)
        self._open_boxes.add(following.mailbox)
        try:
            yield Began(following.prompt_tokens, following.held)
            async for event in following.events():
                yield event
        finally:
            self._open_boxes.discard(following.mailbox)
            following.leave()

    async def _begun(self, order: Order) -> _Following:
        """Raises: Problem: the order is refused."""
        plan = await self._plan(order)
        prompt = order.prompt_ids if plan is None else plan.prompt_ids
        sampling = replace(order.sampling, max_tokens=self._lengths.room(order, len(prompt)))
        alarmed = await self.recorder.alarmed(order, self.watch) if self.rule.looks_back else frozenset()
        held = self.rule.decide(order.wanted.hold, bool(order.wanted.interventions), alarmed, order.inside)
        interventions = (*order.wanted.interventions, *(self.hold if held else ()))
        seed = secrets.randbits(63) if order.seed is None else order.seed
        read = self.catalog.panel is not None and (plan is not None or order.wanted.shown)
        requests = [
            LiveRequest(
                choice_id(order, i), prompt, sampling, seed_of(seed, i), order.stop, order.top_logprobs, read,
                plan.spans or () if plan and read else (), interventions,
            )
            for i in range(order.n)
        ]  # fmt: skip
        return _Following(self, order, plan, len(prompt), alarmed, bool(interventions), self._open(requests))

    async def _plan(self, order: Order) -> Plan | None:
        if order.messages is None:
            return None
        self._lengths.require_messages(order.messages)
        try:
            return await self.at_desk(self.watch.plan, order.messages, self._lengths.most)
        except InputError as error:
            raise Problem(400, str(error), param="messages") from error

    def _open(self, requests: list[LiveRequest]) -> Mailbox:
        if self.draining:
            raise Problem(503, "The server is shutting down.", retry_after=5)
        try:
            return self.bridge.open(requests)
        except (InputError, ModelError) as error:
            raise Problem(400, str(error)) from error

    def keep(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """Hold on to what must end even if nobody waits for it any more."""
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task


class _Following:
    """One order's events, to its end."""

    def __init__(
        self, conductor: Conductor, order: Order, plan: Plan | None, prompt_tokens: int, alarmed: frozenset[str],
        held: bool, mailbox: Mailbox,
    ) -> None:  # fmt: skip
        self._by, self._order, self._plan, self._alarmed = conductor, order, plan, alarmed
        self.prompt_tokens, self.held, self.mailbox = prompt_tokens, held, mailbox
        self._choices = [_Choice() for _ in range(order.n)]
        self._open = order.n
        """How many of them have not ended."""
        self._begun = time.monotonic()
        self._expired = False
        self._alarm_clock = asyncio.get_running_loop().call_later(conductor.limits.seconds, self._expire)
        self._strip = plan is not None and not conductor.model.chat.templated

    def _expire(self) -> None:
        self._expired = True
        self.mailbox.close()

    def leave(self) -> None:
        """Nobody follows any more; what is still being written is given up, and recorded as far as it came."""
        self._alarm_clock.cancel()
        self.mailbox.close()
        if self._open:
            self._by.keep(asyncio.create_task(self._end_unfollowed()))

    async def _end_unfollowed(self) -> None:
        while self._open:
            with contextlib.suppress(Problem):  # nobody is there to be told
                async for _ in self.events():
                    pass

    async def events(self) -> AsyncIterator[Event]:
        while self._open:
            place, event = await self.mailbox.get()
            if isinstance(event, LiveToken):
                yield self._written(place, event)
                continue
            self._open -= 1
            yield await self._ended(place, event)

    def _written(self, place: int, token: LiveToken) -> Written:
        choice, wanted = self._choices[place], self._order.wanted
        shown = self._trimmed(choice, token.text)
        choice.text.append(shown)
        token = token if shown == token.text else replace(token, text=shown)
        reads: list[dict[str, Any]] = []
        so_far = None
        if wanted.tokens and token.read is not None and choice.ids:
            watch = self._by.watch
            text = self._by.model.chat.raw_text([choice.ids[-1]])
            reads = [{"text": text, "projection": watch.on_gauges(token.read, wanted.gauges)}]
            choice.sums = token.read.astype(np.float64) if choice.sums is None else choice.sums + token.read
            choice.known += 1
            if self._plan is not None:
                so_far = watch.so_far(self._plan, choice.sums, choice.known, "".join(choice.text), wanted.gauges)
        choice.ids.append(token.id)
        return Written(place, token, reads, so_far)

    def _trimmed(self, choice: _Choice, text: str) -> str:
        """A base model goes on after `Assistant:` with a blank that belongs to the transcript."""
        return text.lstrip() if self._strip and not any(choice.text) else text

    async def _ended(self, place: int, end: LiveEnd) -> Ended:
        choice = self._choices[place]
        if end.finish == "error":
            raise Problem(500, end.error or "The answer could not be written.")
        given_up = Problem(503, "The server is shutting down.", retry_after=5)
        if end.finish == "cancelled" and not choice.ids:
            if not self._expired:
                raise given_up
            raise Problem(503, f"No answer within {self._by.limits.seconds:g} seconds; the server is busy.",
                          code="timeout", retry_after=10)  # fmt: skip
        self._by.places.took(time.monotonic() - self._begun)
        self._by.metrics.answer(self.prompt_tokens, len(end.ids), end.fired)
        rest = self._trimmed(choice, end.rest)
        choice.text.append(rest)
        finish = "length" if end.finish == "cancelled" and self._expired else end.finish
        ended = Ended(place, end, "".join(choice.text), rest, finish, None)
        # What has been written is recorded, whether anybody still waits for it or not.
        ended = await asyncio.shield(self._by.keep(asyncio.create_task(self._told(ended))))
        if finish == "cancelled":
            raise given_up
        return ended

    async def _told(self, ended: Ended) -> Ended:
        by, order, plan = self._by, self._order, self._plan
        if by.catalog.panel is None or ended.end.tokens is None:
            return ended
        if plan is None or order.messages is None:
            return replace(ended, told=self._of_running_text(ended))
        try:
            watched = await by.watch.watched(plan, ended.end, ended.text, self.held)
        except MienError as error:
            _log.error("request %s: the answer was written but could not be read: %s", order.id, error)
            return ended
        conversation = order.conversation or id_of(order.owner, order.messages, ended.text)
        readings = self._readings(watched, by.catalog.watched)
        alarms = await by.recorder.record(
            order, choice_id(order, ended.choice), conversation, plan, ended, readings, self.held
        )
        if by.rule.looks_back and watched is not None:
            messages = (*order.messages, Message("assistant", ended.text))
            by.recorder.remember(order.owner, messages, watched, self._alarmed)
        told = Told(
            conversation, self._readings(watched, order.wanted.gauges), self.held, ended.end.fired, by.rule.policy,
            watched.of if watched else "stream", plan.index, alarms,
            self._tokens(watched, ended) if order.wanted.tokens else None,
        )  # fmt: skip
        return replace(ended, told=told)

    def _readings(self, watched: Watched | None, shown: tuple[int, ...]) -> tuple[GaugeReading, ...]:
        """This answer's. A blank one says nothing, and leaves the conversation's statistic as it was."""
        panel = self._by.catalog.panel
        assert panel is not None
        if watched is not None and watched.values.answers:
            found = readings_at(panel, watched, len(watched.values.answers) - 1, shown)
            if self._plan is not None and watched.places[watched.values.answers[-1]] == self._plan.index:
                return found
            return tuple(replace(r, projection=None, sigma=None, alarm=None) for r in found)
        return tuple(GaugeReading(panel.gauges[g].name, None, None, 0.0, None) for g in shown)

    def _tokens(self, watched: Watched | None, ended: Ended) -> list[dict[str, Any]]:
        tokens = ended.end.tokens
        if watched is None or tokens is None or not ended.text.strip():
            return []
        last = len(watched.values.answers) - 1
        return self._by.watch.tokens_of(watched, last, ended.end.ids, tokens, self._order.wanted.gauges)

    def _of_running_text(self, ended: Ended) -> Told:
        """Raw projections alone: baselines are of answers in conversations."""
        wanted, watch, tokens = self._order.wanted, self._by.watch, ended.end.tokens
        assert tokens is not None
        mean = mean_of(tokens)
        readings = tuple(
            GaugeReading(name, value, None, 0.0, None) for name, value in watch.on_gauges(mean, wanted.gauges).items()
        )
        each = None
        if wanted.tokens:
            text = self._by.model.chat.raw_text
            each = [
                {"text": text([id]), "projection": watch.on_gauges(row, wanted.gauges)}
                for id, row in zip(ended.end.ids, tokens, strict=True)
            ]
        of = "held stream" if self.held else "stream"
        return Told("", readings, self.held, ended.end.fired, self._by.rule.policy, of, 0, (), each)


def choice_id(order: Order, i: int) -> str:
    """Id of one of an order's answers."""
    return order.id if i == 0 else f"{order.id}-{i}"


def seed_of(seed: int, i: int) -> int:
    """The first answer has the request's own seed, so that asking for more answers does not change it."""
    if i == 0:
        return seed & (2**63 - 1)
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed} {i}".encode()).digest()[:8], "big") >> 1
