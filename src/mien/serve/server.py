"""One server's parts, put together: model, engine, history, those who are told, limits and keys.

This file does not know HTTP.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mien.chat import Chat
from mien.errors import InputError
from mien.live import LiveEngine
from mien.models import Model
from mien.records import Intervention
from mien.serve.catalog import Catalog, catalog_of, find_hold
from mien.serve.checking import Checker
from mien.serve.conductor import Conductor, Limits
from mien.serve.events import Hub
from mien.serve.history import History, default_url
from mien.serve.lengths import Lengths
from mien.serve.metrics import Metrics
from mien.serve.policy import Policy, Rule
from mien.serve.recorder import Recorder
from mien.serve.security import LOOPBACK, Keys, require_safe
from mien.serve.webhooks import Webhooks


@dataclass(frozen=True)
class Settings:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    """What the model is called; None: its id, or the last part of its path."""
    hold: str | None = None
    """What a held answer is held to: a name, or the folder of a calibrated plan."""
    policy: Policy | None = None
    """None: `hold` if there is something to hold, else `alert`."""
    gauges: tuple[str, ...] | None = None
    """Gauges to watch; None: all that have a baseline."""
    gauge_files: tuple[Path, ...] = ()
    database: str | None = None
    """URL; None: a file in mien's home."""
    keep_text: bool = False
    retention_days: float | None = None
    webhooks: tuple[str, ...] = ()
    webhook_secret: str | None = None
    allow_private_webhooks: bool = False
    keys: Keys = field(default_factory=Keys)
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    clients_steer: bool | None = None
    """Whether requests may switch the hold off and bring interventions; None: on loopback."""
    limits: Limits = field(default_factory=Limits)
    max_rows: int = 32
    drain: float = 30.0
    """Seconds that answers under way have when the server is told to stop."""
    ui: bool = True

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK or self.host.startswith("127.")


class Server:
    """Everything behind the routes. `start` it in the event loop that serves.

    Raises:
        InputError: settings that cannot be used together, a gauge or a hold that is not there.
        ModelError: the model cannot be served.
        RunError: the history cannot be opened.
        MissingExtraError: what serving needs is not installed.
    """

    def __init__(self, model: Model, settings: Settings, engine: LiveEngine | None = None) -> None:
        require_safe(settings.host, settings.keys)
        self.model, self.settings = model, settings
        self.name = settings.name or name_of(model)
        self.created = int(time.time())
        self.catalog: Catalog = catalog_of(model, settings.gauge_files, settings.gauges)
        self.hold_name: str | None = None
        self.hold: tuple[Intervention, ...] = ()
        if settings.hold:
            self.hold_name, self.hold = find_hold(settings.hold, self.catalog, model)
        steer = settings.local if settings.clients_steer is None else settings.clients_steer
        policy = settings.policy or ("hold" if self.hold else "alert")
        self.rule = Rule(policy, bool(self.hold), steer, self.catalog.can_alarm)
        self.lengths = Lengths(model, settings.limits.prompt_tokens)
        self.checker = Checker(model, self.catalog, settings.limits, self.name, self.lengths)
        # Copied now, while nobody uses it.
        self._apart = Chat(copy.deepcopy(model.chat.tokenizer))
        self.metrics = Metrics()
        self.history = History(
            settings.database or default_url(), keep_text=settings.keep_text, retention_days=settings.retention_days
        )
        try:
            self.hub = Hub(self.history)
            self.webhooks = self._webhooks()
            self.engine = engine or self._engine()
        except BaseException:
            self.history.close()
            raise
        self._conductor: Conductor | None = None

    @property
    def conductor(self) -> Conductor:
        """Writes answers; there once the server has started."""
        if self._conductor is None:
            raise InputError("The server has not been started.")
        return self._conductor

    async def ready(self) -> bool:
        """Whether a request would be answered, and its readings kept."""
        at_work = self._conductor is not None and not self._conductor.draining
        return at_work and await self.conductor.recorder.works()

    def _webhooks(self) -> Webhooks | None:
        s = self.settings
        if not s.webhooks:
            return None
        return Webhooks(
            self.history, s.webhooks, s.webhook_secret, owed=self.rule.tells, allow_private=s.allow_private_webhooks,
            outcome=self.metrics.delivery,
        )  # fmt: skip

    def _engine(self) -> LiveEngine:
        from mien.engines.hf_live_engine import HfLiveEngine

        probes = {} if self.catalog.panel is None else self.catalog.panel.probes
        return HfLiveEngine(self.model, probes, max_rows=self.settings.max_rows)

    async def start(self) -> None:
        """Begin to answer."""
        recorder = Recorder(
            self.history, self.hub, self.webhooks, self.metrics, self.catalog, self.name, tells=self.rule.tells,
            keep_text=self.settings.keep_text,
        )  # fmt: skip
        self._conductor = Conductor(
            self.model, self.engine, self.catalog, recorder, self.rule, self.hold, self.settings.limits, self.name,
            self.metrics, self.settings.max_rows, self.lengths, self._apart,
        )  # fmt: skip
        if self.webhooks is not None and self.rule.tells:
            self.webhooks.start()

    def begin_drain(self) -> None:
        """Take on nothing more; streams of alarms end, answers under way have `drain` seconds. In the loop's thread."""
        if self._conductor is not None and not self._conductor.draining:
            self._conductor.draining = True
            asyncio.get_running_loop().call_later(self.settings.drain, self._conductor.give_up)
        self.hub.close()

    async def stop(self) -> None:
        """End everything, after answers under way are over or have been given up."""
        self.begin_drain()
        if self._conductor is not None:
            await self._conductor.close()
        await asyncio.to_thread(self.engine.close)
        if self.webhooks is not None:
            await asyncio.to_thread(self.webhooks.close)
        if self._conductor is not None:
            await asyncio.to_thread(self._conductor.recorder.close)
        await asyncio.to_thread(self.history.close)


def name_of(model: Model) -> str:
    """What a model is called outside: its id, without the folders of a path on this machine."""
    id = model.info.id
    path = Path(id)
    try:
        local = path.is_absolute() or id.startswith((".", "~")) or path.exists()
    except (OSError, ValueError):
        local = False
    return path.name or id if local else id


def hosts_of(settings: Settings) -> frozenset[str] | None:
    """Names that requests may call the server by; None: any, since every request shows a key."""
    if settings.keys and not settings.local:
        return frozenset(h.lower() for h in settings.allow_hosts) or None
    return LOOPBACK | {settings.host.lower()} | {h.lower() for h in settings.allow_hosts}


def require_names(names: Sequence[str]) -> tuple[str, ...]:
    """`A,B` split. Raises: InputError: there is no name in it."""
    found = tuple(name for part in names for name in (p.strip() for p in part.split(",")) if name)
    if not found:
        raise InputError("Name at least one gauge, or leave --gauges out.")
    return found
