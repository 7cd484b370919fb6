"""`mien extract`: one sentence in, a validated direction out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mien.cli.common import (
    SEED,
    Bar,
    emit,
    endpoint_of,
    endpoint_options,
    load_model,
    model_options,
    output_options,
    spent_on,
    trait_of,
)

if TYPE_CHECKING:
    from mien.directions import Direction
    from mien.endpoint import Endpoint
    from mien.records import Engine, Judge
    from mien.spec import TraitSpec


@click.command("extract")
@click.argument("sentence", required=False)
@click.option("--spec", default=None, help="Library trait, YAML file or published JSON instead of a sentence.")
@click.option("--name", default=None, help="What to call it; default: from the sentence or the spec.")
@model_options
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Folder of the run; default: mien's home.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of everything random.")
@click.option("--budget", type=click.Choice(["small", "paper"]), default="small", show_default=True,
              help="small: 200 short answers, minutes on a laptop; paper: 2,000 longer ones.")  # fmt: skip
@click.option("--temperature", default=0.7, show_default=True, help="Of the rollouts.")
@click.option("--no-early-stop", is_flag=True, help="Spend the whole budget even when the direction has settled.")
@click.option("--author", type=click.Choice(["templates", "endpoint"]), default="templates", show_default=True,
              help="Who turns the sentence into a spec.")  # fmt: skip
@click.option("--judge", type=click.Choice(["likelihood", "endpoint"]), default="likelihood", show_default=True,
              help="Who scores the rollouts.")  # fmt: skip
@click.option("--judge-model", default=None, help="Model for the likelihood judge; default: the writer itself.")
@endpoint_options(", for author or judge")
@output_options
def command(
    sentence: str | None, spec: str | None, name: str | None, model: str, adapter: str | None, device: str | None,
    dtype: str | None, out: Path | None, seed: int, budget: str, temperature: float, no_early_stop: bool, author: str,
    judge: str, judge_model: str | None, endpoint: str | None, endpoint_model: str | None, endpoint_timeout: float,
    endpoint_price: tuple[float, float] | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Turn SENTENCE, such as "flatters the user and agrees with whatever they say", into a validated direction.

    Everything lands in the run's folder as it happens. Stopped at any moment, the same command goes on from there.
    """
    needed = author == "endpoint" or judge == "endpoint"
    remote = endpoint_of(endpoint, endpoint_model, endpoint_timeout, endpoint_price) if needed else None
    trait = trait_of(sentence, spec, name, remote if author == "endpoint" else None)

    from mien.engines.hf import HfEngine
    from mien.home import folder_for
    from mien.jobs.extract import extract
    from mien.progress import Silent

    engine = HfEngine(load_model(model, adapter, device, dtype, quiet))
    folder = out or folder_for(engine.info.id, trait.name)
    bar = Bar()
    chosen = _judge(judge, judge_model, engine, trait, remote, device, dtype, quiet, budget)
    try:
        direction = extract(
            trait, engine, chosen, folder, budget=budget, seed=seed, temperature=temperature,
            early_stop=not no_early_stop, progress=Silent() if quiet else bar,
        )  # fmt: skip
    finally:
        bar.close()
        if remote is not None and not quiet:
            click.echo(spent_on(remote), err=True)
    result = {**direction.card.model_dump(mode="json"), "out": str(folder), "page": str(folder / "card.html")}
    emit(result, as_json, summary(direction, folder))


def _judge(
    kind: str, judge_model: str | None, engine: Engine, trait: TraitSpec, remote: Endpoint | None,
    device: str | None, dtype: str | None, quiet: bool, budget: str,
) -> Judge:  # fmt: skip
    if kind == "endpoint":
        assert remote is not None
        from mien.judge_api import ApiJudge

        return ApiJudge(remote, trait.rubric, trait.name)
    from mien.engines.hf import HfEngine
    from mien.jobs.extract import likelihood_judge

    judging = HfEngine(load_model(judge_model, None, device, dtype, quiet)) if judge_model else engine
    return likelihood_judge(judging, engine, trait, budget)


def summary(direction: Direction, folder: Path) -> str:
    """The card in a dozen lines."""
    card = direction.card
    lines = [
        f"{card.name}: {(card.verdict or card.kind).upper()}",
        *(f"  {reason}" for reason in card.verdict_reasons),
    ]
    if card.recommended_layer is None or not card.layers or card.rollouts is None:
        return "\n".join([*lines, f"report: {folder / 'card.html'}"])
    at = card.layers[card.recommended_layer]
    lines += [
        f"  layer {at.layer}: AUC {at.auc:.2f} on unused questions (shuffled labels {at.auc_null:.2f}), "
        f"split-half cosine {at.split_half_cosine:.2f}",
        f"  rollouts: {card.rollouts.asked} written, {card.rollouts.kept} kept",
        "  coef   score  coherence" if card.dose_response else "",
        *(f"  {d.coef:>4g}  {_number(d.score)}  {_number(d.coherence)}" for d in card.dose_response),
        f"  coherent from coef {card.coef_range[0]:g} to {card.coef_range[1]:g}" if card.coef_range else "",
        f"report: {folder / ('axis.html' if card.kind == 'assistant_axis' else 'card.html')}",
    ]
    return "\n".join(line for line in lines if line)


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:7.1f}"
