"""The application: routes behind the guard, errors in OpenAI's shape, start and stop.

This file does not know models; `server` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from mien import __version__
from mien.serve.problems import Problem
from mien.serve.routes_admin import admin_routes
from mien.serve.routes_chat import chat_routes
from mien.serve.routes_history import history_routes
from mien.serve.routes_readings import readings_routes
from mien.serve.security import Guard
from mien.serve.server import Server, hosts_of


def create_app(server: Server) -> FastAPI:
    """The ASGI application of a server. Its lifespan starts and stops the server."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await server.start()
        try:
            yield
        finally:
            await server.stop()

    app = FastAPI(title="mien", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    for routes in (chat_routes, readings_routes, history_routes, admin_routes):
        app.include_router(routes(server))
    handlers: Any = app.add_exception_handler
    handlers(Problem, _of_problem)
    handlers(RequestValidationError, _of_validation)
    handlers(HTTPException, _of_http)
    settings = server.settings
    guard: Any = Guard
    app.add_middleware(
        guard, keys=settings.keys, hosts=hosts_of(settings), origins=frozenset(settings.allow_origins),
        body=settings.limits.body, seconds=settings.limits.body_seconds, done=server.metrics.request,
    )  # fmt: skip
    if settings.allow_origins:
        # Outside of the guard: pages that may ask must also be able to read what it refuses.
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.allow_origins), allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["x-request-id", "retry-after"],
        )  # fmt: skip
    app.state.ui = settings.ui and _mount_ui(app, server)
    return app


def _mount_ui(app: FastAPI, server: Server) -> bool:
    """The page, where what it is made with is installed; whether it is."""
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        return False
    mount = getattr(import_module("mien.serve.ui"), "mount_ui", None)
    if mount is None:
        return False
    mount(app, server)
    return True


def _answer(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.body, problem.status, problem.headers)


async def _of_problem(_request: Request, problem: Problem) -> JSONResponse:
    return _answer(problem)


async def _of_http(_request: Request, error: HTTPException) -> JSONResponse:
    said = {404: "There is nothing at this address.", 405: "This address does not take that method."}
    problem = Problem(error.status_code, said.get(error.status_code, "The request's body cannot be read."))
    return JSONResponse(problem.body, problem.status, {**(error.headers or {}), **problem.headers})


async def _of_validation(_request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    kind, location = first["type"], tuple(first["loc"])
    if kind == "json_invalid":
        return _answer(Problem(400, "The request's body is not JSON."))
    if location[0] in ("query", "path"):
        name = str(location[-1])
        return _answer(Problem(400, f"{name}: {first['msg']}.", param=name, code="invalid_value"))
    where = field_of(location[1:], error.body, kind)
    if kind == "extra_forbidden":
        return _answer(Problem(400, f"{where}: this field is not known.", param=where, code="unknown_parameter"))
    if not where:
        return _answer(Problem(400, "The request's body must be a JSON object, sent as application/json."))
    if kind == "missing":
        return _answer(Problem(400, f"{where}: it is missing.", param=where, code="missing_required_parameter"))
    return _answer(Problem(400, f"{where}: {first['msg']}.", param=where, code="invalid_value"))


def field_of(location: tuple[Any, ...], body: Any, kind: str) -> str:
    """`messages[0].content`: the field that pydantic's location names, without the kinds of union it went through."""
    found = ""
    for i, part in enumerate(location):
        if isinstance(part, int) and isinstance(body, list) and part < len(body):
            found, body = f"{found}[{part}]", body[part]
        elif isinstance(body, dict) and part in body:
            found, body = (f"{found}.{part}" if found else str(part)), body[part]
        elif i == len(location) - 1 and kind == "missing":
            found = f"{found}.{part}" if found else str(part)
    return found
