"""`mien serve`: an OpenAI-compatible server whose model is read at every token, and held if asked to."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.cli.common import DEFAULT_MODEL, load_model, output_options
from mien.errors import MissingExtraError

if TYPE_CHECKING:
    from mien.serve.conductor import Limits
    from mien.serve.security import Keys
    from mien.serve.server import Server, Settings

NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client")
POLICIES = ("watch", "alert", "hold-on-alarm", "hold", "refuse")
COUNT = click.IntRange(min=1)


def require_extra() -> None:
    """Raises: MissingExtraError: what serving needs is not installed."""
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise MissingExtraError(f"mien serve needs {names}: pip install 'mien[serve]'.")


def _of_listening(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; elsewhere than on "
                     "loopback it needs API keys."),
        click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."),
        click.option("--name", default=None, help="What the model is called; default: its id."),
        click.option("--api-key-file", type=click.Path(path_type=Path, dir_okay=False), default=None,
                     help="API keys, one a line: KEY, NAME KEY, or NAME KEY operator. Also: $MIEN_API_KEYS."),
        click.option("--allow-host", "allow_hosts", multiple=True, help="A further name that this server goes by."),
        click.option("--allow-origin", "allow_origins", multiple=True, help="A page elsewhere that may ask."),
        click.option("--clients-steer/--clients-do-not-steer", "clients_steer", default=None,
                     help="Whether requests may switch the hold off and bring interventions; default: on loopback."),
    ):  # fmt: skip
        function = option(function)
    return function


def _of_watching(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--hold", default=None, metavar="NAME", help="Hold answers to a direction's normal range, or to a "
                     "calibrated plan (a folder)."),
        click.option("--policy", type=click.Choice(POLICIES), default=None,
                     help="What happens about alarms; default: alert, with --hold: hold."),
        click.option("--gauges", default=None, metavar="A,B", help="Which gauges to watch; default: all there are."),
        click.option("--gauge-file", "gauge_files", multiple=True, type=click.Path(path_type=Path),
                     help="Gauges from a file, beside the bundled ones; may be given several times."),
        click.option("--database", default=None, metavar="URL", help="Where the history is kept, any URL of "
                     "SQLAlchemy's; default: a file in mien's home. Also: $MIEN_DATABASE."),
        click.option("--keep-text", is_flag=True, help="Keep what is said in the history, not only the readings."),
        click.option("--retention-days", type=float, default=None, help="Forget what is older."),
        click.option("--webhook", "webhooks", multiple=True, metavar="URL", help="Told of every alarm; signed with "
                     "$MIEN_WEBHOOK_SECRET."),
        click.option("--allow-private-webhooks", is_flag=True, help="Webhooks may be on this machine or network."),
    ):  # fmt: skip
        function = option(function)
    return function


def _of_limits(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--max-rows", default=32, show_default=True, type=COUNT, help="Answers written at a time."),
        click.option("--queue", default=64, show_default=True, type=COUNT, help="Answers that may wait."),
        click.option("--max-tokens", default=1024, show_default=True, type=COUNT, help="Longest answer."),
        click.option("--max-prompt-tokens", default=None, type=COUNT, help="Longest prompt."),
        click.option("--max-choices", default=8, show_default=True, type=COUNT, help="Most answers to one request."),
        click.option("--max-body", default=4 << 20, show_default=True, type=COUNT, help="Largest request, in bytes."),
        click.option("--max-seconds", default=300.0, show_default=True, type=click.FloatRange(min=1),
                     help="Longest time for an answer, waiting included."),
        click.option("--drain", default=30.0, show_default=True, type=click.FloatRange(min=0),
                     help="Seconds that answers under way have when the server is told to stop."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command("serve")
@click.argument("model", default=DEFAULT_MODEL)
@_of_listening
@_of_watching
@_of_limits
@click.option("--no-ui", is_flag=True, help="No page at /ui.")
@click.option("--adapter", default=None, help="PEFT adapter to put on the model.")
@click.option("--device", default=None, help="cpu, cuda, mps; default: the best there is.")
@click.option("--dtype", default=None, help="float32, bfloat16 or float16; default: the faster one here.")
@output_options
def command(
    model: str, adapter: str | None, device: str | None, dtype: str | None, as_json: bool, quiet: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Serve MODEL (hub id, folder or GGUF file) behind OpenAI's API: watch every answer, alarm, and hold it."""
    require_extra()
    from mien.machine import apart
    from mien.serve.app import create_app
    from mien.serve.running import Runner, listen
    from mien.serve.security import load_keys, require_safe
    from mien.serve.server import Server

    keys = load_keys(options["api_key_file"], os.environ.get("MIEN_API_KEYS"))
    require_safe(options["host"], keys)
    with listen(options["host"], options["port"]) as socket:
        port = socket.getsockname()[1]
        settings = settings_of(options, keys, port)
        log_to_stderr(logging.ERROR if quiet else logging.INFO)
        server = apart(lambda: Server(load_model(model, adapter, device, dtype, quiet), settings))
        try:
            app = create_app(server)
            runner = Runner(app, server, lambda: _tell(server, app.state.ui, as_json, quiet))
        except BaseException:
            server.engine.close()
            raise
        runner.run([socket])


def settings_of(options: dict[str, Any], keys: Keys, port: int) -> Settings:
    """What was typed, as settings."""
    from mien.serve.server import Settings, require_names

    gauges = None if options["gauges"] is None else require_names([options["gauges"]])
    taken = ("host", "name", "hold", "policy", "gauge_files", "keep_text", "retention_days", "webhooks",
             "allow_private_webhooks", "allow_hosts", "allow_origins", "clients_steer", "max_rows",
             "drain")  # fmt: skip
    return Settings(
        port=port, gauges=gauges, keys=keys, limits=_limits(options), ui=not options["no_ui"],
        database=options["database"] or os.environ.get("MIEN_DATABASE") or None,
        webhook_secret=os.environ.get("MIEN_WEBHOOK_SECRET") or None, **{name: options[name] for name in taken},
    )  # fmt: skip


def _limits(options: dict[str, Any]) -> Limits:
    from mien.serve.conductor import Limits

    return Limits(
        queue=options["queue"], prompt_tokens=options["max_prompt_tokens"], max_tokens=options["max_tokens"],
        choices=options["max_choices"], seconds=options["max_seconds"], body=options["max_body"],
    )  # fmt: skip


def log_to_stderr(level: int) -> None:
    """What the server has to say, on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log = logging.getLogger("mien.serve")
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False


def _tell(server: Server, ui: bool, as_json: bool, quiet: bool) -> None:
    """Where it is, once it answers."""
    s = server.settings
    host = f"[{s.host}]" if ":" in s.host else s.host
    base = f"http://{host}:{s.port}"
    where = {"api": f"{base}/v1", "metrics": f"{base}/metrics", **({"ui": f"{base}/ui"} if ui else {})}
    if as_json:
        click.echo(json.dumps({"model": server.name, "policy": server.rule.policy, **where}))
    else:
        watched = ", ".join(server.catalog.names[g] for g in server.catalog.watched) or "nothing"
        held = f", holding {s.hold}" if s.hold else ""
        if not quiet:
            click.echo(f"{server.name}: watching {watched}; policy {server.rule.policy}{held}", err=True)
        click.echo("   ".join(where.values()))
    sys.stdout.flush()
