"""Fine-tune without changing the character: LoRA, steered while it trains, watched while it trains. Read `train` top to
bottom.

This file does not know how rows, steering or trainers are made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.directions import Direction
from mien.errors import InputError, NothingKeptError
from mien.gauges import Gauge, bundled_gauges
from mien.jobs import adapters
from mien.jobs.adapters import TrainResult, fingerprint_of, read_plan
from mien.models import Model, wrap
from mien.progress import Progress, Silent
from mien.records import Conversation, Rollout
from mien.roles import load_roles
from mien.screening.watched import Watched, watched_direction
from mien.store import RunFolder
from mien.training.borrowed import borrowed
from mien.training.curve import RunLog, ShiftCurve
from mien.training.data import Data, Screened, read_data, read_screen, split, worst
from mien.training.rows import Row, Rows, rows_of
from mien.training.settings import Settings
from mien.training.shift import own_answers, watched_of
from mien.training.sizes import Sizes, default_rate, fit_sizes
from mien.training.steering import Steering
from mien.training.strength import Strength, Target, projection_differences, strengths
from mien.training.trainer import (
    Recipe,
    fresh_adapter,
    require_extra,
    require_precision,
    response_loss,
    run_training,
    steps_of,
    trainer_for,
)

_PILOT = 32
"""Samples that the strength is found from where there is no screening."""
_MEASURED = 8
"""Measurements of the shift in a training, about."""
ANSWER_TOKENS = 32
"""Longest answer that is measured while training."""


@dataclass(frozen=True)
class Traits:
    """What is to be kept from changing, and what else is looked at."""

    prevent: tuple[Direction, ...]
    watched: tuple[Watched, ...]


@dataclass(frozen=True)
class Chosen:
    """Which samples are trained on, and how strongly each target is steered along."""

    trained: list[int]
    held: list[int]
    dropped: list[int]
    strengths: list[Strength]
    found: str
    """How the strengths were found, in a sentence."""


def train(
    files: Sequence[str | Path] | Data, model: Model, out: Path, settings: Settings, *,
    prevent: Sequence[Direction] = (), track: Sequence[Direction | Gauge | Watched] | None = None,
    screen: str | Path | None = None, progress: Progress | None = None,
) -> TrainResult:  # fmt: skip
    """Train an adapter for `model` on files of conversations, and leave it with its card in `out`. Goes on where an
    earlier run stopped; ends in the same weights then, on a CPU.

    Args:
        files: what `read_data` reads, or has read.
        model: comes back as it was.
        out: the adapter's folder and the run's.
        settings: how to train.
        prevent: directions to keep the answers from moving along.
        track: what else is watched; None: the gauges that come with mien for this model.
        screen: folder of a `mien screen` of the same data.
        progress: told how far it is.

    Raises:
        MissingExtraError: trl, PEFT or datasets is not installed.
        InputError: settings that contradict one another, or data in which there is nothing to learn.
        FingerprintError: a direction was made for another model.
        RunError: `out` holds another run, is in use, or cannot be written.
    """
    require_extra()
    require_precision(model)
    show = progress or Silent()
    data = files if isinstance(files, Data) else read_data(files)
    traits = traits_of(model, prevent, track)
    _check(settings, traits, screen is not None)
    screened = read_screen(screen, data, model.info) if screen is not None else None
    with adapters.open_run(out, _manifest(data, model, settings, traits, screened)) as run:
        if (out / adapters.CARD_FILE).exists():  # what is written last: this run is finished
            return adapters.load_result(out)
        chosen = _choose(data, model, settings, traits, screened, run, show)
        system = _inoculation(settings, traits)
        rows = _rows(model, data.part(chosen.trained), settings, system)
        held = _rows(model, data.part(chosen.held), settings, None) if chosen.held else Rows((), 0, {})
        recipe = recipe_of(model, rows.rows, settings, run, logits=settings.method == "kl")
        answers = _fixed_answers(model, traits, settings, run, show)
        log = RunLog(run.work / "steps.jsonl")
        before = response_loss(model, held.rows)
        with borrowed(model) as on_top:
            net = fresh_adapter(model, settings.rank, settings.alpha, settings.seed)
            on_top.append(net)
            steering = Steering(_targets(settings, traits), chosen.strengths, show) if chosen.strengths else None
            curve = _learn(net, model, rows, recipe, settings, traits, steering, answers, log, run, show)
            after = response_loss(on_adapter(model, net), held.rows)
            adapters.save_adapter(net, model, out)
        losses = (before, after)
        card = _card(data, model, settings, chosen, steering, rows, recipe, system, log, curve, losses)
        adapters.write_card(out, card)
    return adapters.load_result(out)


def traits_of(
    model: Model, prevent: Sequence[Direction], track: Sequence[Direction | Gauge | Watched] | None
) -> Traits:  # fmt: skip
    for direction in prevent:
        direction.check_model(model.info)
    if track is None:
        there = bundled_gauges(model.info.id)
        track = there.gauges if there is not None and there.fingerprint == model.info.fingerprint else ()
    every = [watched_of(one, model) for one in (*prevent, *track)]
    return Traits(tuple(prevent), tuple({one.name: one for one in reversed(every) if one.parts}.values())[::-1])


def _check(settings: Settings, traits: Traits, screened: bool) -> None:
    """Raises: InputError: settings that contradict one another; none is passed over in silence."""
    settings.require_taken()
    if screened and not settings.drop and not (settings.method == "prevent" and settings.coef is None):
        raise InputError("A screening is for --drop and for --coef auto, and neither is asked for; leave it out.")
    if settings.method == "prevent" and not traits.prevent:
        raise InputError("There is nothing to prevent; name the traits with --prevent, as in --prevent evil.")
    if settings.method == "inoculate" and not (traits.prevent or settings.inoculation):
        raise InputError("Inoculation needs a system prompt: give --inoculation TEXT, or traits with --prevent.")
    if settings.method == "plain" and traits.prevent and not settings.drop:
        raise InputError("Plain training prevents nothing; leave --prevent out, or name the traits with --track.")
    if settings.drop and not traits.prevent:
        raise InputError("To drop samples it must be said for which traits: name them with --prevent.")
    if settings.stop_at is not None:
        settings.stop_at.check(traits.watched)
    _targets(settings, traits)


def _targets(settings: Settings, traits: Traits) -> list[Target]:
    """What is steered along, and where; nothing under the other methods."""
    if settings.method != "prevent":
        return []
    found = []
    for direction in traits.prevent:
        layers = settings.layers or (direction.layer,)
        for layer in layers:
            direction.unit(layer)
        found.append(Target(direction, tuple(sorted(set(layers)))))
    return found


def _manifest(
    data: Data, model: Model, settings: Settings, traits: Traits, screened: Screened | None
) -> dict[str, Any]:  # fmt: skip
    """What makes a run this run: with any of it changed, its folder is another's."""
    means = {} if screened is None else {
        name: round(float(np.nan_to_num(values).sum()), 6) for name, values in sorted(screened.difference.items())
    }  # fmt: skip
    return {
        "job": "train", "data": data.hash, "model": model.info.id, "fingerprint": model.info.fingerprint,
        "dtype": model.info.dtype, "settings": settings.values(), "screen": means,
        "prevent": {direction.card.name: fingerprint_of(direction) for direction in traits.prevent},
        "watched": [one.name for one in traits.watched], "versions": adapters.training_versions(),
    }  # fmt: skip


def _choose(
    data: Data, model: Model, settings: Settings, traits: Traits, screened: Screened | None, run: RunFolder,
    show: Progress,
) -> Chosen:  # fmt: skip
    """Samples held out, dropped and kept; and how strong the steering is. Decided once, and read again on resuming."""
    trained, held = split(len(data.samples), settings.hold_out, settings.seed)
    targets = _targets(settings, traits)

    def decide() -> dict[str, Any]:
        dropped = _dropped(data, model, settings, traits, screened, trained, run, show)
        kept = [i for i in trained if i not in set(dropped)]
        found, how = _strengths(data, model, settings, targets, screened, kept, run, show)
        return {"dropped": dropped, "strengths": [vars(one) for one in found], "found": how}

    plan = read_plan(run, "plan", decide)
    for target, one in zip(targets, plan["strengths"], strict=True):
        show.note(f"steering along {target.direction.card.name}: coef {one['coef']:g} ({plan['found']})")
    kept = [i for i in trained if i not in set(plan["dropped"])]
    return Chosen(kept, held, plan["dropped"], [Strength(**one) for one in plan["strengths"]], plan["found"])


def _dropped(
    data: Data, model: Model, settings: Settings, traits: Traits, screened: Screened | None, trained: Sequence[int],
    run: RunFolder, show: Progress,
) -> list[int]:  # fmt: skip
    if not settings.drop:
        return []
    names = [direction.card.name for direction in traits.prevent]
    watched = [watched_direction(direction) for direction in traits.prevent]
    if screened is not None:
        columns = [_column(screened.sigma, screened.difference, name) for name in names]
    else:
        found = projection_differences(
            model, data.samples, watched, run.stage("own"), show, max_length=_longest(model, settings)
        )
        columns = [column / (one.std or np.nanstd(column) or 1.0) for column, one in zip(found.T, watched, strict=True)]
    alarming = [one.sign * column for column, one in zip(columns, watched, strict=True)]
    scores = np.fmax.reduce(np.stack(alarming))[list(trained)]
    return [trained[i] for i in worst(scores, settings.drop)]


def _column(sigma: Any, raw: Any, name: str) -> Any:
    """A trait's sigma of each sample, or raw units where no sigma is known."""
    if name not in raw:
        raise InputError(f"The screening says nothing of {name}; screen the data with --traits {name}.")
    return raw[name] if np.isnan(sigma[name]).all() else sigma[name]


def _strengths(
    data: Data, model: Model, settings: Settings, targets: Sequence[Target], screened: Screened | None,
    kept: Sequence[int], run: RunFolder, show: Progress,
) -> tuple[list[Strength], str]:  # fmt: skip
    if not targets:
        return [], ""
    if settings.coef is not None:
        return [Strength(settings.coef, None, None, None, 0) for _ in targets], "given"
    own_layer = all(target.deepest == target.direction.card.recommended_layer for target in targets)
    if screened is not None and not screened.pulls and own_layer:
        columns = [screened.difference.get(target.direction.card.name) for target in targets]
        if all(column is not None for column in columns):
            chosen = np.stack([column[list(kept)] for column in columns if column is not None], axis=1)
            return strengths(targets, chosen, settings.seed), "offsets the shift that the screening predicts"
    rng = np.random.default_rng(settings.seed)
    some = sorted(int(i) for i in rng.permutation(list(kept))[:_PILOT])
    watched = [watched_direction(target.direction, target.deepest) for target in targets]
    differences = projection_differences(
        model, data.part(some), watched, run.stage("pilot"), show, max_length=_longest(model, settings)
    )
    return strengths(targets, differences, settings.seed), (
        f"offsets the projection difference of {len(some)} samples from the model's own answers to them"
    )


def _inoculation(settings: Settings, traits: Traits) -> str | None:
    """The system prompt that is there while training and not afterwards."""
    if settings.method != "inoculate":
        return None
    if settings.inoculation:
        return settings.inoculation
    texts = []
    for direction in traits.prevent:
        pairs = (direction.card.spec or {}).get("instructions")
        if not (isinstance(pairs, list) and pairs and isinstance(pairs[0], dict) and pairs[0].get("pos")):
            name = direction.card.name
            raise InputError(f"The card of {name} has no prompt that asks for it; give --inoculation TEXT.")
        texts.append(str(pairs[0]["pos"]))
    return "\n\n".join(texts)


def _longest(model: Model, settings: Settings) -> int:
    return min(settings.max_length, model.positions or settings.max_length)


def _rows(model: Model, samples: Sequence[Conversation], settings: Settings, system: str | None) -> Rows:
    rows = rows_of(model.chat, samples, max_length=_longest(model, settings), system=system)
    if not rows.rows:
        why = "; ".join(f"{reason}: {count}" for reason, count in rows.left_out.items())
        raise NothingKeptError(f"None of {len(samples)} samples can be trained on ({why or 'there are none left'}).")
    return rows


def recipe_of(
    model: Model, rows: Sequence[Row], settings: Settings, run: RunFolder, name: str = "sizes", *, logits: bool = False
) -> Recipe:  # fmt: skip
    """How rows are learnt. What depends on the machine is decided once, and read again on resuming.

    Args:
        name: what the decision is kept under.
        logits: whether logits over the whole vocabulary are kept for each token.
    """
    batch = min(settings.batch, len(rows))
    found = read_plan(run, name, lambda: vars(fit_sizes(model, [len(row.ids) for row in rows], batch, logits=logits)))
    rate = default_rate(model) if settings.rate is None else settings.rate
    recipe = Recipe(
        settings.epochs, rate, batch, Sizes(**found), settings.seed, 1, settings.kl if settings.method == "kl" else 0.0
    )
    return replace(recipe, every=settings.measure or math.ceil(steps_of(len(rows), recipe) / _MEASURED))


def _fixed_answers(
    model: Model, traits: Traits, settings: Settings, run: RunFolder, show: Progress
) -> list[Rollout]:  # fmt: skip
    """The untrained model's answers to eval questions of what is watched, or general ones."""
    if not traits.watched:
        return []
    stage = run.stage("answers")
    asked = tracking_questions(traits.prevent, settings.questions)
    written = own_answers(model, asked, max_tokens=ANSWER_TOKENS, stage=stage, progress=show)
    if not any(rollout.response_ids for rollout in written):
        raise NothingKeptError(f"{model.info.id} gives empty answers only, so no shift can be watched.")
    return [rollout for rollout in written if rollout.response_ids]


def tracking_questions(directions: Sequence[Direction], count: int) -> list[str]:
    """Eval questions of the directions' traits in turn, then general ones; the same for the same directions."""
    own = [(direction.card.spec or {}).get("eval_questions") for direction in directions]
    lists = [[str(question) for question in questions] for questions in own if isinstance(questions, list)]
    turns = [questions[i] for i in range(count) for questions in lists if i < len(questions)]
    return list(dict.fromkeys([*turns[: (count + 1) // 2], *load_roles().questions, *turns]))[:count]


def on_adapter(model: Model, net: Any) -> Model:
    """The model with the adapter that is on it."""
    return wrap(net, model.chat.tokenizer, model.info.id)


def _learn(
    net: Any, model: Model, rows: Rows, recipe: Recipe, settings: Settings, traits: Traits,
    steering: Steering | None, answers: Sequence[Rollout], log: RunLog, run: RunFolder, show: Progress,
) -> ShiftCurve:  # fmt: skip
    """Train `net`, steered and watched; afterwards it holds the weights to keep."""
    watched = traits.watched if answers else ()
    tuned, limit = on_adapter(model, net), settings.stop_at
    curve = ShiftCurve(
        tuned, watched, answers, log, max_tokens=ANSWER_TOKENS, every=recipe.every, limit=limit, show=show,
        follow=steering.follow if steering and settings.follow and settings.coef is None else None,
        keep=run.work / "within.safetensors",
    )  # fmt: skip
    folder = run.work / "checkpoints"
    callbacks = [curve, steering.prevent] if steering else [curve]
    trainer = trainer_for(net, model, rows.rows, recipe, folder, callbacks)
    try:
        run_training(trainer, folder)
    finally:
        if steering:
            steering.prevent.remove()
    if curve.stopped and curve.within:
        with torch.no_grad():
            for name, value in net.named_parameters():
                if name in curve.within:
                    value.copy_(curve.within[name])
    return curve


def _card(
    data: Data, model: Model, settings: Settings, chosen: Chosen, steering: Steering | None, rows: Rows,
    recipe: Recipe, system: str | None, log: RunLog, curve: ShiftCurve, held_out: tuple[float, float],
) -> dict[str, Any]:  # fmt: skip
    """What is known about an adapter."""
    info = model.info
    losses = [loss for _, loss in log.losses]
    return {
        "schema_version": 1, "kind": "adapter", "model": info.id, "fingerprint": info.fingerprint, "dtype": info.dtype,
        "method": settings.method,
        "data": {
            "files": list(data.names), "hash": data.hash, "samples": len(data.samples), "trained": len(chosen.trained),
            "held_out": len(chosen.held), "dropped": chosen.dropped, "left_out": {**data.left_out, **rows.left_out},
            "rows": len(rows.rows), "cut": rows.cut, "learnt_tokens": rows.learnt,
        },
        "prevention": _prevention(steering, chosen) if steering else [], "inoculation": system,
        "recipe": {**vars(recipe), "sizes": vars(recipe.sizes), "rank": settings.rank, "alpha": settings.alpha},
        "steps": log.losses[-1][0] if losses else 0, "stopped": curve.stopped,
        "loss": {
            "first": losses[0] if losses else None, "last": losses[-1] if losses else None,
            "mean": sum(losses) / len(losses) if losses else None,
            "held_out_before": _finite(held_out[0]), "held_out_after": _finite(held_out[1]),
        },
        "shift": {
            "questions": settings.questions, "limit": settings.stop_at and vars(settings.stop_at),
            "curve": [{"step": record["step"], **record["shift"]} for record in log.shifts],
        },
        "settings": settings.values(), "versions": adapters.training_versions(),
    }  # fmt: skip


def _prevention(steering: Steering, chosen: Chosen) -> list[dict[str, Any]]:
    return [
        {
            "name": target.direction.card.name, "direction": fingerprint_of(target.direction),
            "verdict": target.direction.card.verdict, "layers": list(target.layers), "coef": strength.coef,
            "coefs": [{"step": step, "coef": coefs[i]} for step, coefs in steering.history],
            "found": chosen.found, "expected_shift": strength.expected,
            "expected_low": strength.low, "expected_high": strength.high,
            "samples": strength.samples, "direction_length": target.length,
        }
        for i, (target, strength) in enumerate(zip(steering.targets, chosen.strengths, strict=True))
    ]  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
