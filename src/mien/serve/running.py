"""Uvicorn around the application: listening, and stopping in order. This file does not know what is served."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from mien.errors import InputError
from mien.serve.server import Server

TELL = 3
"""Seconds that those whose answers were given up have to be told, before their connections are cut."""


class Runner(uvicorn.Server):
    """Serves until told to stop: then takes on nothing more, lets answers under way end, and returns.

    Args:
        told: called in the event loop's thread once requests are answered.
    """

    def __init__(self, app: FastAPI, server: Server, told: Callable[[], None] | None = None) -> None:
        settings = server.settings
        super().__init__(
            uvicorn.Config(
                app, host=settings.host, port=settings.port, log_config=None, log_level="warning", access_log=False,
                timeout_graceful_shutdown=math.ceil(settings.drain) + TELL, lifespan="on", ws="none",
                server_header=False, h11_max_incomplete_event_size=64 << 10,
            )
        )  # fmt: skip
        self._served, self._told = server, told
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first one drains, a second one ends at once. The process goes on to its own end."""
        del sig, frame
        if self.should_exit:
            self.force_exit = True
        self.stop()

    def stop(self) -> None:
        """Drain and end; from any thread, and from a signal's handler."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: there is nothing left to end
                self._loop.call_soon_threadsafe(self._served.begin_drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._told is not None:
            self._told()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that what cannot be listened to is known before a model is loaded.

    Raises:
        InputError: the address is taken, or not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host} port {port} cannot be listened to: {reason}; choose another --port.") from error
