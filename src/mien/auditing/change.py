"""What fine-tuning changed without anybody naming it: the top directions of activation change on the same texts.

For each text `D = a_tuned - a_base`, the mean stream over the same answer read by both models. Its singular vectors,
not centred (what is added to every text is the change), are the top directions; each has a share of the squared change.
They are named by the nearest of many known directions, if nearer than directions along which texts differ anyhow.
Pure numpy. Shapes: t texts, l layers, d width, n names, c directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOP = 4
"""Directions that are told."""
NEAREST = 5
"""Names of each."""
_NULLS = 500


@dataclass(frozen=True)
class LayerChange:
    """How much has changed at one layer."""

    layer: int
    relative: float
    """Root-mean-square change over texts, as a share of how much texts differ under the base model."""
    common: float
    """Share of the squared change that is the same for all texts."""
    first: float
    """Share of the first direction."""


@dataclass(frozen=True)
class Name:
    """A known direction near one of change."""

    name: str
    kind: str
    """trait or role."""
    cosine: float
    """Above zero: the change goes towards it."""


@dataclass(frozen=True)
class TopDirection:
    """One direction of change."""

    vector: Floats
    """`[d]`, a unit vector; texts move towards it on average."""
    share: float
    """Of the squared change at its layer."""
    low: float
    """95 % interval, texts drawn with replacement."""
    high: float
    same_way: float
    """Share of texts that move along it in the same sense as their mean."""
    names: tuple[Name, ...]
    """The nearest, nearest first; empty where none is nearer than chance."""


@dataclass(frozen=True)
class Change:
    """Everything about the change."""

    layers: tuple[LayerChange, ...]
    layer: int
    """At which the directions are told: in the middle of the depth, where most has changed."""
    top: tuple[TopDirection, ...]
    chance: float
    """95th percentile of the largest absolute cosine of a direction along which texts differ with any of the names."""
    mean_names: tuple[Name, ...]
    """Nearest to the mean change."""


def change_of(
    base: NDArray[np.float32], tuned: NDArray[np.float32], names: Sequence[tuple[str, str]],
    vectors: NDArray[np.float32], seed: int = 0,
) -> Change:  # fmt: skip
    """Compare two models' readings of the same texts.

    Args:
        base, tuned: `[t, l, d]`.
        names: `(name, kind)` of the known directions.
        vectors: `[n, l, d]`, they.
    """
    layers = tuple(_layer_change(k, base[:, k].astype(np.float64), tuned[:, k].astype(np.float64))
                   for k in range(base.shape[1]))  # fmt: skip
    middle = [c for c in layers if len(layers) // 4 <= c.layer < max(len(layers) // 4 + 1, 2 * len(layers) // 3)]
    layer = max(middle, key=lambda c: (c.relative, -c.layer)).layer
    before, moved = base[:, layer].astype(np.float64), (tuned[:, layer] - base[:, layer]).astype(np.float64)
    known = _units(vectors[:, layer].astype(np.float64))
    rng = np.random.default_rng(seed)
    chance = _chance(before, known, rng)
    return Change(
        layers, layer, tuple(_top(moved, known, names, chance, rng)), chance,
        nearest(moved.mean(0), known, names, chance),
    )  # fmt: skip


def _layer_change(layer: int, before: Floats, after: Floats) -> LayerChange:
    moved, spread = after - before, before - before.mean(0)
    total = float((moved**2).sum())
    differ = float((spread**2).sum())
    if not total > 0:
        return LayerChange(layer, 0.0, 0.0, 0.0)
    sizes = np.linalg.svd(moved, compute_uv=False) ** 2
    common = float(len(moved) * (moved.mean(0) ** 2).sum() / total)
    return LayerChange(layer, float(np.sqrt(total / differ)) if differ > 0 else 0.0, common, float(sizes[0] / total))


def _top(
    moved: Floats, known: Floats, names: Sequence[tuple[str, str]], chance: float, rng: np.random.Generator
) -> list[TopDirection]:
    total = float((moved**2).sum())
    if not total > 0:
        return []
    _, _, right = np.linalg.svd(moved, full_matrices=False)
    found = []
    for vector in right[:TOP]:
        along = moved @ vector
        sign = 1.0 if along.mean() >= 0 else -1.0
        draws = rng.integers(0, len(moved), (400, len(moved)))
        squares = (moved**2).sum(1)
        shares = (along**2)[draws].sum(1) / np.maximum(squares[draws].sum(1), 1e-300)
        low, high = np.quantile(shares, [0.025, 0.975])
        found.append(
            TopDirection(
                sign * vector, float((along**2).sum() / total), float(low), float(high),
                float((sign * along > 0).mean()), nearest(sign * vector, known, names, chance),
            )
        )  # fmt: skip
    return found


def nearest(vector: Floats, known: Floats, names: Sequence[tuple[str, str]], chance: float) -> tuple[Name, ...]:
    """The known directions `[n, d]` (unit vectors) that lie nearest to `[d]`, of those beyond chance."""
    size = float(np.linalg.norm(vector))
    if not size > 0 or not len(known):
        return ()
    cosines = known @ (vector / size)
    order = np.argsort(-np.abs(cosines), kind="stable")[:NEAREST]
    near = [int(i) for i in order if abs(cosines[i]) > chance]
    return tuple(Name(names[i][0], names[i][1], float(cosines[i])) for i in near)


def _units(rows: Floats) -> Floats:
    size = np.linalg.norm(rows, axis=-1, keepdims=True)
    found: Floats = rows / np.where(size > 0, size, 1.0)
    return found


def _chance(before: Floats, known: Floats, rng: np.random.Generator) -> float:
    """Random mixtures of how texts differ fill the same few dimensions as everything else, unlike plain noise."""
    if not len(known):
        return 1.0
    mixed = _units(rng.standard_normal((_NULLS, len(before))) @ (before - before.mean(0)))
    return float(np.quantile(np.abs(mixed @ known.T).max(1), 0.95))
