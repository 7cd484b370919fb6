"""`mien traits`: what the library has, and which directions are kept here."""

from __future__ import annotations

import click

from mien.cli.common import DEFAULT_MODEL, emit, output_options


@click.command("traits")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="List the directions kept for this model.")
@output_options
def command(model: str, as_json: bool, quiet: bool) -> None:
    """List the library's traits and the directions kept for a model."""
    from mien.directions import load_card
    from mien.errors import FormatError
    from mien.home import kept_directions
    from mien.spec import library_names, load_library

    library = {name: load_library(name).description for name in library_names()}
    kept: dict[str, str] = {}
    directions: dict[str, dict[str, str | None]] = {}
    for name, folder in kept_directions(model).items():
        try:
            card = load_card(folder)
        except FormatError as error:  # one that is broken must not hide the others
            kept[name] = f"unreadable  {error}"
            directions[name] = {"verdict": None, "description": None}
        else:
            kept[name] = f"{card.verdict or card.kind:<8}  {card.description}"
            directions[name] = {"verdict": card.verdict, "description": card.description}
    width = max(map(len, [*library, *kept]))
    lines = ["library (mien extract --spec NAME):", *(f"  {n:<{width}}  {text}" for n, text in library.items())]
    if kept:
        lines += [f"kept for {model} (mien steer NAME ...):"]
        lines += [f"  {n:<{width}}  {text}" for n, text in kept.items()]
    emit({"library": library, "kept": directions}, as_json, "\n".join(lines))
