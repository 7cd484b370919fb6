"""What an audit's page shows: plain frozen records, filled by whoever did the audit.

Numbers may be None or NaN; they are shown as unknown. Knows no model, no tensor and no HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["sigma", "share", "nats"]


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One limit, tried."""

    name: str
    what: str
    """A sentence: what it limits."""
    unit: Unit
    value: float | None
    """Positive is worse."""
    low: float | None
    high: float | None
    limit: float
    failed: bool


@dataclass(frozen=True, slots=True)
class ShiftLine:
    """How far one trait has moved."""

    name: str
    description: str
    side: Literal["low", "high"]
    verdict: str | None
    """What the direction's card says of it."""
    sigma: float | None
    low: float | None
    high: float | None
    random: float | None
    """What 95 % of random directions stay under, in sigma."""
    natural: float | None
    """The same of directions along which the base model's own answers differ."""


@dataclass(frozen=True, slots=True)
class LevelLine:
    """Something measured of both models."""

    name: str
    what: str
    unit: Unit
    base: float | None
    tuned: float | None
    worse: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class RiseLine:
    """A judged trait."""

    name: str
    sigma: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True, slots=True)
class NameLine:
    """A known direction near one of change."""

    name: str
    kind: str
    cosine: float


@dataclass(frozen=True, slots=True)
class DirectionLine:
    """One of the top directions of change."""

    share: float
    low: float
    high: float
    same_way: float
    names: tuple[NameLine, ...]


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """What both models say. Written by models: hostile."""

    question: str
    base: str
    tuned: str
    mark: float | None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Everything on the page."""

    base: str
    tuned: str
    made: str
    checks: tuple[CheckLine, ...]
    shifts: tuple[ShiftLine, ...]
    levels: tuple[LevelLine, ...]
    judge: str
    """In words: who judged the answers to open questions."""
    mark: str
    """In words: what the number beside an answer is."""
    rises: tuple[RiseLine, ...]
    layer: int
    """At which the change is told."""
    relative: tuple[float, ...]
    """By layer: the change, as a share of how much texts differ."""
    chance: float
    """Cosine beyond which a name says something."""
    mean_names: tuple[NameLine, ...]
    directions: tuple[DirectionLine, ...]
    answers: tuple[AnswerPair, ...]
    n_questions: int
    n_probes: int
    notes: tuple[str, ...]
