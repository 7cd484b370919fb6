"""`mien export`: a direction becomes another tool's file."""

from __future__ import annotations

from pathlib import Path

import click

from mien.cli.common import DEFAULT_MODEL, emit, output_options, refuse_folder


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

    refuse_folder(file)
    direction = load_direction(find_direction(name, model))
    path = export_direction(direction, file, kind)
    lost = {"persona_vectors": len(direction.vector) - 1, "gguf": 0}.get(kind)
    note = "" if lost is None else f"; the format has no place for layer {lost}, which is left out"
    emit({"file": str(path), "format": kind, "left_out": lost}, as_json, f"{path}: written as {kind}{note}")
