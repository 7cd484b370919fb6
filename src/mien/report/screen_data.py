"""What a screen's page shows: plain frozen records, filled by whoever did the screening.

Words: a record's *difference* is how much further its answers lie along a direction than the model's own answers to the
same prompts, here in sigma of the model's baseline. Numbers may be NaN; they are shown as unknown. Knows no model, no
tensor and no HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ShownRecord:
    """One record with its words. Written by whoever wrote the data set: hostile."""

    index: int
    """Place in the data set, from 0."""
    id: str
    source: str
    line: int
    sigma: float
    turns: tuple[tuple[str, str], ...]
    """(role, text)."""
    own: str | None
    """What the model says itself to the last prompt; None where that was not written."""


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """Records that the model makes something alike of."""

    size: int
    sigma: float
    """Mean over them."""
    words: tuple[str, ...]
    example: ShownRecord


@dataclass(frozen=True, slots=True)
class MethodLine:
    """How a cheaper estimate compares with the full difference."""

    method: str
    n: int
    rank_correlation: float
    low: float
    high: float
    off_by: float
    """Its mean minus the full one's, in sigma."""


@dataclass(frozen=True, slots=True)
class TraitLine:
    """One watched direction."""

    name: str
    description: str
    side: Literal["low", "high"]
    source: str
    verdict: str | None
    shift: float
    """Mean difference in sigma."""
    low: float
    high: float
    twins: float
    """What 95 % of random directions stay under, in sigma."""
    n: int
    beyond: int
    """Records more than two sigma towards the alarming side."""
    sigma_of: str
    bins: tuple[tuple[float, float, int], ...]
    """(left, right, records) in sigma; the outermost are open."""
    methods: tuple[MethodLine, ...]
    worst: tuple[ShownRecord, ...]
    groups: tuple[ShownGroup, ...]


@dataclass(frozen=True, slots=True)
class ScreenReport:
    """Everything on the page."""

    title: str
    model: str
    method: str
    made: str
    n_samples: int
    n_answers: int
    n_tokens: int
    n_unmeasured: int
    traits: tuple[TraitLine, ...]
    skipped: tuple[tuple[str, int, str], ...]
    n_skipped: int
    kept: tuple[int, int, str] | None
    """Records kept, left out, and the file's name; None where nothing was written."""
    notes: tuple[str, ...]
