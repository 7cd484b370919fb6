"""Projection differences in full and by cheaper estimates, and how well these agree. Pure numpy.

In full a record's difference is `<a(x, y) - a(x, y'), v>` (2507.21509), with y the data's answer and y' the model's own
to the same x. What y' projects to can be guessed without writing it:

    prompt     by least squares from the last token of x, fitted on a sample of the data for which y' was written
    cached     the mean of that sample's y', the same for every record
    answers    the mean of the reader's own baseline, the same for every record

The last two rank records alike; they differ in where zero lies. Influence is something else, a training step's effect,
and is its own difference. Shapes: n records, g watched.
This file does not know models or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

METHODS = ("full", "prompt", "cached", "answers")
"""Of projection differences."""
INFLUENCE = "influence"
"""The method whose values are pulls, not projections."""
_FEW = 8
"""Records below which nothing is fitted or compared."""
_PARTS = 5


@dataclass(frozen=True)
class Raw:
    """Raw values of records on one watched direction, `[n]` each."""

    answer: Floats
    prompt: Floats
    base: Floats
    """NaN where the model's own answer is not known."""

    @property
    def known(self) -> Raw:
        """Those with an own answer."""
        there = ~np.isnan(self.base)
        return Raw(self.answer[there], self.prompt[there], self.base[there])


def joined(parts: Sequence[Raw]) -> Raw:
    """Records of several parts, in order."""
    empty = [Raw(np.zeros(0), np.zeros(0), np.zeros(0))]
    every = [*parts] or empty
    return Raw(*(np.concatenate([getattr(p, name) for p in every]) for name in ("answer", "prompt", "base")))


@dataclass(frozen=True)
class Centre:
    """What the model's own answer is guessed to project to, and what one sigma is."""

    slope: float
    intercept: float
    """Of own answers on last prompt tokens; slope 0 and the mean where there are too few to fit."""
    shared: float
    """Mean of the sample's own answers; NaN where there are none."""
    baseline: float
    """Mean of the reader's baseline; NaN without one."""
    sigma: float
    """NaN where there is neither a baseline nor a sample."""
    sigma_of: str
    """What sigma is the spread of, in words."""
    spread: float
    """Of the sample's own answers, raw units; NaN where they are few."""


def centre_of(sample: Raw, mean: float | None, std: float | None, baseline: str) -> Centre:
    """Fit the guesses on a sample of the data.

    Args:
        mean, std: of the reader's baseline, if it has one.
        baseline: what that is of, in words.
    """
    there = sample.known
    slope, intercept = _line(there)
    shared = float(there.base.mean()) if len(there.base) else math.nan
    spread = float(there.base.std(ddof=1)) if len(there.base) >= _FEW else math.nan
    sigma, words = std or math.nan, baseline
    if not sigma > 0:
        sigma, words = spread, "the model's own answers to prompts of this data set"
    usable = sigma if sigma > 0 else math.nan
    return Centre(slope, intercept, shared, math.nan if mean is None else mean, usable, words, spread)


def _line(there: Raw) -> tuple[float, float]:
    if not len(there.base):
        return 0.0, math.nan
    spread = there.prompt - there.prompt.mean()
    if len(there.base) < _FEW or not (spread**2).sum() > 0:
        return 0.0, float(there.base.mean())
    slope = float((spread * there.base).sum() / (spread**2).sum())
    return slope, float(there.base.mean() - slope * there.prompt.mean())


def difference(method: str, raw: Raw, centre: Centre) -> Floats:
    """`[n]` projection differences, raw units; NaN where the method cannot say."""
    guess = {
        "full": raw.base,
        "prompt": centre.slope * raw.prompt + centre.intercept,
        "cached": np.full_like(raw.answer, centre.shared),
        "answers": np.full_like(raw.answer, centre.baseline),
        INFLUENCE: np.zeros_like(raw.answer),
    }[method]
    found: Floats = raw.answer - guess
    return found


@dataclass(frozen=True)
class Agreement:
    """How a cheaper estimate compares with the full difference, on the sample."""

    method: str
    n: int
    rank_correlation: float | None
    """Spearman's; None where it cannot be measured."""
    low: float | None
    """95 % interval, records drawn with replacement."""
    high: float | None
    off_by: float | None
    """Its mean minus that of the full difference, in sigma."""


def agreements(sample: Raw, centre: Centre, seed: int) -> list[Agreement]:
    """Each cheaper estimate against the full difference; fits are made on other records than they are tried on."""
    there = sample.known
    full = there.answer - there.base
    rng = np.random.default_rng(seed)
    found = []
    for method in METHODS[1:]:
        values = _held_out(there, rng) if method == "prompt" else difference(method, there, centre)
        found.append(_agreement(method, values, full, centre.sigma, rng))
    return found


def influence_agreement(pulls: Raw, sample: Raw, centre: Centre, seed: int) -> Agreement:
    """Pulls beside full projection differences of the same records, which are in other units: ranks alone."""
    there = np.isfinite(sample.base)
    rng = np.random.default_rng(seed)
    found = _agreement(INFLUENCE, pulls.answer[there], (sample.answer - sample.base)[there], centre.sigma, rng)
    return replace(found, off_by=None)


def _held_out(there: Raw, rng: np.random.Generator) -> Floats:
    values = np.full_like(there.answer, math.nan)
    for part in np.array_split(rng.permutation(len(values)), min(_PARTS, max(len(values), 1))):
        rest = np.ones(len(values), bool)
        rest[part] = False
        slope, intercept = _line(Raw(there.answer[rest], there.prompt[rest], there.base[rest]))
        values[part] = there.answer[part] - slope * there.prompt[part] - intercept
    return values


def _agreement(method: str, values: Floats, full: Floats, sigma: float, rng: np.random.Generator) -> Agreement:
    n = len(full)
    if n < _FEW or np.isnan(values).any():
        return Agreement(method, n, None, None, None, None)
    draws = [spearman(values[pick], full[pick]) for pick in rng.integers(0, n, (400, n))]
    kept = [d for d in draws if not math.isnan(d)]
    found = spearman(values, full)
    low, high = (float(q) for q in np.quantile(kept, [0.025, 0.975])) if kept else (None, None)
    off = float((values - full).mean() / sigma)
    return Agreement(method, n, _known(found), low, high, _known(off))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation, ties sharing their mean rank; NaN where one side does not vary."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / size) if size > 0 else math.nan


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = ((last - (counts - 1) / 2)[place]).astype(np.float64)
    return ranks


def chosen_of(total: int, count: int, seed: int) -> list[int]:
    """Places of a sample of `count` of `total` records, ascending; a longer data set keeps most of a shorter one's."""
    if total <= count:
        return list(range(total))
    ranks = np.random.default_rng(seed).random(total)
    return sorted(np.argpartition(ranks, count)[:count].tolist())


def worst_of(sigmas: Sequence[Floats]) -> Floats:
    """`[n]`: over watched directions the largest value towards the alarming side; NaN where none is known."""
    rows = np.stack(sigmas)
    found: Floats = np.where(np.isnan(rows).all(0), np.nan, np.nanmax(np.where(np.isnan(rows), -np.inf, rows), axis=0))
    return found
