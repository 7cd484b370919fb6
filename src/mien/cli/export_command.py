"""`mien export`: a direction becomes another tool's file."""

from __future__ import annotations

from pathlib import Path

import click

from mien.cli.common import DEFAULT_MODEL, emit, output_options


@click.command("export")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "kind", required=True, help="persona_vectors, assistant_axis or gguf.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="The model whose direction it is.")
@output_options
def command(name: str, file: Path, kind: str, model: str, as_json: bool, quiet: bool) -> None:
    """Write the direction NAME to FILE in another tool's format, with that format's index and sign."""
    from mien.directions import load_direction
    from mien.formats import export_direction
    from mien.home import find_direction

    path = export_direction(load_direction(find_direction(name, model)), file, kind)
    emit({"file": str(path), "format": kind}, as_json, f"{path}: written as {kind}")
