"""A web server on 127.0.0.1 that takes webhooks, does as it is told, and keeps what it was sent.

with Receiver([500, 204]) as receiver: ...      one answer a request, the last one repeated
"""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What is done with one request."""

    status: int = 204
    headers: tuple[tuple[str, str], ...] = ()
    hang: bool = False
    """Say nothing until the receiver closes."""
    trickle: bool = False
    """Send headers a line at a time, without end."""


@dataclass(frozen=True)
class Got:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Listens while its block lasts."""

    def __init__(self, answers: Sequence[int | Answer] = (204,), tls: ssl.SSLContext | None = None) -> None:
        self._answers = [Answer(a) if isinstance(a, int) else a for a in answers]
        self._lock = threading.Lock()
        self.got: list[Got] = []
        self.arrived: queue.SimpleQueue[Got] = queue.SimpleQueue()
        """The same, for waiting."""
        self.stopped = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        got = Got(request.path, {name.lower(): value for name, value in request.headers.items()}, body)
        with self._lock:
            answer = self._answers[min(len(self.got), len(self._answers) - 1)]
            self.got.append(got)
        self.arrived.put(got)
        if answer.hang:
            self.stopped.wait()
            return
        try:
            request.send_response(answer.status)
            while answer.trickle and not self.stopped.wait(0.01):
                request.wfile.write(b"X: y\r\n")
            for name, value in (*answer.headers, ("Content-Length", "0")):
                request.send_header(name, value)
            request.end_headers()
        except OSError:
            pass  # the sender has left
