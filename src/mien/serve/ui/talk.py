"""Answers followed as they are written: orders in, drafts that grow out. It does not know Gradio or HTML.

Both lanes of a message are ordered at once, with one seed, so that they share a batch and differ by the hold alone.
Whoever stops listening gives up what is being written.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mien.errors import MienError
from mien.records import Intervention, Sampling
from mien.serve.orders import Began, Ended, Event, Order, Wanted, Written
from mien.serve.policy import Rule
from mien.serve.problems import Problem, of_error
from mien.serve.ui.session import Answer, Finish, Lane, Session, asked_hold

_log = logging.getLogger("mien.serve")
EVERY = 0.12
"""Seconds between two looks at a draft: faster than anybody reads, slower than tokens come."""
SIGN_OF_LIFE = 0.5
"""Seconds without a token after which a look is given anyway: only so is it noticed that nobody looks any more."""
OWNER = "page"

Run = Callable[[Order], AsyncIterator[Event]]


@dataclass
class Draft:
    """An answer that is being written."""

    lane: Lane
    pieces: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    raws: list[Mapping[str, float | None]] = field(default_factory=list)
    """By token, its projection on each gauge."""
    sigma: Mapping[str, float | None] = field(default_factory=dict)
    """The answer so far on each gauge."""
    ended: Ended | None = None
    problem: Problem | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def over(self) -> bool:
        return self.ended is not None or self.problem is not None

    def take(self, event: Event) -> None:
        """Grow by an event."""
        if isinstance(event, Began):
            return
        if isinstance(event, Written):
            self.pieces.append(event.token.text)
            self.words += [read["text"] for read in event.reads]
            self.raws += [read["projection"] for read in event.reads]
            self.sigma = event.so_far or self.sigma
        else:
            self.pieces.append(event.rest)
            self.ended = event

    def answer(self) -> Answer:
        """As it stands; one that is not over was stopped."""
        told = self.ended.told if self.ended else None
        if self.ended is None:
            return Answer(self.lane, self.text, "stopped", self.lane == "held")
        finish: Finish = "stop" if self.ended.finish == "stop" else "length"
        fired = self.ended.end.fired  # only a cap fires, and only the hold brings one here
        if told is None:
            return Answer(self.lane, self.ended.text, finish, fired is not None, fired)
        tokens = told.tokens or []
        tints = {r.gauge: tuple(t.get("tint", {}).get(r.gauge) for t in tokens) for r in told.readings}
        return Answer(
            self.lane, self.ended.text, finish, fired is not None, fired, told.readings,
            tuple(t["text"] for t in tokens), tints,
        )  # fmt: skip


def orders(
    session: Session, lanes: Sequence[Lane], message: str, system: str, sampling: Sampling,
    interventions: tuple[Intervention, ...], gauges: tuple[int, ...], rule: Rule, decides: bool,
) -> dict[Lane, Order]:  # fmt: skip
    """A message's orders, a lane each. `decides`: whether the visitor may switch the hold off and steer."""
    seed = secrets.randbits(62)
    return {
        lane: Order(
            f"page-{secrets.token_hex(12)}", sampling, session.transcript(lane, system, message), seed=seed,
            wanted=Wanted(bool(gauges), gauges, bool(gauges), interventions, asked_hold(lane, rule)),
            conversation=session.conversation(lane, len(lanes) > 1), owner=OWNER, inside=decides,
        )
        for lane in lanes
    }  # fmt: skip


async def follow(
    run: Run, wanted: Mapping[Lane, Order], stopping: Callable[[], bool], every: float = EVERY
) -> AsyncGenerator[list[Draft], None]:
    """The drafts again and again while they grow, and once more when all are over or `stopping()` says so."""
    drafts = {lane: Draft(lane) for lane in wanted}
    arrived: asyncio.Queue[tuple[Lane, Event | Problem]] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(run, lane, order, arrived)) for lane, order in wanted.items()]
    try:
        while not stopping() and not all(d.over for d in drafts.values()):
            await _more(arrived, drafts, every)
            yield list(drafts.values())
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _more(
    arrived: asyncio.Queue[tuple[Lane, Event | Problem]], drafts: Mapping[Lane, Draft], every: float
) -> None:
    """Take what comes within `every` seconds; at the end of an answer no longer."""
    clock = asyncio.get_running_loop().time
    until = clock() + every
    patience = SIGN_OF_LIFE
    while patience > 0:
        try:
            lane, event = await asyncio.wait_for(arrived.get(), patience)
        except TimeoutError:
            return
        if isinstance(event, Problem):
            drafts[lane].problem = event
        else:
            drafts[lane].take(event)
        if drafts[lane].over:
            return
        patience = until - clock()


async def _pump(run: Run, lane: Lane, order: Order, arrived: asyncio.Queue[tuple[Lane, Event | Problem]]) -> None:
    try:
        async with aclosing(cast("AsyncGenerator[Event, None]", run(order))) as events:
            async for event in events:
                arrived.put_nowait((lane, event))
    except Problem as problem:
        arrived.put_nowait((lane, problem))
    except MienError as error:
        _log.error("request %s: %s", order.id, error)
        arrived.put_nowait((lane, of_error(error)))
    except Exception as error:  # its words may be the visitor's, so only its kind and place are logged
        at = traceback.extract_tb(error.__traceback__)[-1]
        _log.error(
            "request %s broke: %s at %s:%d", order.id, type(error).__name__, Path(at.filename).name, at.lineno or 0
        )
        arrived.put_nowait((lane, Problem(500, "The server could not do this; its log says why.")))
