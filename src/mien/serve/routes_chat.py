"""`/v1/chat/completions` and `/v1/completions`. This file does not know how an answer is written or read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from mien.serve.answers import Answer, Kind, usage_of
from mien.serve.orders import Began, Event, Order, Written
from mien.serve.problems import Problem
from mien.serve.server import Server
from mien.serve.streaming import DONE, Stream, event, unless_gone
from mien.serve.wire import ChatRequest, CompletionRequest
from mien.serve.wire_out import ERRORS, ChatCompletion, TextCompletion

_log = logging.getLogger("mien.serve")


def chat_routes(server: Server) -> APIRouter:
    """The routes that write."""
    router = APIRouter()

    @router.post("/v1/chat/completions", responses={200: _streamed(ChatCompletion), **ERRORS})
    async def chat(body: ChatRequest, request: Request) -> Response:
        order = server.checker.chat(body, f"chatcmpl-{secrets.token_hex(12)}", request.state.owner)
        return await _answered(server, request, body, "chat", [order], bool(body.logprobs))

    @router.post("/v1/completions", responses={200: _streamed(TextCompletion), **ERRORS})
    async def complete(body: CompletionRequest, request: Request) -> Response:
        id = f"cmpl-{secrets.token_hex(12)}"
        with server.conductor.places.taken(1):
            orders = await server.conductor.at_desk(server.checker.completion, body, id, request.state.owner)
        return await _answered(server, request, body, "text", orders, body.logprobs is not None)

    return router


def _streamed(model: Any) -> dict[str, Any]:
    event = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
    return {"model": model, "content": {"text/event-stream": {"schema": event}}}


async def _answered(
    server: Server, request: Request, body: ChatRequest | CompletionRequest, kind: Kind, orders: Sequence[Order],
    logprobs: bool,
) -> Response:  # fmt: skip
    begun = time.perf_counter()
    created = int(time.time())
    told = not server.settings.keys.several
    answers = [
        Answer(kind, server.model.chat, order, server.name, created, logprobs, orders[0].id, i * order.n, told)
        for i, order in enumerate(orders)
    ]
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        flows = [server.conductor.run(order) for order in orders]
        try:
            for flow, answer in zip(flows, answers, strict=True):
                await _begin(flow, answer)
        except BaseException:
            for flow in flows:
                await _close(flow)
            raise
        return Stream(_parts(server, flows, answers, usage, begun))
    found = await unless_gone(request, _whole(server, orders, answers, begun))
    return Response(status_code=499) if found is None else JSONResponse(found)


async def _begin(flow: AsyncIterator[Event], answer: Answer) -> None:
    """Until the request has been taken on; a refusal is an error with a status, not one in the middle of a stream."""
    first = await anext(flow)
    assert isinstance(first, Began)
    answer.prompt_tokens = first.prompt_tokens


async def _close(flow: AsyncIterator[Event]) -> None:
    assert isinstance(flow, AsyncGenerator)
    await flow.aclose()


async def _whole(server: Server, orders: Sequence[Order], answers: Sequence[Answer], begun: float) -> dict[str, Any]:
    """All of a request's answers at once."""

    async def one(order: Order, answer: Answer) -> None:
        first = True
        async with contextlib.aclosing(server.conductor.run(order)) as flow:  # type: ignore[type-var]
            async for happened in flow:
                if isinstance(happened, Began):
                    answer.prompt_tokens = happened.prompt_tokens
                    continue
                if first and isinstance(happened, Written):
                    server.metrics.first_token(time.perf_counter() - begun)
                first = False
                answer.take(happened)

    tasks = [asyncio.ensure_future(one(o, a)) for o, a in zip(orders, answers, strict=True)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    found = answers[0].whole()
    for more in answers[1:]:
        found["choices"] += more.choices()
    return {**found, "usage": usage_of(answers)}


async def _parts(
    server: Server, flows: Sequence[AsyncIterator[Event]], answers: Sequence[Answer], usage: bool, begun: float
) -> AsyncGenerator[bytes, None]:
    """A stream's events."""
    try:
        first = True
        for flow, answer in zip(flows, answers, strict=True):
            for chunk in answer.beginning():
                yield event(chunk)
            async for happened in flow:
                assert not isinstance(happened, Began)
                if first and isinstance(happened, Written):
                    server.metrics.first_token(time.perf_counter() - begun)
                first = False
                found = answer.chunk(happened)
                if found is not None:
                    yield event(found)
        if usage:
            yield event({**answers[0].closing(), "usage": usage_of(answers)})
        yield DONE
    except Problem as problem:
        yield event(problem.body)
    except Exception as error:  # the status is out already
        _log.error("a stream broke: %s", type(error).__name__)
        yield event(Problem(500, "Something broke in the server; its log says where.").body)
    finally:
        for flow in flows:
            await _close(flow)
