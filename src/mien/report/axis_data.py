"""What the persona map's page shows: roles, traits and layers as plain numbers, rounded by nobody yet.

Knows no file, no model and no HTML. A number that could not be measured is None or NaN: the page says so in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RolePoint:
    """A role that the model played. `projection`, `x` and `y` have one number for each of the report's layers."""

    name: str
    description: str
    distance: str | None
    """How far from the Assistant its author meant it to be: near, middle, far; None where nobody said."""
    n: int
    """Answers kept: those in which the role was played."""
    question: str
    example: str
    """One of its answers, to `question`. Written by a model: hostile."""
    projection: tuple[float, ...]
    """On the axis, in sigma of the default answers: 0 is their mean, below zero is away from the Assistant."""
    x: tuple[float, ...]
    """On the first principal component, raw units."""
    y: tuple[float, ...]
    """On the second principal component, raw units."""


@dataclass(frozen=True, slots=True)
class TraitPoint:
    """A trait of the library, one number for each layer."""

    name: str
    cosine: tuple[float, ...]
    """With the axis; above zero the trait points towards the Assistant."""
    x: tuple[float, ...]
    """Where the trait's unit vector points on the map."""
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AxisLayer:
    """The map of one layer in figures."""

    layer: int
    variance: tuple[float, ...]
    """Share of the variance of each of the first principal components, 0 to 1."""
    components_70: int
    """Components that hold 70 % of the variance."""
    cosine_pc1: float
    """Absolute cosine of axis and first component."""
    norm: float
    """Length of the axis, raw units."""
    split_half_roles: float | None
    """Cosine of the axes from two halves of the roles."""
    split_half_questions: float | None
    """Cosine of the axes from two halves of the questions."""
    default_x: float
    """Where the default Assistant sits on the map, raw units."""
    default_y: float


@dataclass(frozen=True, slots=True)
class NotPlayed:
    """A role that was left out, and why. A name that is among the report's roles too was played partly, and used."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class CostPoint:
    """What an axis from this many roles is worth, at the recommended layer."""

    n_roles: int
    cosine: float
    """With the axis from the other roles, mean over random choices of this many."""
    low: float
    """5th and 95th percentile over those choices."""
    high: float
    seconds: float | None
    """Estimated time to make it."""


@dataclass(frozen=True, slots=True)
class AxisReport:
    """Everything the page shows."""

    name: str
    model: str
    chat: bool
    """False for a base model, whose "Assistant" is only what it writes after the word."""
    description: str
    verdict: str | None
    """strong, usable or weak; None where nobody judged."""
    reasons: tuple[str, ...]
    layers: tuple[AxisLayer, ...]
    recommended_layer: int
    """Number of the layer that the page opens with."""
    roles: tuple[RolePoint, ...]
    traits: tuple[TraitPoint, ...] = ()
    not_played: tuple[NotPlayed, ...] = ()
    cost: tuple[CostPoint, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
