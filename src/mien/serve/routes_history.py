"""`/v1/alarms` and `/v1/conversations`: what was read, and when it alarmed. It does not know how it is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from mien.serve.problems import Problem, refused
from mien.serve.records import Alarm
from mien.serve.server import Server
from mien.serve.streaming import Stream
from mien.serve.wire_out import ERRORS, AlarmsOut, ConversationOut, ConversationsOut

_SILENCE = 15.0
"""Seconds after which a listener is told that the stream is alive, and a dead connection is noticed."""
_LARGEST = 2**62


def history_routes(server: Server) -> APIRouter:
    """The routes that tell what was."""
    router = APIRouter()

    @router.get("/v1/alarms", responses={200: {"model": AlarmsOut}, **ERRORS})
    async def alarms(
        after: Annotated[int | None, Query(ge=0, le=_LARGEST, description="alarms after this id, ascending")] = None,
        before: Annotated[int | None, Query(ge=1, le=_LARGEST, description="alarms before it, latest first")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        if after is not None and before is not None:
            raise refused("after", "give either after or before.")
        history, aside = server.history, server.conductor.recorder.aside
        if after is not None:
            found = await aside(history.alarms, after, limit)
        else:
            found = await aside(history.recent_alarms, limit, before)
        return JSONResponse({"object": "list", "data": [asdict(a) for a in found]})

    @router.get("/v1/alarms/stream", responses={200: {"content": {"text/event-stream": {}}}, **ERRORS},
                response_class=Response)  # fmt: skip
    async def stream(
        after: Annotated[int | None, Query(ge=0, le=_LARGEST)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        if server.conductor.draining:
            raise Problem(503, "The server is shutting down.", retry_after=5)
        last = last_event_id.strip() if last_event_id else ""
        if last and not (last.isascii() and last.isdigit() and int(last[:20]) <= _LARGEST):
            raise refused("Last-Event-ID", "it is no alarm's id.")
        return Stream(_events(server.hub.stream(int(last) if last else after)))

    @router.get("/v1/conversations", responses={200: {"model": ConversationsOut}, **ERRORS})
    async def conversations(
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: Annotated[float | None, Query(description="those last spoken in before, seconds since 1970",
                                              allow_inf_nan=False)] = None,
    ) -> Response:  # fmt: skip
        found = await server.conductor.recorder.aside(server.history.conversations, limit, before)
        return JSONResponse({"object": "list", "data": found})

    @router.get("/v1/conversations/{id:path}", responses={200: {"model": ConversationOut}, **ERRORS})
    async def conversation(id: Annotated[str, Path(min_length=1, max_length=200)], request: Request) -> Response:
        del request
        turns = await server.conductor.recorder.aside(server.history.conversation, id)
        if not turns:
            raise Problem(404, "There is no conversation of this id in the history.", code="unknown_conversation")
        return JSONResponse({"id": id, "turns": [asdict(turn) for turn in turns]})

    return router


def _alarm_event(alarm: Alarm) -> bytes:
    data = json.dumps(asdict(alarm), separators=(",", ":"))
    return f"id: {alarm.id}\nevent: alarm\ndata: {data}\n\n".encode()


async def _events(alarms: AsyncIterator[Alarm]) -> AsyncGenerator[bytes, None]:
    """Alarms as server-sent events, with a comment where there is silence."""
    yield b": listening\n\n"
    waiting: asyncio.Future[Alarm | None] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(_next(alarms))
            done, _ = await asyncio.wait([waiting], timeout=_SILENCE)
            if not done:
                yield b": still here\n\n"
                continue
            alarm = waiting.result()
            if alarm is None:
                return
            waiting = None
            yield _alarm_event(alarm)
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        closing: Any = getattr(alarms, "aclose", None)
        if closing is not None:
            await closing()


async def _next(alarms: AsyncIterator[Alarm]) -> Alarm | None:
    return await anext(alarms, None)
