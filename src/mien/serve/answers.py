"""Answers as OpenAI writes them: completions, chunks, log-probabilities, and the `mien` field beside them.

This file does not know HTTP; what it makes are plain dicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from mien.chat import Chat
from mien.live import LiveToken
from mien.serve.orders import Ended, Order, Told, Written
from mien.serve.records import GaugeReading

Kind = Literal["chat", "text"]
_LOWEST = -9999.0
"""What OpenAI writes for a probability of nothing, which JSON has no number for."""


def usage(prompt: int, completion: int, cached: int | None) -> dict[str, Any]:
    """How many tokens; `cached`: of the prompt, known from before, None if that is not told."""
    found = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return found if cached is None else {**found, "prompt_tokens_details": {"cached_tokens": cached}}


def usage_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """How many tokens, of one request's answers together."""
    told = [a.cached_tokens for a in answers]
    cached = sum(n for n in told if n is not None) if None not in told else None
    return usage(sum(a.prompt_tokens for a in answers), sum(a.completion_tokens for a in answers), cached)


def reading_of(reading: GaugeReading) -> dict[str, Any]:
    """One gauge's reading."""
    return asdict(reading)


def mien_of(told: Told) -> dict[str, Any]:
    """The extension field of an answer that is over."""
    found: dict[str, Any] = {
        "conversation": told.conversation or None, "index": told.index, "of": told.of,
        "readings": [reading_of(r) for r in told.readings], "alarms": list(told.alarms),
        "held": told.held, "fired": told.fired, "policy": told.policy,
    }  # fmt: skip
    return found if told.tokens is None else {**found, "tokens": told.tokens}


class Logprobs:
    """Log-probabilities of one answer, given out when the text they belong to is, and never of what a stop cut off."""

    def __init__(self, chat: Chat, kind: Kind, top: int) -> None:
        self._chat, self._kind, self._top = chat, kind, top
        self._waiting: list[LiveToken] = []
        self._given = self._offset = 0

    def take(self, token: LiveToken) -> None:
        """A token was written."""
        self._waiting.append(token)

    def flush(self, until: int | None = None) -> dict[str, Any]:
        """Those that have not been given; `until`: no more than so many since the beginning."""
        ready = self._waiting if until is None else self._waiting[: max(0, until - self._given)]
        self._waiting = []
        self._given += len(ready)
        return self._chat_entries(ready) if self._kind == "chat" else self._text_entries(ready)

    def _word(self, id: int) -> str:
        return self._chat.raw_text([id])

    def _entry(self, id: int, logprob: float) -> dict[str, Any]:
        word = self._word(id)
        # A part of a character is no text, and its bytes are not known from it.
        known = None if "\ufffd" in word else list(word.encode())
        return {"token": word, "logprob": _finite(logprob), "bytes": known}

    def _chat_entries(self, tokens: Sequence[LiveToken]) -> dict[str, Any]:
        content = [
            {**self._entry(t.id, t.logprob), "top_logprobs": [self._entry(i, p) for i, p in t.top[: self._top]]}
            for t in tokens
        ]
        return {"content": content, "refusal": None}

    def _text_entries(self, tokens: Sequence[LiveToken]) -> dict[str, Any]:
        words = [self._word(t.id) for t in tokens]
        offsets = []
        for word in words:
            offsets.append(self._offset)
            self._offset += len(word)
        return {
            "tokens": words, "token_logprobs": [_finite(t.logprob) for t in tokens], "text_offset": offsets,
            "top_logprobs": [{self._word(i): _finite(p) for i, p in t.top[: self._top]} for t in tokens],
        }  # fmt: skip


def _finite(logprob: float) -> float:
    return max(float(logprob), _LOWEST)  # NaN never comes so far


class Answer:
    """One request's answers as they come: collected whole, or chunk by chunk."""

    def __init__(
        self, kind: Kind, chat: Chat, order: Order, served: str, created: int, logprobs: bool, id: str, first: int = 0,
        cached: bool = True,
    ) -> None:  # fmt: skip
        """`id` is the request's, which may have several orders; `first`: index of this one's first choice; `cached`:
        whether it is told how much of the prompt was known from before."""
        self._kind, self._order, self._first = kind, order, first
        self._head = {"id": id, "created": created, "model": served, "system_fingerprint": None}
        self._logprobs = [Logprobs(chat, kind, order.top_logprobs) for _ in range(order.n)] if logprobs else None
        self._choices: dict[int, dict[str, Any]] = {}
        self._told: dict[int, Told] = {}
        self.prompt_tokens = self.completion_tokens = 0
        self._cached: list[int] | None = [] if cached else None

    @property
    def shown(self) -> bool:
        """Whether the request asked for the extension field."""
        return self._order.wanted.shown

    def take(self, event: Written | Ended) -> None:
        """Collect an event of an answer that is given whole."""
        if isinstance(event, Written):
            if self._logprobs:
                self._logprobs[event.choice].take(event.token)
            return
        self._end(event)
        found: dict[str, Any] = {"index": self._first + event.choice, "finish_reason": event.finish}
        found["logprobs"] = self._logprobs[event.choice].flush(len(event.end.ids)) if self._logprobs else None
        if self._kind == "chat":
            found["message"] = {"role": "assistant", "content": event.text, "refusal": None}
        else:
            found["text"] = event.text
        if self.shown and event.told is not None:
            found["mien"] = mien_of(event.told)
        self._choices[event.choice] = found

    def _end(self, event: Ended) -> None:
        self.completion_tokens += len(event.end.ids)
        if self._cached is not None:
            self._cached.append(event.end.cached)
        if event.told is not None:
            self._told[event.choice] = event.told

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that none of the choices had to run; None if that is not told. The prompt counts once,
        and the second choice takes over what the first one ran."""
        return None if self._cached is None else min(self._cached, default=0)

    def usage(self) -> dict[str, Any]:
        """How many tokens so far."""
        return usage_of([self])

    def choices(self) -> list[dict[str, Any]]:
        """Those collected, in order."""
        return [self._choices[i] for i in sorted(self._choices)]

    def whole(self) -> dict[str, Any]:
        """Everything collected."""
        found = {
            **self._head, "object": "chat.completion" if self._kind == "chat" else "text_completion",
            "choices": self.choices(), "usage": self.usage(),
        }  # fmt: skip
        first = self._choices.get(0, {}).get("mien")
        return found if first is None else {**found, "mien": first}

    def beginning(self) -> list[dict[str, Any]]:
        """Chunks before the first token: chat answers say who speaks."""
        if self._kind != "chat":
            return []
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(i, delta, None) for i in range(self._order.n)]

    def chunk(self, event: Written | Ended) -> dict[str, Any] | None:
        """An event as a chunk; None if there is nothing to say yet."""
        if isinstance(event, Ended):
            return self._last(event)
        text = event.token.text
        if self._logprobs:
            self._logprobs[event.choice].take(event.token)
        reads = self.shown and event.reads
        if not text and not reads:
            return None
        found = self._chunk(event.choice, {"content": text} if text else {}, None, text)
        if self._logprobs and text:
            found["choices"][0]["logprobs"] = self._logprobs[event.choice].flush()
        if reads:
            found["mien"] = {"tokens": event.reads, "so_far": event.so_far}
        return found

    def _last(self, event: Ended) -> dict[str, Any]:
        self._end(event)
        found = self._chunk(event.choice, {"content": event.rest} if event.rest else {}, event.finish, event.rest)
        if self._logprobs:
            found["choices"][0]["logprobs"] = self._logprobs[event.choice].flush(len(event.end.ids))
        if self.shown and event.told is not None:
            found["mien"] = mien_of(event.told)
        return found

    def closing(self) -> dict[str, Any]:
        """The chunk that says how many tokens it was."""
        return {**self._chunk(0, {}, None), "choices": [], "usage": self.usage()}

    def _chunk(self, choice: int, delta: dict[str, Any], finish: str | None, text: str = "") -> dict[str, Any]:
        said = {"delta": delta} if self._kind == "chat" else {"text": text}
        one = {"index": self._first + choice, **said, "logprobs": None, "finish_reason": finish}
        kind = "chat.completion.chunk" if self._kind == "chat" else "text_completion"
        return {**self._head, "object": kind, "choices": [one]}
