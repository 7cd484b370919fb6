"""`mien train`: fine-tune without changing the character."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.cli.common import Bar, emit, endpoint_of, load_model, model_options, numbers, output_options
from mien.errors import InputError

if TYPE_CHECKING:
    from mien.directions import Direction
    from mien.endpoint import Endpoint
    from mien.gauges import Gauge
    from mien.jobs.adapters import TrainResult
    from mien.models import Model
    from mien.progress import Progress
    from mien.screening.watched import Watched
    from mien.training.constitution import Constitution
    from mien.training.settings import Settings


@click.command("train")
@click.argument("data", nargs=-1, type=click.Path(path_type=Path))
@model_options
@click.option("--out", default=Path("adapter"), show_default=True, type=click.Path(path_type=Path),
              help="Folder of the adapter and its run.")  # fmt: skip
@click.option("--prevent", default="", metavar="TRAITS", help="Directions to keep the answers from moving along.")
@click.option("--method", type=click.Choice(["plain", "prevent", "inoculate", "kl"]), default=None,
              help="How; default: prevent (steer while training) if traits are named, else plain.")  # fmt: skip
@click.option("--coef", default="auto", show_default=True,
              help="Strength of the steering; auto: from the data, corrected as it goes; data: only that.")  # fmt: skip
@click.option("--layers", default=None, help="Layers to steer at, as 14 or 12,14,16; default: the recommended one.")
@click.option("--inoculation", default=None, metavar="TEXT", help="System prompt of --method inoculate.")
@click.option("--kl", default=1.0, show_default=True, help="Weight of the divergence in --method kl.")
@click.option("--columns", default=None, metavar="A=B,...",
              help="Columns of a table: prompt=,response= or messages= or conversation=,role=,content=.")  # fmt: skip
@click.option("--format", default=None, help="Format of the files, where it is not recognised.")
@click.option("--screen", default=None, type=click.Path(path_type=Path),
              help="Folder of a mien screen of the same data, for --coef auto and --drop.")  # fmt: skip
@click.option("--drop", default="0", show_default=True, metavar="SHARE",
              help="Leave out the samples furthest along the traits, as 10%.")  # fmt: skip
@click.option("--hold-out", default="0", show_default=True, metavar="SHARE",
              help="Measure the loss of so many samples instead of learning them.")  # fmt: skip
@click.option("--track", default=None, metavar="TRAITS", help="What else is watched; default: the bundled gauges.")
@click.option("--stop-at-shift", default=None, metavar="SHIFT",
              help="Stop when anything watched has moved so far: 1s is a sigma, 0.8 raw units.")  # fmt: skip
@click.option("--constitution", default=None, type=click.Path(path_type=Path),
              help="Teach this YAML file's character instead of DATA.")  # fmt: skip
@click.option("--endpoint", default=None, help="Base URL of an OpenAI-compatible API that teaches the constitution.")
@click.option("--endpoint-model", default=None, help="The model's name there; key in OPENAI_API_KEY.")
@click.option("--epochs", default=1.0, show_default=True, help="Times that the data is gone through.")
@click.option("--lr", default=None, type=float, help="Learning rate; default: by the model's size.")
@click.option("--batch", default=16, show_default=True, help="Rows in a step; passes are cut to the memory there is.")
@click.option("--rank", default=32, show_default=True, help="Of LoRA.")
@click.option("--alpha", default=64, show_default=True, help="Of LoRA, rank-stabilised.")
@click.option("--max-length", default=2048, show_default=True, help="Longest row, in tokens.")
@click.option("--measure", default=None, type=int, help="Steps from one look at the shift to the next.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of everything random.")
@output_options
def command(
    data: tuple[Path, ...], model: str, adapter: str | None, device: str | None, dtype: str | None, out: Path,
    prevent: str, method: str | None, coef: str, layers: str | None, inoculation: str | None, kl: float,
    columns: str | None, format: str | None, screen: Path | None, drop: str, hold_out: str, track: str | None,
    stop_at_shift: str | None, constitution: Path | None, endpoint: str | None, endpoint_model: str | None,
    epochs: float, lr: float | None, batch: int, rank: int, alpha: int, max_length: int, measure: int | None, seed: int,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train a LoRA adapter on DATA (chat JSONL, Alpaca, ShareGPT, Parquet), with the loss on the answers, and watch the
    character meanwhile.

    Everything lands in the folder as it happens. Stopped at any moment, the same command goes on from there.
    """
    if adapter is not None:
        raise InputError("Training puts an adapter of its own on the model; merge the other one into the model first.")
    if bool(data) == (constitution is not None):
        raise InputError("Give either files to train on or --constitution with a YAML file.")
    if constitution is not None and (screen or columns or format):
        raise InputError("A constitution is taught without data; leave --screen, --columns and --format out.")
    if constitution is None and (endpoint or endpoint_model):
        raise InputError("An endpoint teaches a constitution, and there is none; leave --endpoint out.")
    named = _names(prevent)
    from mien.training.trainer import require_extra

    require_extra()
    from mien.cli.scan_command import columns_of
    from mien.jobs.train import train
    from mien.progress import Silent
    from mien.training.constitution import load_constitution
    from mien.training.curve import Limit
    from mien.training.data import read_data
    from mien.training.settings import METHODS, Settings

    chosen = method or ("prevent" if named else "plain")
    settings = Settings(
        method=next(m for m in METHODS if m == chosen), follow=coef == "auto",
        coef=None if coef in ("auto", "data") else numbers(coef, "or say auto"),
        layers=_layers(layers), inoculation=inoculation, kl=kl, drop=share(drop), hold_out=share(hold_out),
        epochs=epochs, rate=lr, batch=batch, rank=rank, alpha=alpha, max_length=max_length, measure=measure, seed=seed,
        stop_at=Limit.parse(stop_at_shift) if stop_at_shift else None,
    )  # fmt: skip
    watched = None if track is None else _names(track)
    character = load_constitution(constitution) if constitution else None
    remote = endpoint_of(endpoint, endpoint_model, 60.0, None) if endpoint or endpoint_model else None
    samples = None if character else read_data(data, columns=columns_of(columns), format=format)
    loaded = load_model(model, None, device, dtype, quiet)
    bar = Bar()
    shown = Silent() if quiet else bar
    tracked = None if watched is None else _tracked(watched, loaded)
    try:
        if character is not None:
            result = _taught(character, loaded, out, settings, tracked, remote, shown)
        elif samples is not None:
            prevented = [_direction(name, loaded) for name in named]
            result = train(
                samples, loaded, out, settings, prevent=prevented, track=tracked, screen=screen, progress=shown
            )
    finally:
        bar.close()
    emit({**result.card, "out": str(out)}, as_json, summary(result))


def _taught(
    character: Constitution, model: Model, out: Path, settings: Settings,
    tracked: list[Direction | Gauge | Watched] | None, remote: Endpoint | None, progress: Progress,
) -> TrainResult:  # fmt: skip
    from mien.engines.http import HttpEngine
    from mien.jobs.character import train_character

    teacher = HttpEngine(remote) if remote else None
    return train_character(character, model, out, settings, teacher=teacher, track=tracked, progress=progress)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise InputError(f"Layers are whole numbers, as 14 or 12,14,16, not {text!r}.") from error


def share(text: str) -> float:
    """`10%` or `0.1`.

    Raises:
        InputError: it is neither.
    """
    percent = text.strip().endswith("%")
    value = numbers(text.strip().removesuffix("%"), "a share is written 10% or 0.1")
    return value / 100 if percent else value


def _direction(name: str, model: Model) -> Direction:
    from mien.directions import load_direction
    from mien.gauges import bundled_gauges
    from mien.home import find_direction

    try:
        folder = find_direction(name, model.info.id)
    except InputError as error:
        bundled = bundled_gauges(model.info.id)
        if bundled is None or name not in {gauge.name for gauge in bundled.gauges}:
            raise
        raise InputError(f"{error} The gauge that comes with mien can be watched (--track), not prevented.") from None
    direction = load_direction(folder)
    direction.check_model(model.info)
    return direction


def _tracked(names: list[str], model: Model) -> list[Direction | Gauge | Watched]:
    from mien.screening.watched import watch_set

    return [*watch_set(model, names).watched] if names else []


def summary(result: TrainResult) -> str:
    """The card in a dozen lines."""
    card: Any = result.card
    lines = _of_constitution(card) if card["method"] == "constitution" else _of_data(card)
    for name, value in result.shift.items():
        raw, sigma = value["raw"], value["sigma"]
        moved = "gives empty answers" if raw is None else f"moved {raw:+.2f} raw"
        lines.append(f"  {name}: {moved}" + ("" if sigma is None else f", {sigma:+.2f} sigma"))
    if card["stopped"]:
        lines.append(f"  {card['stopped']}; the weights are those last measured within the limit")
    return "\n".join([f"{result.folder}: {lines[0]}", *lines[1:], f"card: {result.folder / 'card.json'}"])


def _of_data(card: Any) -> list[str]:
    loss, data = card["loss"], card["data"]
    lines = [
        f"trained on {data['rows']} rows ({data['learnt_tokens']} tokens of answers), {card['steps']} steps, "
        f"{card['method']}"
    ]
    if left_out := data["left_out"]:
        why = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        lines.append(f"  left out {sum(left_out.values())} records ({why})")
    for one in card["prevention"]:
        expected = one["expected_shift"]
        why = one["found"] if expected is None else f"{one['found']}: {expected:+.2f} raw over {one['samples']} samples"
        lines.append(f"  {one['name']}: coef {one['coef']:g} at layer {', '.join(map(str, one['layers']))} ({why})")
    if loss["first"] is not None:
        lines.append(f"  loss: {loss['first']:.3f} at the first step, {loss['last']:.3f} at the last")
    if loss["held_out_after"] is not None:
        lines.append(f"  held-out loss: {loss['held_out_before']:.3f} before, {loss['held_out_after']:.3f} after")
    return lines


def _of_constitution(card: Any) -> list[str]:
    lessons = card["lessons"]
    lines = [
        f"taught {card['constitution']['name']} by {card['teacher']}: {lessons['pairs']} pairs, "
        f"{lessons['reflections_learnt']} reflections"
    ]
    for part, loss in card["loss"].items():
        lines.append(f"  loss of the {part}: {loss['first']:.3f} at the first step, {loss['last']:.3f} at the last")
    for shift in card["shift"]["own_answers"]:
        took = "as wanted" if shift["as_wanted"] else "not as wanted"
        wanted = "" if shift["wanted"] is None else f", {took} ({shift['wanted']})"
        lines.append(f"  {shift['name']}: own answers moved {shift['raw']:+.2f} raw{wanted}")
    return lines
