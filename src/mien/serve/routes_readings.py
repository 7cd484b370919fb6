"""`/v1/readings`: conversations that any other model wrote, read by this one. It does not know how that is done."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from mien.errors import InputError
from mien.records import Conversation
from mien.serve.answers import reading_of
from mien.serve.checking import conversation_of
from mien.serve.conductor import Conductor
from mien.serve.conversations import id_of
from mien.serve.places import Coming
from mien.serve.problems import Problem, refused
from mien.serve.records import Turn
from mien.serve.server import Server
from mien.serve.streaming import unless_gone
from mien.serve.watch import Watched, readings_at
from mien.serve.wire import ReadingsRequest
from mien.serve.wire_out import ERRORS, ReadingsOut

MOST_TOLD = 32_768
"""Tokens of one request that are told one by one. Each is some 200 bytes, made where all other requests are, too."""


def readings_routes(server: Server) -> APIRouter:
    """The route that reads."""
    router = APIRouter()

    @router.post("/v1/readings", responses={200: {"model": ReadingsOut}, **ERRORS})
    async def readings(body: ReadingsRequest, request: Request) -> Response:
        reading = _Reading(server, body, request.state.owner)
        found = await unless_gone(request, reading.all())
        return Response(status_code=499) if found is None else JSONResponse(found)

    return router


class _Reading:
    """One request's conversations."""

    def __init__(self, server: Server, body: ReadingsRequest, owner: str) -> None:
        self._server, self._body, self._owner = server, body, owner
        self._told = 0
        if (body.messages is None) == (body.conversations is None):
            raise refused("messages", "give either messages or conversations.")
        self._shown = server.checker.gauges(body.gauges, "gauges")
        if server.catalog.panel is None or not self._shown:
            raise Problem(400, "This server has no gauges to read with.", code="no_gauges")
        given = [(body.id, body.messages)] if body.messages else [(c.id, c.messages) for c in body.conversations or ()]
        self._conversations: list[tuple[str | None, Conversation]] = [
            (id, conversation_of(messages, "messages" if body.messages else f"conversations[{i}].messages"))
            for i, (id, messages) in enumerate(given)
        ]

    async def all(self) -> dict[str, Any]:
        """Raises: Problem: one of them cannot be read, or the server is busy."""
        conductor = self._server.conductor
        if conductor.draining:
            raise Problem(503, "The server is shutting down.", retry_after=5)
        with conductor.places.taken(len(self._conversations)) as coming:
            found = await self._read(conductor, coming)
        alarms = await self._record(found) if self._body.record else ()
        data = [entry for _, entry in found]
        return {"object": "list", "reader": self._server.name, "data": data, "alarms": list(alarms)}

    async def _read(self, conductor: Conductor, coming: Coming) -> list[tuple[Watched, dict[str, Any]]]:
        """Each conversation, as soon as there is a place for it."""
        tasks = [asyncio.ensure_future(self._one(i, coming)) for i in range(len(self._conversations))]
        try:
            async with asyncio.timeout(conductor.limits.seconds):
                return await asyncio.gather(*tasks)
        except TimeoutError:
            raise Problem(503, f"Not read within {conductor.limits.seconds:g} seconds; send less at a time.",
                          code="timeout", retry_after=10) from None  # fmt: skip
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, i: int, coming: Coming) -> tuple[Watched, dict[str, Any]]:
        id, messages = self._conversations[i]
        watch, panel = self._server.conductor.observer, self._server.catalog.panel
        assert panel is not None
        where = "messages" if self._body.messages else f"conversations[{i}].messages"
        async with self._server.conductor.reading:
            coming.go()
            try:
                watched = await watch.measured(messages)
            except InputError as error:
                raise refused(where, str(error)) from error
            if watched is None:
                raise refused(where, "there is no answer of an assistant in it, so there is nothing to read.")
            if self._body.tokens:
                self._tell_of(len(watched.spanned.ids))
            tokens = await watch.tokens(watched, self._shown) if self._body.tokens else None
        answers = [
            {"index": watched.places[place], "readings": [reading_of(r) for r in readings_at(panel, watched, t,
                                                                                             self._shown)],
             **({} if tokens is None else {"tokens": tokens[t]})}
            for t, place in enumerate(watched.values.answers)
        ]  # fmt: skip
        left = {panel.gauges[g].name: self._left(watched, g) for g in self._shown}
        first = next(m.content for m in messages if m.role == "assistant")
        return watched, {"id": id or id_of(self._owner, messages, first), "answers": answers, "left": left}

    def _tell_of(self, tokens: int) -> None:
        """Raises: Problem: it would be more than one answer may hold."""
        self._told += tokens
        if self._told > MOST_TOLD:
            raise refused("tokens", f"at most {MOST_TOLD} tokens are told one by one, and there are more; send less at "
                                    "a time, or leave it out.")  # fmt: skip

    def _left(self, watched: Watched, g: int) -> int | None:
        at = watched.values.left[g]
        return None if at is None else watched.places[watched.values.answers[at]]

    async def _record(self, found: Sequence[tuple[Watched, dict[str, Any]]]) -> tuple[int, ...]:
        server = self._server
        panel, watched_gauges = server.catalog.panel, server.catalog.watched
        assert panel is not None
        now, turns = time.time(), []
        for (watched, entry), (_, messages) in zip(found, self._conversations, strict=True):
            request = f"read-{secrets.token_hex(12)}"
            for t, (before, own) in enumerate(server.conductor.observer.sizes(watched)):
                index = watched.places[watched.values.answers[t]]
                turns.append(
                    Turn(
                        entry["id"], index, request, _label(self._body.model), now,
                        readings_at(panel, watched, t, watched_gauges), "posted", before, own,
                        messages=messages[: index + 1] if server.settings.keep_text else None, source="posted",
                        owner=self._owner,
                    )
                )  # fmt: skip
        return await server.conductor.recorder.put(turns)


def _label(model: str | None) -> str:
    """A writer's name as the history can hold it."""
    shown = "".join(char if char.isprintable() else " " for char in model or "")
    return " ".join(shown.split()) or "unknown"
