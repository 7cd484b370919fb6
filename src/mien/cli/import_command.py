"""`mien import`: another tool's file becomes a direction."""

from __future__ import annotations

from pathlib import Path

import click

from mien.cli.common import emit, load_model, model_options, output_options


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", default=None, help="What to call it; default: from the file.")
@click.option(
    "--format", "kind", default=None, help="persona_vectors, assistant_axis, capping or gguf; default: found out."
)
@click.option("--flip/--no-flip", default=None, help="Turn the sign, or leave it, whatever the format's habit is.")
@click.option("--layer", default=None, type=int, help="Layer to recommend; others' files name none.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Folder; default: mien's home.")
@model_options
@output_options
def command(
    file: Path, name: str | None, kind: str | None, flip: bool | None, layer: int | None, out: Path | None, model: str,
    adapter: str | None, device: str | None, dtype: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Make a direction of FILE: a persona_vectors or assistant-axis .pt, a capping config, a GGUF control vector."""
    from mien.directions import save_direction
    from mien.formats import import_direction
    from mien.home import folder_for
    from mien.report.card_page import write_card_page

    info = load_model(model, adapter, device, dtype, quiet).info
    direction = import_direction(file, model=info, name=name, format=kind, flip=flip, layer=layer)
    folder = out or folder_for(info.id, direction.card.name)
    save_direction(direction, folder)
    write_card_page(direction.card, folder)
    result = {"name": direction.card.name, "out": str(folder)}
    emit(result, as_json, f"{direction.card.name}: imported to {folder}; not validated here")
