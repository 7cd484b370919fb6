"""Shares of a gap closed, with intervals by drawing attacks with replacement. Knows numbers only.

Shapes: n answers, g groups (attacks), t draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def sums(values: Floats, groups: Sequence[str]) -> Floats:
    """`[g, 2]`: sum and count of each group's values `[n]` that are not NaN, groups in order of appearance."""
    place = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    rows = np.zeros((len(place), 2))
    for value, group in zip(values, groups, strict=True):
        if not np.isnan(value):
            rows[place[group]] += (value, 1)
    return rows


def closed(held: Floats, plain: Floats, own: Floats) -> Floats:
    """Share of the gap from `plain` to `own` that `held` has closed, of sums and counts `[..., 2]`; NaN: no gap."""
    gap = means(plain) - means(own)
    return np.asarray((means(plain) - means(held)) / np.where(np.abs(gap) < 1e-9, np.nan, gap))


def means(rows: Floats) -> Floats:
    """Of sums and counts `[..., 2]`."""
    return np.asarray(rows[..., 0] / np.maximum(rows[..., 1], 1))


def closed_with_interval(
    held: Floats, plain: Floats, own: Floats, groups: Sequence[str], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Of ratios `[n]`: the share closed, and 95 % of it by drawing whole groups."""
    rows = [sums(values, groups) for values in (held, plain, own)]
    draws = _draws(len(rows[0]), rng)
    return float(closed(*(r.sum(0) for r in rows))), *ends(closed(*(r[draws].sum(1) for r in rows)))


def mean_with_interval(values: Floats, groups: Sequence[str], rng: np.random.Generator) -> tuple[float, float, float]:
    """Of values `[n]`: their mean, and 95 % of it by drawing whole groups."""
    rows = sums(values, groups)
    return float(means(rows.sum(0))), *ends(means(rows[_draws(len(rows), rng)].sum(1)))


def ends(values: Floats) -> tuple[float, float]:
    """2.5th and 97.5th percentile; NaN where there is nothing."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def _draws(count: int, rng: np.random.Generator, times: int = 2000) -> NDArray[np.int64]:
    """`[t, g]`"""
    return rng.integers(0, count, (times, count))
