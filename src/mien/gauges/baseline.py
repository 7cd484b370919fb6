"""A gauge's baseline: what quiet traffic projects to, how far it strays, and the limits that follow. Pure numpy.

What the texture of a text explains (length, code, lists, ...) is taken out by a ridge regression on quiet turns, and
sigma is the spread of what is left over in conversations that the regression has not seen.
This file does not know models or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.errors import InputError
from mien.gauges.alarms import Limits, cusum, find_limits
from mien.gauges.texture import NAMES

Floats = NDArray[np.float64]

TURN_RATE, CONVERSATION_RATE = 0.01, 0.05
"""False alarms asked for unless the user says otherwise, a gauge."""
_RIDGE = 10.0
"""In units of turns: as if that many turns had said that texture explains nothing."""
_FOLDS = 5


@dataclass(frozen=True)
class Quiet:
    """Quiet conversations, read: the answers of each with their projection on one gauge, raw, and their texture."""

    projections: tuple[Floats, ...]
    """One array `[t]` a conversation."""
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


@dataclass(frozen=True)
class Baseline:
    """How a gauge behaves on quiet traffic."""

    expected: Expected
    std: float
    """One sigma, raw units."""
    limits: Limits
    n_turns: int
    n_conversations: int
    explained: float
    """Share of the variance of quiet projections that texture explains, on conversations left out."""
    effects: dict[str, float]
    """By each part of texture: sigma between its 5th and its 95th percentile on quiet traffic."""
    turn_rate: float
    """False alarms a turn that limits set on four fifths reached on the rest."""
    turn_hits: int
    conversation_rate: float
    conversation_hits: int
    source: str
    """What the quiet traffic was."""

    def sigma(self, projections: Floats, textures: Floats) -> Floats:
        """Raw projections `[n]` in sigma."""
        return (projections - self.expected(textures)) / self.std


def fit_baseline(
    quiet: Quiet, side: int, source: str, turn_rate: float = TURN_RATE, conversation_rate: float = CONVERSATION_RATE,
    seed: int = 0,
) -> Baseline:  # fmt: skip
    """A baseline from quiet traffic; `side` is +1 if large projections are alarming, -1 if small ones are.

    Raises:
        InputError: fewer than 10 conversations or 40 answers, or projections that do not vary.
    """
    have = [i for i, p in enumerate(quiet.projections) if len(p)]
    turns = sum(len(quiet.projections[i]) for i in have)
    if len(have) < 10 or turns < 40:
        raise InputError(
            f"A baseline needs at least 10 conversations with 40 answers of ordinary traffic, and this is {len(have)} "
            f"with {turns}; add more, or use the bundled baseline."
        )
    rng = np.random.default_rng(seed)
    parts = np.array_split(rng.permutation(have), _FOLDS)
    residual: dict[int, Floats] = {}
    for part in parts:
        fit = _expected(quiet, sorted(set(have) - set(part.tolist())))
        residual |= {i: quiet.projections[i] - fit(quiet.textures[i]) for i in part.tolist()}
    every = np.concatenate([quiet.projections[i] for i in have])
    left = np.concatenate([residual[i] for i in have])
    std = float(left.std())
    if not std > 1e-9 * max(1.0, float(np.abs(every).max())):
        raise InputError("All ordinary answers project to the same value, so there is no sigma to measure in.")
    z = {i: side * residual[i] / std for i in have}
    hits = _held_out(z, [part.tolist() for part in parts], turn_rate, conversation_rate, rng)
    expected = _expected(quiet, have)
    return Baseline(
        expected, std, find_limits([z[i] for i in have], turn_rate, conversation_rate, rng),
        turns, len(have), max(0.0, 1 - float(left.var() / every.var())), _effects(quiet, have, expected, std),
        hits[0] / turns, hits[0], hits[1] / len(have), hits[1], source,
    )  # fmt: skip


def _expected(quiet: Quiet, which: Sequence[int]) -> Expected:
    y = np.concatenate([quiet.projections[i] for i in which])
    x = np.concatenate([quiet.textures[i] for i in which])
    low, high = np.quantile(x, [0.01, 0.99], axis=0)
    x = np.clip(x, low, high)
    centre, spread = x.mean(0), x.std(0)
    used = spread > 1e-9
    unit = np.where(used, (x - centre) / np.where(used, spread, 1), 0.0)
    weights = np.linalg.solve(unit.T @ unit + _RIDGE * np.eye(x.shape[1]), unit.T @ (y - y.mean()))
    raw = np.where(used, weights / np.where(used, spread, 1), 0.0)
    return Expected(float(y.mean()), *(tuple(map(float, v)) for v in (raw, centre, low, high)))


def _effects(quiet: Quiet, which: Sequence[int], expected: Expected, std: float) -> dict[str, float]:
    x = np.concatenate([quiet.textures[i] for i in which])
    low, high = np.quantile(x, [0.05, 0.95], axis=0)
    return {
        name: round(float(weight * (b - a) / std), 3)
        for name, weight, a, b in zip(NAMES, expected.weights, low, high, strict=True)
    }


def _held_out(
    z: dict[int, Floats], parts: Sequence[Sequence[int]], turn_rate: float, conversation_rate: float,
    rng: np.random.Generator,
) -> tuple[int, int]:  # fmt: skip
    """Alarms of turns and of conversations under limits that were set without them."""
    turns = conversations = 0
    for part in parts:
        limits = find_limits([z[i] for i in z if i not in set(part)], turn_rate, conversation_rate, rng, times=400)
        for i in part:
            turns += int((z[i] > limits.turn).sum())
            conversations += int(cusum(z[i]).max() > limits.for_length(len(z[i])))
    return turns, conversations
