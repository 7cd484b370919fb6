"""Texts that exist already, read through the engine that serves, in one batch with what is being written.

The same segments, and so the same numbers, as `engines.hf_turns.read_turns`, whose hooks cannot be put on a model that
another thread runs. This file does not know gauges or requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from mien.chat import Spanned
from mien.engines.hf_turns import CONTEXT, WINDOW, Segment, segments
from mien.errors import ModelError, NonFiniteError
from mien.live import LiveEnd, LiveRequest
from mien.records import Sampling
from mien.serve.bridge import Bridge

_AT_ONCE = 2
"""Segments of one conversation that are read side by side, so that a long one does not take every place."""
_NOTHING = Sampling(max_tokens=0, temperature=0.0)
"""Is written: the prompt is read, and that is all."""


def window_of(positions: int | None) -> int:
    """Longest stretch of text that is read at once, in tokens, as `read_turns` has it."""
    return min(WINDOW, positions) if positions else WINDOW


Piece = tuple[int, int, int]
"""A message (or token), and the columns `[start, end)` of a segment that are its own and new there."""


@dataclass(frozen=True)
class Laid:
    """A conversation, cut into the segments that are read. Made away from the event loop: a long one takes seconds."""

    spanned: Spanned
    spans: Sequence[tuple[int, int]]
    """Of each message, the columns that are wanted."""
    parts: tuple[Segment, ...]
    pieces: tuple[tuple[Piece, ...], ...]
    """Of each segment."""


class Reader:
    """Reads conversations by way of an engine."""

    def __init__(self, bridge: Bridge, window: int, probes: int) -> None:
        self._bridge, self._window, self._probes = bridge, window, probes
        self._names = count()

    def laid(self, spanned: Spanned, spans: Sequence[tuple[int, int]]) -> Laid:
        """What is read for the means of its messages.

        Args:
            spans: each message's columns; empty for one that is not wanted, so that what is known of a text that was
                run without it can be taken over.
        """
        parts = self._parts(spanned)
        return Laid(spanned, spans, parts, tuple(_inside(spans, parts)))

    def laid_singly(self, spanned: Spanned) -> Laid:
        """What is read for each of its tokens."""
        parts = self._parts(spanned)  # cut where messages end, not where tokens do
        pieces = (tuple((i, i - p.start, i - p.start + 1) for i in range(p.new, p.end)) for p in parts)
        return Laid(spanned, spanned.spans, parts, tuple(pieces))

    async def pooled(self, laid: Laid) -> np.ndarray:
        """`[m, p]` float32: each message's mean projection on every probe; NaN for one without tokens, or not wanted.

        Raises:
            ModelError: the engine cannot read it.
            NonFiniteError: activations hold NaN or infinity.
        """
        sums = np.zeros((len(laid.spans), self._probes))
        for piece, means in zip(laid.pieces, await self._read(laid), strict=True):
            for (owner, start, end), mean in zip(piece, means, strict=True):
                sums[owner] += mean.astype(np.float64) * (end - start)
        sizes = np.array([end - start for start, end in laid.spans], dtype=np.float64)
        found = np.full_like(sums, np.nan)
        found[sizes > 0] = sums[sizes > 0] / sizes[sizes > 0, None]
        return found.astype(np.float32)

    async def tokens(self, laid: Laid) -> np.ndarray:
        """`[s, p]` float32: every token on every probe, of what was laid singly."""
        found = await self._read(laid)
        return np.concatenate(found) if found else np.zeros((0, self._probes), np.float32)

    def _parts(self, spanned: Spanned) -> tuple[Segment, ...]:
        ends = [end for _, end in spanned.spans]
        return tuple(segments(0, len(spanned.ids), ends, self._window, min(CONTEXT, self._window // 4)))

    async def _read(self, laid: Laid) -> list[np.ndarray]:
        """The pieces' mean projections, a segment each."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(part: Segment, pieces: Sequence[Piece]) -> np.ndarray:
            async with places:
                return await self._one(laid.spanned, part, pieces)

        tasks = [asyncio.ensure_future(one(a, b)) for a, b in zip(laid.parts, laid.pieces, strict=True)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, spanned: Spanned, part: Segment, pieces: Sequence[Piece]) -> np.ndarray:
        request = LiveRequest(
            f"read-{next(self._names)}", spanned.ids[part.start : part.end], _NOTHING, 0, read=True,
            spans=tuple((start, end) for _, start, end in pieces),
        )  # fmt: skip
        mailbox = self._bridge.open([request])
        try:
            while True:
                _, event = await mailbox.get()
                if isinstance(event, LiveEnd):
                    return _spans_of(event)
        finally:
            mailbox.close()


def _inside(spans: Sequence[tuple[int, int]], parts: Sequence[Segment]) -> Iterator[tuple[Piece, ...]]:
    """Of each segment the messages that have new columns in it; both stand in order."""
    first = 0
    for part in parts:
        while first < len(spans) and spans[first][1] <= part.new:
            first += 1
        last = first
        while last < len(spans) and spans[last][0] < part.end:
            last += 1
        cut = ((i, max(spans[i][0], part.new), min(spans[i][1], part.end)) for i in range(first, last))
        yield tuple((i, a - part.start, b - part.start) for i, a, b in cut if a < b)


def _spans_of(end: LiveEnd) -> np.ndarray:
    if end.finish in ("error", "cancelled") or end.spans is None:
        raise ModelError(end.error or "The text could not be read: the server is shutting down.")
    if not np.isfinite(end.spans).all():
        raise NonFiniteError("Activations hold NaN or infinity; try --dtype float32.")
    return end.spans
