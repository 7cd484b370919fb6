"""What of Gradio's application can be reached: what the page needs and no more, under a content security policy.

Gradio also answers to uploads, files, a proxy and direct calls; none of that is let through. Scripts in the page run
only if they were in the document as it was sent (by hash) or are files of this server, so markup that got past the
escaping could do nothing. This file knows neither the page nor the server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.resources import files
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_GET = re.compile(
    r"/|/theme\.css|/config/?|/(assets|static)/[\w.@/+-]+|/gradio_api/(queue/data|startup-events|theme\.css"
    r"|heartbeat/[\w-]+)"
)
_POST = re.compile(r"/gradio_api/(queue/join|cancel|reset)/?")
_OWN = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}
_SCRIPT = re.compile(rb"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
_FOREIGN = re.compile(rb"<meta\s+(?:property|name)=\"(?:og|twitter):[^>]*>|<link rel=\"manifest\"[^>]*>", re.DOTALL)
_HEAD = (
    b'<link rel="icon" href="data:,"><link rel="stylesheet" href="./page.css"><script src="./page.js" defer></script>'
)
_SAFE = [
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"), (b"cross-origin-resource-policy", b"same-origin"),
]  # fmt: skip


class Fence:
    """ASGI around Gradio's application."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = _inner(scope), scope["method"]
        if method in ("GET", "HEAD") and path in _OWN:
            await _whole(send, 200, _OWN[path], _resource(path[1:]), method == "HEAD")
        elif (method in ("GET", "HEAD") and _GET.fullmatch(path)) or (method == "POST" and _POST.fullmatch(path)):
            document = path == "/"
            await self._app(_stripped(scope, document), receive, _Document(send) if document else _Safe(send))
        else:
            await _whole(send, 404, "text/plain; charset=utf-8", b"There is nothing at this address.", method == "HEAD")


def _inner(scope: Scope) -> str:
    """The path below where the page is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return (path[len(root) :] if root and path.startswith(root) else path) or "/"


def _stripped(scope: Scope, document: bool) -> Scope:
    """Without `Origin`, which was checked before, and which Gradio would answer by letting other pages in; the
    document also without leave to compress it, and without the parts of its address that Gradio acts on."""
    gone = {b"origin", b"accept-encoding"} if document else {b"origin"}
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in gone]
    return {**scope, "headers": headers} | ({"query_string": b""} if document else {})


def _resource(name: str) -> bytes:
    return files("mien.serve.ui").joinpath(name).read_bytes()


async def _whole(send: Send, status: int, kind: str, body: bytes, empty: bool) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()),
               (b"cache-control", b"no-cache"), *_SAFE]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if empty else body})


class _Safe:
    """A response that goes out as it comes, with safe headers and the strictest policy, as it is no document."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox")
            message["headers"] = [*message.get("headers", ()), policy, *_SAFE]
        await self._send(message)


class _Document:
    """The document, made fit: no other host's address, our styles and script, and a policy with its scripts' hashes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body"):
            return
        body = fit(b"".join(self._parts))
        kept = [(n, v) for n, v in self._start.get("headers", ()) if n.lower() not in (b"content-length", b"etag")]
        headers = [*kept, (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store"),
                   (b"content-security-policy", policy_of(body).encode()), *_SAFE]  # fmt: skip
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def fit(document: bytes) -> bytes:
    """Gradio's document without what names other hosts, and with the page's own styles and script."""
    return _FOREIGN.sub(b"", document).replace(b"</head>", _HEAD + b"</head>", 1)


def policy_of(document: bytes) -> str:
    """Scripts of this server and those in the document, by hash. Gradio compiles its own templates, hence unsafe-eval;
    it writes styles into elements, hence unsafe-inline for those."""
    digests = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in _SCRIPT.findall(document))
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' 'unsafe-eval' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'self'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
