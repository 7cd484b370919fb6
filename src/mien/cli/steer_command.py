"""`mien steer`: the same question answered plainly and with interventions, side by side."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mien.cli.common import DEFAULT_MODEL, SEED, emit, load_model, model_options, numbers, output_options
from mien.errors import InputError

if TYPE_CHECKING:
    from mien.directions import Direction
    from mien.models import Model
    from mien.records import Intervention, Tokens


@dataclass(frozen=True)
class _Asked:
    """What is done to the stream, as typed."""

    name: str
    coefs: tuple[float, ...]
    add: tuple[str, ...]
    ablate: tuple[str, ...]
    cap: tuple[str, ...]
    layers: tuple[int, ...]
    tokens: Tokens


@click.command("steer")
@click.argument("name")
@click.argument("question")
@click.option(
    "--coef",
    "coefs",
    multiple=True,
    type=float,
    help="Strength; 1 is the whole difference of means. Repeat to compare.",
)
@click.option("--add", multiple=True, metavar="NAME:COEF", help="Add another direction as well.")
@click.option("--ablate", multiple=True, metavar="NAME", help="Take a direction out of the stream.")
@click.option(
    "--cap",
    multiple=True,
    metavar="NAME:LOW:HIGH",
    help="Hold a projection in a range, raw units; either end may be empty.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    type=int,
    help="Act here instead of at the recommended layer; repeat for several.",
)
@click.option(
    "--tokens",
    type=click.Choice(["all", "prompt", "response"]),
    default="all",
    show_default=True,
    help="Which tokens are acted on.",
)
@click.option("--system", default=None, help="System prompt for all the answers.")
@click.option("--max-tokens", default=128, show_default=True, help="Longest answer.")
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the answers' random stream.")
@model_options
@output_options
def command(
    name: str, question: str, coefs: tuple[float, ...], add: tuple[str, ...], ablate: tuple[str, ...],
    cap: tuple[str, ...], layers: tuple[int, ...], tokens: Tokens, system: str | None, max_tokens: int,
    temperature: float, seed: int, model: str, adapter: str | None, device: str | None, dtype: str | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Answer QUESTION without and with the direction NAME (a name it was extracted under, or a folder)."""
    if not question.strip():
        raise InputError("The question is empty; write what the model should answer.")
    if max_tokens < 1 or not 0 <= temperature < math.inf:
        raise InputError("--max-tokens must be at least 1 and --temperature at least 0.")
    asked = _Asked(name, coefs or (() if ablate or cap else (1.0,)), add, ablate, cap, layers, tokens)
    loaded = load_model(_model_for(name, model), adapter, device, dtype, quiet)
    direction, arms = _arms(asked, loaded)
    answers = _write(loaded, direction, arms, question, system, max_tokens, temperature, seed)
    emit(
        {"question": question, "direction": direction.card.name, "answers": answers},
        as_json,
        _text(question, direction, answers),
    )


def _model_for(name: str, model: str) -> str:
    """A direction given by its folder brings its own model, unless another is asked for."""
    from pathlib import Path

    from mien.directions import load_direction

    folder = Path(name).expanduser()
    return load_direction(folder).card.model if model == DEFAULT_MODEL and (folder / "card.json").is_file() else model


def _arms(asked: _Asked, model: Model) -> tuple[Direction, list[tuple[str, tuple[Intervention, ...]]]]:
    from mien.api import load_direction
    from mien.interventions import Ablate, Add, Cap

    where = asked.layers or None
    main = load_direction(asked.name, model)
    common: list[Intervention] = []
    words: list[str] = []
    for text in asked.add:
        other, _, number = text.rpartition(":")
        coef = numbers(number, "write --add NAME:COEF")
        common.append(Add(load_direction(other, model), at=where, tokens=asked.tokens, coef=coef))
        words.append(f"add {text}")
    for text in asked.ablate:
        common.append(Ablate(load_direction(text, model), at=where, tokens=asked.tokens))
        words.append(f"ablate {text}")
    for text in asked.cap:
        parts = text.split(":")
        if len(parts) != 3:
            raise InputError(f"--cap {text!r} must read NAME:LOW:HIGH; an end may be empty, as in assistant:-3:.")
        low, high = (numbers(p, "write --cap NAME:LOW:HIGH") if p else None for p in parts[1:])
        common.append(Cap(load_direction(parts[0], model), at=where, tokens=asked.tokens, low=low, high=high))
        words.append(f"cap {text}")
    arms: list[tuple[str, tuple[Intervention, ...]]] = [("plain", ())]
    for coef in asked.coefs:
        label = ", ".join([f"{main.card.name} x {coef:g}", *words])
        arms.append((label, (Add(main, at=where, tokens=asked.tokens, coef=coef), *common)))
    if not asked.coefs:
        arms.append((", ".join(words), tuple(common)))
    return main, arms


def _write(
    model: Model, direction: Direction, arms: list[tuple[str, tuple[Intervention, ...]]], question: str,
    system: str | None, max_tokens: int, temperature: float, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    from mien.api import read_rollout
    from mien.chat import ask
    from mien.engines.hf import HfEngine
    from mien.records import Sampling, WriteRequest

    engine = HfEngine(model)
    requests = [WriteRequest(str(i), ask(question, system), seed, acts) for i, (_, acts) in enumerate(arms)]
    sampling = Sampling(max_tokens, temperature)
    rollouts = {r.id: r for batch in engine.write(requests, sampling, read=False) for r, _ in batch}
    found = []
    # Read in a second pass, unsteered: what the words themselves carry, not what was pushed into the stream.
    layer = direction.card.recommended_layer
    for i, (label, _) in enumerate(arms):
        rollout = rollouts[str(i)]
        answer: dict[str, Any] = {"arm": label, "text": rollout.text, "finish": rollout.finish}
        if layer is not None and rollout.response_ids:
            raw, sigma = read_rollout(engine, direction, rollout, layer)
            answer["projection"] = round(raw, 4)
            if sigma is not None:
                answer["sigma"] = round(sigma, 2)
        found.append(answer)
    return found


def _text(question: str, direction: Direction, answers: list[dict[str, Any]]) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 160))
    table = Table(show_lines=False, expand=True, title=Text(question), title_justify="left")
    for answer in answers:
        sigma = answer.get("sigma")
        reads = f"\nreads {sigma:+.1f} sigma" if sigma is not None else ""
        table.add_column(Text(answer["arm"] + reads), ratio=1, overflow="fold")
    table.add_row(*(Text(a["text"] or "(empty answer)") for a in answers))
    buffer = StringIO()
    Console(file=buffer, width=width).print(table)
    card = direction.card
    warning = f"\n{card.name}: {card.verdict_reasons[0]}" if card.verdict == "weak" else ""
    return buffer.getvalue().rstrip() + warning
