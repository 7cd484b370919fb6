"""The HTTP engine writes what a real server answers, and refuses what only an open model can do."""

from __future__ import annotations

from typing import Any

import pytest

from fake_endpoint import FakeEndpoint, Step, ok, status
from mien.endpoint import Endpoint
from mien.engines.http import BATCH, HttpEngine
from mien.errors import EndpointError, InputError, ModelError
from mien.records import Engine, Message, Rollout, Sampling, ScoreRequest, WriteRequest

pytestmark = pytest.mark.timeout(60)

PLAIN = Sampling(max_tokens=9, temperature=0.7, top_p=0.9)


class Steering:
    """An intervention in name only."""

    layers = (0,)
    tokens = "all"

    def edit(self, layer: int, h: Any) -> Any:
        return h


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def wanted(number: int, **more: Any) -> WriteRequest:
    return WriteRequest(f"id{number}", (Message("system", "Be."), Message("user", f"Q{number}")), seed=number, **more)


def echo(payload: dict[str, Any]) -> Step:
    return ok("Answer to " + payload["messages"][-1]["content"])


def test_it_is_an_engine() -> None:
    engine: Engine = HttpEngine(Endpoint("https://example.invalid/v1", "some-model"))
    info = engine.info
    assert (info.id, info.n_layers, info.d_model, info.chat) == ("some-model", 0, 0, True)
    assert info.device == "example.invalid"


def test_it_writes_in_the_order_asked() -> None:
    requests = [wanted(n) for n in range(2 * BATCH + 3)]
    with FakeEndpoint(echo) as fake, Endpoint(fake.url, "m") as endpoint:
        batches = list(HttpEngine(endpoint).write(requests, PLAIN, read=False))
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 3]
    pairs = [pair for batch in batches for pair in batch]
    assert [rollout for rollout, _ in pairs] == [
        Rollout(r.id, r.conversation, f"Answer to Q{n}", (), (), None, "stop") for n, r in enumerate(requests)
    ]
    assert {reading for _, reading in pairs} == {None}
    payload = next(r.payload for r in fake.requests if r.payload["seed"] == 5)
    assert payload == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Q5"}],
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,
    }


def test_batches_that_are_done_are_passed_over() -> None:
    requests = [wanted(n) for n in range(3 * BATCH)]
    done = {f"id{n}" for n in range(BATCH, 2 * BATCH)} | {"id0"}
    with FakeEndpoint(echo) as fake, Endpoint(fake.url, "m") as endpoint:
        batches = list(HttpEngine(endpoint).write(requests, PLAIN, read=False, done=done))
    assert [batch[0][0].id for batch in batches] == ["id0", f"id{2 * BATCH}"]
    assert len(fake.requests) == 2 * BATCH


def test_the_logprob_is_the_mean_over_the_tokens() -> None:
    answer = ok("a b", tokens=[("a", {"a": -0.5}), (" b", {" b": -1.5})], finish="length")
    with FakeEndpoint(answer) as fake, Endpoint(fake.url, "m") as endpoint:
        ((with_one, _),), ((without, _),) = (
            next(HttpEngine(endpoint, logprobs=asked).write([wanted(1)], PLAIN, read=False)) for asked in (True, False)
        )
    assert (with_one.logprob, without.logprob) == (-1.0, None)
    assert with_one.finish == "length"


@pytest.mark.parametrize("seed", [-1, 2**31, 2**63 + 11, 2**200])
def test_any_seed_fits(seed: int) -> None:
    request = WriteRequest("a", (Message("user", "x"),), seed=seed)
    with FakeEndpoint(echo) as fake, Endpoint(fake.url, "m") as endpoint:
        list(HttpEngine(endpoint).write([request], PLAIN, read=False))
    assert 0 <= fake.requests[0].payload["seed"] < 2**31


def test_a_failure_comes_after_the_batches_before_it() -> None:
    def script(payload: dict[str, Any]) -> Step:
        return status(400, "too rude") if payload["messages"][-1]["content"] == f"Q{BATCH + 1}" else echo(payload)

    with FakeEndpoint(script) as fake, Endpoint(fake.url, "m") as endpoint:
        batches = HttpEngine(endpoint).write([wanted(n) for n in range(3 * BATCH)], PLAIN, read=False)
        assert len(next(batches)) == BATCH
        with pytest.raises(EndpointError, match="too rude"):
            next(batches)


def test_what_needs_an_open_model_is_refused_before_anything_is_sent() -> None:
    conversation = (Message("user", "x"),)
    with FakeEndpoint(echo) as fake, Endpoint(fake.url, "m") as endpoint:
        engine = HttpEngine(endpoint)
        with pytest.raises(ModelError, match="read=False"):
            engine.write([wanted(1)], PLAIN)
        with pytest.raises(ModelError, match="steered"):
            engine.write([wanted(1), wanted(2, interventions=(Steering(),))], PLAIN, read=False)
        with pytest.raises(ModelError, match="cannot be read"):
            engine.read([Rollout("a", conversation, "x", (), (), None, "stop")])
        with pytest.raises(ModelError, match="cannot score"):
            engine.logprobs([ScoreRequest(conversation, "x")])
        with pytest.raises(InputError, match="messages"):
            engine.write([WriteRequest("a", (), seed=1)], PLAIN, read=False)
        with pytest.raises(InputError, match="max_tokens"):
            engine.write([wanted(1)], Sampling(max_tokens=0), read=False)
    assert fake.requests == []
