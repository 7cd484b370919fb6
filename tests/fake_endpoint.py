"""A chat endpoint on 127.0.0.1 that does as it is told: answers, fails, hangs, and keeps what it was sent.

    with FakeEndpoint([status(500), ok("50")]) as fake:
        Endpoint(fake.url, "m", backoff=0).chat(...)

Its script is one step, a list of steps (the last is repeated), or a function from the request's JSON to a step.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Token = tuple[str, Mapping[str, float]]
"""A token of the answer and the log-probabilities of the likeliest tokens in its place."""


@dataclass(frozen=True)
class Step:
    """What is done with one request."""

    act: Callable[[Exchange], object]


@dataclass(frozen=True)
class Recorded:
    """One request as it came in."""

    payload: dict[str, Any]
    headers: dict[str, str]
    path: str


@dataclass
class Exchange:
    """One request under way."""

    payload: dict[str, Any]
    stopped: threading.Event
    write: Callable[[bytes], None]
    leave: Callable[[], None]
    """Says that the request is no longer being worked on. Called before the client can see the end of the answer."""
    hang_up: Callable[[], None]
    headers: dict[str, str] = field(default_factory=dict)

    def send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        """Answer; `length` is what Content-Length claims, if not the truth."""
        told = {"Content-Type": "application/json", "Content-Length": str(len(body) if length is None else length)}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in {**told, **(headers or {})}.items())]
        self.leave()
        self.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def completion(
    text: str | None,
    *,
    tokens: Sequence[Token] | None = None,
    finish: str = "stop",
    counts: tuple[int, int] | None = (10, 2),
    refusal: str | None = None,
) -> dict[str, Any]:
    """The JSON of a chat completion. Each token's own log-probability is that of its place, else -0.5."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": refusal},
        "finish_reason": finish,
    }
    if tokens is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": top.get(token, -0.5),
                    "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()],
                }
                for token, top in tokens
            ]
        }
    document: dict[str, Any] = {"id": "x", "object": "chat.completion", "choices": [choice]}
    if counts is not None:
        document["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
    return document


def ok(text: str | None, *, tokens: Sequence[Token] | None = None, **more: Any) -> Step:
    """A good answer. Log-probabilities come only when they are asked for."""

    def act(exchange: Exchange) -> None:
        wanted = tokens if exchange.payload.get("logprobs") else None
        exchange.send(200, json.dumps(completion(text, tokens=wanted, **more)).encode())

    return Step(act)


def body(content: bytes | str | dict[str, Any] | list[Any], status: int = 200, **headers: str) -> Step:
    """Any status with any body; header names have `_` for `-`."""
    if isinstance(content, dict | list):
        content = json.dumps(content)
    data = content.encode() if isinstance(content, str) else content
    return Step(lambda exchange: exchange.send(status, data, {k.replace("_", "-"): v for k, v in headers.items()}))


def status(code: int, message: str = "no", **headers: str) -> Step:
    """An error of the usual shape, such as `status(429, Retry_After="1")`."""
    return body({"error": {"message": message, "type": "x", "code": None}}, code, **headers)


def html() -> Step:
    """A proxy's error page that claims success."""
    page = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body>" + "<p>Hello</p>" * 50
    return body(page, Content_Type="text/html")


def hang() -> Step:
    """Never answers."""
    return Step(lambda exchange: exchange.stopped.wait())


def trickle(head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n", drop: bytes = b" ") -> Step:
    """Sends `head`, then a byte now and then for ever: no single read ever waits long."""

    def act(exchange: Exchange) -> None:
        exchange.write(head)
        while not exchange.stopped.wait(0.02):
            exchange.write(drop)

    return Step(act)


def hang_up() -> Step:
    """Closes the connection without a word."""
    return Step(lambda exchange: exchange.hang_up())


def cut_off() -> Step:
    """Promises more than it sends, then closes the connection."""

    def act(exchange: Exchange) -> None:
        exchange.send(200, b'{"choices": [', length=5000)
        exchange.hang_up()

    return Step(act)


def together(parties: int, step: Step, timeout: float = 20) -> Callable[[dict[str, Any]], Step]:
    """A script that answers only when so many requests are there at once, and after `timeout` seconds hangs up."""
    barrier = threading.Barrier(parties, timeout=timeout)

    def act(exchange: Exchange) -> None:
        barrier.wait()
        step.act(exchange)

    return lambda _: Step(act)


class FakeEndpoint:
    """The server, as a context manager. `requests` are in order of arrival."""

    def __init__(self, script: Step | Sequence[Step] | Callable[[dict[str, Any]], Step]) -> None:
        self._script = script
        self._lock = threading.Lock()
        self._in_flight = 0
        self.max_in_flight = 0
        self.requests: list[Recorded] = []
        self.stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}/v1"

    def __enter__(self) -> FakeEndpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def arrive(self, recorded: Recorded) -> Step:
        """Note a request; what is to be done with it."""
        with self._lock:
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
            place = len(self.requests)
            self.requests.append(recorded)
        if isinstance(self._script, Step):
            return self._script
        if callable(self._script):
            return self._script(recorded.payload)
        return self._script[min(place, len(self._script) - 1)]

    def leave(self) -> None:
        """A request is done with."""
        with self._lock:
            self._in_flight -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients that leave early are part of the game."""


def _handler(fake: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            step = fake.arrive(Recorded(json.loads(content), dict(self.headers.items()), self.path))
            left = threading.Event()

            def leave() -> None:
                if not left.is_set():
                    left.set()
                    fake.leave()

            exchange = Exchange(
                payload=json.loads(content),
                stopped=fake.stopped,
                write=self.wfile.write,
                leave=leave,
                hang_up=lambda: setattr(self, "close_connection", True),
            )
            if self.path.partition("?")[0] != "/v1/chat/completions":
                step = status(404, f"no such path: {self.path}")
            try:
                step.act(exchange)
            finally:
                leave()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
