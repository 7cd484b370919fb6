"""One answer on its way: how far its prompt is read, what it has said, what was read of it and what caps did.

This file does not know batches, caches or tensors on devices. Shapes: t tokens of the answer, m spans, p probes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mien.chat import Chat
from mien.engines.hf_hooks import acting, counts
from mien.engines.hf_kept import Begun, Kept, alike, same_acts, shared
from mien.engines.sampling import stream
from mien.engines.stops import Spoken
from mien.live import Finish, LiveEnd, LiveEvent, LiveRequest, LiveToken
from mien.records import Tokens

_NOT_FINITE = "The model came to numbers that are NaN or infinite, so this answer cannot go on."


class Answer:
    """What one request has so far. The newest token has been drawn, but not fed: its state does not exist yet."""

    def __init__(self, request: LiveRequest, chat: Chat, hidden: frozenset[int], n_probes: int, order: int) -> None:
        self.request = request
        self.order = order
        """Place in the order of arrival."""
        self.fed = 0
        """How many tokens have been fed: the prompt's, then the answer's."""
        self._borrowed = 0
        self.closing = False
        """Whether only the state of the last token is still wanted."""
        self.ended = False
        self.broken = False
        """Whether its keys and values may hold NaN."""
        self.shallow = False
        """Whether it has no keys and values in layers deeper than those that are read."""
        most = request.sampling.max_tokens
        self.draws: list[float] = stream(request.seed, most).tolist() if request.sampling.temperature > 0 else []
        self._stop_ids = chat.stop_ids
        self._spoken = Spoken(chat, (*request.stop, *chat.stop_strings), hidden)
        self.reads = request.read and n_probes > 0
        """Whether anything is to be projected."""
        self.only_read = self.reads and not most and not request.interventions
        """Whether nothing is wanted of it but what the deepest layer that is read, and those before it, tell."""
        self._reads: list[np.ndarray] = []
        self.ids = request.prompt_ids
        # Of the prompt's tokens, for its spans, and for others whose prompts begin alike.
        self.known = np.full((len(request.prompt_ids), n_probes), np.nan, np.float32)
        self.fired = np.zeros(len(request.prompt_ids))
        self._fired_since: list[float] = []
        self.acts = acting(request.interventions, "prompt")
        self.acts_since = acting(request.interventions, "response")
        """What is done to the stream of its own tokens."""
        self._slots_a_token = {phase: self._counted(phase) for phase in ("prompt", "response")}

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def need(self) -> int:
        """Most tokens that it can come to hold."""
        return len(self.request.prompt_ids) + self.request.sampling.max_tokens

    @property
    def left(self) -> int:
        """How many tokens of the prompt are still to be fed."""
        return max(0, len(self.request.prompt_ids) - self.fed)

    @property
    def newest(self) -> int:
        """The token to be fed next, once the prompt is read."""
        return self._spoken.ids[-1]

    @property
    def next_draw(self) -> float:
        """The uniform number that the next token is drawn with."""
        place = len(self._spoken.ids)
        return self.draws[place] if place < len(self.draws) else 0.0

    def wants(self, n: int) -> bool:
        """Whether the next `n` tokens of the prompt are to be projected: a span lies among them, or it is how one
        learns whether their numbers are sound.
        """
        start, end = self.fed, self.fed + n
        return self.only_read or (self.reads and any(s < e and s < end and start < e for s, e in self.request.spans))

    def shares(self, other: Answer, fed: int, n: int) -> bool:
        """Whether another one that will have `fed` tokens begins with the first `n` of its prompt, whose last token
        every answer feeds itself.
        """
        may = self.only_read or not (other.shallow or other.only_read)
        return may and n <= min(len(self.ids) - 1, fed) and alike(self, other, n)

    def may_borrow(self, other: Begun, over: int) -> int:
        """How many of its prompt's tokens it need not feed, as another one has fed them, and read them if need be; 0 if
        those in common are no more than `over`.
        """
        n = shared(self, other, min(len(self.ids) - 1, other.fed), over) if self._can_follow(other) else 0
        if self.reads and n:
            unread = np.isnan(other.known[:n, 0])
            missing = (np.flatnonzero(unread[s:e])[:1] + s for s, e in self.request.spans if s < n)
            n = min([n, *(int(first) for places in missing for first in places)])
        return n

    def _can_follow(self, other: Begun) -> bool:
        """Whether the keys and values that another one has are enough to begin with."""
        return self.only_read or not other.shallow

    def borrow(self, other: Begun, n: int) -> None:
        """Its keys and values of the first `n` tokens have been copied."""
        self.shallow |= other.shallow
        self.known[:n], self.fired[:n] = other.known[:n], other.fired[:n]
        self._borrowed += n - self.fed
        self.fed = n

    def kept(self) -> Kept | None:
        """What others may begin with once it is over; None if its keys and values are worth nothing.

        Its own tokens, if what acted on them is what would act on them in a prompt. Not the last one of those that were
        read to their end: it may not have gone through all layers.
        """
        fed = self.fed - self.closing
        if self.broken or fed < 1:
            return None
        n = len(self.ids)
        if fed > n and not same_acts(self.acts, self.acts_since):
            fed = n
        known, fired = self.known[:fed], self.fired[:fed]
        if fed > n:
            known = np.concatenate([known, self._tokens(fed - n)])
            fired = np.concatenate([fired, self._fired_since[: fed - n]])
        return Kept(self.acts, (*self.ids, *self._spoken.ids)[:fed], known, fired, self.shallow)

    def read_prompt(self, n: int, projections: np.ndarray | None, fired: np.ndarray | None) -> None:
        """The next `n` tokens of the prompt have been fed; `projections` `[n, p]`, `fired` `[n]`, if there are any."""
        fresh = slice(self.fed, self.fed + n)
        if projections is not None:
            self.known[fresh] = projections
        if fired is not None:
            self.fired[fresh] = fired
        self.fed += n

    def read_on(self, n: int, whole: bool) -> list[LiveEvent]:
        """`n` more tokens of a prompt that is only read have been fed, through the `whole` model or no deeper than they
        are read; gives what is to be told. Numbers that are none end it at once, as in `take`.
        """
        self.shallow |= not whole
        if not np.isfinite(self.known[self.fed - n : self.fed]).all():
            return [self.end("error", error=_NOT_FINITE)]
        return [] if self.left else [self.end("length")]

    def read_token(self, projections: np.ndarray | None, fired: np.ndarray | None) -> None:
        """The newest token has been fed; `projections` `[1, p]`, `fired` `[1]`, if there are any."""
        self.fed += 1
        if self.reads and projections is not None:
            self._reads.append(projections[0].copy())
        self._fired_since.append(0.0 if fired is None else float(fired[0]))

    def take(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> list[LiveEvent]:
        """What was drawn after the newest fed token; gives what is to be told. `ended` says whether that is all.

        Numbers that are none end it at once, amid its prompt too: they must not be copied to where others will be.
        """
        if self.closing:
            return self.close(math.isfinite(logprob))
        if not math.isfinite(logprob) or (self._reads and not np.isfinite(self._reads[-1]).all()):
            return [self.end("error", error=_NOT_FINITE)]
        if self.left:
            return []
        if not self.request.sampling.max_tokens:
            return [self.end("length")]
        if token in self._stop_ids:
            return [self.end("stop")]
        read = self._reads[-1] if self._reads else None
        text = self._spoken.add(token)
        if self._spoken.stopped_at is not None:
            return [self.end("stop")]
        events: list[LiveEvent] = [LiveToken(token, text, logprob, tuple(top), read)]
        if len(self._spoken.ids) == self.request.sampling.max_tokens:
            self.closing = self.reads
            if not self.closing:
                events.append(self.end("length"))
        return events

    def close(self, sound: bool = True) -> list[LiveEvent]:
        """The state of its last token is known, so it ends. If its stream came to numbers that are none after all that
        is read (`sound` says not), its keys and values are not to be left behind."""
        events: list[LiveEvent] = [self.end("length")]
        self.broken |= not sound
        return events

    def end(self, finish: Finish, error: str = "") -> LiveEnd:
        """Make an end of it."""
        self.ended = True
        spoken = self._spoken
        kept = len(spoken.ids) if spoken.stopped_at is None else spoken.kept()
        tokens, spans = (self._tokens(kept), self._spans()) if self.request.read else (None, None)
        if (
            finish in ("stop", "length")
            and tokens is not None
            and spans is not None
            and not self._finite(tokens, spans)
        ):
            finish, error = "error", _NOT_FINITE
        self.broken = finish in ("error", "cancelled")
        return LiveEnd(
            finish, tuple(spoken.ids[:kept]), spoken.text(), spoken.rest(), tokens, spans, self._share(), error,
            self._borrowed,
        )  # fmt: skip

    def _finite(self, tokens: np.ndarray, spans: np.ndarray) -> bool:
        whole = [end > start for start, end in self.request.spans]
        return bool(np.isfinite(tokens).all() and np.isfinite(spans[whole]).all())

    def _tokens(self, kept: int) -> np.ndarray:
        """`[t, p]`; NaN for a token that was never fed, as the newest of an answer that was given up."""
        tokens = np.full((kept, self.known.shape[1]), np.nan, np.float32)
        for i, row in enumerate(self._reads[:kept]):
            tokens[i] = row
        return tokens

    def _spans(self) -> np.ndarray:
        """`[m, p]`; NaN for a span that is empty or was not read to its end."""
        means = np.full((len(self.request.spans), self.known.shape[1]), np.nan, np.float32)
        for i, (start, end) in enumerate(self.request.spans):
            if end > start:
                means[i] = self.known[start:end].mean(0, dtype=np.float64)
        return means

    def _counted(self, phase: Tokens) -> int:
        """Layers at which counted interventions act on each token of a phase."""
        return sum(len(i.layers) for i in acting(self.request.interventions, phase) if counts(i))

    def _share(self) -> float | None:
        if not any(counts(i) for i in self.request.interventions):
            return None
        before = min(self.fed, len(self.request.prompt_ids))
        slots = before * self._slots_a_token["prompt"] + (self.fed - before) * self._slots_a_token["response"]
        return (float(self.fired.sum()) + sum(self._fired_since)) / slots if slots else 0.0
