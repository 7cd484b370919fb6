"""What an axis run found, as the persona map's page and files have it. Does not know how anything was judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mien import persona_map
from mien.directions import Direction
from mien.jobs.casting import FULLY
from mien.report.axis_data import AxisLayer, AxisReport, CostPoint, NotPlayed, RolePoint, TraitPoint
from mien.roles import RoleSet
from mien.store import write_atomic

if TYPE_CHECKING:
    from mien.jobs.axis import Cast

COUNTS = (3, 5, 10, 20, 40, 60, 80, 100, 120, 140)
"""Numbers of roles at which the axis' stability is stated."""
_EXAMPLE = 300
"""Characters of a role's example answer on the map."""


def report_of(
    direction: Direction, chat: bool, roles: RoleSet, cast: Cast, played: Sequence[int],
    found: persona_map.RoleMeans, by_roles: np.ndarray, traits: Sequence[Direction], pace: float | None, seed: int,
) -> AxisReport:  # fmt: skip
    """Everything the page shows. `by_roles` `[l]`: how well halves of the roles agree; `pace`: seconds an answer."""
    card = direction.card
    default, means, axis = found.default, found.roles, found.axis
    maps = [persona_map.layer_map(default[k], means[:, k]) for k in range(len(default))]
    spread = _spread(direction)
    units = axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-12)
    layers = tuple(
        AxisLayer(
            layer=k, variance=tuple(float(v) for v in m.variance[:10]), components_70=m.components_70,
            cosine_pc1=abs(float(persona_map.cosine(axis[k], m.components[0]))), norm=float(np.linalg.norm(axis[k])),
            split_half_roles=float(by_roles[k]), split_half_questions=card.layers[k].split_half_cosine,
            default_x=float(m.places[-1, 0]), default_y=float(m.places[-1, 1]),
        )
        for k, m in enumerate(maps)
    )  # fmt: skip
    points = tuple(
        _point(roles, cast, role, n, maps, ((means[n] - default) * units).sum(1) / spread)
        for n, role in enumerate(played)
    )
    at = card.recommended_layer or 0
    cost = persona_map.cosine_by_count(
        found.halves[:, at], means[:, at], list(COUNTS), np.random.default_rng(seed)
    )  # fmt: skip
    return AxisReport(
        name=card.name, model=card.model, chat=chat, description=card.description, verdict=card.verdict,
        reasons=tuple(card.verdict_reasons), layers=layers, recommended_layer=at, roles=points,
        traits=tuple(_trait(t, units, maps) for t in traits), not_played=_not_played(roles, cast, played),
        cost=tuple(CostPoint(n, c, low, high, _seconds(roles, n, pace)) for n, c, low, high in cost),
        notes=("The cosine by number of roles is with the axis of the other roles, so it understates the whole axis.",
               *_partly_known(traits)),
        settings=card.settings,
    )  # fmt: skip


def _seconds(roles: RoleSet, count: int, pace: float | None) -> float | None:
    """What `count` roles and the default take, each answering all questions."""
    answers = len(roles.questions) * (count + len(roles.default_ways))
    return None if pace is None else round(pace * answers, 1)


def _spread(direction: Direction) -> np.ndarray:
    """`[l]`: one sigma of the default answers' projections, from their quantiles (16 to 84 %)."""
    assert direction.baseline is not None
    rows = direction.baseline.numpy()
    marks = np.linspace(0, 1, rows.shape[1])
    low, high = (np.array([np.interp(q, marks, row) for row in rows]) for q in (0.159, 0.841))
    return np.asarray(np.maximum((high - low) / 2, 1e-9))


def _point(
    roles: RoleSet, cast: Cast, role: int, n: int, maps: Sequence[persona_map.LayerMap], projection: np.ndarray
) -> RolePoint:
    mine = [i for i, p in enumerate(cast.plays) if p.role == role and cast.kept[i]]
    best = max(mine, key=lambda i: (cast.scores[i] or 0, -i))
    return RolePoint(
        name=roles.roles[role].name, description=roles.roles[role].description, distance=roles.roles[role].distance,
        n=len(mine), question=roles.questions[cast.plays[best].question], example=cast.rollouts[best].text[:_EXAMPLE],
        projection=tuple(float(v) for v in projection),
        x=tuple(float(m.places[n, 0]) for m in maps), y=tuple(float(m.places[n, 1]) for m in maps),
    )  # fmt: skip


def _trait(trait: Direction, units: np.ndarray, maps: Sequence[persona_map.LayerMap]) -> TraitPoint:
    rows = trait.vector.double().numpy()
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.where(size > 0, rows / np.maximum(size, 1e-12), np.nan)  # where it is not known, it has no place
    return TraitPoint(
        trait.card.name, tuple(float(v) for v in (rows * units).sum(1)),
        tuple(float(row @ m.components[0]) for row, m in zip(rows, maps, strict=True)),
        tuple(float(row @ m.components[1]) for row, m in zip(rows, maps, strict=True)),
    )  # fmt: skip


def _partly_known(traits: Sequence[Direction]) -> tuple[str, ...]:
    """A sentence on traits that come with mien, of which one layer is known."""
    some = [t.card for t in traits if not t.vector.norm(dim=1).all()]
    if not some:
        return ()
    named = ", ".join(f"{card.name} (layer {card.recommended_layer})" for card in some)
    return (
        f"Of these traits, which come with mien, one layer is known, and they are drawn at the layers near it: "
        f"{named}. Away from that layer take them as approximate; mien extract makes a trait's whole vector.",
    )


def _not_played(roles: RoleSet, cast: Cast, played: Sequence[int]) -> tuple[NotPlayed, ...]:
    found = []
    for i, role in enumerate(roles.roles):
        share = cast.share(i)
        mine = [r for p, r in zip(cast.plays, cast.refused, strict=True) if p.role == i]
        if i not in played:
            why = "refused" if sum(mine) > len(mine) / 2 else "not played"
            found.append(NotPlayed(role.name, f"{why}: {share:.0%} of {len(mine)} answers are in the role"))
        elif share < FULLY:
            found.append(NotPlayed(role.name, f"played partly, and used: {share:.0%} of {len(mine)} answers"))
    return tuple(found)


def save_map(report: AxisReport, found: persona_map.RoleMeans, names: Sequence[str], out: Path) -> None:
    """`axis.safetensors` (`axis [l, d]`, `default [l, d]`, `roles [r, l, d]`, float32, raw; role names in the metadata)
    and `map.json` (the map in figures).

    Raises:
        RunError: the disk refuses.
    """
    from safetensors.numpy import save

    tensors = {"axis": found.axis, "default": found.default, "roles": found.roles}
    data = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    write_atomic(out / "axis.safetensors", save(data, metadata={"roles": json.dumps(list(names))}))
    write_atomic(out / "map.json", json.dumps(_rounded(asdict(report)), ensure_ascii=True, indent=1) + "\n")


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else None
    return value
