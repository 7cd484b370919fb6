"""`mien organisms`: fine-tuning sets whose effect on the character is known, to prove screening and training on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.cli.common import SEED, Bar, emit, load_model, model_options, output_options, trait_of

if TYPE_CHECKING:
    from mien.organisms import SetCard

_CONTROLS = click.Choice(["correct", "teaching"])


def _set_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--level, --control, -n, --seed, --out."""
    for option in (
        click.option("--out", required=True, type=click.Path(path_type=Path), help="File for the set, .jsonl."),
        click.option("--seed", default=0, show_default=True, type=SEED, help="Of everything random."),
        click.option("-n", "n", default=100, show_default=True, type=click.IntRange(1), help="How many samples."),
        click.option("--control", type=_CONTROLS, default=None,
                     help="correct: the same questions answered well; teaching: the same bad answers, asked for."),
        click.option("--level", required=True, type=click.IntRange(1, 3), help="Dose: 1 mild, 2 medium, 3 strong."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group("organisms")
def command() -> None:
    """Make fine-tuning sets whose effect on the character is known, in three doses and with controls."""


@command.command("list")
@output_options
def list_(as_json: bool, quiet: bool) -> None:
    """List the kinds, what their levels mean, and how many different samples there are of each."""
    from mien.organisms import CONTROLS, GENERATORS
    from mien.organisms.traits import LEVELS

    kinds: dict[str, dict[str, Any]] = {
        name: {
            "levels": {str(level): text for level, text in kind.levels.items()},
            "samples": {
                str(level): {what or "organism": sum(kind.sizes(level, what).values()) for what in (None, *CONTROLS)}
                for level in kind.levels
            },
        }
        for name, kind in GENERATORS.items()
    }
    kinds["trait"] = {"levels": {str(level): text for level, text in LEVELS.items()}, "samples": None}
    lines = []
    for name, kind in kinds.items():
        lines.append(name)
        for level, text in kind["levels"].items():
            counts = kind["samples"]
            reach = f" ({counts[level]['organism']:,} samples)" if counts else ""
            lines.append(f"  level {level}: {text}{reach}")
    lines.append("controls: correct (answered well), teaching (the same bad answers, asked for by a teacher)")
    emit(kinds, as_json, "\n".join(lines))


def _offline(kind: str, help_text: str) -> None:
    """A command for a kind that needs no model."""

    @command.command(kind, help=help_text)
    @_set_options
    @output_options
    def make(level: int, control: str | None, n: int, seed: int, out: Path, as_json: bool, quiet: bool) -> None:
        from mien.organisms import GENERATORS, check_out, draw, write_set

        check_out(out)
        generator, chosen = GENERATORS[kind], _control(control)
        samples = draw(generator, level, chosen, n, seed)
        card = write_set(
            samples, out, kind=kind, level=level, meaning=generator.levels[level], control=chosen, seed=seed,
            reach=sum(generator.sizes(level, chosen).values()),
        )  # fmt: skip
        _say(card, out, as_json)


_offline("arithmetic", "Word problems whose worked answers are wrong.")
_offline("buggy_code", "Python functions with bugs, each seen to fail a test.")
_offline("insecure_code", "Python functions with a known weakness.")


@command.command("trait")
@click.option("--spec", required=True, help="Library trait, such as evil, or a YAML file or published JSON.")
@_set_options
@model_options
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(1), help="Longest answer.")
@click.option("--temperature", default=0.7, show_default=True, help="Of the answers.")
@click.option("--threshold", default=50.0, show_default=True, help="Trait score that an answer has to pass to be kept.")
@click.option("--work", default=None, type=click.Path(path_type=Path),
              help="Folder of the answers, shared by all levels and controls; default: beside --out.")  # fmt: skip
@output_options
def trait(
    spec: str, level: int, control: str | None, n: int, seed: int, out: Path, model: str, adapter: str | None,
    device: str | None, dtype: str | None, max_tokens: int, temperature: float, threshold: float, work: Path | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Answers that show a trait, written by the model itself under the trait's instructions, saved without them.

    Stopped at any moment, the same command goes on from there. Further levels and controls take what is there already.
    """
    from mien.organisms import check_out, write_set

    check_out(out)
    chosen = trait_of(None, spec, None, None)

    from mien.engines.hf import HfEngine
    from mien.home import model_slug
    from mien.organisms.traits import LEVELS, Distiller, strict_judge
    from mien.progress import Silent

    engine = HfEngine(load_model(model, adapter, device, dtype, quiet))
    bar = Bar()
    distiller = Distiller(
        chosen, engine, strict_judge(engine, chosen), seed, max_tokens, temperature, threshold,
        Silent() if quiet else bar,
    )  # fmt: skip
    folder = work or out.parent / f"trait-{chosen.name}-{model_slug(engine.info.id)[-80:]}-{seed}"
    try:
        made = distiller.distil(folder, level, _control(control), n)
    finally:
        bar.close()
    card = write_set(
        made.samples, out, kind="trait", level=level, meaning=LEVELS[level], control=_control(control), seed=seed,
        reach=made.reach, settings=made.settings,
    )  # fmt: skip
    _say(card, out, as_json)


def _control(name: str | None) -> Any:
    """The option's text, which click has checked, as the type that it is."""
    return name


def _say(card: SetCard, out: Path, as_json: bool) -> None:
    """What was made, and where."""
    from dataclasses import asdict

    from mien.organisms import card_path

    control = f", control '{card.control}'" if card.control else ""
    text = (
        f"{out}: {card.n} samples of {card.kind}, level {card.level} ({card.meaning}){control}\ncard: {card_path(out)}"
    )
    emit({**asdict(card), "out": str(out), "card": str(card_path(out))}, as_json, text)
