"""The thread around a live batch: who may call it, what it tells, and how it goes on after trouble."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import numpy as np
import pytest
import torch

import random_models as tiny
from live_runs import alone, ends, probes_of, request
from mien.engines.hf_answer import Answer
from mien.engines.hf_live_engine import HfLiveEngine
from mien.engines.hf_turns import read_turns
from mien.errors import InputError, ModelError
from mien.live import LiveEnd, LiveEngine, LiveEvent, LiveRequest, LiveToken
from mien.records import Message

MODEL = tiny.model_of("llama")
PROBES = probes_of(MODEL)
LONG = 200


@pytest.fixture
def engine() -> Iterator[HfLiveEngine]:
    with HfLiveEngine(MODEL, PROBES, max_rows=4) as made:
        yield made
    assert tiny.hooks_on(MODEL.net) == []


class Heard:
    """Takes one request's events."""

    def __init__(self) -> None:
        self.events: list[LiveEvent] = []
        self.threads: set[str] = set()
        self.begun = threading.Event()
        self.over = threading.Event()

    def __call__(self, event: LiveEvent) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        if isinstance(event, LiveEnd):
            self.over.set()

    def end(self) -> LiveEnd:
        assert self.over.wait(60)
        last = self.events[-1]
        assert isinstance(last, LiveEnd)
        return last


def heard(engine: LiveEngine, each: LiveRequest) -> Heard:
    sink = Heard()
    engine.submit(each, sink)
    return sink


def test_who_is_told_of_a_token_writes_and_does_not_wait(engine: HfLiveEngine) -> None:
    """A server counts those that wait before it takes on more: one that writes must not keep another out."""
    loads = []

    def sink(event: LiveEvent) -> None:
        loads.append(engine.load())

    engine.submit(request("a", range(5), 3), sink)
    engine.close(drain=60)
    # Its last token and its end come of one step, after which nothing runs.
    assert [(now.running, now.waiting) for now in loads] == [(1, 0), (1, 0), (0, 0), (0, 0)]


def test_many_threads_at_once(engine: HfLiveEngine) -> None:
    asked = [request(f"{i}", range(i, 3 * i + 5), 5 + i, i % 2, seed=i, read=i % 3 == 0) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        sinks = list(pool.map(lambda each: heard(engine, each), asked))
        got = [sink.end() for sink in sinks]
    for sink in sinks:
        assert sink.threads == {"mien-live"}
        assert sum(isinstance(event, LiveEnd) for event in sink.events) == 1
    engine.close()
    for each, end in zip(asked, got, strict=True):
        expected = ends({each.id: alone(MODEL, each, PROBES)})[each.id]
        assert (end.ids, end.text, end.finish) == (expected.ids, expected.text, expected.finish)
        if each.read:
            np.testing.assert_allclose(end.tokens, expected.tokens, atol=2e-4, rtol=1e-3)


def test_a_cancelled_request_frees_its_place_within_a_step(engine: HfLiveEngine) -> None:
    sinks = [heard(engine, request(f"{i}", [1, 2, 3], LONG)) for i in range(4)]
    late = heard(engine, request("late", [4, 5], 2))
    for sink in sinks:
        assert sink.begun.wait(60)
    assert not late.begun.is_set()
    engine.cancel("2")
    engine.cancel("2")
    engine.cancel("nobody")
    assert sinks[2].end().finish == "cancelled"
    assert late.end().finish in ("length", "stop")
    told = [e for e in sinks[2].events if isinstance(e, LiveToken)]
    assert sinks[2].end().ids == tuple(e.id for e in told)
    assert len(told) < LONG


def test_a_cancelled_id_may_be_used_again(engine: HfLiveEngine) -> None:
    first = heard(engine, request("a", [1, 2, 3], LONG))
    with pytest.raises(InputError, match="in use"):
        engine.submit(request("a", [1], 2), Heard())
    engine.cancel("a")
    assert first.end().finish == "cancelled"
    assert heard(engine, request("a", [1, 2, 3], 3)).end().finish in ("length", "stop")


def test_one_may_be_submitted_and_cancelled_from_a_sink(engine: HfLiveEngine) -> None:
    done: Queue[LiveEnd] = Queue()

    def second(event: LiveEvent) -> None:
        if isinstance(event, LiveToken):
            engine.cancel("second")
        else:
            done.put(event)

    def first(event: LiveEvent) -> None:
        if isinstance(event, LiveEnd):
            engine.submit(request("second", [1, 2], LONG), second)

    engine.submit(request("first", [1, 2], 2), first)
    assert done.get(timeout=60).finish == "cancelled"


def test_a_sink_that_raises_ends_its_own_request_only(engine: HfLiveEngine) -> None:
    def bad(_event: LiveEvent) -> None:
        raise RuntimeError("gone")

    engine.submit(request("bad", [1, 2], LONG), bad)
    assert heard(engine, request("good", [1, 2], 9)).end().finish in ("length", "stop")
    for _ in range(20):  # each takes a step at least
        heard(engine, request("more", [3], 1)).end()
    assert engine.load().running == 0


def test_nothing_runs_while_there_is_nothing_to_do(engine: HfLiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    passes = engine._batch.passes
    monkeypatch.setattr(engine._batch, "passes", lambda: steps.append(1) or passes())
    for i in range(9):
        heard(engine, request(f"{i}", [1, 2], 1)).end()
    assert len(steps) == 9


def test_refusals_come_at_once(engine: HfLiveEngine) -> None:
    with pytest.raises(ModelError):
        engine.submit(request("a", [9999], 3), Heard())
    with pytest.raises(InputError):
        engine.submit(request("a", [], 3), Heard())
    assert heard(engine, request("a", [3], 3)).end().finish in ("length", "stop")


def test_closing_cancels_what_runs() -> None:
    engine = HfLiveEngine(MODEL, max_rows=1)
    running, waiting = heard(engine, request("a", [1, 2], LONG)), heard(engine, request("b", [1, 2], LONG))
    assert running.begun.wait(60)
    engine.close()
    assert (running.end().finish, waiting.end().finish) == ("cancelled", "cancelled")
    assert (engine.load().running, engine.load().waiting) == (0, 0)
    with pytest.raises(ModelError, match="closing"):
        engine.submit(request("c", [1], 2), Heard())
    engine.close()
    assert tiny.hooks_on(MODEL.net) == []


def test_closing_lets_what_runs_come_to_its_end() -> None:
    engine = HfLiveEngine(MODEL, max_rows=1)
    sinks = [heard(engine, request(f"{i}", [1, 2], 20)) for i in range(3)]
    engine.close(drain=60)
    assert all(sink.end().finish in ("length", "stop") for sink in sinks)


def test_closing_from_a_sink() -> None:
    engine = HfLiveEngine(MODEL)
    closed = threading.Event()

    def sink(event: LiveEvent) -> None:
        engine.close(drain=5)
        if isinstance(event, LiveEnd):
            closed.set()

    engine.submit(request("a", [1, 2], LONG), sink)
    assert closed.wait(60)
    engine.close()
    assert tiny.hooks_on(MODEL.net) == []


def test_the_engine_outlives_a_failing_step(engine: HfLiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Heard()
    fails = [True]
    turn = engine._batch._whose_turn

    def failing(room: int) -> list[Answer]:
        if fails:
            fails.clear()
            raise RuntimeError("a fault")
        return turn(room)

    monkeypatch.setattr(engine._batch, "_whose_turn", failing)
    engine.submit(request("a", [1, 2], 5), broken)
    assert broken.end().finish == "error"
    assert heard(engine, request("b", [1, 2], 5)).end().finish in ("length", "stop")


def test_the_model_may_be_read_elsewhere_meanwhile(engine: HfLiveEngine) -> None:
    """Plain passes in other threads are not touched by the hooks that lie on the model."""
    talk = (Message("user", "Hi"), Message("assistant", "Hello there, how are you?"))
    ids = MODEL.chat.spanned(talk).ids
    with torch.no_grad():
        before = MODEL.net(torch.tensor([ids])).logits
    busy = heard(engine, request("busy", [1, 2], LONG, read=True))
    assert busy.begun.wait(60)
    for _ in range(5):
        with torch.no_grad():
            torch.testing.assert_close(MODEL.net(torch.tensor([ids])).logits, before)
    engine.close()
    (expected,) = read_turns(MODEL, [talk], PROBES)
    with HfLiveEngine(MODEL, PROBES) as other:
        spans = MODEL.chat.spanned(talk).spans
        got = heard(other, request("r", ids, 0, read=True, spans=spans)).end()
    np.testing.assert_allclose(got.spans, expected.pooled(), rtol=1e-3, atol=1e-4)
