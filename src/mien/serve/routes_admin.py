"""`/v1/models`, `/v1/gauges`, health, readiness, metrics. This file does not know how answers are written."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.responses import Response

from mien.serve.problems import Problem
from mien.serve.server import Server
from mien.serve.wire_out import ERRORS, GaugesOut, Health, ModelOut, ModelsOut


def admin_routes(server: Server) -> APIRouter:
    """The routes that say what is here and how it is."""
    router = APIRouter()
    model = {"id": server.name, "object": "model", "created": server.created, "owned_by": "mien"}

    @router.get("/v1/models", responses={200: {"model": ModelsOut}, **ERRORS})
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    @router.get("/v1/models/{name:path}", responses={200: {"model": ModelOut}, **ERRORS})
    async def one(name: str) -> Response:
        server.checker.model(name)
        return JSONResponse(model)

    @router.get("/v1/gauges", responses={200: {"model": GaugesOut}, **ERRORS})
    async def gauges() -> Response:
        return JSONResponse(_catalog(server))

    @router.get("/health", responses={200: {"model": Health}, **ERRORS})
    async def health() -> Response:
        return JSONResponse({"status": "alive"})

    @router.get("/ready", responses={200: {"model": Health}, **ERRORS})
    async def ready() -> Response:
        if not await server.ready():
            raise Problem(503, "Not ready: shutting down, or the history cannot be written.", retry_after=5)
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **ERRORS}, response_class=Response)
    async def metrics() -> Response:
        load = server.conductor.places.load()
        server.metrics.load(load.running, load.waiting)
        text, kind = server.metrics.render()
        return Response(text, media_type=kind)

    return router


def _catalog(server: Server) -> dict[str, Any]:
    catalog, panel = server.catalog, server.catalog.panel
    gauges = [
        {
            "name": g.name, "description": g.description, "side": g.side, "watched": i in catalog.watched,
            "has_baseline": g.baseline is not None,
            "turn_limit": g.baseline.limits.turn if g.baseline is not None else None,
            "verdict": g.evidence.get("verdict"),
        }
        for i, g in enumerate(panel.gauges if panel is not None else ())
    ]  # fmt: skip
    directions = [
        {
            "name": name, "description": d.card.description,
            "layers": [k for k, row in enumerate(d.vector) if bool(row.any())],
            "recommended_layer": d.card.recommended_layer,
            "coef_range": list(d.card.coef_range) if d.card.coef_range else None, "verdict": d.card.verdict,
        }
        for name, d in sorted(catalog.directions.items())
    ]  # fmt: skip
    return {
        "gauges": gauges, "directions": directions, "policy": server.rule.policy, "hold": server.hold_name,
        "clients_steer": server.rule.clients_steer,
    }  # fmt: skip
