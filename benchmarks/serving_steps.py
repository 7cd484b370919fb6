"""What reading and holding add to one step of the serving engine, and reading to a first token, two batches in one
process in turn; and what a chat's next turn saves by what is kept of the last one.

Turns of whole servers differ by more than a tenth for reasons of the machine's own; steps that follow one another at
once differ less. Left out here are HTTP and what is recorded when an answer ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from mien.chat import ask
from mien.engines.hf_live import LiveBatch
from mien.gauges import GaugeSet
from mien.live import LiveEnd, LiveRequest, LiveToken
from mien.models import Model
from mien.records import Conversation, Intervention, Message, Sampling
from mien.scanning.measure import panel
from mien.serve.watch import Watch

FIVE = ("assistant", "impolite", "sentience_claiming", "sycophantic", "delusion_feeding")
"""Gauges that are read."""
STEPS = 96
TRIES = 5
_LINE = "Number {}: the harbour was quiet, the boats lay side by side, and nobody had told the miller's daughter.\n"


def step_ratio(model: Model, rows: int, gauges: GaugeSet, hold: tuple[Intervention, ...]) -> str:
    """Seconds a step while `rows` answers are watched, against unwatched ones; with a hold, while they are held and
    watched, against watched ones. The median over steps, with its 95 % interval by drawing steps with replacement.
    """
    probes = panel(gauges, model).probes
    first = _filled(model, LiveBatch(model, probes, max_rows=rows), rows, True, hold)
    second = _filled(model, LiveBatch(model, probes if hold else {}, max_rows=rows), rows, bool(hold), ())
    ratios = _ratios(first.step, second.step, lambda: first.load().running == second.load().running == rows)
    first.close()
    second.close()
    return middle(ratios)


def generate_ratio(model: Model, other: Model, gauges: GaugeSet) -> str:
    """Seconds a step while one answer is watched, against a step of transformers' `generate`, streamed: what its
    server runs for one client.

    Args:
        other: the same model loaded once more, which has no hooks on it.
    """
    watched = _filled(model, LiveBatch(model, panel(gauges, model).probes, max_rows=1), 1, True, ())
    theirs = _Generating(other, [_asked(other, 0)])
    try:
        for _ in range(3):
            theirs.step()
        return middle(_ratios(watched.step, theirs.step, lambda: watched.load().running == 1 and not theirs.over))
    finally:
        theirs.close()
        watched.close()


def _ratios(first: Callable[[], Any], second: Callable[[], Any], counts: Callable[[], bool]) -> list[float]:
    """Seconds of the first over seconds of the second, in turn, each going first every other time."""
    ratios = []
    for i in range(STEPS):
        seconds = {}
        for step in (first, second) if i % 2 else (second, first):
            begun = time.perf_counter()
            step()
            seconds[step] = time.perf_counter() - begun
        if counts():
            ratios.append(seconds[first] / seconds[second])
    return ratios


class _Generating:
    """transformers' `generate` on its own thread, which goes a token on at every `step`."""

    def __init__(self, model: Model, ids: list[Sequence[int]]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._prompt, self._stopped, self.over = True, False, False
        self._thread = threading.Thread(target=self._run, args=(model, torch.tensor(ids)), daemon=True)
        self._thread.start()

    def step(self) -> None:
        if not self.over:
            self._go.release()
            self._done.acquire()

    def close(self) -> None:
        self._stopped = True
        self._go.release()
        self._thread.join()

    def put(self, _tokens: torch.Tensor) -> None:
        """Called by `generate` with the prompt first, then with each token."""
        if self._prompt:
            self._prompt = False
            return
        self._done.release()
        if not self._stopped:
            self._go.acquire()

    def end(self) -> None:
        """Called by `generate` when the answer is over."""

    def _run(self, model: Model, ids: torch.Tensor) -> None:
        self._go.acquire()
        try:
            model.net.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=4 * STEPS, do_sample=False, streamer=self,
                stopping_criteria=[lambda tokens, _: torch.full((len(tokens),), self._stopped)],
            )  # fmt: skip
        finally:
            self.over = True
            self._done.release()


def middle(ratios: Sequence[float]) -> str:
    """The median, with its 95 % interval by drawing with replacement."""
    draws = np.median(np.random.default_rng(0).choice(ratios, (1000, len(ratios))), 1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{np.median(ratios):.2f} x ({low:.2f} to {high:.2f})"


def first_ratio(model: Model, gauges: GaugeSet, rounds: Iterable[Sequence[str]], tokens: int) -> str:
    """95th percentile of the seconds to the first tokens of a round's questions, all asked at once, watched against
    unwatched: the median over rounds. Planning what to read is counted.

    Args:
        tokens: of an answer.
    """
    read = panel(gauges, model)
    sides = [(LiveBatch(model, p.probes if p else {}, max_rows=32), Watch(model.chat, p, None, 0, None))
             for p in (read, None)]  # fmt: skip
    ratios = []
    for i, questions in enumerate(rounds):
        seconds = [0.0, 0.0]
        for side in (0, 1) if i % 2 else (1, 0):
            seconds[side] = _first_tokens(*sides[side], questions, tokens)
        ratios.append(seconds[0] / seconds[1])
    for batch, _ in sides:
        batch.close()
    return middle(ratios[1:])  # the first round warms up


def _first_tokens(batch: LiveBatch, watch: Watch, questions: Sequence[str], tokens: int) -> float:
    begun, first = time.perf_counter(), {}
    for i, question in enumerate(questions):
        plan = watch.plan(ask(question))
        spans = plan.spans or ()
        batch.admit(LiveRequest(str(i), plan.prompt_ids, Sampling(tokens, 0.0), 0, read=bool(spans), spans=spans))
    while not batch.idle:
        for id, event in batch.step():
            if isinstance(event, LiveToken):
                first.setdefault(id, time.perf_counter() - begun)
    return float(np.quantile(list(first.values()), 0.95))


def _filled(model: Model, batch: LiveBatch, rows: int, read: bool, hold: tuple[Intervention, ...]) -> LiveBatch:
    """The batch, with so many answers that write, and go on writing."""
    for i in range(rows):
        batch.admit(LiveRequest(str(i), _asked(model, i), Sampling(3 * STEPS, 0.0), 0, read=read, interventions=hold))
    for _ in range(2 * rows):
        batch.step()
    return batch


def _asked(model: Model, number: int) -> Sequence[int]:
    return model.chat.prompt_ids(ask(f"Tell me a very long story about the number {number}."))


def next_turn(model: Model, gauges: GaugeSet, tokens: int) -> tuple[int, float, float]:
    """Tokens of a conversation of about so many; seconds to the first token of its next turn after it was written here,
    and in a batch that knows nothing of it. Medians of several, every one another conversation.
    """
    probes = panel(gauges, model).probes
    sizes, seconds = [], []
    for i in range(TRIES):
        lines = [_LINE.format(1000 * i + k) for k in range(max(1, tokens // 26))]
        talk: Conversation = (Message("user", f"{i}. What is this about?\n\n{''.join(lines)}"),)
        batches = [LiveBatch(model, probes, max_rows=2) for _ in range(2)]
        _, text = _answered(batches[0], model, talk)
        longer: Conversation = (*talk, Message("assistant", text), Message("user", "What else?"))
        seconds.append([_answered(batch, model, longer)[0] for batch in batches])
        sizes.append(len(model.chat.prompt_ids(longer)))
        for batch in batches:
            batch.close()
    known, fresh = np.median(seconds, 0)
    return int(np.median(sizes)), float(known), float(fresh)


def _answered(batch: LiveBatch, model: Model, talk: Conversation) -> tuple[float, str]:
    """Seconds to the first token of the answer, and the answer."""
    spans = model.chat.spanned((*talk, Message("assistant", "x"))).spans[:-1]
    ids = model.chat.prompt_ids(talk)
    begun, first = time.perf_counter(), 0.0
    batch.admit(LiveRequest("turn", ids, Sampling(16, 0.0), 0, read=True, spans=spans))
    while True:
        for _, event in batch.step():
            if isinstance(event, LiveToken):
                first = first or time.perf_counter() - begun
            if isinstance(event, LiveEnd):
                return first, event.text
