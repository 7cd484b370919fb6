"""`mien chat`: talk to a model in the terminal, its gauges beside every answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.cli.common import DEFAULT_MODEL, SEED, load_model, output_options
from mien.cli.serve_command import POLICIES, log_to_stderr, require_extra

if TYPE_CHECKING:
    from mien.records import Message
    from mien.serve.orders import Ended, Event, Order
    from mien.serve.records import GaugeReading
    from mien.serve.server import Server

_WIDTH = 24
"""Columns of a gauge's scale, from -6 to +6 sigma."""
_REACH = 6.0


@click.command("chat")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--hold", default=None, metavar="NAME", help="Hold answers to a direction's normal range, or to a plan.")
@click.option("--policy", type=click.Choice(POLICIES), default=None, help="What happens about alarms; see mien serve.")
@click.option("--gauges", default=None, metavar="A,B", help="Which gauges to show; default: all there are.")
@click.option("--gauge-file", "gauge_files", multiple=True, type=click.Path(path_type=Path), help="Gauges from a file.")
@click.option("--system", default=None, help="System prompt.")
@click.option("--max-tokens", default=256, show_default=True, type=click.IntRange(min=1), help="Longest answer.")
@click.option("--temperature", default=0.7, show_default=True, type=click.FloatRange(0, 2), help="0 is greedy.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the answers' random stream.")
@click.option("--adapter", default=None, help="PEFT adapter to put on the model.")
@click.option("--device", default=None, help="cpu, cuda, mps; default: the best there is.")
@click.option("--dtype", default=None, help="float32, bfloat16 or float16; default: the faster one here.")
@output_options
def command(
    model: str, hold: str | None, policy: Any, gauges: str | None, gauge_files: tuple[Path, ...], system: str | None,
    max_tokens: int, temperature: float, seed: int, adapter: str | None, device: str | None, dtype: str | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Talk to MODEL, with its gauges beside every answer. Not at a terminal, each line of input is a message.

    Nothing is kept. An empty line or the end of input ends the conversation.
    """
    require_extra()
    from mien.machine import apart
    from mien.records import Message, Sampling
    from mien.serve.conductor import Limits
    from mien.serve.server import Server, Settings, require_names

    settings = Settings(
        hold=hold, policy=policy, gauges=None if gauges is None else require_names([gauges]), gauge_files=gauge_files,
        database="sqlite://", limits=Limits(max_tokens=max_tokens), max_rows=4,
    )  # fmt: skip
    log_to_stderr(logging.ERROR)  # alarms stand beside the answers
    server = apart(lambda: Server(load_model(model, adapter, device, dtype, quiet), settings))
    head = [Message("system", system)] if system else []
    talk = _Talk(server, head, Sampling(max_tokens, temperature), seed, as_json, quiet)
    asyncio.run(talk.run())
    if talk.refused and not sys.stdin.isatty():
        raise click.exceptions.Exit(2)


class _Talk:
    """One conversation at the terminal."""

    def __init__(
        self, server: Server, messages: list[Message], sampling: Any, seed: int, as_json: bool, quiet: bool
    ) -> None:
        self._server, self._messages, self._sampling, self._seed = server, messages, sampling, seed
        self._json, self._quiet = as_json, quiet
        self._name = f"chat-{secrets.token_hex(8)}"
        self._live = sys.stdout.isatty() and not as_json
        self.refused = False
        """Whether something that was said could not be answered."""

    async def run(self) -> None:
        """Until there is nothing more to answer."""
        from mien.records import Message
        from mien.serve.problems import Problem

        await self._server.start()
        try:
            for said in _lines():
                self._messages.append(Message("user", said))
                try:
                    ended = await self._answer()
                except Problem as problem:
                    self._messages.pop()
                    self.refused = True
                    click.echo(f"mien: {problem.message}", err=True)
                    continue
                self._messages.append(Message("assistant", ended.text))
                self._show(ended)
        finally:
            await self._server.stop()

    def _order(self) -> Order:
        from mien.serve.orders import Order, Wanted

        turn = len(self._messages)
        wanted = Wanted(True, self._server.catalog.watched)
        return Order(
            f"{self._name}-{turn}", self._sampling, tuple(self._messages), seed=self._seed + turn, wanted=wanted,
            conversation=self._name, inside=True,
        )  # fmt: skip

    async def _answer(self) -> Ended:
        from mien.serve.orders import Ended, Written

        found: Ended | None = None
        flow: AsyncIterator[Event] = self._server.conductor.run(self._order())
        async with contextlib.aclosing(flow) as events:  # type: ignore[type-var]
            async for event in events:
                if self._live and isinstance(event, Written):
                    click.echo(_plain(event.token.text), nl=False)
                elif isinstance(event, Ended):
                    found = event
        assert found is not None
        return found

    def _show(self, ended: Ended) -> None:
        told = ended.told
        if self._json:
            from mien.serve.answers import mien_of

            line = {"answer": ended.text, "finish": ended.finish, "mien": mien_of(told) if told else None}
            click.echo(json.dumps(line, ensure_ascii=False))
            return
        click.echo(_plain(ended.rest) if self._live else _plain(ended.text))
        if told is not None and told.readings:
            held = "" if told.fired is None else f"held: the cap acted at {told.fired:.0%} of places"
            _print_gauges(told.readings, held, sys.stdout.isatty())


def _lines() -> Iterator[str]:
    """What the person says; at a terminal after a prompt."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            if line.strip():
                yield line.rstrip("\n")
        return
    while True:
        try:
            line = input("\nyou: ")
        except EOFError:
            return
        if not line.strip():
            return
        yield line


def _plain(text: str) -> str:
    """Without the codes that a terminal obeys."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable())


def _print_gauges(readings: tuple[GaugeReading, ...], held: str, colour: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1))
    for r in readings:
        style = {"drift": "bold red", "turn": "yellow", None: "dim"}[r.alarm]
        sigma = "" if r.sigma is None else f"{r.sigma:+.1f} sigma"
        note = {"drift": f"off since message {r.since}", "turn": "this answer is off", None: ""}[r.alarm]
        table.add_row(Text(r.gauge), Text(_scale(r.sigma), style), Text(sigma, style), Text(note, style))
    console = Console(no_color=not colour, highlight=False)
    console.print(table)
    if held:
        console.print(Text(held, "dim"))


def _scale(sigma: float | None) -> str:
    """A mark on a line from -6 to +6 sigma, with the middle shown."""
    marks = ["."] * (_WIDTH + 1)
    marks[_WIDTH // 2] = "|"
    if sigma is not None:
        place = round((min(max(sigma, -_REACH), _REACH) + _REACH) / (2 * _REACH) * _WIDTH)
        marks[place] = "o"
    return "".join(marks)
