"""What commands share: model options, output as text or JSON, progress on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.errors import InputError

if TYPE_CHECKING:
    from mien.endpoint import Endpoint
    from mien.gauges import GaugeSet
    from mien.models import Model
    from mien.spec import TraitSpec

DEFAULT_MODEL = "smollm2-135m"
SEED = click.IntRange(0, 2**63 - 1)


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--model, --adapter, --device, --dtype."""
    for option in (
        click.option("--dtype", default=None, help="float32, bfloat16 or float16; default: the faster one here."),
        click.option("--device", default=None, help="cpu, cuda, mps, or auto to spread; default: the best there is."),
        click.option("--adapter", default=None, help="PEFT adapter to put on the model."),
        click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Hub id, folder or GGUF file."),
    ):
        function = option(function)
    return function


def reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--reader, --device, --dtype."""
    for option in (
        click.option("--dtype", default=None, help="float32, bfloat16 or float16; default: the faster one here."),
        click.option("--device", default=None, help="cpu, cuda, mps; default: the best there is."),
        click.option("--reader", default=DEFAULT_MODEL, show_default=True, help="Small model that reads."),
    ):
        function = option(function)
    return function


def endpoint_options(use: str, *, needed: bool = False, timeout: float = 60.0) -> Callable[..., Any]:
    """--endpoint, --endpoint-model, --endpoint-timeout, --endpoint-price.

    Args:
        use: what it is for, behind the words for what it is.
        needed: whether the first two must be given.
        timeout: seconds, if none are given.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--endpoint-price", type=(float, float), default=None, metavar="IN OUT",
                         help="Price of a million prompt and of a million completion tokens, to count the cost."),
            click.option("--endpoint-timeout", default=timeout, show_default=True,
                         help="Seconds that one request there may take."),
            click.option("--endpoint-model", required=needed, default=None,
                         help="The model's name there; key in OPENAI_API_KEY."),
            click.option("--endpoint", required=needed, default=None,
                         help=f"Base URL of an OpenAI-compatible API{use}."),
        ):  # fmt: skip
            function = option(function)
        return function

    return add


def endpoint_of(url: str | None, model: str | None, timeout: float, price: tuple[float, float] | None) -> Endpoint:
    """The endpoint that an author or a judge asks.

    Raises:
        InputError: no URL or no model was given.
    """
    if not url or not model:
        raise InputError("An endpoint as author or judge needs --endpoint URL and --endpoint-model NAME.")
    from mien.endpoint import Endpoint
    from mien.machine import cache_dir

    return Endpoint(url, model, timeout=timeout, cache_dir=cache_dir() / "replies", price=price)


def spent_on(endpoint: Endpoint) -> str:
    """What was asked of an endpoint, in a line."""
    used = endpoint.usage
    cost = f", {used.cost:.4f} at the price given" if used.cost is not None else ""
    return (
        f"endpoint: {used.requests} requests ({used.retries} of them retries), {used.cached} answers from the cache, "
        f"{used.prompt_tokens} + {used.completion_tokens} tokens{cost}"
    )


def trait_of(sentence: str | None, spec: str | None, name: str | None, author: Endpoint | None) -> TraitSpec:
    """The trait that a command was given: one sentence, or a spec.

    Raises:
        InputError: neither or both.
    """
    from dataclasses import replace

    from mien.authors import author_from_endpoint, author_from_templates
    from mien.spec import load_spec

    if (sentence is None) == (spec is None):
        raise InputError("Give either one sentence about the trait or --spec with a library name or a file.")
    if spec is not None:
        loaded = load_spec(spec)
        return replace(loaded, name=name) if name else loaded
    assert sentence is not None
    return author_from_endpoint(sentence, author, name) if author else author_from_templates(sentence, name)


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--json, --quiet."""
    function = click.option("--quiet", is_flag=True, help="No progress, only the result.")(function)
    return click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")(function)


def load_model(model: str, adapter: str | None, device: str | None, dtype: str | None, quiet: bool) -> Model:
    """Load, and say on stderr what was chosen."""
    from mien.models import load

    with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
        loaded = load(model, device=device, dtype=dtype, adapter=adapter)
    if not quiet:
        info = loaded.info
        kind = "chat model" if info.chat else "base model, read through a plain User:/Assistant: transcript"
        click.echo(
            f"{info.id}: {info.n_layers} layers of {info.d_model}, {info.dtype} on {info.device}, {kind}", err=True
        )
    return loaded


def emit(value: Any, as_json: bool, text: str) -> None:
    """Print the result."""
    click.echo(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) if as_json else text)


def refuse_folder(out: Path) -> None:
    """What is written is a file; said before anything is read, since reading takes minutes.

    Raises:
        InputError: `out` is a folder.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder; name the file that is to be written.")


def write_gauges(gauges: GaugeSet, out: Path) -> None:
    """Write gauges, and the folder that they belong in if it is not there.

    Raises:
        InputError: two gauges of one name.
        RunError: the disk refuses.
    """
    from mien.gauges import save_gauges
    from mien.store import disk_errors

    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    save_gauges(gauges, out)


def numbers(text: str, what: str) -> float:
    """A finite number from an option's part.

    Raises:
        InputError: it is none.
    """
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise InputError(f"{text!r} is no number; {what}.")


class Bar:
    """Progress of the running step on one line of a terminal: rate and time left; plain lines elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._what, self._total, self._start, self._tokens, self._before = "", 0, 0.0, 0, 0
        self._begun = time.monotonic()

    def begin(self, what: str, total: int) -> None:
        """A step begins."""
        self._end_line()
        self._what, self._total, self._start, self._tokens, self._before = what, total, time.monotonic(), 0, 0
        self._show(0)

    def advance(self, done: int, tokens: int = 0) -> None:
        """Some of it is done; what an earlier run did comes without tokens, and does not count in the rate."""
        if not self._tokens and not tokens:
            self._before = done
        self._tokens += tokens
        self._show(done)

    def note(self, text: str) -> None:
        """A line of its own."""
        self._end_line()
        click.echo(text, err=True)

    def close(self) -> None:
        """Leave the terminal's line."""
        self._end_line()

    def _show(self, done: int) -> None:
        spent = time.monotonic() - self._start
        parts = [f"{time.monotonic() - self._begun:5.0f} s  {self._what}"]
        if done:
            parts.append(f"{done}/{self._total}")
            if self._tokens and spent > 0.1:
                parts.append(f"{self._tokens / spent:.0f} tokens/s")
            if self._before < done < self._total:
                parts.append(f"about {spent / (done - self._before) * (self._total - done):.0f} s left")
        line = ", ".join(parts)
        if self._live:
            click.echo("\r\x1b[2K" + line[:110], nl=False, err=True)
        elif done == 0:
            click.echo(line, err=True)

    def _end_line(self) -> None:
        if self._live and self._what:
            click.echo("\r\x1b[2K", nl=False, err=True)
