"""When is a projection an alarm? One turn against a quantile; a conversation by a CUSUM of its turns. Pure numpy.

A conversation's statistic is Page's one-sided CUSUM, `S_t = max(0, S_(t-1) + z_t - k)`, of deviations z in sigma
towards the alarming side. It grows while turns stay off the baseline by more than k, and forgets what was long ago;
its limit grows with the number of turns, so that long conversations raise no more false alarms than short ones.
This file does not know text, models or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SLACK = 0.5
"""k: half of the shift, in sigma, that is to be found soonest."""
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers of turns at which limits are worked out; between them they are interpolated in the logarithm."""


@dataclass(frozen=True)
class Limits:
    """Alarm limits for stated false-alarm rates."""

    turn_rate: float
    """False alarms asked for, a turn, of all gauges that share the limits taken together."""
    conversation_rate: float
    """False alarms asked for, a conversation, whatever its length; likewise of all together."""
    turn: float
    """A turn alarms above this, in sigma towards the alarming side."""
    conversation: tuple[float, ...]
    """The CUSUM's limit at each of `LENGTHS` turns."""
    shared_by: int = 1
    """Gauges that share the rates: limits are so wide that any of them alarms by chance no more often than that."""

    def for_length(self, turns: int) -> float:
        """The CUSUM's limit for a conversation of that many turns."""
        return float(np.interp(np.log2(max(turns, 1)), np.log2(LENGTHS), self.conversation))


def cusum(z: Floats, slack: float = SLACK) -> Floats:
    """`S_t` of each turn. A missing z (NaN) leaves it as it was."""
    s, out = 0.0, np.zeros(len(z))
    for t, value in enumerate(z):
        if not np.isnan(value):
            s = max(0.0, s + float(value) - slack)
        out[t] = s
    return out


def left_at(z: Floats, limit: float, slack: float = SLACK) -> int | None:
    """The turn since which the conversation is off: where the CUSUM last rose from 0 before it first passed `limit`."""
    s = cusum(z, slack)
    over = np.flatnonzero(s > limit)
    if not len(over):
        return None
    zeros = np.flatnonzero(s[: over[0]] == 0)
    return int(zeros[-1]) + 1 if len(zeros) else 0


def find_limits(
    sequences: Sequence[Floats], turn_rate: float, conversation_rate: float, rng: np.random.Generator, times: int = 1000
) -> Limits:
    """Limits from the z of quiet conversations, one array each.

    Conversations of any length are made by stringing quiet ones together as they are, so that turns keep their
    neighbours; the limit at a length is the quantile of the largest S over them.
    """
    kept = [s[~np.isnan(s)] for s in sequences]
    kept = [s for s in kept if len(s)] or [np.zeros(1)]
    limits, floor = [], 0.0
    for length in LENGTHS:
        rows = times if length <= 128 else max(100, times // 5)
        most = _largest(_strung(kept, rows, length, rng))
        floor = max(floor, float(np.quantile(most, 1 - conversation_rate)))  # never falls with length
        limits.append(max(floor, 1e-6))
    turn = float(np.quantile(np.concatenate(kept), 1 - turn_rate))
    return Limits(turn_rate, conversation_rate, turn, tuple(limits))


def share_rates(limits: Sequence[Limits], z: Sequence[Sequence[Floats]]) -> list[Limits]:
    """Limits of several gauges, all moved by one factor, so that *any* of them alarms at the rates asked for.

    The factors are quantiles over the quiet conversations as they are: turns of one conversation stray together, which
    strung ones do not show. For conversations it is the split conformal quantile, which errs to the quiet side.

    Args:
        z: by gauge, by conversation `[t]`, the turns of a conversation the same for all gauges; NaN where missing.
    """
    spread = [[cusum(row).max(initial=0.0) / one.for_length(len(row)) for row in rows]
              for one, rows in zip(limits, z, strict=True)]  # fmt: skip
    worst = np.sort(np.max(spread, axis=0))
    place = min(int(np.ceil((len(worst) + 1) * (1 - limits[0].conversation_rate))), len(worst)) - 1
    wide = max(float(worst[place]), 1e-6)
    turns = np.stack([np.concatenate(rows) / max(one.turn, 1e-6) for one, rows in zip(limits, z, strict=True)])
    highest = np.nanmax(np.where(np.isnan(turns).all(0), -np.inf, turns), axis=0)
    high = max(float(np.quantile(highest, 1 - limits[0].turn_rate)), 1e-6)
    return [
        replace(one, turn=max(one.turn, 1e-6) * high, conversation=tuple(c * wide for c in one.conversation),
                shared_by=len(limits))
        for one in limits
    ]  # fmt: skip


def _largest(z: Floats, slack: float = SLACK) -> Floats:
    """`[n]`: the largest CUSUM of each row of `[n, t]`."""
    s, most = np.zeros(len(z)), np.zeros(len(z))
    for column in z.T:
        s = np.maximum(0.0, s + column - slack)
        most = np.maximum(most, s)
    return most


def _strung(sequences: Sequence[Floats], rows: int, length: int, rng: np.random.Generator) -> Floats:
    """`[rows, length]`: quiet conversations one after another; a row begins anywhere in one."""
    parts: list[Floats] = []
    have = 0
    while have < rows * length:
        order = rng.permutation(len(sequences))
        parts += [sequences[i] for i in order]
        have += sum(map(len, sequences))
    return np.concatenate(parts)[: rows * length].reshape(rows, length)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if total == 0:
        return 0.0, 1.0
    z, p = 1.959964, hits / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
