"""`mien show`: what is known about a direction."""

from __future__ import annotations

import click

from mien.cli.common import DEFAULT_MODEL, emit, output_options


@click.command("show")
@click.argument("name")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="The model whose direction it is.")
@output_options
def command(name: str, model: str, as_json: bool, quiet: bool) -> None:
    """Print the card of the direction NAME (a name it was extracted under, or a folder), and write its page anew."""
    from mien.cli.extract_command import summary
    from mien.directions import load_direction
    from mien.home import find_direction
    from mien.report.card_page import write_card_page

    folder = find_direction(name, model)
    direction = load_direction(folder)
    of_axis = folder / "axis.html"
    page = of_axis if of_axis.exists() else write_card_page(direction.card, folder)
    result = {**direction.card.model_dump(mode="json"), "out": str(folder), "page": str(page)}
    emit(result, as_json, summary(direction, folder))
