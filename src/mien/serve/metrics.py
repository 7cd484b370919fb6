"""`Metrics`: what the server did, for Prometheus. It does not know HTTP, nor who asks.

Label values come from few words: what a client may name freely becomes "other" once there are too many.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mien.errors import MissingExtraError
from mien.serve.records import Alarm, Turn

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

INSTALL = "The server counts with prometheus-client: pip install 'mien[serve]'."
OTHER = "other"
MAX_ROUTES = 32
MAX_GAUGES = 64
STATUSES = 600
OUTCOMES = frozenset({"delivered", "retry", "dead"})
KINDS = frozenset({"turn", "drift"})
SOURCES = frozenset({"served", "posted"})

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
SIGMAS = tuple(step / 2 for step in range(-10, 11))
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


class _Few:
    """Lets the first so many words through; all later ones are "other"."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, word: str) -> str:
        with self._lock:
            if word in self._known:
                return word
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(word)
            return word


class Metrics:
    """Counters and histograms, safe to use from many threads.

    Args:
        registry: where they are kept; one of their own if None, so that two servers in a process do not mix.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError:
            raise MissingExtraError(INSTALL) from None
        kept = self._registry = CollectorRegistry() if registry is None else registry
        self._routes, self._gauges = _Few(MAX_ROUTES), _Few(MAX_GAUGES)

        def histogram(name: str, about: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, labels, buckets=buckets, registry=kept)

        def counter(name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, about, labels, registry=kept)

        self._requests = histogram(
            "mien_request_seconds", "Time from a request to the end of its answer", ("route", "status"), SECONDS
        )
        self._first = histogram("mien_first_token_seconds", "Time from a request to its first token", (), SECONDS)
        self._read = counter("mien_tokens_read", "Tokens of prompts, and of answers posted to be read")
        self._written = counter("mien_tokens_written", "Tokens of answers written here")
        self._turns = counter("mien_turns", "Answers recorded", ("source", "held"))
        self._running = Gauge("mien_requests_running", "Answers being written", registry=kept)
        self._waiting = Gauge("mien_requests_waiting", "Requests in the queue", registry=kept)
        self._sigma = histogram("mien_projection_sigma", "Answers on a gauge, in sigma", ("gauge",), SIGMAS)
        self._alarms = counter("mien_alarms", "Alarms recorded", ("gauge", "kind"))
        self._fired = histogram("mien_cap_fired_share", "Share of slots at which a cap changed the stream", (), SHARES)
        self._deliveries = counter("mien_webhook_deliveries", "Tries to tell a webhook", ("outcome",))

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is the route's pattern, never a path with ids in it."""
        code = str(int(status)) if 100 <= status < STATUSES else OTHER
        self._requests.labels(self._routes(route), code).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """A first token was sent, so long after its request."""
        self._first.observe(seconds)

    def answer(self, prompt_tokens: int, completion_tokens: int, fired: float | None) -> None:
        """An answer was written here, whether it is recorded or not. `fired`: as `records.Turn` has it."""
        self._read.inc(prompt_tokens)
        self._written.inc(completion_tokens)
        if fired is not None:
            self._fired.observe(fired)

    def turn(self, turn: Turn) -> None:
        """An answer was recorded. Those written here have been counted when they ended."""
        source = turn.source if turn.source in SOURCES else OTHER
        self._turns.labels(source, "yes" if turn.held else "no").inc()
        if turn.source != "served":
            self._read.inc(turn.prompt_tokens + turn.completion_tokens)
        for reading in turn.readings:
            if reading.sigma is not None:
                self._sigma.labels(self._gauges(reading.gauge)).observe(reading.sigma)

    def alarm(self, alarm: Alarm) -> None:
        """An alarm was recorded."""
        self._alarms.labels(self._gauges(alarm.gauge), alarm.kind if alarm.kind in KINDS else OTHER).inc()

    def load(self, running: int, waiting: int) -> None:
        """How many answers are being written now, and how many requests wait."""
        self._running.set(running)
        self._waiting.set(waiting)

    def delivery(self, outcome: str) -> None:
        """A webhook was tried: "delivered", "retry" or "dead"."""
        self._deliveries.labels(outcome if outcome in OUTCOMES else OTHER).inc()

    def render(self) -> tuple[bytes, str]:
        """All of them in Prometheus' text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
