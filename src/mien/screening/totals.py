"""Everything measured, added up in one pass whose memory does not grow with the data but for one number a record.

Intervals are of the mean over records: the Poisson bootstrap, which draws a weight a record as it comes. This file does
not know how a record was measured or what a page looks like. Shapes: g watched, r twins.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mien.screening.estimates import (
    Agreement,
    Centre,
    Raw,
    agreements,
    centre_of,
    difference,
    influence_agreement,
    worst_of,
)  # fmt: skip
from mien.screening.rows import Block, SampleTable
from mien.screening.watched import Watched

Floats = NDArray[np.float64]

BEYOND = 2.0
"""Sigma beyond which a record counts as strange."""
BIN, EDGE = 0.25, 15.0
"""Width of a histogram's bins in sigma, and where its last ones, open outwards, begin."""
LISTED = 100
"""Worst records that are remembered, a watched direction."""
_DRAWS = 400


@dataclass
class TraitTotals:
    """One watched direction over the whole data set, raw units unless said."""

    watched: Watched
    centre: Centre
    agreement: list[Agreement]
    n: int = 0
    total: float = 0.0
    beyond: int = 0
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(round(2 * EDGE / BIN), np.int64))
    """Counts by sigma, ascending."""
    worst: list[tuple[float, int]] = field(default_factory=list)
    """Heap of (difference towards the alarming side, -place)."""
    draws: Floats = field(default_factory=lambda: np.zeros((2, _DRAWS)))
    """Bootstrap sums of differences, and of weights."""
    twins: float = math.nan
    """95th percentile over random twins of the absolute mean difference, each in the spread of the model's own answers
    along it; in sigma, as if this direction had shifted by as many of its own spreads."""

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of the mean difference."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.draws[0] / self.draws[1]
        means = means[np.isfinite(means)]
        if self.n < 2 or not len(means):
            return math.nan, math.nan
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    @property
    def ranked(self) -> list[tuple[int, float]]:
        """The worst, worst first: place and difference."""
        return [(-place, self.watched.sign * value) for value, place in sorted(self.worst, reverse=True)]


@dataclass
class Totals:
    """The whole data set."""

    traits: list[TraitTotals]
    records: int = 0
    """Everything that was there, what was skipped too."""
    samples: int = 0
    answers: int = 0
    tokens: int = 0
    unmeasured: int = 0
    """Records without a difference: the method needs the model's own answer, and it said nothing."""
    skipped: int = 0
    first_skipped: list[tuple[str, int, str]] = field(default_factory=list)
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    """One a record, in blocks: its worst sigma over all watched; NaN where it has none, -inf where it was skipped."""

    @property
    def score(self) -> NDArray[np.float32]:
        return np.concatenate(self.scores) if self.scores else np.zeros(0, np.float32)


def begin_totals(
    watched: Sequence[Watched], sample: Sequence[Raw], seed: int, pulls: Sequence[Raw] | None = None
) -> Totals:
    """Centres and agreements, from a sample of records for which the model's own answers were written.

    Args:
        sample: one a watched direction.
        pulls: the same records by how they pull, where that is the method. Sigma then is the spread of the own answers'
            pulls, around zero, where their mean lies but for chance.
    """
    traits = []
    pulled: Sequence[Raw | None] = pulls or [None] * len(watched)
    for one, raw, pull in zip(watched, sample, pulled, strict=True):
        centre = centre_of(raw, one.mean, one.std, one.baseline) if pull is None else centre_of(pull, None, None, "")
        compared = agreements(raw, centre, seed) if pull is None else [influence_agreement(pull, raw, centre, seed)]
        traits.append(TraitTotals(one, centre, compared))
    return Totals(traits)


def count_up(totals: Totals, blocks: Iterable[Block], method: str, seed: int, table: SampleTable) -> None:
    """Go through all blocks once: totals, and a row a record and watched direction."""
    for block in blocks:
        good = block.good
        totals.records += len(block.lines)
        totals.samples += len(good)
        totals.tokens += block.head["tokens"]
        totals.answers += sum(block.lines[i]["answers"] for i in good)
        for line in block.lines:
            if "skipped" in line:
                totals.skipped += 1
                if len(totals.first_skipped) < 200:
                    totals.first_skipped.append(tuple(line["skipped"]))
        scores = np.full(len(block.lines), -np.inf, np.float32)
        if good:
            sigmas = [_count(t, g, block, good, method, seed, table) for g, t in enumerate(totals.traits)]
            scores[good] = worst_of(sigmas)
            totals.unmeasured += int(np.isnan(scores[good]).sum())
        totals.scores.append(scores)


def _count(
    trait: TraitTotals, g: int, block: Block, good: list[int], method: str, seed: int, table: SampleTable
) -> Floats:
    """One block on one direction; gives the records' sigma towards the alarming side."""
    raw = block.raw(g, good)
    values = difference(method, raw, trait.centre)
    sigma = values / trait.centre.sigma
    there = np.isfinite(values)
    weights = np.random.default_rng([seed, block.number]).poisson(1.0, (_DRAWS, len(values)))[:, there]
    trait.draws[0] += weights @ values[there]
    trait.draws[1] += weights.sum(1)
    trait.n += int(there.sum())
    trait.total += float(values[there].sum())
    towards = trait.watched.sign * sigma
    trait.beyond += int((towards > BEYOND).sum())
    inside = sigma[np.isfinite(sigma)]
    trait.bins += np.histogram(np.clip(inside, -EDGE, EDGE - BIN / 2), len(trait.bins), (-EDGE, EDGE))[0]
    for i, value in zip(good, values, strict=True):
        if math.isfinite(value):
            entry = (trait.watched.sign * float(value), -(block.start + i))
            if len(trait.worst) < LISTED:
                heapq.heappush(trait.worst, entry)
            else:
                heapq.heappushpop(trait.worst, entry)
    lines = [block.lines[i] for i in good]
    table.add(trait.watched.name, {
        "index": [block.start + i for i in good], "trait": [trait.watched.name] * len(good),
        "method": [method] * len(good), "difference": values.tolist(), "sigma": sigma.tolist(),
        "answer": raw.answer.tolist(), "base": raw.base.tolist(), "prompt": raw.prompt.tolist(),
        **{name: [line[name] for line in lines] for name in ("id", "source", "line", "answers", "tokens")},
    })  # fmt: skip
    return towards


def twins_from(totals: Totals, heads: Iterable[dict[str, object]]) -> None:
    """What random directions make of the same texts, from the heads of the blocks that have own answers."""
    n, sums = 0, np.zeros(0)
    for head in heads:
        twins = head["twins"]
        assert isinstance(twins, dict)
        if twins["n"]:
            part = np.array([twins["difference"], twins["base"], twins["square"]])
            n, sums = n + int(twins["n"]), part if not n else sums + part
    if n < 2:
        return
    shift, base, square = sums / n
    spread = np.sqrt(np.maximum(square - base**2, 0) * n / (n - 1))
    for g, trait in enumerate(totals.traits):
        real = spread[g] > 0
        if real.any():
            strayed = float(np.quantile(np.abs(shift[g][real]) / spread[g][real], 0.95))
            trait.twins = strayed * trait.centre.spread / trait.centre.sigma
