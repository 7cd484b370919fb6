"""`mien calibrate`: a model and its axis in, a hold with its price out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mien.cli.common import DEFAULT_MODEL, SEED, Bar, emit, load_model, output_options

if TYPE_CHECKING:
    from mien.directions import Direction
    from mien.holds import Hold
    from mien.models import Model


@click.command("calibrate")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--adapter", default=None, help="PEFT adapter to put on the model.")
@click.option("--device", default=None, help="cpu, cuda, mps, or auto to spread; default: the best there is.")
@click.option("--dtype", default=None, help="float32, bfloat16 or float16; default: the faster one here.")
@click.option("--direction", default="assistant", show_default=True,
              help="The model's Assistant Axis: the name it was made under, or its folder.")  # fmt: skip
@click.option("--name", default="assistant", show_default=True, help="What to call the hold.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Folder of the run; default: mien's home.")
@click.option("--budget", default="small", show_default=True, help="small (minutes) or paper (hours).")
@click.option("--max-price", default=0.02, show_default=True, help="Nats a token that ordinary answers may lose.")
@click.option("--attacks", "source", default=None, type=click.Path(path_type=Path),
              help="YAML file of attacks; default: the library.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of everything random.")
@output_options
def command(
    model: str, adapter: str | None, device: str | None, dtype: str | None, direction: str, name: str,
    out: Path | None, budget: str, max_price: float, source: Path | None, seed: int, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Find what holds a model's character under attack, at a price that ordinary answers can pay.

    Ways of holding are chosen on half of the kinds of attack and of the ordinary conversations, and reported on the
    other half. `mien serve MODEL --hold NAME` uses what is found. Everything lands in the run's folder as it happens;
    stopped at any moment, the same command goes on from there.
    """
    from mien.spec import check_name

    check_name(name)
    from mien.attacks import load_attacks
    from mien.holding.choosing import check_budget

    check_budget(budget, max_price)
    attacks = load_attacks(source)

    from mien.engines.hf import HfEngine
    from mien.home import hold_folder
    from mien.jobs.calibrate import calibrate
    from mien.progress import Silent

    loaded = load_model(model, adapter, device, dtype, quiet)
    axis = axis_of(direction, loaded)
    folder = out or hold_folder(loaded.info.id, name)
    bar = Bar()
    try:
        hold = calibrate(
            HfEngine(loaded), axis, folder, name=name, budget=budget, max_price=max_price, seed=seed, attacks=attacks,
            progress=Silent() if quiet else bar,
        )  # fmt: skip
    finally:
        bar.close()
    result = {**hold.card.model_dump(mode="json"), "out": str(folder), "page": str(folder / "hold.html")}
    emit(result, as_json, _summary(hold, folder))


def axis_of(name_or_folder: str, model: Model) -> Direction:
    """The model's Assistant Axis.

    Raises:
        InputError: there is none of that name; the message says how to make it.
    """
    from mien.directions import load_direction
    from mien.errors import InputError
    from mien.home import find_direction

    try:
        folder = find_direction(name_or_folder, model.info.id)
    except InputError as error:
        if name_or_folder != "assistant":
            raise
        raise InputError(
            f"There is no Assistant Axis for {model.info.id} yet; make it with: mien axis --model {model.info.id}."
        ) from error
    direction = load_direction(folder)
    direction.check_model(model.info)
    return direction


def _summary(hold: Hold, folder: Path) -> str:
    card = hold.card
    lines = [f"{card.name}: {card.way}", f"  {card.method}", *(f"  {remark}" for remark in card.remarks[:6])]
    return "\n".join([*lines, f"page: {folder / 'hold.html'}"])
