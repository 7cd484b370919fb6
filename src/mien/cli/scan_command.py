"""`mien scan`: chat logs in, the conversations that left the Assistant's character out."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.cli.common import Bar, emit, load_model, output_options, reading_options
from mien.errors import InputError

if TYPE_CHECKING:
    from mien.gauges import GaugeSet
    from mien.logs import Columns
    from mien.models import Model

DRIFT_FOUND = 10
"""Exit code when --fail-on is met."""


def log_options(function: Any) -> Any:
    """FILES, --format and --columns."""
    for option in (
        click.option("--columns", default=None, metavar="A=B,...",
                     help="Columns of a table: conversation=,role=,content= or messages=; model=,time= if there are."),
        click.option("--format", default=None, help="Format of the logs, where it is not recognised."),
        click.argument("files", nargs=-1, required=True),
    ):  # fmt: skip
        function = option(function)
    return function


def reader_options(function: Any) -> Any:
    """--reader, --gauges, --gauge-file, --device, --dtype."""
    for option in (
        click.option("--gauge-file", "gauge_files", multiple=True, type=click.Path(path_type=Path),
                     help="Gauges from a file, instead of the bundled ones but for those that --gauges names; may be "
                          "given several times."),
        click.option("--gauges", default=None, metavar="A,B",
                     help="Which gauges to read, bundled or of files; default: those of files, else all bundled."),
        reading_options,
    ):  # fmt: skip
        function = option(function)
    return function


@click.command("scan")
@log_options
@click.option("--out", default="scan", show_default=True, type=click.Path(path_type=Path), help="Folder of results.")
@reader_options
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 256), help="Readers at work.")
@click.option("--fail-on", default=None, metavar="drift[>N|>P%]",
              help="Exit with code 10 if conversations drifted: any, more than N, or P per cent.")  # fmt: skip
@output_options
def command(
    files: tuple[str, ...], format: str | None, columns: str | None, out: Path, reader: str, gauges: str | None,
    gauge_files: tuple[Path, ...], device: str | None, dtype: str | None, processes: int, fail_on: str | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Read chat logs with a small model, and say where the bot left its character, for whom, and since which turn.

    FILES are logs of any kind mien knows (messages as JSON lines, ShareGPT, ChatGPT and Claude exports, Inspect logs,
    transcripts, Parquet, CSV; gzip too), folders of them, or - for standard input. Nothing leaves this machine.
    """
    limit = _limit(fail_on)
    table = columns_of(columns)

    from mien.jobs.scan import scan
    from mien.progress import Silent

    model = load_model(reader, None, device, dtype, quiet)
    which = gauges_for(model, gauges, gauge_files)
    bar, before = Bar(), _held(out)
    try:
        summary = scan(
            files, model, out, gauges=which, columns=table, format=format, processes=processes,
            load=functools.partial(_load_quietly, reader, device, model.info.dtype), made=_today(),
            progress=Silent() if quiet else bar,
        )  # fmt: skip
    finally:
        bar.close()
    if before is not None and before != summary["of"] and not quiet:
        click.echo(f"mien: {out} held the scan of {_plain(before)}; it has been replaced.", err=True)
    emit(summary, as_json, _text(summary, out))
    if limit is not None and _beyond(summary, *limit):
        raise click.exceptions.Exit(DRIFT_FOUND)


def _held(out: Path) -> str | None:
    """What the folder's results are of, if it has any."""
    try:
        found = json.loads((out / "summary.json").read_text("utf-8"))["of"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _load_quietly(reader: str, device: str | None, dtype: str) -> Model:
    from mien.models import load

    with contextlib.redirect_stderr(io.StringIO()):
        return load(reader, device=device, dtype=dtype)


def gauges_for(model: Model, names: str | None, files: tuple[Path, ...]) -> GaugeSet:
    """The gauges asked for. With files and no names, the files' gauges alone; with names, out of both.

    Raises:
        InputError: unknown names, or no gauges at all.
        FormatError: a file that is none.
    """
    from dataclasses import replace

    from mien.gauges import bundled_gauges, load_gauges
    from mien.jobs.scan import bundled, chosen
    from mien.scanning.measure import panel

    if not files:
        found = bundled(model)
    else:
        sets = [load_gauges(path) for path in files]
        for one in sets:
            panel(one, model)
        found = replace(sets[0], gauges=tuple({g.name: g for one in sets for g in one.gauges}.values()))
        built_in = bundled_gauges(model.info.id) if names is not None else None
        if built_in is not None:
            mine = {g.name for g in found.gauges}
            found = replace(found, gauges=(*found.gauges, *(g for g in built_in.gauges if g.name not in mine)))
    return found if names is None else chosen(found, [n.strip() for n in names.split(",") if n.strip()])


def columns_of(text: str | None) -> Columns | None:
    """`conversation=chat,role=who,content=text` as column names.

    Raises:
        InputError: it is not of that form.
    """
    if text is None:
        return None
    from dataclasses import fields

    from mien.logs import Columns

    known = [f.name for f in fields(Columns)]
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    values = {name.strip(): value.strip() for name, _, value in pairs}
    wrong = next((name for name, value in values.items() if name not in known or not value), None)
    if wrong is not None or not values:
        names = ", ".join(known)
        raise InputError(f"--columns has {wrong or 'nothing'!r} in it; write NAME=COLUMN with NAME of {names}.")
    return Columns(**values)


def _limit(text: str | None) -> tuple[float, bool] | None:
    """`drift`, `drift>3`, `drift>5%`: a number, and whether it is a share."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*drift\s*(?:>\s*([0-9.]+)\s*(%?))?\s*", text)
    try:
        number = float(match[1] or 0) if match else None
    except ValueError:
        number = None
    if match is None or number is None or (match[2] and number > 100):
        raise InputError(
            f"--fail-on {text!r} is not understood; write drift, drift>3 (conversations) or drift>5% (at most 100)."
        )
    return number, bool(match[2])


def _beyond(summary: dict[str, Any], number: float, share: bool) -> bool:
    drifted, total = summary["drifted"], summary["conversations"]
    return bool(100 * drifted > number * total if share else drifted > number)


def _today() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%d")


def _plain(text: str) -> str:
    """What a log says, on one line and without the codes that a terminal obeys."""
    from mien.report.page import clean

    return " ".join(clean(text).split())


def _text(summary: dict[str, Any], out: Path) -> str:
    from mien.report.words import shorten

    total = summary["conversations"]
    lines = [
        f"{summary['drifted']} of {total} conversations drifted on at least one gauge "
        f"({summary['turns']} answers, {summary['tokens']} tokens read)",
        "  gauge                      drifted   by chance   answers beyond   by chance",
    ]
    for g in summary["gauges"]:
        lines.append(
            f"  {g['name']:<26} {g['drifted']:>7}   {g.get('drifted_expected', 0):>9.1f}   {g['turns_alarmed']:>14}"
            f"   {g.get('turns_expected', 0):>9.1f}"
        )
    for w in summary["worst"][:5]:
        if w["left_at"] is not None:
            how = f"{w['gauge']}, {w['score']:.1f} x its limit"
            lines.append(f"  {shorten(_plain(w['conversation']), 80)}: left at message {w['left_at']} ({how})")
    if summary["skipped"]:
        first = summary["skipped_records"][0]
        where = f"{_plain(first['source'])} line {first['line']}"
        lines.append(f"  {summary['skipped']} records skipped; the first: {where}, {_plain(first['reason'])}")
    return "\n".join([*lines, f"report: {out / 'report.html'}"])
