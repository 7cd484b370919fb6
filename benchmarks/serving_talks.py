"""Whole answers in the engine: clients who ask one question after another, of a batch that is watched and of one that
is not, a step of the one and a step of the other in turn.

Beside a step of the engine stands here what is done once for an answer: the pass more for one that is cut at its limit,
and reading it again where a log would cut its tokens otherwise. Left out are HTTP and what is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from serving_steps import middle

from mien.chat import ask
from mien.engines.hf_live import LiveBatch
from mien.gauges import GaugeSet
from mien.live import LiveEnd, LiveRequest
from mien.models import Model
from mien.records import Message, Sampling
from mien.scanning.measure import panel

Questions = Sequence[Sequence[tuple[str, int]]]
"""For each client its questions, and how many tokens each answer may have."""
_AGAIN = "again "


@dataclass
class _Clients:
    """Clients of one batch, each of whom waits for an answer before it asks on."""

    model: Model
    batch: LiveBatch
    watched: bool
    seconds: float = 0.0
    tokens: int = 0
    again: int = 0
    """Answers that were read once more."""
    _asked: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def begin(self, questions: Questions) -> None:
        self._asked = {str(i): list(each) for i, each in enumerate(questions)}
        self.seconds, self.tokens = 0.0, 0
        for client in self._asked:
            self._ask(client)

    def step(self) -> None:
        if self.batch.idle:
            return
        begun = time.perf_counter()
        events = self.batch.step()
        self.seconds += time.perf_counter() - begun
        for id, event in events:
            if isinstance(event, LiveEnd):
                self._ended(id, event)

    def _ask(self, client: str) -> None:
        if self._asked[client]:
            question, tokens = self._asked[client][0]
            ids = tuple(self.model.chat.prompt_ids(ask(question)))
            self.batch.admit(LiveRequest(client, ids, Sampling(tokens, 0.0), 0, read=self.watched))

    def _ended(self, id: str, end: LiveEnd) -> None:
        client = id.removeprefix(_AGAIN)
        if id == client:
            self.tokens += len(end.ids)
            if self.watched and self._read_again(client, end):
                return
        self._asked[client].pop(0)
        self._ask(client)

    def _read_again(self, client: str, end: LiveEnd) -> bool:
        """As a log would have it, if it would cut the answer otherwise."""
        talk = (Message("user", self._asked[client][0][0]), Message("assistant", end.text))
        spanned = self.model.chat.spanned(talk)
        start, stop = spanned.spans[-1]
        if spanned.ids[start:stop] == tuple(end.ids)[: stop - start]:
            return False
        self.again += 1
        ids = spanned.ids[:stop]
        self.batch.admit(LiveRequest(_AGAIN + client, ids, Sampling(0, 0.0), 0, read=True, spans=((start, stop),)))
        return True


def talks_ratio(model: Model, gauges: GaugeSet, turns: Sequence[tuple[Questions, Questions]]) -> tuple[str, str]:
    """Seconds a token, watched against unwatched: the median over turns, with its 95 % interval by drawing turns; and
    the share of the watched answers that were read again.

    Args:
        turns: questions to the watched batch, and as many of the same lengths to the other; the first turn warms up.
    """
    rows = len(turns[0][0])
    watched = _Clients(model, LiveBatch(model, panel(gauges, model).probes, max_rows=rows), True)
    plain = _Clients(model, LiveBatch(model, {}, max_rows=rows), False)
    ratios, answers = [], 0
    for mine, theirs in turns:
        watched.begin(mine)
        plain.begin(theirs)
        answers += sum(map(len, mine))
        i = 0
        while not (watched.batch.idle and plain.batch.idle):
            i += 1
            for one in (watched, plain) if i % 2 else (plain, watched):
                one.step()
        ratios.append(watched.seconds / watched.tokens * plain.tokens / plain.seconds)
    for one in (watched, plain):
        one.batch.close()
    return middle(np.array(ratios[1:])), f"{watched.again / answers:.0%}"
