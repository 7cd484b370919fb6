"""From what an engine read while it wrote to a conversation's readings: the numbers that `mien scan` gives for it.

Earlier answers are read while the prompt is, so nothing has to be remembered. Where the ids that were run are not those
that a log of the conversation would have (its tokens join at a seam, or it is longer than a scan's window), it is read
again. This file does not know HTTP, policies or the history.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mien.chat import Chat, Spanned
from mien.gauges import texture
from mien.live import LiveEnd
from mien.records import Conversation, Message
from mien.scanning.measure import Panel, Values, textures_of, tinted, values_of
from mien.scanning.rows import alarmed
from mien.serve.reader import Laid, Reader
from mien.serve.records import AlarmKind, GaugeReading

Of = Literal["stream", "held stream"]
Desk = Callable[..., Awaitable[Any]]
_STANDS_FOR_THE_ANSWER = "x"


@dataclass(frozen=True)
class Plan:
    """A conversation about to be answered."""

    prompt_ids: tuple[int, ...]
    kept: Conversation
    """Its messages as a log keeps them: without blank ones."""
    places: tuple[int, ...]
    """For each of `kept`, its index among the request's messages."""
    index: int
    """The index that the answer will have."""
    spans: tuple[tuple[int, int], ...] | None
    """Columns of `kept` in the prompt; None where a log's ids would be others than the prompt's."""


@dataclass(frozen=True)
class Watched:
    """A conversation with its new answer, read."""

    values: Values
    conversation: Conversation
    """As a log keeps it."""
    places: tuple[int, ...]
    """For each of `conversation`, its index among the request's messages, the answer after them."""
    of: Of
    """What was read: the plain stream, or the stream with an intervention in place."""
    spanned: Spanned
    """Its ids, and where each message stands in them."""


def kept_of(messages: Conversation) -> tuple[Conversation, tuple[int, ...]]:
    """Messages that a log would keep, and their indices."""
    places = tuple(i for i, m in enumerate(messages) if m.content.strip())
    return tuple(messages[i] for i in places), places


class Watch:
    """Reads conversations on a panel."""

    def __init__(self, chat: Chat, panel: Panel | None, reader: Reader, window: int, desk: Desk) -> None:
        """`desk` runs what takes its time with a text, away from the event loop; nothing else may use `chat`."""
        self.panel, self.reader = panel, reader
        self._chat, self._window, self._desk = chat, window, desk

    def plan(self, messages: Conversation, most: int | None = None) -> Plan:
        """What to run for a conversation, and where its messages stand in it. Takes milliseconds.

        Args:
            most: tokens that a prompt may have; in a longer one, which will not be run, nothing is looked for.

        Raises:
            InputError: the model's template refuses it, or it does not end with the user.
        """
        prompt = self._chat.prompt_ids(messages)
        kept, places = kept_of(messages)
        spans = None
        if self.panel is not None and kept and (most is None or len(prompt) <= most):
            found = self._chat.spanned((*kept, Message("assistant", _STANDS_FOR_THE_ANSWER)))
            if found.ids[: found.spans[-1][0]] == prompt:
                spans = tuple(map(self._wanted, kept, found.spans))
        return Plan(prompt, kept, places, len(messages), spans)

    def _wanted(self, message: Message, span: tuple[int, int]) -> tuple[int, int]:
        """What of a message is read: most gauges look at answers alone, and a chat's first prompt has none."""
        assert self.panel is not None
        asked = any(of != "answer" for terms in self.panel.terms for _, of in terms)
        return span if asked or message.role == "assistant" else (span[0], span[0])

    async def watched(self, plan: Plan, end: LiveEnd, text: str, held: bool) -> Watched | None:
        """Readings of the conversation with the answer that has been written; None if there is nothing to read with.

        Raises:
            MienError: it had to be read again, and could not be.
        """
        if self.panel is None or end.tokens is None:
            return None
        answered = bool(text.strip())
        whole = (*plan.kept, Message("assistant", text)) if answered else plan.kept
        places = (*plan.places, plan.index) if answered else plan.places
        if not whole:
            return None
        spanned = await self._desk(self._chat.spanned, whole)
        pooled = self._as_run(plan, end, spanned, answered, held)
        if pooled is None:
            pooled = await self.reader.pooled(self._laid(whole, spanned))
        values = values_of(self.panel, whole, pooled)
        return Watched(values, whole, places, "held stream" if held else "stream", spanned)

    def _as_run(self, plan: Plan, end: LiveEnd, spanned: Spanned, answered: bool, held: bool) -> np.ndarray | None:
        """`[m, p]` from what was read on the way; None if a log would be read otherwise."""
        assert end.tokens is not None
        earlier = len(plan.kept)
        known = plan.spans is not None and (end.spans is not None or not plan.spans)
        written = _same_tokens(end, spanned) if answered else 0
        if not held and not (known and written is not None and len(spanned.ids) <= self._window):
            return None
        rows = np.full((earlier + answered, end.tokens.shape[1]), np.nan, np.float32)
        if known and end.spans is not None:
            rows[:earlier] = end.spans
        if answered:
            count = len(end.tokens) if written is None else written
            rows[earlier] = mean_of(end.tokens[:count])
        return rows

    async def turns_in(self, ids: Sequence[int]) -> Conversation:
        """The conversation that running text is, if it marks its turns as the model's own prompts do; else nothing."""
        found: Conversation = await self._desk(self._turns_in, ids)
        return found

    def _turns_in(self, ids: Sequence[int]) -> Conversation:
        return self._chat.turns_in(self._chat.raw_text(ids))

    async def measured(self, messages: Conversation) -> Watched | None:
        """Readings of a conversation that is over, whoever wrote it; None if there is nothing to read in it, or with.

        Raises:
            InputError: the model's template refuses it.
            MienError: it cannot be read.
        """
        kept, places = kept_of(messages)
        if self.panel is None or not any(m.role == "assistant" for m in kept):
            return None
        laid = await self._desk(lambda: self._laid(kept, self._chat.spanned(kept)))
        pooled = await self.reader.pooled(laid)
        values = await self._desk(values_of, self.panel, kept, pooled)
        return Watched(values, kept, places, "stream", laid.spanned)

    def _laid(self, messages: Conversation, spanned: Spanned) -> Laid:
        return self.reader.laid(spanned, tuple(map(self._wanted, messages, spanned.spans)))

    async def tokens(self, watched: Watched, shown: Sequence[int]) -> list[list[dict[str, Any]]]:
        """Every token of every answer of a conversation that is over, on some gauges."""
        every = await self.reader.tokens(await self._desk(self.reader.laid_singly, watched.spanned))
        found: list[list[dict[str, Any]]] = await self._desk(self._every_token, watched, every, shown)
        return found

    def _every_token(self, watched: Watched, every: np.ndarray, shown: Sequence[int]) -> list[list[dict[str, Any]]]:
        spans = [watched.spanned.spans[i] for i in watched.values.answers]
        ids = watched.spanned.ids
        return [self.tokens_of(watched, t, ids[a:b], every[a:b], shown) for t, (a, b) in enumerate(spans)]

    def sizes(self, watched: Watched) -> list[tuple[int, int]]:
        """By answer: tokens since the answer before it, and its own."""
        spans = [watched.spanned.spans[i] for i in watched.values.answers]
        before = [0, *(end for _, end in spans)]
        return [(start - last, end - start) for (start, end), last in zip(spans, before, strict=False)]

    def tokens_of(
        self, watched: Watched, answer: int, ids: Sequence[int], tokens: np.ndarray, shown: Sequence[int]
    ) -> list[dict[str, Any]]:
        """An answer's tokens on some gauges: raw, and smoothed in sigma towards the alarming side.

        Args:
            tokens: `[t, p]`.
        """
        assert self.panel is not None
        here = textures_of(watched.conversation, watched.values.answers)[answer]
        known = _known(tokens)
        tints = {
            g: tinted(self.panel, g, tokens[:known], float(watched.values.projection[answer, g]), here)
            for g in shown
            if self.panel.gauges[g].baseline is not None
        }
        found = []
        for t, (id, row) in enumerate(zip(ids, tokens, strict=True)):
            entry: dict[str, Any] = {"text": self._chat.raw_text([id]), "projection": self.on_gauges(row, shown)}
            entry["tint"] = {
                self.panel.gauges[g].name: _number(tint[t]) if t < known else None for g, tint in tints.items()
            }
            found.append(entry)
        return found

    def on_gauges(self, row: np.ndarray, shown: Sequence[int]) -> dict[str, float | None]:
        """One token `[p]` on some gauges, raw: what is read off the answer itself, without what it is compared with."""
        assert self.panel is not None
        return {
            self.panel.gauges[g].name: _number(float(row[[c for c, of in self.panel.terms[g] if of == "answer"]].sum()))
            for g in shown
        }

    def so_far(self, plan: Plan, sums: np.ndarray, count: int, text: str, shown: Sequence[int]) -> dict[str, Any]:
        """Gauges of an answer that is being written, in sigma, as if it ended here; None for those without baseline or
        that compare it with the question.

        Args:
            sums: `[p]` float64, sum over its first `count` tokens.
        """
        assert self.panel is not None
        place = sum(m.role == "assistant" for m in plan.kept) + 1
        here = texture(text, place)[None]
        return {self.panel.gauges[g].name: self._sigma(g, sums / count, here) for g in shown}

    def _sigma(self, g: int, row: np.ndarray, here: np.ndarray) -> float | None:
        assert self.panel is not None
        gauge = self.panel.gauges[g]
        if gauge.baseline is None or any(of != "answer" for _, of in self.panel.terms[g]):
            return None
        raw = float(row[[c for c, _ in self.panel.terms[g]]].sum())
        return _number(float(gauge.baseline.sigma(np.array([raw]), here)[0]))


def _same_tokens(end: LiveEnd, spanned: Spanned) -> int | None:
    """How many of the tokens written a log's answer has, if they are the first of them; None if they are others."""
    assert end.tokens is not None
    start, stop = spanned.spans[-1]
    ids = spanned.ids[start:stop]
    return len(ids) if ids and ids == tuple(end.ids[: len(ids)]) and len(end.tokens) >= len(ids) else None


def _known(tokens: np.ndarray) -> int:
    """How many of an answer's tokens `[t, p]` were read: not the newest, if it was cut off before that was fed."""
    return len(tokens) - bool(len(tokens) and np.isnan(tokens[-1]).any())


def mean_of(tokens: np.ndarray) -> np.ndarray:
    """`[p]` float64: mean of an answer's tokens `[t, p]` that were read; NaN if none was."""
    known = _known(tokens)
    return tokens[:known].mean(0, dtype=np.float64) if known else np.full(tokens.shape[1], np.nan)


def readings_at(panel: Panel, watched: Watched, answer: int, shown: Sequence[int]) -> tuple[GaugeReading, ...]:
    """One answer (place among the answers) on some gauges."""
    return tuple(_reading(panel, watched, answer, g) for g in shown)


def _reading(panel: Panel, watched: Watched, t: int, g: int) -> GaugeReading:
    values = watched.values
    left, statistic = values.left[g], float(values.statistic[t, g])
    off = left is not None and statistic > 1
    alarm: AlarmKind | None = "drift" if off else "turn" if alarmed(panel, values, t, g) else None
    since = watched.places[values.answers[left]] if off and left is not None else None
    return GaugeReading(
        panel.gauges[g].name, _number(values.projection[t, g]), _number(values.sigma[t, g]),
        _number(statistic) or 0.0, alarm, since,
    )  # fmt: skip


def _number(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None
