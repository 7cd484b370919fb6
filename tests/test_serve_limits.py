"""Who may ask, from where, how much; what happens to those who wait, go away, or are there when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

import serving
from mien.chat import Chat, Spanned
from mien.errors import InputError
from mien.gauges import save_gauges
from mien.records import Conversation
from mien.serve.conductor import READ_AT_ONCE, Limits
from mien.serve.security import Keys, parse_keys, require_safe
from mien.serve.server import Server, Settings, name_of
from mien.serve.watch import Watched
from serving import ASK, Api, until

LONG = {"max_tokens": 3000, "stream": True}
PATIENT = Limits(max_tokens=4000, queue=2, seconds=120)
KEYS = Keys(parse_keys("alice a-key-of-alice-000\nbob a-key-of-bob-0000000 operator\n", "here"))


@pytest.fixture
def busy() -> Iterator[Api]:
    """One place to write, and two to wait."""
    with serving.serving(serving.endless(), limits=PATIENT, max_rows=1) as api:
        yield api


@contextlib.contextmanager
def asking(api: Api, **more: Any) -> Iterator[Iterator[str]]:
    """Lines of a long answer, under way once it is entered and given up when it is left."""
    body = {"model": api.server.name, "messages": ASK, **LONG, **more}
    with api.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        yield response.iter_lines()


def first_token(lines: Iterator[str]) -> None:
    assert any('"content":"' in line and '"content":""' not in line for line in lines)


# The queue


def test_over_the_queue_it_says_when_to_come_again(busy: Api) -> None:
    with asking(busy) as writing:
        first_token(writing)
        with asking(busy), asking(busy):
            assert until(lambda: busy.server.engine.load().waiting == 2)
            refused = busy.chat()
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
            assert busy.chat(stream=True).status_code == 429  # before a stream begins, so with a status
            client = openai.OpenAI(base_url=busy.v1, api_key="none", max_retries=0)
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}])
            assert busy.post("/v1/readings", json={"messages": [*ASK, {"role": "assistant", "content": "x"}]}).json()[
                "error"]["code"] == "no_gauges"  # fmt: skip
    assert until(lambda: busy.server.engine.load().running == 0)
    assert busy.chat().status_code == 200


def test_more_choices_than_places_are_written_if_nobody_waits(busy: Api) -> None:
    assert len(busy.chat(n=3, max_tokens=3).json()["choices"]) == 3


def test_as_many_as_there_are_places_may_come_at_once() -> None:
    """Those that come together are in the queue for a moment, though there are rows for them."""
    with serving.serving(serving.brief(), limits=Limits(queue=1), max_rows=16) as api, ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            assert {response.status_code for response in pool.map(lambda _: api.chat(), range(16))} == {200}


def test_prompts_that_are_being_read_wait_in_the_queue(busy: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text takes a while before the engine hears of it."""
    go_on, plan = threading.Event(), busy.server.conductor.watch.plan
    monkeypatch.setattr(busy.server.conductor.watch, "plan", lambda *given: go_on.wait(30) and plan(*given))
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(busy.chat) for _ in range(3)]
        assert until(lambda: busy.server.conductor.places.load().waiting == 3)
        assert busy.server.engine.load().waiting == 0
        assert "mien_requests_waiting 3.0" in busy.get("/metrics").text
        refused = busy.chat()
        text = busy.post("/v1/completions", json={"model": "tiny", "prompt": "abc", "max_tokens": 3})
        go_on.set()
        assert [each.result().status_code for each in asked] == [200] * 3
    assert refused.status_code == text.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert busy.chat().status_code == 200


def test_conversations_to_be_read_wait_in_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = serving.brief()
    file = save_gauges(serving.gauges_of(model, tmp_path), tmp_path / "g.safetensors")
    talk = {"messages": [*ASK, {"role": "assistant", "content": "x"}]}
    with serving.serving(model, gauge_files=(file,), limits=Limits(queue=1), max_rows=1) as api:
        watch, go_on = api.server.conductor.observer, threading.Event()
        measured = watch.measured

        async def slowly(messages: Conversation) -> Watched | None:
            await asyncio.to_thread(go_on.wait, 30)
            return await measured(messages)

        monkeypatch.setattr(watch, "measured", slowly)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(api.post, "/v1/readings", json={"conversations": [talk] * (READ_AT_ONCE + 2)})
            assert until(lambda: api.server.conductor.places.load().waiting == 2)
            assert "mien_requests_waiting 2.0" in api.get("/metrics").text
            refused = api.post("/v1/readings", json=talk)
            go_on.set()
            assert len(reading.result().json()["data"]) == READ_AT_ONCE + 2
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert api.post("/v1/readings", json=talk).status_code == 200


def test_nobody_waits_for_the_tokens_of_what_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four texts longer than any prompt are stuck where they are tokenised; somebody else is answered meanwhile."""
    model, spanned = serving.brief(), Chat.spanned
    file = save_gauges(serving.gauges_of(model, tmp_path), tmp_path / "g.safetensors")
    go_on, stuck = threading.Event(), threading.Event()

    def slowly(chat: Chat, messages: Conversation) -> Spanned:
        if len(messages[-1].content) > 10_000:
            stuck.set()
            go_on.wait(8)
        return spanned(chat, messages)

    monkeypatch.setattr(Chat, "spanned", slowly)
    huge = {"messages": [*ASK, {"role": "assistant", "content": "x " * 6000}]}
    with serving.serving(model, gauge_files=(file,)) as api, ThreadPoolExecutor(4) as pool:
        readings = [pool.submit(api.post, "/v1/readings", json=huge) for _ in range(4)]
        assert stuck.wait(30)
        answer = api.chat(max_tokens=1, mien={})
        text = api.post("/v1/completions", json={"model": "tiny", "prompt": "abc", "max_tokens": 1})
        waiting = [not reading.done() for reading in readings]
        go_on.set()
        assert waiting == [True] * 4
        assert answer.status_code == text.status_code == 200
        assert answer.json()["choices"][0]["mien"]["readings"]
        assert [reading.result().status_code for reading in readings] == [200] * 4


def test_so_many_tokens_are_told_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = serving.brief()
    file = save_gauges(serving.gauges_of(model, tmp_path), tmp_path / "g.safetensors")
    monkeypatch.setattr("mien.serve.routes_readings.MOST_TOLD", 60)
    talk = {"messages": [*ASK, {"role": "assistant", "content": "red sun tea"}]}
    with serving.serving(model, gauge_files=(file,)) as api:
        assert api.post("/v1/readings", json={**talk, "tokens": True}).status_code == 200
        many = {"conversations": [talk] * 8}
        refused = api.post("/v1/readings", json={**many, "tokens": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tokens")
        assert api.post("/v1/readings", json=many).status_code == 200


@pytest.mark.parametrize("most", [None, 50], ids=["positions", "a limit"])
def test_what_must_be_too_long_is_not_tokenised(monkeypatch: pytest.MonkeyPatch, most: int | None) -> None:
    with serving.serving(serving.brief(), limits=Limits(prompt_tokens=most)) as api:
        longest = max(map(len, serving.brief().chat.tokenizer.get_vocab()))
        short = "x " * 20
        text = "x " * (longest * (most or 4096) // 2 + 1)
        assert api.chat([{"role": "user", "content": short}]).status_code == 200

        def never(*_: Any) -> None:
            raise AssertionError("tokenised")

        monkeypatch.setattr(Chat, "prompt_ids", never)
        monkeypatch.setattr(Chat, "plain_ids", never)
        halves = [{"role": "user", "content": text[::2]}, {"role": "user", "content": text[1::2]}]
        for messages in ([{"role": "user", "content": text}], halves):
            error = api.chat(messages).json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
            assert f"{len(text)} characters" in error["message"]
        for prompt in (text, [text, "abc"]):
            response = api.post("/v1/completions", json={"model": "tiny", "prompt": prompt})
            assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(busy: Api, stream: bool) -> None:
    body = json.dumps({"model": "tiny", "messages": ASK, "max_tokens": 4000, "stream": stream, "n": 2}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"  # noqa: E501
    with socket.create_connection(("127.0.0.1", busy.port)) as connection:
        connection.sendall(head.encode() + body)
        assert until(lambda: busy.server.engine.load().running == 1)
        assert busy.server.engine.load().waiting == 1
    assert until(lambda: busy.server.engine.load().running == busy.server.engine.load().waiting == 0, 10)
    assert busy.chat().status_code == 200


def test_one_that_waits_and_goes_away_is_forgotten(busy: Api) -> None:
    with asking(busy) as writing:
        first_token(writing)
        with asking(busy):
            assert until(lambda: busy.server.engine.load().waiting == 1)
        assert until(lambda: busy.server.engine.load().waiting == 0, 10)
        assert busy.server.engine.load().running == 1


def test_an_answer_has_only_so_long() -> None:
    with serving.serving(serving.endless(), limits=Limits(max_tokens=4000, seconds=0.5), max_rows=1) as api:
        cut = api.chat(max_tokens=4000).json()
        assert cut["choices"][0]["finish_reason"] == "length"
        assert 0 < cut["usage"]["completion_tokens"] < 4000
        assert api.events(max_tokens=4000)[-1]["choices"][0]["finish_reason"] == "length"


def test_slow_readers_hold_nobody_up(busy: Api) -> None:
    """One that asks for a long stream and reads none of it; the next in line is answered."""
    with asking(busy, max_tokens=1500):
        assert busy.chat().status_code == 200


# Keys


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_with_keys_one_is_needed() -> None:
    with serving.serving(serving.brief(), keys=KEYS) as api:
        wrong = [bearer(key) for key in ("wrong", "x" * 5000, "\xe9" * 20)]
        for headers in ({}, *wrong, {"Authorization": "a-key-of-alice-000"}):
            response = api.get("/v1/models", headers={k: v.encode("latin-1") for k, v in headers.items()})
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert api.get("/health").status_code == api.get("/ready").status_code == 200
        assert api.get("/v1/models", headers=bearer("a-key-of-alice-000")).status_code == 200
        assert api.get("/v1/models", auth=("whoever", "a-key-of-alice-000")).status_code == 200
        for path in ("/metrics", "/v1/alarms", "/v1/conversations", "/v1/conversations/x"):
            assert api.get(path, headers=bearer("a-key-of-alice-000")).json()["error"]["code"] == "not_an_operator"
            assert api.get(path, headers=bearer("a-key-of-bob-0000000")).status_code in (200, 404)
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=api.v1, api_key="sk-wrong", max_retries=0).models.list()
        assert openai.OpenAI(base_url=api.v1, api_key="a-key-of-alice-000").models.list().data[0].id == "tiny"


def test_the_same_words_under_two_keys_are_two_conversations(tmp_path: Path) -> None:
    file = save_gauges(serving.gauges_of(serving.brief(), tmp_path), tmp_path / "g.safetensors")
    with serving.serving(serving.brief(), keys=KEYS, gauge_files=(file,)) as api:
        ids = set()
        for key in ("a-key-of-alice-000", "a-key-of-bob-0000000"):
            api.headers["authorization"] = f"Bearer {key}"
            ids.add(api.chat(mien={}).json()["choices"][0]["mien"]["conversation"])
        assert len(ids) == 2


def test_elsewhere_than_on_loopback_keys_are_needed() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        with pytest.raises(InputError, match="others could reach this server"):
            require_safe(host, Keys())
        require_safe(host, KEYS)
    for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"):
        require_safe(host, Keys())
    with pytest.raises(InputError, match="others could reach"):
        Server(serving.brief(), Settings(host="0.0.0.0"))


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "holds no keys"), ("# nothing\n", "holds no keys"), ("short", "at least 16"),
     ("n" * 65 + " a-key-that-is-long", "at most 64"), ("n\0 a-key-that-is-long", "printable"),
     ("a b c d", "write KEY"), ("name a-key-that-is-long reader", "write KEY")],
)  # fmt: skip
def test_keys_that_are_none(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_keys(text, "keys.txt")


def test_a_key_has_a_name_that_does_not_give_it_away() -> None:
    (key,) = parse_keys("a-key-of-nobody-at-all  # comment", "here")
    assert "nobody" not in key.name + repr(key)


# Bodies, names, pages


def test_large_bodies_are_refused_however_they_come() -> None:
    limits = Limits(body=20_000)
    with serving.serving(serving.brief(), limits=limits) as api:
        large = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 30_000}]}
        assert api.post("/v1/chat/completions", json=large).status_code == 413

        def pieces() -> Iterator[bytes]:
            for _ in range(100):
                yield b" " * 1000

        response = api.post("/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
        assert api.chat().status_code == 200


def test_a_body_that_never_ends_is_given_up() -> None:
    with serving.serving(serving.brief(), limits=Limits(body_seconds=0.2)) as api, \
            socket.create_connection(("127.0.0.1", api.port)) as connection:  # fmt: skip
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "mybox.example:80"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:99", "Origin": "http://localhost:99"}, 200),
        ({"Host": "localhost:99", "Origin": "http://localhost:98"}, 403),
        ({"Origin": "https://chat.example"}, 200),
    ],
)
def test_pages_of_others_get_nowhere(headers: dict[str, str], status: int) -> None:
    """A name that is made to point here, and a page that posts here, are how a web page would reach this server."""
    with serving.serving(
        serving.brief(), allow_hosts=("mybox.example",), allow_origins=("https://chat.example",)
    ) as api:
        assert api.get("/v1/models", headers=headers).status_code == status
        assert api.get("/v1/alarms", headers=headers).status_code == status


def test_a_page_that_may_ask_can_read_the_answer() -> None:
    page = {"Origin": "https://chat.example"}
    ask = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving.serving(serving.brief(), keys=KEYS, allow_origins=("https://chat.example",)) as api:
        before = api.options("/v1/chat/completions", headers=ask)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "https://chat.example"
        refused = api.get("/v1/models", headers=page)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://chat.example")
        other = api.options("/v1/chat/completions", headers={**ask, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_a_form_of_a_page_is_no_request() -> None:
    with serving.serving(serving.brief()) as api:
        body = json.dumps({"model": "tiny", "messages": ASK})
        assert api.post("/v1/chat/completions", content=body, headers={"content-type": "text/plain"}).status_code == 400


# What is told to whom


def test_nothing_of_a_request_is_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    file = save_gauges(serving.gauges_of(serving.brief(), tmp_path), tmp_path / "g.safetensors")
    with serving.serving(serving.brief(), gauge_files=(file,)) as api:
        loud = [{"role": "user", "content": "a secret"}, {"role": "assistant", "content": "SUN TEA SECRET " * 9}]
        answer = api.chat([*loud, *loud, *ASK], mien={}).json()
        api.chat([{"role": "user", "content": "a secret"}], temperature="a secret")
        api.chat(stop=["a secret"] * 9)
        api.server.checker.chat = lambda *_: {}["a secret"]  # type: ignore[method-assign,misc]
        broken = api.chat()
        assert (broken.status_code, broken.json()["error"]["type"]) == (500, "server_error")
        assert "secret" not in broken.text
    mine = [r for r in caplog.records if r.name.startswith(("mien", "uvicorn", "fastapi", "asyncio"))]
    said = "\n".join(r.getMessage() + str(r.exc_info) + str(r.exc_text) for r in mine)
    assert "KeyError" in said
    assert broken.headers["x-request-id"] in said
    assert "secret" not in said.lower()
    assert "alarm" in said or not answer["choices"][0]["mien"]["alarms"]


def test_a_models_folder_is_not_told(tmp_path: Path) -> None:
    from dataclasses import replace

    folder = tmp_path / "private" / "my-model"
    folder.mkdir(parents=True)
    model = serving.brief()
    assert name_of(replace(model, info=replace(model.info, id=str(folder)))) == "my-model"
    assert name_of(replace(model, info=replace(model.info, id="/gone/other"))) == "other"
    assert name_of(replace(model, info=replace(model.info, id="HuggingFaceTB/SmolLM2-135M"))) == (
        "HuggingFaceTB/SmolLM2-135M"
    )


def test_health_and_numbers(busy: Api) -> None:
    assert busy.get("/health").json() == {"status": "alive"}
    assert busy.get("/ready").json() == {"status": "ready"}
    with asking(busy) as writing:
        first_token(writing)
        assert until(lambda: "mien_requests_running 1.0" in busy.get("/metrics").text)
    busy.chat()
    busy.get("/v1/models/nothing")
    text = busy.get("/metrics").text
    assert 'mien_request_seconds_count{route="/v1/chat/completions",status="200"}' in text
    assert 'mien_request_seconds_count{route="/v1/models/{name:path}",status="404"} 1.0' in text
    assert "mien_first_token_seconds_count" in text


def test_it_is_ready_again_once_the_history_can_be_written(tmp_path: Path) -> None:
    """Nobody sends requests to a server that is not ready, so an answer must not be what it waits for."""
    file = save_gauges(serving.gauges_of(serving.brief(), tmp_path), tmp_path / "g.safetensors")
    database = f"sqlite:///{tmp_path / 'h.db'}"
    with serving.serving(serving.brief(), gauge_files=(file,), database=database) as api:

        def run(statement: str) -> None:
            with contextlib.closing(sqlite3.connect(tmp_path / "h.db")) as connection:
                connection.execute(statement)

        run("CREATE TRIGGER full BEFORE UPDATE ON mien_schema BEGIN SELECT RAISE(ABORT, 'full'); END")
        assert api.get("/ready").status_code == 200
        assert api.chat().status_code == 200
        assert [api.get("/ready").status_code for _ in range(2)] == [503, 503]
        run("DROP TRIGGER full")
        assert [api.get("/ready").status_code for _ in range(2)] == [200, 200]


# Alarms as they come


def listening(api: Api, headers: dict[str, str] | None = None) -> Any:
    return api.stream("GET", "/v1/alarms/stream", headers=headers or {})


def test_alarms_are_streamed_and_taken_up_again(tmp_path: Path) -> None:
    file = save_gauges(serving.gauges_of(serving.brief(), tmp_path), tmp_path / "g.safetensors")
    loud = {"messages": [*ASK, {"role": "assistant", "content": "RED SUN TEA " * 4}] * 5, "record": True}
    with serving.serving(serving.brief(), gauge_files=(file,)) as api:
        with listening(api) as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": listening"
            ids = api.post("/v1/readings", json={**loud, "id": "one"}).json()["alarms"]
            assert ids
            heard = [int(next(line for line in lines if line.startswith("id:"))[3:]) for _ in ids]
            assert heard == ids
        more = api.post("/v1/readings", json={**loud, "id": "two"}).json()["alarms"]
        with listening(api, {"Last-Event-ID": str(ids[-1])}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            found = []
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    found.append(json.loads(line[5:]))
                if len(found) == len(more):
                    break
        assert [a["id"] for a in found] == more
        assert {a["conversation"] for a in found} == {"two"}
        assert found == api.get(f"/v1/alarms?after={ids[-1]}").json()["data"]
        assert until(lambda: api.server.hub.listeners == 0, 10)
        bad = api.get("/v1/alarms/stream", headers={"Last-Event-ID": "x"})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "Last-Event-ID")


# The end


def test_answers_under_way_are_finished_when_it_stops() -> None:
    with serving.serving(serving.endless(), limits=PATIENT, max_rows=2, drain=60.0) as api:
        texts: list[str] = []

        def listen() -> None:
            with listening(api) as stream:
                texts.append(stream.read().decode())

        listener = threading.Thread(target=listen)
        listener.start()
        assert until(lambda: api.server.hub.listeners == 1)
        with asking(api, max_tokens=400) as writing:
            first_token(writing)
            api.runner.stop()
            rest = "\n".join(writing)
        listener.join(30)
        assert not listener.is_alive()  # streams of alarms end, or the server would never
        assert '"finish_reason":"length"' in rest
        assert rest.rstrip().endswith("data: [DONE]")


def test_answers_that_take_longer_are_cut_off() -> None:
    with serving.serving(serving.endless(), limits=PATIENT, max_rows=2, drain=0.0) as api:
        with asking(api, max_tokens=3900) as writing:
            first_token(writing)
            api.runner.stop()
            rest = list(writing)
        assert "data: [DONE]" not in rest
        assert json.loads([line for line in rest if line][-1].removeprefix("data: "))["error"]["message"] == (
            "The server is shutting down."
        )
        assert not asyncio.run(api.server.ready())
