"""Servers for the bench, in one process and on one engine: `python benchmarks/serve_one.py unwatched=PORT watched=PORT
held=PORT`, or some of them.

On the same weights and threads, they differ in nothing but what is watched and held. Where all are unwatched, the
engine has no probes; else the unwatched one's answers pass hooks that have nothing to do.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from serving_steps import FIVE

from mien.engines.hf_live_engine import HfLiveEngine
from mien.machine import apart
from mien.models import Model, load
from mien.serve.app import create_app
from mien.serve.catalog import Catalog
from mien.serve.checking import Checker
from mien.serve.conductor import Limits
from mien.serve.running import Runner, listen
from mien.serve.server import Server, Settings


def runners(model: Model, wanted: Sequence[tuple[str, int]], folder: Path) -> list[Runner]:
    """One a name; the first that is watched brings the engine."""
    engine = None if any(name != "unwatched" for name, _ in wanted) else HfLiveEngine(model, {}, max_rows=32)
    found = []
    for name, port in sorted(wanted, key=lambda one: one[0] == "unwatched"):
        settings = Settings(
            port=port, ui=False, database=f"sqlite:///{folder / f'{name}.db'}", limits=Limits(queue=256), gauges=FIVE
        )
        server = Server(model, replace(settings, hold="assistant") if name == "held" else settings, engine)
        engine = server.engine
        if name == "unwatched":
            server.catalog = Catalog(None, (), {})
            server.checker = Checker(model, server.catalog, settings.limits, server.name, server.lengths)
        found.append(Runner(create_app(server), server))
    return found


async def serve(all_of_them: Sequence[Runner]) -> None:
    """Until one is told to stop, which stops the others."""
    tasks = [asyncio.create_task(one.serve([listen(one.config.host, one.config.port)])) for one in all_of_them]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in all_of_them:
        one.stop()
    await asyncio.gather(*tasks, return_exceptions=True)


wanted = [(name, int(port)) for name, port in (one.split("=") for one in sys.argv[1:])]
model = apart(load)
with tempfile.TemporaryDirectory() as folder:
    asyncio.run(serve(apart(lambda: runners(model, wanted, Path(folder)))))
