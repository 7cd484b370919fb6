"""A gauge's baseline: what quiet traffic projects to, how far it strays, and the limits that follow. Pure numpy.

What the texture of a text explains (length, code, verse, ...) is taken out by a ridge regression on quiet turns, and
sigma is the spread of what is left over in conversations that the regression has not seen. A mean over few tokens
strays further than one over many, so sigma is larger for a short answer.
This file does not know models or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.errors import InputError
from mien.gauges.alarms import Limits, cusum, find_limits, share_rates
from mien.gauges.texture import NAMES

Floats = NDArray[np.float64]

TURN_RATE, CONVERSATION_RATE = 0.01, 0.05
"""False alarms asked for unless the user says otherwise, a gauge."""
_RIDGE = 10.0
"""In units of turns: as if that many turns had said that texture explains nothing."""
_FOLDS = 5
_SHORTS = (0.0, *(2.0**n for n in range(2, 13)))
"""Lengths that are tried for `Standard.short`, characters."""
_FEW = 16.0
"""Characters, two or three tokens, below which an answer strays no further the shorter it is."""
_WORTH = 2.0
"""Nats of likelihood that an effect of length on the spread must be worth."""


@dataclass(frozen=True)
class Quiet:
    """Quiet conversations, read: the answers of each with their projection on one gauge, raw, and their texture."""

    projections: tuple[Floats, ...]
    """One array `[t]` a conversation; NaN for an answer that the gauge cannot say anything of."""
    textures: tuple[Floats, ...]
    """One array `[t, f]` a conversation."""


@dataclass(frozen=True)
class Expected:
    """What a quiet answer of a certain texture projects to, raw: `mean + weights . (clipped texture - centre)`."""

    mean: float
    weights: tuple[float, ...]
    centre: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __call__(self, textures: Floats) -> Floats:
        """`[n]` for `[n, f]`; textures beyond what was seen count as the furthest that was."""
        inside = np.clip(textures, self.low, self.high) - np.array(self.centre)
        found: Floats = self.mean + inside @ np.array(self.weights)
        return found


def wanted(rate: float) -> int:
    """How many quiet answers, or conversations, a rate of false alarms asks for: so many that limits set on four fifths
    of them should let one of those pass. With fewer, a limit is only the furthest that was seen.
    """
    return math.ceil(round(1 / rate / (1 - 1 / _FOLDS), 6))


@dataclass(frozen=True)
class Standard:
    """What sigma is counted from: a baseline without its limits."""

    expected: Expected
    std: float
    """One sigma of an answer of the usual length, raw units."""
    short: float = 0.0
    """Characters of an answer whose variance is twice that of an endless one; 0: length makes no difference."""
    usual: float = 1.0
    """The median length of quiet answers, characters."""

    def spread(self, textures: Floats) -> Floats:
        """`[n]` one sigma of answers of these textures `[n, f]`, raw units: the variance of the mean over an answer
        falls with its length `c` as `1 + short / max(c, 16)`."""
        found: Floats = self.std * np.sqrt(_noise(self.short, _length(textures)) / _noise(self.short, self.usual))
        return found

    def sigma(self, projections: Floats, textures: Floats) -> Floats:
        """Raw projections `[n]` in sigma."""
        return (projections - self.expected(textures)) / self.spread(textures)


@dataclass(frozen=True)
class Baseline:
    """How a gauge behaves on quiet traffic."""

    expected: Expected
    std: float
    """One sigma of an answer of the usual length, raw units."""
    limits: Limits
    n_turns: int
    n_conversations: int
    explained: float
    """Share of the variance of quiet projections that texture explains, on conversations left out."""
    effects: dict[str, float]
    """By each part of texture: sigma between its 1st and its 99th percentile on quiet traffic."""
    turn_rate: float
    """False alarms a turn that limits set on four fifths reached on the rest."""
    turn_hits: int
    conversation_rate: float
    conversation_hits: int
    any_turn_hits: int
    """Turns, and conversations, of the rest at which any gauge that shares the limits alarmed."""
    any_conversation_hits: int
    source: str
    """What the quiet traffic was."""
    short: float = 0.0
    """See `Standard`."""
    usual: float = 1.0
    """See `Standard`."""

    def sigma(self, projections: Floats, textures: Floats) -> Floats:
        """Raw projections `[n]` in sigma."""
        return Standard(self.expected, self.std, self.short, self.usual).sigma(projections, textures)

    @property
    def warning(self) -> str | None:
        """A sentence, where the quiet traffic is too little for the rates that were asked for."""
        turns, conversations = wanted(self.limits.turn_rate), wanted(self.limits.conversation_rate)
        if self.n_turns >= turns and self.n_conversations >= conversations:
            return None
        return (
            f"Too little quiet traffic for false alarms in {100 * self.limits.turn_rate:.3g}% of answers and "
            f"{100 * self.limits.conversation_rate:.3g}% of conversations: there are {self.n_turns} answers in "
            f"{self.n_conversations} conversations, and {turns} answers in {conversations} conversations are wanted."
        )


def fit_standard(quiet: Quiet, seed: int = 0) -> Standard:
    """What sigma is counted from, of one gauge: as in the baseline that `fit_baselines` makes of the same.

    Raises:
        InputError: see `fit_baselines`.
    """
    have, parts = _parts(quiet, np.random.default_rng(seed))
    return _fit(quiet, have, parts).standard


def fit_baseline(
    quiet: Quiet, side: int, source: str, turn_rate: float = TURN_RATE, conversation_rate: float = CONVERSATION_RATE,
    seed: int = 0,
) -> Baseline:  # fmt: skip
    """The baseline of one gauge on its own: see `fit_baselines`."""
    return fit_baselines([quiet], [side], source, turn_rate, conversation_rate, seed)[0]


def fit_baselines(
    quiet: Sequence[Quiet], sides: Sequence[int], source: str, turn_rate: float = TURN_RATE,
    conversation_rate: float = CONVERSATION_RATE, seed: int = 0,
) -> list[Baseline]:  # fmt: skip
    """Baselines of gauges that are read together, from the same quiet conversations; a side is +1 if large projections
    are alarming, -1 if small ones are. The rates are of all of them: that any gauge alarms.

    Raises:
        InputError: fewer than 10 conversations or 40 answers, or projections that do not vary.
    """
    rng = np.random.default_rng(seed)
    have, parts = _parts(quiet[0], rng)
    fits = [_fit(one, have, parts) for one in quiet]
    z = [[side * (row / fit.standard.spread(one.textures[i])) for i, row in fit.left.items()]
         for one, fit, side in zip(quiet, fits, sides, strict=True)]  # fmt: skip
    order = list(fits[0].left)
    folds = [[order.index(i) for i in part] for part in parts]
    turns, conversations = _held_out(z, folds, turn_rate, conversation_rate, rng)
    limits = _limits(z, turn_rate, conversation_rate, rng, 1000)
    return [
        Baseline(
            fit.standard.expected, fit.standard.std, limit, fit.turns, len(have), fit.explained, _effects(fit),
            int(t) / fit.turns, int(t), int(c) / len(have), int(c), int(turns[-1]), int(conversations[-1]), source,
            fit.standard.short, fit.standard.usual,
        )
        for fit, limit, t, c in zip(fits, limits, turns[:-1], conversations[:-1], strict=True)
    ]  # fmt: skip


def _parts(quiet: Quiet, rng: np.random.Generator) -> tuple[list[int], list[list[int]]]:
    """Conversations that have answers, and the parts in which they are left out."""
    have = [i for i, t in enumerate(quiet.textures) if len(t)]
    return have, [part.tolist() for part in np.array_split(rng.permutation(have), _FOLDS)]


@dataclass(frozen=True)
class _Fit:
    """One gauge's texture regression, and what it leaves over in conversations it has not seen."""

    standard: Standard
    left: dict[int, Floats]
    explained: float
    turns: int


def _fit(quiet: Quiet, have: Sequence[int], parts: Sequence[Sequence[int]]) -> _Fit:
    every = np.concatenate([quiet.projections[i] for i in have]) if have else np.zeros(0)
    every = every[~np.isnan(every)]
    if len(have) < 10 or len(every) < 40:
        raise InputError(
            f"A baseline needs at least 10 conversations with 40 answers of ordinary traffic, and this is {len(have)} "
            f"with {len(every)}; add more, or use the bundled baseline."
        )
    left: dict[int, Floats] = {}
    for part in parts:
        fit = _expected(quiet, sorted(set(have) - set(part)))
        left |= {i: quiet.projections[i] - fit(quiet.textures[i]) for i in part}
    rest = np.concatenate(list(left.values()))
    if not float(np.nanstd(rest)) > 1e-9 * max(1.0, float(np.abs(every).max())):
        raise InputError("All ordinary answers project to the same value, so there is no sigma to measure in.")
    explained = max(0.0, 1 - float(np.nanvar(rest) / every.var()))
    std, short, usual = _spread(rest, _length(np.concatenate([quiet.textures[i] for i in left])))
    return _Fit(Standard(_expected(quiet, have), std, short, usual), left, explained, len(every))


def _length(textures: Floats) -> Floats:
    """`[n]` characters, of textures `[n, f]`."""
    found: Floats = np.exp2(textures[:, NAMES.index("length")])
    return found


def _noise(short: float, characters: Floats | float) -> Any:
    """The variance of an answer's mean, in units of an endless one's."""
    return 1 + short / np.maximum(characters, _FEW)


def _spread(left: Floats, characters: Floats) -> tuple[float, float, float]:
    """`std`, `short` and `usual` of a `Standard`: those under which what is left over `[n]` (NaN: missing) is likeliest
    as a normal variate of mean 0.
    """
    known = ~np.isnan(left)
    square, characters = left[known] ** 2, characters[known]

    def likelihood(short: float) -> float:
        noise = _noise(short, characters)
        return float(-np.log(noise).sum() - len(square) * np.log(np.mean(square / noise))) / 2

    usual = float(np.median(characters))
    short = max(_SHORTS, key=likelihood)
    short = short if likelihood(short) > likelihood(0.0) + _WORTH else 0.0
    return float(np.sqrt(np.mean(square / _noise(short, characters)) * _noise(short, usual))), short, usual


def _limits(
    z: Sequence[Sequence[Floats]], turn_rate: float, conversation_rate: float, rng: np.random.Generator, times: int
) -> list[Limits]:
    """Of every gauge, sharing the rates."""
    return share_rates([find_limits(rows, turn_rate, conversation_rate, rng, times) for rows in z], z)


def _expected(quiet: Quiet, which: Sequence[int]) -> Expected:
    y = np.concatenate([quiet.projections[i] for i in which])
    x = np.concatenate([quiet.textures[i] for i in which])
    x, y = x[~np.isnan(y)], y[~np.isnan(y)]
    low, high = np.quantile(x, [0.01, 0.99], axis=0)
    x = np.clip(x, low, high)
    centre, spread = x.mean(0), x.std(0)
    used = spread > 1e-9
    unit = np.where(used, (x - centre) / np.where(used, spread, 1), 0.0)
    weights = np.linalg.solve(unit.T @ unit + _RIDGE * np.eye(x.shape[1]), unit.T @ (y - y.mean()))
    raw = np.where(used, weights / np.where(used, spread, 1), 0.0)
    return Expected(float(y.mean()), *(tuple(map(float, v)) for v in (raw, centre, low, high)))


def _effects(fit: _Fit) -> dict[str, float]:
    known, std = fit.standard.expected, fit.standard.std
    return {
        name: round(float(weight * (high - low) / std), 3)
        for name, weight, low, high in zip(NAMES, known.weights, known.low, known.high, strict=True)
    }


def _held_out(
    z: Sequence[Sequence[Floats]], parts: Sequence[Sequence[int]], turn_rate: float, conversation_rate: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Turns and conversations that alarm under limits set without them: `[g + 1]` each, the last of any gauge."""
    turns, conversations = np.zeros(len(z) + 1, np.int64), np.zeros(len(z) + 1, np.int64)
    for part in parts:
        inside = set(part)
        rest = [[row for i, row in enumerate(rows) if i not in inside] for rows in z]
        limits = _limits(rest, turn_rate, conversation_rate, rng, 400)
        for i in part:
            over = np.stack([rows[i] > limit.turn for rows, limit in zip(z, limits, strict=True)])
            off = np.array([cusum(rows[i]).max(initial=0.0) > limit.for_length(len(rows[i]))
                            for rows, limit in zip(z, limits, strict=True)])  # fmt: skip
            turns += [*over.sum(1), int(over.any(0).sum())]
            conversations += [*off, bool(off.any())]
    return turns, conversations
