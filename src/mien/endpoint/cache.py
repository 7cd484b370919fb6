"""Replies kept on disk, one JSON file a request. It does not know how replies are got."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mien.endpoint.records import EndpointConfig, Reply
from mien.errors import InputError, RunError
from mien.store import write_atomic

VERSION = 1
"""Part of every key: raised when replies come to be read differently."""

_log = logging.getLogger(__name__)


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)

    key: str
    reply: Reply


class ReplyCache:
    """A folder of replies, keyed by the hash of URL, model and request body. The key never sees the API key.

    Raises InputError if the folder cannot be made.
    """

    def __init__(self, folder: Path, config: EndpointConfig) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"The cache folder {folder} cannot be made: {reason}; choose another.") from None
        self._folder = folder
        self._prefix = f"{VERSION}\n{config.url}\n".encode("utf-8", "replace")
        self._secret = config.key
        self._told = False
        self._lock = threading.Lock()

    def path(self, body: bytes) -> Path:
        """The file of a request's reply."""
        digest = hashlib.sha256(self._prefix + body).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"

    def get(self, body: bytes) -> Reply | None:
        """The kept reply, marked `cached`; None if there is none or its file is damaged."""
        path = self.path(body)
        try:
            entry = _Entry.model_validate_json(path.read_bytes())
        except (OSError, ValueError):  # pydantic's errors are ValueErrors
            return None
        return replace(entry.reply, cached=True) if entry.key == path.stem else None

    def put(self, body: bytes, reply: Reply) -> None:
        """Keep a reply. One that cannot be written is only logged, once: the reply itself is good and paid for."""
        path = self.path(body)
        text = json.dumps({"key": path.stem, "reply": asdict(reply)})
        if self._secret and self._secret in text:  # an endpoint that echoes its headers
            return
        with self._lock:  # one request asked twice at once would be written twice at once
            try:
                path.parent.mkdir(exist_ok=True)
                write_atomic(path, text)
            except (OSError, RunError) as error:
                if not self._told:
                    _log.warning("Replies cannot be kept: %s", error)
                self._told = True
