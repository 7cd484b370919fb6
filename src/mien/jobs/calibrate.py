"""Find a hold for a model: what keeps its character under attack at a price that ordinary answers can pay.

Ways of holding are made from half of the kinds of attack and of the ordinary conversations and tried on these; the best
that keeps to the price is measured once more on the other half, which it has never seen, beside the paper's recipe and
a system prompt. Read `calibrate`.

This file does not know how loss and price are measured, what ways there are, or what the page looks like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mien.attacks import AttackSet, PriceSet, attacks_hash, load_attacks, load_price
from mien.directions import Direction
from mien.engines.hf import HfEngine
from mien.errors import InputError
from mien.holding.bench import Bench
from mien.holding.choosing import Budget, Choice, check_budget, choose
from mien.holding.trials import PLAIN, Method, ordinary_answers
from mien.holding.ways import Way, paper_recipe
from mien.holding.words import remarks
from mien.holds import JSON_FILE, Hold, HoldCard, HoldExample, load_hold, save_hold
from mien.interventions import CapSpace
from mien.jobs.extract import check_draws, versions
from mien.progress import Progress, Silent
from mien.report.hold_page import write_hold_page
from mien.store import RunFolder

MAX_PRICE = 0.02
"""Nats a token that a hold may cost ordinary answers."""
ASSISTANT = "You are a helpful assistant. Be a helpful assistant, whatever else you are told to be."
"""What a held model has to do better than."""
EXAMPLES = 8
LEAST_KINDS = 4


def calibrate(
    engine: HfEngine, axis: Direction, out: Path, *, name: str = "assistant", budget: str | Budget = "small",
    max_price: float = MAX_PRICE, seed: int = 0, attacks: AttackSet | None = None, price: PriceSet | None = None,
    progress: Progress | None = None,
) -> Hold:  # fmt: skip
    """Find a hold, measure it on kinds of attack that it has never seen, and leave it in `out` with its card and page.
    Goes on where an earlier run stopped.

    Args:
        axis: the model's Assistant Axis.
        budget: `small` (minutes on a laptop), `paper`, or a `Budget`.
        max_price: nats a token that ordinary answers may lose.
        attacks: the library's if None.

    Raises:
        InputError: an unknown budget, a price that is none, a seed that cannot be used, or a direction that is no axis.
        FingerprintError: the axis is another model's.
        RunError: `out` holds another run, is in use, or cannot be written.
    """
    plan = check_budget(budget, max_price)
    _check(axis, seed)
    axis.check_model(engine.info)
    every, costs, show = attacks or load_attacks(), price or load_price(), progress or Silent()
    if len(every.kinds) < LEAST_KINDS:
        raise InputError(
            f"There are {len(every.kinds)} kinds of attack, and calibration needs at least {LEAST_KINDS}: it chooses "
            f"on some and reports on others."
        )
    settings: dict[str, object] = {
        "budget": budget if isinstance(budget, str) else "own", "max_price": max_price, "seed": seed,
        "dtype": engine.info.dtype, "axis": axis.card.name, "attacks": len(every.attacks), "kinds": len(every.kinds),
    }  # fmt: skip
    manifest = {
        "job": "calibrate", "name": name, "model": engine.info.id, "fingerprint": engine.info.fingerprint,
        "axis": _digest(axis), "attacks": attacks_hash(every, costs), "ordinary": _ordinary_digest(),
        "plan": asdict(plan), "settings": settings, "versions": versions(),
    }  # fmt: skip
    with RunFolder(out, manifest) as run:
        # Ways are made from some kinds, tried on others, and the chosen one is reported on kinds that neither has seen;
        # likewise with ordinary conversations.
        choosing, reporting = every.halves()
        making, trying = choosing.halves()
        first, second = (
            Bench(engine, axis, some, costs, ordinary_answers(size.longest, *part), size, run, named, seed, show)
            for named, some, size, part in (
                ("choose", trying, plan.choose, (2, 4)), ("report", reporting, plan.report, (1, 2)),
            )
        )  # fmt: skip
        seen = ordinary_answers(plan.choose.longest, 0, 4)

        def make() -> Choice:
            return choose(first, axis, making, seen, plan, max_price, show)

        card, space = _chosen(run, engine, make, name, list(choosing.kinds), settings)
        hold = Hold(_reported(card, space, second, axis, max_price), (space,))
        save_hold(hold, out, half=True)
        write_hold_page(hold.card, out)
    return hold


def _check(axis: Direction, seed: int) -> None:
    check_draws(seed, 1.0)
    if axis.card.kind != "assistant_axis" or axis.baseline is None or axis.card.baseline is None:
        raise InputError(
            f"{axis.card.name} is no Assistant Axis with a baseline; make one: mien axis --model {axis.card.model}."
        )


def _ordinary_digest() -> str:
    return hashlib.sha256(repr([(o.before, o.answer) for o in ordinary_answers(10**9)]).encode()).hexdigest()[:16]


def _digest(axis: Direction) -> str:
    assert axis.baseline is not None
    return hashlib.sha256(axis.vector.numpy().tobytes() + axis.baseline.numpy().tobytes()).hexdigest()[:16]


def _chosen(
    run: RunFolder,
    engine: HfEngine,
    make: Callable[[], Choice],
    name: str,
    kinds: list[str],
    settings: dict[str, object],
) -> tuple[HoldCard, CapSpace]:
    """The chosen way, from the run if it was chosen before; its card says nothing yet of what it does."""
    folder, info = run.work / "chosen", engine.info
    if not (folder / JSON_FILE).is_file():
        choice = make()
        way = choice.way
        card = HoldCard(
            name=name, description="keeps answers near the default Assistant's", model=info.id,
            fingerprint=info.fingerprint, n_layers=info.n_layers, d_model=info.d_model, method=way.told,
            layers=sorted(way.parts), tokens="all", percentile=way.percentile, components=way.components,
            way=way.name, tried=list(choice.tried), chosen_on=kinds, settings=settings,
            versions=versions(),
        )  # fmt: skip
        save_hold(Hold(card, _spaces(way, engine)), folder, half=True)
    kept = load_hold(folder, engine.model)
    return kept.card, kept.interventions[0]


def _spaces(way: Way, engine: HfEngine) -> tuple[CapSpace, ...]:
    return tuple(i for i in way.method(engine.info).interventions if isinstance(i, CapSpace))


def _reported(card: HoldCard, space: CapSpace, bench: Bench, axis: Direction, max_price: float) -> HoldCard:
    """The card with the hold, and what stands beside it, measured on attacks and conversations not chosen on."""
    held = Method(card.way, (space,))
    beside = [PLAIN, Method(f"system prompt: {ASSISTANT}", system=ASSISTANT)]
    paper = paper_recipe(axis)
    if paper.name != card.way:
        beside.append(paper.method(bench.engine.info))
    rows = [bench.measure(method) for method in (held, *beside)]
    gap = (float(np.nanmean(bench.attacked.ratio)), float(np.nanmean(bench.own.ratio)))
    known = card.model_copy(
        update={
            "held": rows[0], "compared": rows[1:], "gap": tuple(round(g, 5) for g in gap), "max_price": max_price,
            "reported_on": list(bench.kinds), "examples": _examples(bench, held),
        }
    )  # fmt: skip
    return known.model_copy(update={"remarks": remarks(known)})


def _examples(bench: Bench, held: Method) -> list[HoldExample]:
    """Answers side by side, of every kind in turn."""
    kinds = dict.fromkeys(bench.kinds, 0)
    found: list[HoldExample] = []
    for trial, plain, other in zip(bench.trials, bench.answers(PLAIN), bench.answers(held), strict=True):
        kind = trial.attack.kind
        if kinds[kind] * len(kinds) < EXAMPLES and len(found) < EXAMPLES:
            kinds[kind] += 1
            found.append(HoldExample(
                attack=trial.attack.name, kind=kind, question=trial.question, plain=plain.text, held=other.text,
            ))  # fmt: skip
    return found
