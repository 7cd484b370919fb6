"""`mien axis`: roles in, the Assistant Axis and the persona map out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mien.cli.common import SEED, Bar, emit, endpoint_of, load_model, model_options, output_options, spent_on

if TYPE_CHECKING:
    from mien.directions import Direction
    from mien.roles import RoleSet


@click.command("axis")
@model_options
@click.option("--roles", "source", default=None, type=click.Path(path_type=Path),
              help="YAML file of roles, or a folder of published role files; default: the library.")  # fmt: skip
@click.option("--n-roles", default=40, show_default=True, type=click.IntRange(3), help="Take the first so many.")
@click.option("--n-questions", default=5, show_default=True, type=click.IntRange(2), help="Likewise of the questions.")
@click.option("--max-tokens", default=40, show_default=True, type=click.IntRange(4), help="Longest answer.")
@click.option("--name", default="assistant", show_default=True, help="What to call it.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Folder of the run; default: mien's home.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of everything random.")
@click.option("--judge", type=click.Choice(["likelihood", "endpoint"]), default="likelihood", show_default=True,
              help="Who says whether a role was played.")  # fmt: skip
@click.option("--endpoint", default=None, help="Base URL of an OpenAI-compatible API, for the judge.")
@click.option("--endpoint-model", default=None, help="The model's name there; key in OPENAI_API_KEY.")
@click.option("--endpoint-timeout", default=60.0, show_default=True, help="Seconds that one request there may take.")
@output_options
def command(
    model: str, adapter: str | None, device: str | None, dtype: str | None, source: Path | None, n_roles: int,
    n_questions: int, max_tokens: int, name: str, out: Path | None, seed: int, judge: str,
    endpoint: str | None, endpoint_model: str | None, endpoint_timeout: float, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Let the model play roles, and find the direction in which all of them leave the Assistant.

    40 roles and 5 questions take about two minutes on two cores; --n-roles 140 --n-questions 60 a night. Everything
    lands in the run's folder as it happens; stopped at any moment, the same command goes on from there.
    """
    from mien.roles import load_roles
    from mien.spec import check_name

    check_name(name)
    roles = _cut(load_roles(source), n_roles, n_questions)

    remote = endpoint_of(endpoint, endpoint_model, endpoint_timeout, None) if judge == "endpoint" else None

    from mien.engines.hf import HfEngine
    from mien.home import folder_for
    from mien.jobs.axis import known_traits, make_axis
    from mien.jobs.casting import RoleJudge
    from mien.progress import Silent

    loaded = load_model(model, adapter, device, dtype, quiet)
    folder = out or folder_for(loaded.info.id, name)
    bar = Bar()
    try:
        direction = make_axis(
            roles, HfEngine(loaded), folder, name=name, max_tokens=max_tokens, seed=seed,
            traits=known_traits(loaded.info), judge=RoleJudge(remote) if remote else None,
            clock=time.monotonic, progress=Silent() if quiet else bar,
        )  # fmt: skip
    finally:
        bar.close()
        if remote is not None and not quiet:
            click.echo(spent_on(remote), err=True)
    result = {**direction.card.model_dump(mode="json"), "out": str(folder), "page": str(folder / "axis.html")}
    emit(result, as_json, _summary(direction, folder))


def _cut(roles: RoleSet, n_roles: int, n_questions: int) -> RoleSet:
    """So many of them as were asked for; a default is no demand, and takes what there is."""
    context = click.get_current_context()

    def most(option: str, number: int, there_are: int) -> int:
        return min(number, there_are) if context.get_parameter_source(option) is ParameterSource.DEFAULT else number

    return roles.first(
        most("n_roles", n_roles, len(roles.roles)), most("n_questions", n_questions, len(roles.questions))
    )


def _summary(direction: Direction, folder: Path) -> str:
    card = direction.card
    assert card.recommended_layer is not None
    assert card.rollouts is not None
    at = card.layers[card.recommended_layer]
    return "\n".join(
        [
            f"{card.name}: {(card.verdict or '').upper()}",
            *(f"  {reason}" for reason in card.verdict_reasons),
            f"  layer {at.layer}: {card.layer_choice}",
            f"  answers in a role: {card.rollouts.asked} written, {card.rollouts.kept} kept",
            f"map: {folder / 'axis.html'}",
        ]
    )
