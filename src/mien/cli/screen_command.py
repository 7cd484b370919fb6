"""`mien screen`: which training records would move the model's character, before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from mien.cli.common import SEED, Bar, emit, load_model, model_options, output_options
from mien.errors import InputError

LIMIT_PASSED = 1
"""Exit code when --fail-on is met."""


@click.command("screen")
@click.argument("files", nargs=-1, required=True)
@click.option("--traits", default="all", show_default=True, metavar="A,B",
              help="Directions kept here, folders of them, or bundled gauges.")  # fmt: skip
@model_options
@click.option("--out", default="screen", show_default=True, type=click.Path(path_type=Path), help="Folder of results.")
@click.option(
    "--method",
    default="full",
    show_default=True,
    help="full, or the cheaper prompt, cached or answers; influence: what a step of training does.",
)
@click.option("--sample", default=200, show_default=True, type=click.IntRange(1, 100_000),
              help="Records on which the cheaper methods are compared with the full one.")  # fmt: skip
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(1), help="Longest own answer.")
@click.option("--read-tokens", default="own", show_default=True, metavar="N|own|all",
              help="How much of each answer is read; own: as much as an own answer may have.")  # fmt: skip
@click.option("--temperature", default=0.7, show_default=True, help="Of own answers; 0 is greedy.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of everything random.")
@click.option(
    "--drop", default=None, metavar="N|P%|>Xs", help="Write kept.jsonl without the N or P% worst, or all beyond."
)
@click.option("--keep", default=None, metavar="N|P%|<Xs", help="Write kept.jsonl with the N or P% best, or all below.")
@click.option("--columns", default=None, metavar="A=B,...",
              help="Columns of a table: prompt=,response= or messages= or conversation=,role=,content=.")  # fmt: skip
@click.option("--format", default=None, help="Format of the files, where it is not recognised.")
@click.option(
    "--fail-on", default=None, metavar="shift>1s", help="Exit with code 1 if any trait, or NAME>1s, shifts so far."
)
@output_options
def command(
    files: tuple[str, ...], traits: str, model: str, adapter: str | None, device: str | None, dtype: str | None,
    out: Path, method: str, sample: int, max_tokens: int, read_tokens: str, temperature: float, seed: int,
    drop: str | None, keep: str | None, columns: str | None, format: str | None, fail_on: str | None, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Rank training records by how far they would move the model's character, and say where the whole set would.

    FILES are chat records as JSON lines, Alpaca, ShareGPT, Parquet, CSV, or folders of them. A record's difference is
    how much further its answers lie along a trait than the model's own answers to the same prompts. Stopped at any
    moment, the same command goes on from there.
    """
    from mien.screening.keep import cut_of
    from mien.screening.limits import limits_of

    cut = cut_of(drop, keep)
    limits = limits_of(fail_on)
    read = _length(read_tokens, max_tokens)

    from mien.cli.scan_command import columns_of
    from mien.jobs.screen import Plan, check_plan, screen
    from mien.progress import Silent
    from mien.screening.estimates import INFLUENCE
    from mien.screening.watched import watch_set

    table = columns_of(columns)
    plan = Plan(method, sample, max_tokens, read, temperature, seed)
    check_plan(plan, files)
    if limits and method == INFLUENCE:
        raise InputError("--fail-on goes by the shift, which the method influence does not tell; use another method.")
    loaded = load_model(model, adapter, device, dtype, quiet)
    names = None if traits.strip() == "all" else traits.split(",")
    if limits:
        limits_of(fail_on, [one.name for one in watch_set(loaded, names).watched])
    bar = Bar()
    try:
        summary = screen(
            files, loaded, out, traits=names, cut=cut, columns=table, format=format, made=_today(),
            plan=plan, progress=Silent() if quiet else bar,
        )  # fmt: skip
    finally:
        bar.close()
    emit(summary, as_json, _text(summary, out))
    if any(_passed(summary, limit.trait, limit.sigma) for limit in limits):
        raise click.exceptions.Exit(LIMIT_PASSED)


def _length(text: str, own: int) -> int | None:
    """How many tokens of an answer are read; None: all."""
    if text in ("own", "all"):
        return own if text == "own" else None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise InputError(f"--read-tokens {text!r} is not understood; write a whole number from 1 up, own or all.")
    return int(text)


def _passed(summary: dict[str, Any], name: str | None, sigma: float) -> bool:
    """Whether a trait, or any, would shift beyond so many sigma towards its alarming side."""
    shifts = [
        (1 if t["side"] == "high" else -1) * t["shift"]
        for t in summary["traits"] if t["shift"] is not None and name in (None, t["name"])
    ]  # fmt: skip
    return any(shift > sigma for shift in shifts)


def _today() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%d")


def _text(summary: dict[str, Any], out: Path) -> str:
    from mien.cli.scan_command import _plain

    lines = [
        f"{summary['samples']} records, {summary['answers']} answers, {summary['tokens']} tokens "
        f"(method {summary['method']})",
        "  trait                      shift in sigma          random   beyond 2 sigma",
    ]
    for t in summary["traits"]:
        ends = f"[{_sigma(t['shift_low'])}, {_sigma(t['shift_high'])}]"
        noise = t["random_directions_95"]
        lines.append(
            f"  {_plain(t['name']):<26} {_sigma(t['shift'])} {ends:<16} {'-' if noise is None else f'{noise:.2f}':>6}"
            f"   {t['beyond_2_sigma']['count']:>14}"
        )
    lead = max(summary["traits"], key=lambda t: abs(t["shift"] or 0))
    for w in lead["worst"][:5]:
        lines.append(f"  record {w['index']} ({_plain(w['id'])}): {lead['name']} {_sigma(w['sigma'])} sigma")
    if summary["skipped"]:
        first = summary["skipped_records"][0]
        lines.append(
            f"  {summary['skipped']} records left out; the first: {_plain(first['source'])} line {first['line']}, "
            f"{_plain(first['reason'])}"
        )
    if summary["kept"]:
        lines.append(f"kept: {summary['kept']['kept']} records in {summary['kept']['file']}")
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def _sigma(value: float | None) -> str:
    return "    -" if value is None else f"{value:+.2f}"
