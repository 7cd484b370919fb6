"""Frozen types that cross the server's parts. Numbers are numpy-free, so that they can be stored and sent as they are.

This file does not know HTTP, databases or torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mien.records import Message

AlarmKind = Literal["turn", "drift"]


@dataclass(frozen=True, slots=True)
class GaugeReading:
    """One answer on one gauge. None: the gauge cannot say (an answer without text), or has no baseline."""

    gauge: str
    projection: float | None
    """Raw."""
    sigma: float | None
    """In sigma of the gauge's baseline."""
    statistic: float
    """The conversation's CUSUM up to here, over its limit: 1 is drift."""
    alarm: AlarmKind | None
    """Whether this answer alone is off, or the conversation (which is said if both are)."""
    since: int | None = None
    """Message index since which the conversation is off; None if it is not."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer, as it goes into the history."""

    conversation: str
    """Id of the conversation."""
    index: int
    """The answer's place among the conversation's messages, from 0."""
    request: str
    """Id of the request that wrote it."""
    model: str
    at: float
    """When it was over, seconds since 1970."""
    readings: tuple[GaugeReading, ...]
    finish: str
    prompt_tokens: int
    completion_tokens: int
    held: bool = False
    """Whether a cap or another intervention was in place."""
    fired: float | None = None
    """Share of slots at which a cap changed the stream."""
    messages: tuple[Message, ...] | None = None
    """The conversation's texts, this answer last; None unless texts are to be stored."""
    source: Literal["served", "posted"] = "served"
    """Written here, or written elsewhere and posted to be read."""
    owner: str = ""
    """Name of the key that it was asked for with; empty where there are none."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A gauge left its range. Stored before anybody is told."""

    id: int
    """Ascending, never used twice."""
    conversation: str
    index: int
    request: str
    model: str
    at: float
    gauge: str
    kind: AlarmKind
    sigma: float | None
    statistic: float
    since: int | None
