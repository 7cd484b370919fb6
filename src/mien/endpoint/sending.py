"""One request to one reply: deadline, concurrency, rate, retries. It does not know what requests are about.

Written for one event loop, since only a cancelled task puts a hard end to an endpoint that trickles bytes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache

import httpx

from mien.endpoint.records import EndpointConfig, Reply, Usage
from mien.endpoint.wire import Garbage, error_of, quote, read_reply
from mien.errors import EndpointError, InputError

MAX_BODY = 16 * 2**20
"""Bytes. No reply is this long; one that is would fill the memory before its time is up."""
MAX_WAIT = 120.0
"""Seconds. An endpoint that asks for a longer pause is given up, since waiting would look like hanging."""
MAX_BACKOFF = 30.0
"""Seconds. Longest pause of our own choosing."""

_HINTS = {
    401: "check the API key (OPENAI_API_KEY)",
    403: "check the API key (OPENAI_API_KEY)",
    404: "check the base URL and the model's name",
    413: "the request is too long for this endpoint",
}


async def pause(seconds: float) -> None:
    """Wait. The one place where this package sleeps."""
    await asyncio.sleep(seconds)


class Meter:
    """Adds up usage. `usage` is replaced whole, so another thread always reads a consistent one."""

    def __init__(self, price: tuple[float, float] | None) -> None:
        self._price = price
        self.usage = Usage(cost=None if price is None else 0.0)

    def add(self, **counts: int) -> None:
        """Raise the named counts; the cost follows the tokens."""
        sums = {name: getattr(self.usage, name) + count for name, count in counts.items()}
        usage = replace(self.usage, **sums)
        if self._price is not None:
            cost = (usage.prompt_tokens * self._price[0] + usage.completion_tokens * self._price[1]) / 1e6
            usage = replace(usage, cost=cost)
        self.usage = usage


class Pace:
    """Spaces requests evenly: `delay(now)` takes the next free moment and says how long to wait for it (seconds)."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    def delay(self, now: float) -> float:
        start = max(now, self._next)
        self._next = start + self._gap
        return start - now


class _Failure(Exception):
    """A try that failed. `passing`: another may succeed. `wait`: seconds that the endpoint asked for."""

    def __init__(self, what: str, *, passing: bool, hint: str = "", wait: float | None = None) -> None:
        super().__init__(what)
        self.passing = passing
        self.hint = hint
        self.wait = wait


class Sender:
    """Posts bodies to one endpoint. Must be used from one event loop, its own.

    Raises InputError if the environment's proxy settings cannot be used.
    """

    def __init__(self, config: EndpointConfig, meter: Meter) -> None:
        self._config = config
        self._meter = meter
        self._slots = asyncio.Semaphore(config.concurrency)
        self._pace = Pace(config.requests_per_minute)
        self._jitter = random.Random()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if config.key:
            headers["Authorization"] = f"Bearer {config.key}"
        # The deadline is ours, over everything; a proxy has no business between this machine and itself.
        try:
            self._client = httpx.AsyncClient(
                headers=headers,
                timeout=None,
                verify=_tls(),
                trust_env=not is_loopback(config.url.host),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=config.concurrency),
            )
        except (ValueError, OSError, ImportError, httpx.InvalidURL):  # it reads proxies and certificates at once
            raise InputError(
                "The proxy or the certificates that the environment names cannot be used; correct or unset "
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR."
            ) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def post(self, body: bytes) -> Reply:
        """The endpoint's reply. Raises EndpointError once it is given up."""
        async with self._slots:
            for tried in range(self._config.retries + 1):
                if delay := self._pace.delay(time.monotonic()):
                    await pause(delay)
                self._meter.add(requests=1, retries=min(tried, 1))
                try:
                    return await self._try(body)
                except _Failure as failure:
                    if not failure.passing or tried == self._config.retries:
                        raise self._given_up(failure, tried + 1) from None
                    wait = retry_delay(tried, failure.wait, self._config.backoff, self._jitter.random)
                    if wait > MAX_WAIT:
                        failure.hint = f"it asks for a pause of {wait:.0f} s, longer than mien waits; try again later"
                        raise self._given_up(failure, tried + 1) from None
                    await pause(wait)
        raise AssertionError("the last try either returns or raises")

    def _given_up(self, failure: _Failure, tries: int) -> EndpointError:
        times = f" ({tries} tries)" if tries > 1 else ""
        hint = f"; {failure.hint}" if failure.hint else ""
        return EndpointError(f"{self._config.host} {failure}{times}{hint}.")

    async def _try(self, body: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._config.timeout):
                status, headers, content = await self._exchange(body)
        except TimeoutError:
            what = f"did not answer within {self._config.timeout:g} s"
            raise _Failure(what, passing=True, hint="check that it is running, or allow more time") from None
        # ValueError: a host name that the resolver or the port that the socket will not have.
        except (httpx.HTTPError, OSError, ValueError) as error:
            said = quote(str(error) or type(error).__name__, self._config.key)
            what = f"could not be reached or broke off ({said})"
            raise _Failure(what, passing=True, hint="check the base URL and that the endpoint is running") from None
        return self._judge(status, headers, content)

    async def _exchange(self, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        content = bytearray()
        async with self._client.stream("POST", self._config.url, content=body) as response:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_BODY:
                    said = quote(content[:1000].decode("utf-8", "replace"), self._config.key)
                    raise _Failure(f"sent more than {MAX_BODY // 2**20} MiB: {said}", passing=False)
            return response.status_code, response.headers, bytes(content)

    def _judge(self, status: int, headers: httpx.Headers, content: bytes) -> Reply:
        said, code = error_of(content)
        if status == 200 and code is not None and 400 <= code <= 599 and b'"choices"' not in content:
            status = code
        said = quote(said, self._config.key)
        if 200 <= status < 300:
            try:
                return read_reply(content)
            except Garbage as error:
                hint = "" if content.lstrip().startswith(b"{") else "check the base URL, which mostly ends in /v1"
                raise _Failure(f"{error}: {said}", passing=False, hint=hint) from None
        hint = "it redirects; give the final URL as base URL" if 300 <= status < 400 else _HINTS.get(status, "")
        passing = status == 429 or status >= 500
        wait = read_retry_after(headers.get("Retry-After", ""), datetime.now(UTC))
        raise _Failure(f"answered with status {status}: {said}", passing=passing, hint=hint, wait=wait)


@cache
def _tls() -> ssl.SSLContext:
    """One for all endpoints: reading the certificates takes longer than many a reply."""
    return httpx.create_ssl_context()


def retry_delay(tried: int, asked: float | None, base: float, jitter: Callable[[], float]) -> float:
    """Seconds to wait before the next try: `base * 2**tried`, at most 30, times 0.5 to 1; never less than `asked`."""
    own = min(MAX_BACKOFF, base * 2.0 ** min(tried, 30)) * (0.5 + 0.5 * jitter())
    return max(own, asked or 0.0)


def read_retry_after(value: str, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None if it is absent or nonsense."""
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # not a date, one without a zone, one out of range
        return None


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
