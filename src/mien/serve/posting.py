"""One alarm to one webhook, once: address, signature, deadline. It does not know when to try again, nor the history."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Literal

import httpx

from mien.endpoint.sending import read_retry_after
from mien.serve.addresses import Refused, Target, check_addresses
from mien.serve.records import Alarm

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port -> addresses."""
GONE = 410


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a try."""

    outcome: Literal["delivered", "retry", "dead"]
    note: str | None = None
    """Why it failed, as a verb phrase."""
    wait: float | None = None
    """Seconds that the receiver asked to be left alone."""


def body_of(alarm: Alarm, history: str) -> bytes:
    """The JSON that is sent."""
    event = {"event": "alarm", "history": history, **asdict(alarm)}
    return json.dumps(event, allow_nan=False).encode("ascii")


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """`sha256=` and the hexadecimal HMAC-SHA-256 of timestamp, a full stop, and body."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class Poster:
    """Posts events. Belongs to the event loop it is made in; `async with` closes its connections.

    Args:
        secret: signs; None leaves the signature out.
        allow_private: whether a target may be in a private network.
        timeout: seconds for all of a try.
        clock: seconds since 1970.
        resolve: finds the addresses of a host.
        tls: certificates to trust, if not the system's.
    """

    def __init__(
        self,
        secret: str | None,
        allow_private: bool,
        timeout: float,
        clock: Callable[[], float],
        resolve: Resolve,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._secret = secret
        self._allow_private = allow_private
        self._timeout = timeout
        self._clock = clock
        self._resolve = resolve
        # No proxy, which would look names up itself; no connection kept, as one address may serve several names.
        self._client = httpx.AsyncClient(
            verify=tls or _tls(),
            trust_env=False,
            timeout=None,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"User-Agent": "mien", "Content-Type": "application/json", "Accept": "*/*"},
        )

    async def __aenter__(self) -> Poster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, target: Target, event_id: str, body: bytes) -> Tried:
        """One try; failures are in what is returned."""
        timestamp = str(int(self._clock()))
        headers = {"Host": target.host, "Mien-Event-Id": event_id, "Mien-Timestamp": timestamp}
        if self._secret is not None:
            headers["Mien-Signature"] = sign(self._secret, timestamp, body)
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(target, headers, body)
        except TimeoutError:
            return Tried("retry", f"did not answer within {self._timeout:g} s")
        except Refused as error:
            return Tried("retry", str(error))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            said = (str(error) or type(error).__name__).splitlines()[0][:120]
            return Tried("retry", f"could not be reached or broke off ({said})")

    async def _post(self, target: Target, headers: dict[str, str], body: bytes) -> Tried:
        name = target.url.raw_host.decode("ascii").strip("[]").rstrip(".")
        addresses = check_addresses(await self._resolve(name, target.port), self._allow_private)
        for last, address in zip([*[False] * (len(addresses) - 1), True], addresses, strict=True):
            # To the address that was checked: looked up again, the name could lead elsewhere.
            request = self._client.build_request(
                "POST",
                target.url.copy_with(host=str(address)),
                content=body,
                headers=headers,
                extensions={
                    "sni_hostname": name,
                    "timeout": {"connect": self._timeout / len(addresses)},
                },
            )
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if last:
                    raise
                continue
            try:
                return self._judge(response)
            finally:
                await response.aclose()  # nobody needs what it says
        raise AssertionError("there is an address, and the last one returns or raises")

    def _judge(self, response: httpx.Response) -> Tried:
        status = response.status_code
        if 200 <= status < 300:
            return Tried("delivered")
        if status == GONE:
            return Tried("dead", f"answered with status {status}")
        if 300 <= status < 400:
            return Tried("retry", f"redirects with status {status}, which is not followed")
        now = datetime.fromtimestamp(self._clock(), UTC)
        wait = read_retry_after(response.headers.get("Retry-After", ""), now)
        return Tried("retry", f"answered with status {status}", wait)
