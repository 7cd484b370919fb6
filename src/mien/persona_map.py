"""The maths of the Assistant Axis (2601.10387): axis, principal components, stability. Pure numpy.

Shapes: r roles, q questions, l layers, d width, c components. This file does not know models, prompts or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RoleMeans:
    """Mean readings, raw."""

    default: Floats
    """`[l, d]` of the default Assistant's answers."""
    halves: Floats
    """`[2, l, d]` of two halves of them."""
    roles: Floats
    """`[r, l, d]` of each role's answers."""

    @property
    def axis(self) -> Floats:
        """`[l, d]`."""
        return axis_of(self.default, self.roles)


def axis_of(default: Floats, roles: Floats) -> Floats:
    """`[l, d]`: `mean(default) - mean over roles of mean(role)`; it points towards the Assistant.

    Args:
        default: `[l, d]` mean reading of the default Assistant's answers, raw.
        roles: `[r, l, d]` mean reading of each role's answers.
    """
    return np.asarray(default - roles.mean(0))


@dataclass(frozen=True)
class LayerMap:
    """Principal components of the roles and the default, mean-centred, at one layer."""

    variance: Floats
    """`[c]` share of the variance of each component, largest first."""
    components: Floats
    """`[c, d]` orthonormal; signs such that the default lies on the positive side of each."""
    places: Floats
    """`[r + 1, c]` where each role, and last the default, lies; raw units."""
    centre: Floats
    """`[d]` what was subtracted."""

    @property
    def components_70(self) -> int:
        """How many components hold 70 % of the variance."""
        found = int(np.searchsorted(np.cumsum(self.variance), 0.7 - 1e-12) + 1)
        return min(found, len(self.variance))  # all of them where nothing varies


def layer_map(default: Floats, roles: Floats) -> LayerMap:
    """PCA at one layer of `roles` `[r, d]` and `default` `[d]`."""
    points = np.concatenate([roles, default[None]])
    centre = points.mean(0)
    left, sizes, right = np.linalg.svd(points - centre, full_matrices=False)
    keep = len(points) - 1
    places = (left * sizes)[:, :keep]
    flip = np.where(places[-1] < 0, -1.0, 1.0)
    total = max(float((sizes**2).sum()), 1e-300)
    return LayerMap(sizes[:keep] ** 2 / total, right[:keep] * flip[:, None], places * flip, centre)


def cosine(a: Floats, b: Floats) -> Floats:
    """Cosine along the last axis; 0 where either is zero."""
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(-1) / np.where(size > 0, size, 1.0))


def split_half_roles(
    default_halves: Floats, roles: Floats, rng: np.random.Generator, times: int = 50
) -> Floats:  # fmt: skip
    """`[times, l]`: cosine of the axes from two random halves of the roles, each with its own half of the default's
    answers, so that nothing is shared.

    Args:
        default_halves: `[2, l, d]` mean of each half of the default's answers.
        roles: `[r, l, d]`.
    """
    found = []
    for _ in range(times):
        order = rng.permutation(len(roles))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        found.append(cosine(axis_of(default_halves[0], roles[first]), axis_of(default_halves[1], roles[second])))
    return np.array(found)


def cosine_by_count(
    default_halves: Floats, roles: Floats, counts: list[int], rng: np.random.Generator, times: int = 50
) -> list[tuple[int, float, float, float]]:
    """What an axis from n roles is worth: its cosine with the axis of the *other* roles, at one layer.

    Args:
        default_halves: `[2, d]`. roles: `[r, d]`.

    Returns:
        `(n, mean, 5th percentile, 95th percentile)` for every count that leaves as many others.
    """
    rows = []
    for n in counts:
        if n < 1 or 2 * n > len(roles):
            continue
        found = []
        for _ in range(times):
            order = rng.permutation(len(roles))
            some, others = roles[order[:n]], roles[order[n:]]
            found.append(float(cosine(axis_of(default_halves[0], some), axis_of(default_halves[1], others))))
        low, high = np.quantile(found, [0.05, 0.95])
        rows.append((n, float(np.mean(found)), float(low), float(high)))
    return rows
