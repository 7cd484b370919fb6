"""One server for the bench: `python benchmarks/serve_one.py unwatched|watched|held PORT`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from serving_steps import FIVE

from mien.engines.hf_live_engine import HfLiveEngine
from mien.machine import apart
from mien.models import load
from mien.serve.app import create_app
from mien.serve.catalog import Catalog
from mien.serve.checking import Checker
from mien.serve.conductor import Limits
from mien.serve.running import Runner, listen
from mien.serve.server import Server, Settings

mode, port = sys.argv[1], int(sys.argv[2])
model = apart(load)
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(
        port=port, ui=False, database=f"sqlite:///{Path(folder) / 'history.db'}", limits=Limits(queue=256),
        gauges=FIVE, hold="assistant" if mode == "held" else None,
    )  # fmt: skip
    if mode == "unwatched":
        engine = HfLiveEngine(model, {}, max_rows=settings.max_rows)
        server = apart(lambda: Server(model, settings, engine))
        server.catalog = Catalog(None, (), {})
        server.checker = Checker(model, server.catalog, settings.limits, server.name, server.lengths)
    else:
        server = apart(lambda: Server(model, settings))
    Runner(create_app(server), server, lambda: print("ready", flush=True)).run([listen(settings.host, port)])
