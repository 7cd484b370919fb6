"""Roles to the Assistant Axis and the persona map, after The Assistant Axis (2601.10387). Read `make_axis`.

This file does not know what an engine, a page or a role library looks like inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mien import evidence, persona_map, proof
from mien.card import Card, LayerEvidence, Rollouts
from mien.chat import ask
from mien.coherence import fit_coherence
from mien.directions import Direction, load_direction, save_direction
from mien.dose import refused as refused_by
from mien.dose import seed_of
from mien.errors import InputError, MienError, NothingKeptError
from mien.gauges import bundled_gauges
from mien.home import kept_directions
from mien.jobs.axis_report import report_of, save_map
from mien.jobs.casting import JUDGED_TOKENS, PARTLY, Play, RoleJudge, by_likelihood
from mien.jobs.extract import check_draws, versions
from mien.progress import Progress, Silent
from mien.records import Engine, ModelInfo, Rollout, Sampling, WriteRequest
from mien.report.axis_page import write_axis_page
from mien.roles import RoleSet, roles_hash
from mien.rollouts import readings_of, write_rollouts
from mien.spec import load_neutral
from mien.store import RunFolder, write_atomic

NEAR = 5
"""Layers to either side at which a trait that is known at one layer is drawn. Of two traits whose whole vectors are at
hand, the rows there have cosines of 0.6 to 0.9 with that of the layer."""
MAX_EVIDENCE = 1500
"""Most answers that the held-out tests are made on; more would not fit into memory and change little."""


@dataclass(frozen=True)
class Cast:
    """Everything that was played: answers in the order of `plays`, and how each was judged (default: always kept)."""

    plays: tuple[Play, ...]
    rollouts: tuple[Rollout, ...]
    kept: tuple[bool, ...]
    scores: tuple[float | None, ...]
    """0-100: in the role; None where that could not be said."""
    refused: tuple[bool, ...]

    def share(self, role: int) -> float:
        """Share of a role's answers that are in the role."""
        mine = [kept for play, kept in zip(self.plays, self.kept, strict=True) if play.role == role]
        return sum(mine) / max(len(mine), 1)


def make_axis(
    roles: RoleSet,
    engine: Engine,
    out: Path,
    *,
    name: str = "assistant",
    max_tokens: int = 40,
    temperature: float = 0.7,
    seed: int = 0,
    traits: Sequence[Direction] = (),
    judge: RoleJudge | None = None,
    clock: Callable[[], float] | None = None,
    progress: Progress | None = None,
) -> Direction:
    """Make the axis, prove it, and leave it in `out` with its card, map and page. Goes on where an earlier run stopped.

    Args:
        traits: directions of the same model to place on the map, at the layers where they are not zero.
        judge: who says whether a role was played; the likelihood judge with the model itself if None.
        clock: seconds, such as `time.monotonic`: the page then says what other numbers of roles would take here. None
            leaves times out, and the same seed gives the same bytes.

    Raises:
        InputError: a setting that cannot be used.
        NothingKeptError: fewer than three roles were played.
        RunError: `out` holds another run, is in use, or cannot be written.
    """
    settings, show = _settings(roles, engine, max_tokens, temperature, seed, judge), progress or Silent()
    manifest = {
        "job": "axis", "name": name, "roles": roles_hash(roles), "model": engine.info.id,
        "fingerprint": engine.info.fingerprint, "settings": settings, "versions": versions(),
    }  # fmt: skip
    with RunFolder(out, manifest) as run:
        begun, before = clock() if clock else 0.0, len(run.stage("answers").done)
        cast = play(roles, engine, Sampling(max_tokens, temperature), seed, run, show, judge)
        pace = _pace(out, clock() - begun, len(cast.plays) - before) if clock else None
        played = [i for i in range(len(roles.roles)) if cast.share(i) >= PARTLY]
        if len(played) < 3:
            raise NothingKeptError(
                f"{engine.info.id} played {len(played)} of {len(roles.roles)} roles, too few for an axis; use more "
                f"roles or questions, longer answers (--max-tokens), or a larger model."
            )
        found = means(cast, played, run, engine)
        direction = Direction(torch.from_numpy(found.axis).float(), _card(name, engine, settings, cast))
        by_roles = persona_map.split_half_roles(found.halves, found.roles, np.random.default_rng(seed)).mean(0)
        direction = _proven(direction, cast, played, by_roles, run, engine, seed)
        save_direction(direction, out)
        report = report_of(direction, engine.info.chat, roles, cast, played, found, by_roles, traits, pace, seed)
        save_map(report, found, [roles.roles[i].name for i in played], out)
        write_axis_page(report, out)
    return direction


def known_traits(model: ModelInfo) -> list[Direction]:
    """Directions of traits to be placed on this model's map: those kept here, and of others what comes with mien."""
    kept = kept_traits(model)
    names = {direction.card.name for direction in kept}
    return [*kept, *(direction for direction in bundled_traits(model) if direction.card.name not in names)]


def bundled_traits(model: ModelInfo) -> list[Direction]:
    """What the bundled gauges push along, if they are this model's: zero but at the layers `NEAR` the one layer that is
    known of each.
    """
    gauges = bundled_gauges(model.id)
    if gauges is None or gauges.fingerprint != model.fingerprint:
        return []
    found = []
    for gauge in gauges.gauges:
        if gauge.push is None or gauge.kind == "axis":
            continue
        rows = torch.zeros(model.n_layers, model.d_model)
        rows[max(0, gauge.push.layer - NEAR) : gauge.push.layer + NEAR + 1] = torch.from_numpy(gauge.push.vector)
        card = Card(
            kind="persona_vector", name=gauge.name, description=gauge.description,
            sign="larger shows more of the trait", model=model.id, fingerprint=model.fingerprint,
            n_layers=model.n_layers, d_model=model.d_model, recommended_layer=gauge.push.layer,
        )  # fmt: skip
        found.append(Direction(rows, card))
    return found


def kept_traits(model: ModelInfo) -> list[Direction]:
    """Persona vectors of this model that are kept here, to be placed on the map."""
    found = []
    for folder in kept_directions(model.id).values():
        try:
            direction = load_direction(folder)
            direction.check_model(model)
        except MienError:
            continue
        if direction.card.kind == "persona_vector":
            found.append(direction)
    return found


def _pace(out: Path, seconds: float, answers: int) -> float | None:
    """Seconds an answer, over all the processes that worked on this run; kept beside it."""
    path = out / "timing.json"
    try:
        known = json.loads(path.read_text("utf-8"))
        total, count = float(known["seconds"]), int(known["answers"])
    except (OSError, ValueError, KeyError, TypeError):
        total, count = 0.0, 0
    if answers > 0:
        total, count = total + seconds, count + answers
        write_atomic(path, json.dumps({"seconds": round(total, 3), "answers": count}) + "\n")
    return total / count if count else None


def _proven(
    direction: Direction, cast: Cast, played: Sequence[int], by_roles: np.ndarray, run: RunFolder, engine: Engine,
    seed: int,
) -> Direction:  # fmt: skip
    """The direction with its card complete. `by_roles` `[l]`: how well halves of the roles agree."""
    layers = proof.layer_evidence(_evidence(cast, played, run, seed), direction, seed)
    layer, reason = choose_layer(layers, by_roles)
    projections = _default_projections(cast, run, direction)
    card = direction.card.model_copy(
        update={
            "layers": layers, "recommended_layer": layer, "layer_choice": reason,
            "baseline": proof.baseline(projections[:, layer]),
            **verdict(layers[layer], float(by_roles[layer]), len(played), engine),
        }
    )  # fmt: skip
    return Direction(direction.vector, card, proof.quantiles(projections))


def _settings(
    roles: RoleSet, engine: Engine, max_tokens: int, temperature: float, seed: int, judge: RoleJudge | None
) -> dict[str, object]:
    check_draws(seed, temperature)
    if max_tokens < 4:
        raise InputError(f"Answers of {max_tokens} tokens say too little of a role; give at least 4.")
    return {
        "roles": len(roles.roles), "questions": len(roles.questions), "source": roles.source, "seed": seed,
        "max_tokens": max_tokens, "temperature": temperature, "dtype": engine.info.dtype,
        "judge": judge.identity if judge else f"likelihood, role against default prompt, {JUDGED_TOKENS} tokens",
    }  # fmt: skip


def play(
    roles: RoleSet, engine: Engine, sampling: Sampling, seed: int, run: RunFolder, show: Progress,
    judge: RoleJudge | None = None,
) -> Cast:  # fmt: skip
    """Every role answers every question, asked for in turn in each of its ways; the default Assistant likewise."""
    plays = [Play(i, q, (q + i) % len(role.ways)) for i, role in enumerate(roles.roles)
             for q in range(len(roles.questions))]  # fmt: skip
    plays += [Play(None, q, way) for q in range(len(roles.questions)) for way in range(len(roles.default_ways))]
    requests = [
        WriteRequest(p.key, ask(roles.questions[p.question], _way(roles, p, engine)), seed_of(seed, p.key))
        for p in plays
    ]
    show.begin(f"{len(roles.roles)} roles x {len(roles.questions)} questions: writing and reading", len(requests))
    rollouts = write_rollouts(engine, requests, sampling, run.stage("answers"), show)
    return _judged(roles, engine, plays, rollouts, seed, run, show, judge)


def _way(roles: RoleSet, p: Play, engine: Engine) -> str | None:
    way = (roles.default_ways if p.role is None else roles.roles[p.role].ways)[p.way]
    return way.replace("{model_name}", engine.info.id) or None  # a slot that published prompts have


def _judged(
    roles: RoleSet, engine: Engine, plays: list[Play], rollouts: list[Rollout], seed: int, run: RunFolder,
    show: Progress, judge: RoleJudge | None,
) -> Cast:  # fmt: skip
    """The answers with what the judge makes of them, and which are kept: in the role, sound text, and no refusal."""
    stage = run.stage("scores")
    if judge is None:
        found = by_likelihood(roles, engine, plays, rollouts, seed, stage, show)
    else:
        found = judge(roles, plays, rollouts, stage, show)
    plain = [r for r, p in zip(rollouts, plays, strict=True) if p.role is None]
    sound = fit_coherence(engine, plain, seed)
    phrases = load_neutral().refusals
    kept, refused = [], []
    for i, (p, rollout) in enumerate(zip(plays, rollouts, strict=True)):
        value, clear = found.get(i), sound(rollout.logprob, rollout.response_ids)
        text = bool(rollout.text.strip())
        refused.append(refused_by(rollout.text, phrases))
        # Exactly 50 is what everything gets from a judge that cannot tell the sides apart.
        in_role = value is not None and value > 50 and clear is not None and clear >= 50 and not refused[-1]
        kept.append(text and (p.role is None or in_role))
    return Cast(tuple(plays), tuple(rollouts), tuple(kept), tuple(found.get(i) for i in range(len(plays))),
                tuple(refused))  # fmt: skip


def means(cast: Cast, played: Sequence[int], run: RunFolder, engine: Engine) -> persona_map.RoleMeans:
    """Mean readings of the default's answers, of two halves of them, and of each played role's kept answers."""
    place = {role: n for n, role in enumerate(played)}
    shape = (engine.info.n_layers, engine.info.d_model)
    sums, counts = np.zeros((len(played), *shape)), np.zeros(len(played))
    halves, of_half = np.zeros((2, *shape)), np.zeros(2)
    ways = len({p.way for p in cast.plays if p.role is None})
    wanted = {r.id: p for r, p, kept in zip(cast.rollouts, cast.plays, cast.kept, strict=True) if kept}
    for reading in run.stage("answers").readings():
        p = wanted.get(reading.id)
        if p is None:
            continue
        if p.role is None:
            # By the way it was asked, so that both halves answer the same questions.
            half = (p.way if ways > 1 else p.question) % 2
            halves[half] += reading.mean
            of_half[half] += 1
        elif p.role in place:
            sums[place[p.role]] += reading.mean
            counts[place[p.role]] += 1
    if not of_half.all():
        raise NothingKeptError("The default Assistant's answers are all empty, so there is nothing to compare with.")
    return persona_map.RoleMeans(
        halves.sum(0) / of_half.sum(), halves / of_half[:, None, None], sums / np.maximum(counts, 1)[:, None, None]
    )


def _evidence(cast: Cast, played: Sequence[int], run: RunFolder, seed: int) -> evidence.Readings:
    """Kept answers with the default's as positives; a random part of them if there are very many."""
    inside = set(played)
    chosen = [i for i, p in enumerate(cast.plays) if cast.kept[i] and (p.role is None or p.role in inside)]
    if len(chosen) > MAX_EVIDENCE:
        order = np.random.default_rng(seed).permutation(len(chosen))[:MAX_EVIDENCE]
        chosen = [chosen[i] for i in np.sort(order)]
    readings = readings_of(run.stage("answers"), [cast.rollouts[i] for i in chosen])
    return evidence.Readings(
        np.stack([r.mean for r in readings]),
        np.array([cast.plays[i].role is None for i in chosen]),
        np.array([cast.plays[i].question for i in chosen]),
    )


def _default_projections(cast: Cast, run: RunFolder, direction: Direction) -> np.ndarray:
    plain = [r for r, p, kept in zip(cast.rollouts, cast.plays, cast.kept, strict=True) if p.role is None and kept]
    return proof.plain_projections(run, plain, direction, "answers")


def choose_layer(layers: Sequence[LayerEvidence], by_roles: np.ndarray) -> tuple[int, str]:
    """The layer between a fifth and six sevenths of the depth whose axis repeats best, among those that read nearly as
    well as the best (held-out AUC within 0.02).
    """
    n = len(layers)
    inner = [e for e in layers if n // 5 <= e.layer <= (6 * n) // 7] or list(layers)
    best = max(e.auc for e in inner)
    good = [e for e in inner if e.auc >= best - 0.02]
    found = max(good, key=lambda e: (e.split_half_cosine + float(by_roles[e.layer]), -e.layer))
    return found.layer, (
        f"of the layers whose held-out AUC is within 0.02 of the best ({best:.2f}), the one whose axis agrees best "
        f"between halves of the roles and of the questions"
    )


def verdict(at: LayerEvidence, by_roles: float, played: int, engine: Engine) -> dict[str, object]:
    """Strong, usable or weak, with reasons in sentences."""
    told = (
        f"It tells the default Assistant's answers from the roles' on unused questions (AUC {at.auc:.2f}, shuffled "
        f"labels {at.auc_null:.2f}); two halves of the roles agree to a cosine of {by_roles:.2f}, two halves of the "
        f"questions to {at.split_half_cosine:.2f}."
    )
    few = f"Only {played} roles were played." if played < 20 else None
    if at.auc < max(0.7, at.auc_null) or by_roles < 0.5 or at.split_half_cosine < 0.4:
        word, first = "weak", "Weak: do not rely on this axis. "
    elif at.auc >= 0.9 and by_roles >= 0.85 and not few:
        word, first = "strong", "Strong. "
    else:
        word, first = "usable", "Usable, with care. "
    base = (
        None if engine.info.chat else
        "This is a base model: its Assistant is what it writes after the word Assistant in a transcript, a character "
        "it knows from reading, not one it was trained to be."
    )  # fmt: skip
    return {"verdict": word, "verdict_reasons": [first + told, *(s for s in (few, base) if s)]}


def _card(name: str, engine: Engine, settings: dict[str, object], cast: Cast) -> Card:
    info = engine.info
    asked = sum(p.role is not None for p in cast.plays)
    kept = sum(k for k, p in zip(cast.kept, cast.plays, strict=True) if p.role is not None)
    return Card(
        kind="assistant_axis", name=name, description="how near an answer is to the default Assistant",
        sign="larger is nearer to the Assistant", model=info.id, fingerprint=info.fingerprint,
        n_layers=info.n_layers, d_model=info.d_model, settings=settings, versions=versions(),
        rollouts=Rollouts(asked=asked, kept=kept, dropped={"not judged to be in the role": asked - kept},
                          stopped_early=False),
    )  # fmt: skip
