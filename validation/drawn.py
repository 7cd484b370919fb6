"""Figures with 95 % intervals, by drawing what is independent (conversations, or answers of one) with replacement; and
the sentences that say which goals are met and where a baseline is ahead. This file does not know what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

TIMES = 400
"""Draws."""

Statistic = Callable[[NDArray[np.int64]], float]
"""Of the answers at these places."""


def drawn(
    statistic: Statistic, groups: Sequence[int] | NDArray[np.int64], strata: Sequence[int] | None = None
) -> tuple[float, float]:
    """95 % interval. Groups are drawn whole; those of one stratum among themselves."""
    rng = np.random.default_rng(0)
    group, side = np.asarray(groups), np.zeros(len(groups)) if strata is None else np.asarray(strata)
    parts = [[np.flatnonzero((group == g) & (side == s)) for g in np.unique(group[side == s])] for s in np.unique(side)]
    draws = []
    for _ in range(TIMES):
        chosen = [part[i] for part in parts for i in rng.integers(0, len(part), len(part))]
        draws.append(statistic(np.concatenate(chosen)))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def told(
    statistic: Statistic, groups: Sequence[int] | NDArray[np.int64], form: str = "+.2f",
    strata: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """`+0.71 (+0.62 to +0.80)`; a dash where there is no figure."""
    value = statistic(np.arange(len(groups)))
    if np.isnan(value):
        return "-"
    low, high = drawn(statistic, groups, strata)
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> Statistic:
    """Spearman's, of the chosen places; nan where one side does not vary."""

    def of(chosen: NDArray[np.int64]) -> float:
        x, y = a[chosen], b[chosen]
        return float(spearmanr(x, y)[0]) if x.std() > 0 and y.std() > 0 else float("nan")

    return of


def met(value: float, goal: float | None) -> tuple[str, str]:
    """Cells of a table: the goal, and whether the figure reaches it."""
    if goal is None:
        return "", ""
    # By what the table shows: 0.849 stands there as 0.85.
    return f"{goal:.2f}", "met" if round(value, 2) >= goal else f"missed by {goal - round(value, 2):.2f}"


@dataclass(frozen=True)
class Compared:
    """One row of a table: a gauge and the baselines that it must beat."""

    row: str
    gauge: float
    baselines: Mapping[str, float] = field(default_factory=dict)


def ahead(rows: Sequence[Compared]) -> str:
    """A sentence for each baseline that is ahead of the gauge in some row, by the figures as they are shown."""
    found: dict[str, list[str]] = {}
    for one in rows:
        for name, value in one.baselines.items():
            if round(value, 2) > round(one.gauge, 2):
                found.setdefault(name, []).append(f"{one.row} ({value:.2f} to {one.gauge:.2f})")
    if not rows:
        return ""
    names = list(dict.fromkeys(name for one in rows for name in one.baselines))
    ahead_in = [
        f"Ahead of the gauge: {name}, in {len(found[name])} of {len(rows)} rows: {'; '.join(found[name])}."
        for name in names if name in found
    ]  # fmt: skip
    never = [name for name in names if name not in found]
    return "\n".join([*ahead_in, *([f"Nowhere ahead of it: {', '.join(never)}."] if never else [])])


def auc_either_way(value: float) -> float:
    """Of a baseline whose direction nobody has fixed: the better one, which flatters it."""
    return max(value, 1 - value)
