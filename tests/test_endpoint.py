"""The endpoint client against a real server on this machine that misbehaves in every way known."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_endpoint import FakeEndpoint, body, completion, cut_off, hang, hang_up, html, ok, status, together, trickle
from mien.endpoint import ChatRequest, Endpoint, Reply, sending
from mien.endpoint.sending import MAX_BACKOFF, Meter, Pace, read_retry_after, retry_delay
from mien.errors import EndpointError, InputError
from mien.records import Message

pytestmark = pytest.mark.timeout(60)

KEY = "sk-very-secret-0123456789"
ASK: dict[str, Any] = {"messages": [Message("user", "Hi")], "max_tokens": 5, "temperature": 0.0}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted and not made."""
    made: list[float] = []

    async def pause(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(sending, "pause", pause)
    return made


def ask(fake: FakeEndpoint, **settings: Any) -> Reply:
    with Endpoint(fake.url, "m", **{"backoff": 0, **settings}) as endpoint:
        return endpoint.chat(**ASK)


def failure(fake: FakeEndpoint, **settings: Any) -> str:
    with pytest.raises(EndpointError) as caught:
        ask(fake, **settings)
    said = str(caught.value)
    assert fake.host in said
    assert said.endswith(".")
    assert "\n" not in said
    return said


# What is sent, and what is made of the answer


def test_a_request_holds_what_was_asked_for() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    with FakeEndpoint(ok("Hello")) as fake, Endpoint(fake.url, "some-model", KEY) as endpoint:
        endpoint.chat(
            [Message("system", "Be brief."), {"role": "user", "content": "Grüß dich 🙂"}],
            max_tokens=7,
            temperature=0.5,
            top_p=0.9,
            seed=3,
            logprobs=4,
            json_schema=schema,
        )
    (request,) = fake.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.payload.pop("response_format") == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": schema},
    }
    assert request.payload == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüß dich 🙂"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 4,
    }


def test_fields_that_were_not_asked_for_are_not_sent() -> None:
    with FakeEndpoint(ok("Hello")) as fake:
        ask(fake)
    assert set(fake.requests[0].payload) == {"model", "messages", "max_tokens", "temperature"}
    assert "Authorization" not in fake.requests[0].headers


@pytest.mark.parametrize("tail", ["", "/", "/chat/completions"])
def test_base_urls_may_end_in_several_ways(tail: str) -> None:
    with FakeEndpoint(ok("Hello")) as fake, Endpoint(fake.url + tail + "?version=2", "m") as endpoint:
        assert endpoint.chat(**ASK).text == "Hello"
    assert fake.requests[0].path == "/v1/chat/completions?version=2"


def test_a_reply_holds_what_came_back() -> None:
    tokens = [("Hel", {"Hel": -0.1, "Hal": -2.5}), ("lo", {"lo": -0.2})]
    answer = ok("Hello", tokens=tokens, finish="length", counts=(11, 2))
    with FakeEndpoint(answer) as fake, Endpoint(fake.url, "m") as endpoint:
        reply = endpoint.chat(**ASK, logprobs=2)
        assert endpoint.chat(**ASK).top_logprobs == []
    assert reply == Reply(
        text="Hello",
        finish_reason="length",
        prompt_tokens=11,
        completion_tokens=2,
        top_logprobs=[{"Hel": -0.1, "Hal": -2.5}, {"lo": -0.2}],
        cached=False,
        tokens=["Hel", "lo"],
        logprobs=[-0.1, -0.2],
    )


def _changed(message: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    document = completion("x")
    document["choices"][0] |= choice
    if message is not None:
        document["choices"][0]["message"] = message
    return document


@pytest.mark.parametrize(
    ("document", "text", "finish"),
    [
        (completion(None, refusal="I will not."), "I will not.", "refusal"),
        (completion(None, finish="content_filter"), "", "content_filter"),
        (_changed({"role": "assistant"}, finish_reason="length"), "", "length"),
        (
            _changed({"content": [{"type": "thinking"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            "ab",
            "stop",
        ),
        (_changed({"content": "x"}, finish_reason=None), "x", ""),
        (_changed({"content": "a\ud800b"}), "a\ufffdb", "stop"),
    ],
)
def test_unusual_replies_are_understood(document: dict[str, Any], text: str, finish: str) -> None:
    with FakeEndpoint(body(document)) as fake:
        reply = ask(fake)
    assert (reply.text, reply.finish_reason) == (text, finish)
    reply.text.encode("utf-8")


def test_spellings_of_one_token_add_up_and_what_is_no_logprob_is_dropped() -> None:
    candidates = [
        {"token": "a", "logprob": -1.0},
        {"token": "a", "logprob": -1.0},
        {"token": "z", "logprob": -9999.0},
        {"token": "z", "logprob": -9999.0},
        {"token": "round", "logprob": 1e-6},
        {"token": "big", "logprob": 3.0},
        {"token": "nan", "logprob": float("nan")},
        {"token": "inf", "logprob": float("-inf")},
        {"token": "true", "logprob": True},
        {"token": 5, "logprob": -1.0},
        "junk",
    ]
    entry = {"token": "a", "logprob": -1.0, "top_logprobs": candidates}
    with FakeEndpoint(body(_changed(logprobs={"content": [entry]}))) as fake:
        (top,) = ask(fake).top_logprobs
    assert top == {"a": pytest.approx(-0.306852819), "z": pytest.approx(-9998.306852819), "round": 0.0}


@pytest.mark.parametrize(
    "logprobs", [5, "x", [], {}, {"content": None}, {"content": [1]}, {"content": [{"token": "a"}]}]
)
def test_logprobs_of_another_shape_count_as_none(logprobs: object) -> None:
    with FakeEndpoint(body(_changed(logprobs=logprobs))) as fake:
        reply = ask(fake)
    assert (reply.text, reply.top_logprobs, reply.tokens, reply.logprobs) == ("x", [], [], [])


# The key


def test_the_key_comes_from_the_environment_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " from-environment\n")
    with FakeEndpoint(ok("x")) as fake:
        ask(fake)
        ask(fake, api_key="given")
    assert [r.headers["Authorization"] for r in fake.requests] == ["Bearer from-environment", "Bearer given"]


def test_the_key_is_shown_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    steps = [
        status(401, f"Incorrect API key provided: {KEY}"),
        body(f"<html>{KEY}</html>"),
        body({"headers": f"Bearer {KEY}"}),
        ok(f"You sent {KEY}"),
        ok("fine"),
    ]
    shown = []
    with FakeEndpoint(steps) as fake, Endpoint(fake.url, "m", KEY, cache_dir=tmp_path) as endpoint:
        shown += [repr(endpoint), str(endpoint.config), repr(endpoint.config), endpoint.config.model_dump_json()]
        for _ in range(3):
            with pytest.raises(EndpointError) as caught:
                endpoint.chat(**ASK)
            shown.append(str(caught.value))
        assert endpoint.chat(**ASK).text == f"You sent {KEY}"
        assert not endpoint.chat(**ASK).cached
        assert endpoint.chat(**ASK).cached
    assert "***" in shown[-1]
    shown += [path.read_text() for path in tmp_path.rglob("*.json")] + [str(path) for path in tmp_path.rglob("*")]
    assert len(list(tmp_path.rglob("*.json"))) == 1
    assert not [text for text in [*shown, caplog.text] if KEY in text]


@pytest.mark.parametrize("key", ["sk-a b", "sk-a\nb", "schlüssel", "a\x00b", 7])
def test_a_key_that_cannot_be_sent_is_refused_without_quoting_it(key: Any) -> None:
    with pytest.raises(InputError, match="api_key") as caught:
        Endpoint("http://localhost/v1", "m", key)
    assert str(key) not in str(caught.value)


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with FakeEndpoint(ok("x")) as other, FakeEndpoint(body("", 307, Location=f"{other.url}/chat/completions")) as fake:
        said = failure(fake, api_key=KEY)
    assert "redirects" in said
    assert other.requests == []


# Retries


@pytest.mark.parametrize(
    "step",
    [
        status(429),
        status(429, Retry_After="0"),
        status(429, Retry_After="soon"),
        status(500),
        status(502),
        body("<html>Bad gateway</html>", 503),
        body({"error": {"message": "upstream is busy", "code": 429}}),
        hang_up(),
        cut_off(),
    ],
)
def test_what_may_pass_is_tried_again(step: Any) -> None:
    with FakeEndpoint([step, step, ok("at last")]) as fake, Endpoint(fake.url, "m", backoff=0, retries=2) as endpoint:
        assert endpoint.chat(**ASK).text == "at last"
    assert len(fake.requests) == 3
    assert (endpoint.usage.requests, endpoint.usage.retries, endpoint.usage.failures) == (3, 2, 0)
    assert fake.requests[0].payload == fake.requests[2].payload


def test_a_request_that_ran_out_of_time_is_sent_again() -> None:
    with FakeEndpoint([hang(), ok("at last")]) as fake, Endpoint(fake.url, "m", backoff=0, timeout=1) as endpoint:
        assert endpoint.chat(**ASK).text == "at last"
    assert endpoint.usage.retries >= 1


@pytest.mark.parametrize("code", [300, 400, 401, 403, 404, 405, 408, 409, 413, 422])
def test_what_will_not_pass_is_tried_once(code: int) -> None:
    with FakeEndpoint(status(code, "you may not")) as fake:
        said = failure(fake)
    assert len(fake.requests) == 1
    assert f"status {code}" in said
    assert '"you may not"' in said


@pytest.mark.parametrize("step", [status(500, "broken"), status(429, "broken")])
def test_tries_come_to_an_end(step: Any) -> None:
    with FakeEndpoint(step) as fake:
        said = failure(fake, retries=3)
    assert len(fake.requests) == 4
    assert '"broken" (4 tries)' in said


def test_nobody_there() -> None:
    with FakeEndpoint(ok("x")) as fake:
        pass
    assert "could not be reached" in failure(fake, retries=1)


def test_a_host_name_that_cannot_be_one() -> None:
    with Endpoint(f"http://{'a' * 70}.example/v1", "m", retries=0) as endpoint, pytest.raises(EndpointError):
        endpoint.chat(**ASK)


def test_retry_after_is_honoured(pauses: list[float]) -> None:
    with FakeEndpoint([status(429, Retry_After="17"), status(503, Retry_After="2.5"), ok("x")]) as fake:
        ask(fake)
    assert pauses == [17.0, 2.5]


def test_an_endpoint_that_asks_for_too_long_a_pause_is_given_up(pauses: list[float]) -> None:
    with FakeEndpoint(status(429, "quota", Retry_After="86400")) as fake:
        assert "86400 s" in failure(fake)
    assert len(fake.requests) == 1
    assert pauses == []


def test_pauses_grow(pauses: list[float]) -> None:
    with FakeEndpoint(status(500)) as fake:
        failure(fake, backoff=1.0, retries=7)
    assert len(pauses) == 7
    for made, full in zip(pauses, [1, 2, 4, 8, 16, 30, 30], strict=True):
        assert full / 2 <= made <= full


@given(
    tried=st.integers(0, 200),
    asked=st.none() | st.floats(0, 1e6),
    base=st.floats(0, 60),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_a_pause_is_bounded_and_never_shorter_than_asked(
    tried: int, asked: float | None, base: float, jitter: float
) -> None:
    delay = retry_delay(tried, asked, base, lambda: jitter)
    assert (asked or 0.0) <= delay <= max(MAX_BACKOFF, asked or 0.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 30 ", 30.0),
        ("1.5", 1.5),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        *(
            (nonsense, None)
            for nonsense in ("", "-1", "nan", "inf", "1e9", "٣", "soon", "9" * 400, "Wed, 21 Oct 99999 07:28:00 GMT")
        ),
    ],
)
def test_retry_after_is_read(value: str, seconds: float | None) -> None:
    assert read_retry_after(value, datetime(2015, 10, 21, 7, 28, tzinfo=UTC)) == seconds


# Endpoints that do not end, or answer with garbage


@pytest.mark.parametrize(
    "step",
    [
        hang(),
        trickle(),
        trickle(drop=b"\0"),
        trickle(head=b"", drop=b"H"),
        trickle(head=b"HTTP/1.1 200 OK\r\nX-Slow: ", drop=b"x"),
        trickle(head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", drop=b"1\r\n \r\n"),
    ],
)
def test_a_hanging_or_trickling_endpoint_is_ended_by_the_clock(step: Any) -> None:
    with FakeEndpoint(step) as fake:
        said = failure(fake, timeout=0.25, retries=1)
    assert len(fake.requests) == 2
    assert "within 0.25 s (2 tries)" in said or "broke off" in said


def test_the_clock_covers_the_whole_try() -> None:
    with FakeEndpoint(trickle()) as fake:
        assert "did not answer within 0.25 s;" in failure(fake, timeout=0.25, retries=0)


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        (html(), '"<!DOCTYPE html> <html><head><title>Welcome to nginx!</title></head><body><p>Hell"'),
        (body('{"choices": [{"message": '), '"{"choices": [{"message":"'),
        (body(b""), "nothing"),
        (body(b"\xff\xfe\x00\x1b[31mred\x07"), "[31mred"),
        (body("[" * 100_000), '"' + "[" * 80 + '"'),
        (body("9" * 10_000), '"' + "9" * 80 + '"'),
        (body("[1, 2]"), '"[1, 2]"'),
        (body("null"), '"null"'),
        (body("{}"), '"{}"'),
        (body({"choices": []}), '"{"choices": []}"'),
        (body({"choices": {"0": 1}}), '"{"choices": {"0": 1}}"'),
        (body({"choices": [None]}), '"{"choices": [null]}"'),
        (body({"choices": [{"text": "old style"}]}), "old style"),
        (body({"choices": [{"message": {}}]}), '"{"choices": [{"message": {}}]}"'),
        (body({"choices": [{"message": {"content": 5}}]}), "5"),
        (body({"error": "out of cheese"}), '"out of cheese"'),
        (body({"error": {"message": "out of cheese"}}), '"out of cheese"'),
        (body({"error": {"message": "a bad request", "code": 400}}), 'status 400: "a bad request"'),
    ],
)
def test_garbage_is_named_with_its_beginning(step: Any, shown: str) -> None:
    with FakeEndpoint(step) as fake:
        said = failure(fake)
    assert shown in said
    assert said.isprintable()
    assert len(said) < 300
    assert len(fake.requests) == 1


def test_garbled_compression_is_an_endpoint_error() -> None:
    with FakeEndpoint(body(b"not gzip at all", Content_Encoding="gzip")) as fake:
        failure(fake, retries=0)


def test_something_that_is_not_http_is_an_endpoint_error() -> None:
    with FakeEndpoint(trickle(head=b"SSH-2.0-OpenSSH_9.6\r\n\r\n")) as fake:
        failure(fake, retries=0, timeout=5)


def test_an_endless_body_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_BODY", 2 * 2**20)
    with FakeEndpoint(trickle(drop=b"y" * 65536)) as fake:
        assert 'more than 2 MiB: "yyyy' in failure(fake, timeout=50)
    assert len(fake.requests) == 1


# Many at once


def test_every_request_is_answered_under_its_index() -> None:
    def script(payload: dict[str, Any]) -> Any:
        word = payload["messages"][0]["content"]
        return status(400, f"not {word}") if word == "7" else ok(word * 2)

    requests: list[Any] = [{**ASK, "messages": [Message("user", str(n))]} for n in range(20)]
    requests[3] = ChatRequest(**requests[3])
    with FakeEndpoint(script) as fake, Endpoint(fake.url, "m", concurrency=4) as endpoint:
        answers = dict(endpoint.chat_many(requests))
    assert sorted(answers) == list(range(20))
    failed = answers.pop(7)
    assert isinstance(failed, EndpointError)
    assert "not 7" in str(failed)
    assert {n: r.text for n, r in answers.items() if isinstance(r, Reply)} == {n: str(n) * 2 for n in answers}


def test_as_many_run_at_once_as_may() -> None:
    with FakeEndpoint(together(3, ok("x"))) as fake, Endpoint(fake.url, "m", concurrency=3, timeout=30) as endpoint:
        assert len(list(endpoint.chat_many([{**ASK, "seed": n} for n in range(9)]))) == 9
    assert fake.max_in_flight == 3


def test_the_limit_holds_over_all_threads() -> None:
    # Three are asked for and two may run: the server waits in vain for the third.
    fake = FakeEndpoint(together(3, ok("x"), timeout=0.5))
    with fake, Endpoint(fake.url, "m", concurrency=2, retries=0) as endpoint:
        threads = [threading.Thread(target=lambda: list(endpoint.chat_many([ASK]))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(fake.requests), fake.max_in_flight) == (3, 2)
    assert endpoint.usage.failures == 3


def test_what_is_not_wanted_any_more_is_not_sent() -> None:
    def script(payload: dict[str, Any]) -> Any:
        return hang() if payload["seed"] == 1 else ok("x")

    with FakeEndpoint(script) as fake, Endpoint(fake.url, "m", concurrency=1, timeout=600) as endpoint:
        answers = endpoint.chat_many([{**ASK, "seed": n} for n in range(50)])
        assert fake.requests == []
        assert next(answers)[0] == 0
        answers.close()
        with pytest.raises(StopIteration):
            next(answers)
        assert endpoint.chat(**ASK, seed=99).text == "x", "the one slot is free again"
    assert {request.payload["seed"] for request in fake.requests} <= {0, 1, 99}


def test_no_requests_no_answers() -> None:
    with Endpoint("http://127.0.0.1:9/v1", "m") as endpoint:
        assert list(endpoint.chat_many([])) == []


def test_requests_are_spaced(pauses: list[float]) -> None:
    with FakeEndpoint(ok("x")) as fake, Endpoint(fake.url, "m", requests_per_minute=1, concurrency=1) as endpoint:
        for _ in range(3):
            endpoint.chat(**ASK)
    assert len(pauses) == 2
    assert 0 < pauses[0] <= 60 < pauses[1] <= 120


@given(per_minute=st.floats(0.1, 10_000), waits=st.lists(st.floats(0, 100), max_size=50))
def test_no_minute_holds_more_requests_than_it_may(per_minute: float, waits: list[float]) -> None:
    pace, now, starts = Pace(per_minute), 1000.0, []
    for wait in waits:
        now += wait
        starts.append(now + pace.delay(now))
    gaps = [b - a for a, b in pairwise(starts)]
    assert all(gap >= 60 / per_minute - 1e-6 for gap in gaps)
    assert all(start >= 1000.0 for start in starts)


def test_without_a_rate_nothing_waits() -> None:
    pace = Pace(None)
    assert [pace.delay(5.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_it_works_where_an_event_loop_runs_already() -> None:
    async def main() -> str:
        with FakeEndpoint(ok("x")) as fake:
            return ask(fake).text

    assert asyncio.run(main()) == "x"


def _lines() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mien-endpoint"]


def test_closing_ends_the_thread_and_use_opens_it_again() -> None:
    before = len(_lines())
    with FakeEndpoint(ok("x")) as fake:
        endpoint = Endpoint(fake.url, "m")
        assert len(_lines()) == before
        for _ in range(2):
            endpoint.chat(**ASK)
            assert len(_lines()) == before + 1
            endpoint.close()
            assert len(_lines()) == before
        endpoint.close()


def test_the_thread_ends_with_the_object() -> None:
    before = set(_lines())
    with FakeEndpoint(ok("x")) as fake:
        endpoint = Endpoint(fake.url, "m")
        endpoint.chat(**ASK)
        (line,) = set(_lines()) - before
        del endpoint
        gc.collect()
        line.join(20)
    assert not line.is_alive()


def test_closing_ends_what_is_under_way() -> None:
    with FakeEndpoint([ok("x"), hang()]) as fake:
        endpoint = Endpoint(fake.url, "m", concurrency=1)
        answers = endpoint.chat_many([ASK, ASK])
        next(answers)
        endpoint.close()
        with pytest.raises(EndpointError, match="closed"):
            next(answers)


# The cache


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    tokens = [("é", {"é": -0.25, "\n": -3.0})]
    with FakeEndpoint(ok("é", tokens=tokens)) as fake:
        replies = []
        for _ in range(2):
            with Endpoint(fake.url, "m", cache_dir=tmp_path / "new" / "cache", price=(1, 1)) as endpoint:
                replies.append(endpoint.chat(**ASK, logprobs=1))
    assert len(fake.requests) == 1
    assert (replies[0].cached, replies[1].cached) == (False, True)
    assert replies[1].top_logprobs == replies[0].top_logprobs == [{"é": -0.25, "\n": -3.0}]
    assert replies[1].text == "é"
    usage = endpoint.usage
    assert (usage.cached, usage.requests, usage.replies, usage.prompt_tokens, usage.cost) == (1, 0, 0, 0, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [Message("user", "hi")]},
        {"messages": [Message("system", "Hi")]},
        {"max_tokens": 6},
        {"temperature": 0.1},
        {"top_p": 0.5},
        {"seed": 0},
        {"logprobs": 1},
        {"json_schema": {}},
    ],
)
def test_any_difference_is_another_request(tmp_path: Path, change: dict[str, Any]) -> None:
    with FakeEndpoint(ok("x")) as fake, Endpoint(fake.url, "m", cache_dir=tmp_path) as endpoint:
        endpoint.chat(**ASK)
        assert not endpoint.chat(**{**ASK, **change}).cached
        assert endpoint.chat(**ASK).cached


def test_another_model_or_endpoint_is_another_request_and_another_key_is_not(tmp_path: Path) -> None:
    with FakeEndpoint(ok("a")) as fake, FakeEndpoint(ok("b")) as other:
        for url, model, key in [(fake.url, "m", "k1"), (fake.url, "n", "k1"), (other.url, "m", "k1")]:
            with Endpoint(url, model, key, cache_dir=tmp_path) as endpoint:
                assert not endpoint.chat(**ASK).cached
        with Endpoint(fake.url, "m", "k2", cache_dir=tmp_path) as endpoint:
            assert endpoint.chat(**ASK).cached


def _damage(entry: bytes) -> dict[str, bytes]:
    known = json.loads(entry)
    return {
        "cut": entry[: len(entry) // 2],
        "empty": b"",
        "binary": b"\xff\x00\xfe",
        "no object": b"[]",
        "no fields": b"{}",
        "deep": b"[" * 100_000,
        "another request's": json.dumps({**known, "key": "0" * 64}).encode(),
        "no text": json.dumps({**known, "reply": {**known["reply"], "text": None}}).encode(),
        "wrong logprobs": json.dumps({**known, "reply": {**known["reply"], "top_logprobs": [{"a": "b"}]}}).encode(),
    }


def test_damaged_entries_are_ignored_and_replaced(tmp_path: Path) -> None:
    with FakeEndpoint(ok("x")) as fake, Endpoint(fake.url, "m", cache_dir=tmp_path) as endpoint:
        endpoint.chat(**ASK)
        (file,) = tmp_path.rglob("*.json")
        good = file.read_bytes()
        for name, damaged in _damage(good).items():
            file.write_bytes(damaged)
            assert not endpoint.chat(**ASK).cached, name
            assert file.read_bytes() == good, name
        assert endpoint.chat(**ASK).cached
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_failures_are_not_kept(tmp_path: Path) -> None:
    with FakeEndpoint([html(), status(400), ok("x")]) as fake:
        for _ in range(2):
            failure(fake, cache_dir=tmp_path)
        assert not ask(fake, cache_dir=tmp_path).cached


def test_one_request_asked_many_times_at_once_is_kept_whole(tmp_path: Path) -> None:
    with FakeEndpoint(together(8, ok("x" * 5000))) as fake, Endpoint(fake.url, "m", cache_dir=tmp_path) as endpoint:
        assert len(list(endpoint.chat_many([ASK] * 8))) == 8
        assert endpoint.chat(**ASK).cached
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_reply_that_cannot_be_kept_is_still_a_reply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FakeEndpoint(ok("x")) as fake, Endpoint(fake.url, "m", cache_dir=tmp_path / "cache") as endpoint:
        (tmp_path / "cache").rmdir()
        (tmp_path / "cache").write_text("in the way")
        assert [endpoint.chat(**ASK).text for _ in range(2)] == ["x", "x"]
    assert [record.message[:24] for record in caplog.records] == ["Replies cannot be kept: "]


def test_a_cache_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cache folder"):
        Endpoint("http://localhost/v1", "m", cache_dir=tmp_path / "file" / "cache")


# The bill


def test_usage_adds_up() -> None:
    steps = [ok("a", counts=(1000, 10)), status(500), ok("b", counts=(500, 5)), html(), ok("c", counts=None)]
    with FakeEndpoint(steps) as fake, Endpoint(fake.url, "m", backoff=0, price=(2.0, 8.0)) as endpoint:
        endpoint.chat(**ASK)
        endpoint.chat(**ASK)
        with pytest.raises(EndpointError):
            endpoint.chat(**ASK)
        assert endpoint.chat(**ASK).prompt_tokens == 0
    usage = endpoint.usage
    assert (usage.requests, usage.retries, usage.replies, usage.failures, usage.uncounted) == (5, 1, 3, 1, 1)
    assert (usage.prompt_tokens, usage.completion_tokens) == (1500, 15)
    assert usage.cost == pytest.approx((1500 * 2 + 15 * 8) / 1e6)


def test_without_a_price_there_is_no_cost() -> None:
    meter = Meter(None)
    meter.add(prompt_tokens=1)
    assert meter.usage.cost is None


# What the caller gets wrong


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        *(
            ({"base_url": url}, "base_url")
            for url in (
                "",
                "localhost:8000",
                "localhost",
                "ftp://host/v1",
                "http://",
                "http://a b/",
                "http://h:99999/v1",
                "://",
            )
        ),
        ({"base_url": f"https://user:{KEY}@host/v1"}, "base_url"),
        ({"base_url": 5}, "base_url"),
        ({"model": ""}, "model"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_minute": float("nan")}, "requests_per_minute"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"backoff": -1}, "backoff"),
        ({"price": (1,)}, "price"),
        ({"price": (1, -1)}, "price"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"^Endpoint: {named}.* cannot be used: [a-z].*\\.$") as caught:
        Endpoint(**{"base_url": "http://localhost/v1", "model": "m", **settings})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": "Hi"}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"logprobs": 21}, "logprobs"),
        ({"json_schema": {"a": object()}}, "json_schema"),
        ({"json_schema": {"a": float("inf")}}, "json_schema"),
        ({"stop": ["x"]}, "stop"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_sent(change: dict[str, Any], named: str) -> None:
    with FakeEndpoint(ok("x")) as fake, Endpoint(fake.url, "m") as endpoint, pytest.raises(InputError, match=named):
        endpoint.chat_many([ASK, {**ASK, **change}])
    assert fake.requests == []


def test_a_config_is_frozen() -> None:
    endpoint = Endpoint("http://localhost/v1", "m")
    with pytest.raises(ValueError, match="frozen"):
        endpoint.config.model = "n"  # type: ignore[misc]


def test_proxies_are_not_used_for_this_machine_and_bad_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"nonsense://user:{KEY}@nowhere")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with FakeEndpoint(ok("x")) as fake:
        assert ask(fake).text == "x"
    with (
        Endpoint("http://example.invalid/v1", "m") as endpoint,
        pytest.raises(InputError, match="HTTP_PROXY") as caught,
    ):
        endpoint.chat(**ASK)
    assert KEY not in str(caught.value)


def test_retry_after_dates_in_the_far_future_are_numbers() -> None:
    now = datetime(2015, 10, 21, tzinfo=UTC)
    later = (now + timedelta(days=3000)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert read_retry_after(later, now) == 3000 * 86400
