"""A gauge: a direction at a layer (or a probe over several), its baseline, and where its alarms begin.

The projection is linear in the mean of the stream over an answer, so gauges of one reader share one forward pass.
Shapes: d width. This file does not know models, text or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mien.gauges.baseline import Baseline

Side = Literal["low", "high"]
Of = Literal["answer", "asked"]


@dataclass(frozen=True)
class Part:
    """One term of a gauge's projection: `<mean of the stream at layer over a message, vector>`."""

    layer: int
    vector: np.ndarray
    """`[d]` float32. For a direction of one layer a unit vector, so that the projection is in raw units."""
    of: Of = "answer"
    """Over the answer itself, or over the message that it answers."""


@dataclass(frozen=True)
class Gauge:
    """What is read off an answer, and what counts as off."""

    name: str
    description: str
    """What a large value means, in a sentence."""
    side: Side
    """Which side is alarming."""
    parts: tuple[Part, ...]
    kind: Literal["axis", "persona_vector", "described", "contrast", "fitted"] = "persona_vector"
    baseline: Baseline | None = None
    probability: tuple[float, float] | None = None
    """Slope and intercept of the logistic curve from sigma to the probability of the label; fitted gauges only."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Where it comes from and how good it is: what a card says."""
    push: Part | None = None
    """The direction that it was made of, at the layer to steer at and as long as it is, if any: what coef 1 adds.
    What reads best need not be what writes best."""

    @property
    def sign(self) -> int:
        """+1 if large projections are alarming, -1 if small ones are."""
        return 1 if self.side == "high" else -1

    @property
    def layer(self) -> int:
        """The deepest layer that it needs."""
        return max(part.layer for part in self.parts)

    def chance(self, sigma: float) -> float | None:
        """Probability of the label at a value; None for a gauge that was not fitted to labels."""
        if self.probability is None or math.isnan(sigma):
            return None
        slope, intercept = self.probability
        return 1 / (1 + math.exp(-min(max(slope * sigma + intercept, -60.0), 60.0)))


@dataclass(frozen=True)
class GaugeSet:
    """Gauges of one reader."""

    reader: str
    fingerprint: str
    d_model: int
    gauges: tuple[Gauge, ...]
