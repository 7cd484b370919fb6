"""Is an answer sound text? Offline: the plain model's own log-probability of it, and how much it repeats itself.

This file does not know traits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from mien.records import Engine, Rollout, ScoreRequest


def repetition(ids: Sequence[int], n: int = 3) -> float:
    """Share of an answer's n-grams that it has said before: 0 never repeats, near 1 is a loop."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@dataclass(frozen=True)
class CoherenceScale:
    """0-100: `100 * logistic(slope * (logprob - boundary))`, less for repetition.

    50 lies halfway between the model's own plain answers and the same tokens shuffled; plain answers average 95.
    Repetition takes nothing up to a fifth of the trigrams and everything at four fifths.
    """

    slope: float
    boundary: float
    """Nats per token."""

    def __call__(self, logprob: float | None, ids: Sequence[int]) -> float | None:
        """Score of an answer with this mean log-probability under the plain model; None for an empty answer."""
        if logprob is None or not ids:
            return None
        fluent = 1 / (1 + math.exp(-min(max(self.slope * (logprob - self.boundary), -60), 60)))
        fresh = 1 - min(max((repetition(ids) - 0.2) / 0.6, 0.0), 1.0)
        return 100 * fluent * fresh


def fit_coherence(engine: Engine, plain: Sequence[Rollout], seed: int) -> CoherenceScale:
    """Calibrate on the model's own plain answers against the same tokens shuffled.

    The two groups lie far apart, so the boundary is the middle of their means and the slope puts the sound mean at 95.
    """
    rng = random.Random(seed)
    answers = [r for r in plain if r.logprob is not None and len(r.response_ids) >= 4]
    if not answers:
        return CoherenceScale(2.0, -6.0)
    mixed = [tuple(rng.sample(r.response_ids, len(r.response_ids))) for r in answers]
    requests = [ScoreRequest(r.conversation, "", ids) for r, ids in zip(answers, mixed, strict=True)]
    broken = [float(row.mean()) for row in engine.logprobs(requests)]
    sound = [r.logprob for r in answers if r.logprob is not None]
    high, low = sum(sound) / len(sound), sum(broken) / len(broken)
    gap = max(high - low, 0.5)
    return CoherenceScale(slope=math.log(19) / (gap / 2), boundary=high - gap / 2)
