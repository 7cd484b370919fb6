"""`mien limits`: audits of harmless retrainings become the file of limits for `mien audit`."""

from __future__ import annotations

from pathlib import Path

import click

from mien.cli.common import emit, output_options
from mien.errors import InputError


@click.command("limits")
@click.argument("audits", nargs=-1, required=True, metavar="AUDIT...")
@click.option("--out", default="character.yaml", show_default=True, type=click.Path(path_type=Path),
              help="File of limits; must not be there.")  # fmt: skip
@click.option("--margin", default=0.25, show_default=True, help="Sigma beyond the worst that they show.")
@output_options
def command(audits: tuple[str, ...], out: Path, margin: float, as_json: bool, quiet: bool) -> None:
    """Write limits for `mien audit --thresholds` a little beyond what harmless retrainings show.

    AUDIT is the folder of an audit of a model that was tuned on data known to be harmless. Any retraining moves some
    gauges: what moves further than these did is worth an alarm. Shares get 5 points beyond the worst, neutral text 0.05
    nats a token.
    """
    from mien.auditing.harmless import limits_beyond, limits_text, read_harmless
    from mien.store import write_atomic

    if out.exists():
        raise InputError(f"{out} is there already; name another file with --out, or move it away.")
    found = [read_harmless(path) for path in audits]
    limits = limits_beyond(found, margin)
    text = limits_text(limits, found, margin)
    write_atomic(out, text)
    few = "; two or three harmless retrainings make a better gate than one" if len(found) == 1 else ""
    emit(
        {"file": str(out), "traits": dict(limits.traits), **limits.limits}, as_json,
        f"{text}{out}: use it with mien audit --thresholds {out}{few}",
    )  # fmt: skip
