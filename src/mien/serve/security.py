"""Who may ask, from where, and how much: a guard in front of every route. Pure ASGI.

Bodies are taken in whole, within a size and a time, before a route sees them. What goes wrong is answered in OpenAI's
shape, without paths and without what was asked; nothing of a request is ever logged. This file does not know models.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
import traceback
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mien.errors import InputError, MienError
from mien.serve.problems import Problem, of_error

_log = logging.getLogger("mien.serve")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = frozenset({"/health", "/ready"})
"""Paths that need no key: what watches over the process asks them."""
OPERATORS = ("/v1/alarms", "/v1/conversations", "/metrics", "/ui")
"""What all clients said and did; where a key is marked `operator`, others may not see it."""
_SHORTEST_KEY = 16
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Key:
    """One API key, as a digest."""

    name: str
    digest: bytes
    operator: bool


class Keys:
    """Keys that may ask. None at all: everybody on this machine may."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = tuple(keys)
        self.marked = any(k.operator for k in keys)
        """Whether a key is marked `operator`."""

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def several(self) -> bool:
        """Whether people ask who may not trust one another."""
        return len(self._keys) > 1

    def find(self, secret: str) -> Key | None:
        """The key, compared with all of them in a time that tells nothing of how near it is to one."""
        digest = _digest(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def may_operate(self, key: Key) -> bool:
        """Whether a key may see what is not its own."""
        return key.operator or not self.marked


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "backslashreplace")).digest()


def parse_keys(text: str, source: str) -> list[Key]:
    """Keys, one a line: `KEY`, `NAME KEY` or `NAME KEY operator`; `#` begins a comment.

    Raises:
        InputError: a line is not of that form, a key is short, or there is none.
    """
    found = []
    for number, line in enumerate(re.split(r"[\n,]", text), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 3 or (len(words) == 3 and words[2] != "operator"):
            raise InputError(f"{source}, line {number}: write KEY, NAME KEY, or NAME KEY operator.")
        secret = words[0] if len(words) == 1 else words[1]
        if len(secret) < _SHORTEST_KEY:
            raise InputError(f"{source}, line {number}: a key has at least {_SHORTEST_KEY} characters.")
        name = words[0] if len(words) > 1 else _digest(secret).hex()[:8]
        if len(name) > _LONGEST_NAME or not name.isprintable():  # the history keeps it with every answer
            raise InputError(f"{source}, line {number}: a key's name has at most {_LONGEST_NAME} printable characters.")
        found.append(Key(name, _digest(secret), len(words) == 3))
    if not found:
        raise InputError(f"{source} holds no keys; write one a line.")
    return found


def load_keys(file: Path | None, variable: str | None) -> Keys:
    """Keys of a file and of an environment variable.

    Raises:
        InputError: the file cannot be read, or holds what is no key.
    """
    found: list[Key] = []
    if file is not None:
        try:
            found += parse_keys(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The keys in {file} cannot be read: {error}.") from error
    if variable and variable.strip():
        found += parse_keys(variable, "MIEN_API_KEYS")
    return Keys(found)


def require_safe(host: str, keys: Keys) -> None:
    """Raises: InputError: it would listen to others than this machine, without keys."""
    if host not in LOOPBACK and not host.startswith("127.") and not keys:
        raise InputError(
            f"On {host} others could reach this server; give --api-key-file or MIEN_API_KEYS, or listen on 127.0.0.1."
        )


class Guard:
    """ASGI middleware in front of everything.

    Args:
        hosts: names that a request may call this server by; None: any (where keys are needed, a page of another name
            that points here gets nowhere).
        origins: pages elsewhere that may ask, such as `https://chat.example.org`.
        body: most bytes of a body, in `seconds`.
        done: told route, status and seconds of every request.
    """

    def __init__(
        self, app: App, *, keys: Keys, hosts: frozenset[str] | None, origins: frozenset[str], body: int,
        seconds: float, done: Callable[[str, int, float], None],
    ) -> None:  # fmt: skip
        self._app, self._keys, self._hosts, self._origins = app, keys, hosts, origins
        self._body, self._seconds, self._done = body, seconds, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        out = _Out(send, f"req-{secrets.token_hex(12)}")
        scope.setdefault("state", {})["request_id"] = out.id
        begun = time.perf_counter()
        try:
            self._admit(scope)
            await self._app(scope, await self._whole_body(scope, receive), out)
        except Problem as problem:
            await out.problem(problem)
        except MienError as error:
            _log.error("request %s: %s", out.id, error)
            await out.problem(of_error(error))
        except Exception as error:  # whatever breaks, nothing of the request may be told, to the log neither
            _log.error("request %s broke: %s", out.id, _where(error))
            await out.problem(Problem(500, "Something broke in the server; its log says where."))
        finally:
            route = getattr(scope.get("route"), "path", None)
            self._done(route or "other", out.status, time.perf_counter() - begun)

    def _admit(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            raise Problem(403, "This server does not go by that name; ask it as localhost, or start it with "
                               "--allow-host.", code="unknown_host")  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != host:
            raise Problem(403, "A page from elsewhere may not use this server; start it with --allow-origin to let "
                               "it.", code="unknown_origin")  # fmt: skip
        path: str = scope["path"]
        if not self._keys or path in OPEN:
            scope["state"].update(owner="", operator=True)
            return
        key = self._keys.find(_secret(headers.get("authorization", "")))
        if key is None:
            raise Problem(401, "This server needs an API key, and this is none of its keys; send it as "
                               "'Authorization: Bearer KEY'.", code="invalid_api_key")  # fmt: skip
        operator = self._keys.may_operate(key)
        if not operator and any(path == p or path.startswith(p + "/") for p in OPERATORS):
            raise Problem(403, "This key may ask the model, but not see what others did; use an operator's key.",
                          code="not_an_operator")  # fmt: skip
        scope["state"].update(owner=key.name, operator=operator)

    async def _whole_body(self, scope: Scope, receive: Receive) -> Receive:
        """Takes the body in; what it returns gives it out at once, and then what else comes.

        Raises:
            Problem: it is too large, too slow, or breaks off.
        """
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        length = next((v for n, v in scope["headers"] if n.lower() == b"content-length"), b"0")
        if length.isdigit() and int(length) > self._body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Problem(400, "The request broke off.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._body:
                        raise self._too_large()
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Problem(408, f"The request's body did not arrive within {self._seconds:g} seconds.") from None
        return _replaying(b"".join(parts), receive)

    def _too_large(self) -> Problem:
        return Problem(413, f"The request's body is larger than {self._body} bytes.", code="body_too_large")


def _replaying(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class _Out:
    """What goes out, with its id; remembers the status."""

    def __init__(self, send: Send, id: str) -> None:
        self._send, self.id = send, id
        self.status = 499
        """What is counted if nothing was answered: the client had gone."""
        self._begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        await self._send(message)

    async def problem(self, problem: Problem) -> None:
        """Answer with it, if nothing has been answered yet."""
        if self._begun:
            return
        body = json.dumps(problem.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
        raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


def _secret(header: str) -> str:
    """Of `Bearer KEY`; or the password of `Basic`, which browsers send and whose name does not matter."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "basic":
        try:
            return b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return value.strip() if kind.lower() == "bearer" else ""


def _name_of(host: str) -> str:
    """A `Host` header without its port."""
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def _where(error: Exception) -> str:
    """An exception's kind and where it was raised. Not its words, which may be a user's."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " < ".join([type(error).__name__, *(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))])
