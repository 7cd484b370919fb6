"""What is to be written, once a request has been checked: the conductor's input and output.

This file does not know HTTP or how a request looks on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mien.live import LiveEnd, LiveToken
from mien.records import Conversation, Intervention, Sampling
from mien.serve.records import GaugeReading


@dataclass(frozen=True)
class Wanted:
    """What a request asks beyond plain answers."""

    shown: bool = False
    """Whether the answer says anything of it."""
    gauges: tuple[int, ...] = ()
    """Places on the panel."""
    tokens: bool = False
    interventions: tuple[Intervention, ...] = ()
    hold: bool | None = None


@dataclass(frozen=True)
class Order:
    """Answers to one conversation, or to one running text."""

    id: str
    """Of the request; the choices' ids are made from it."""
    sampling: Sampling
    """`max_tokens` is at most what is wanted; it shrinks to what there is room for if `exact` is False."""
    messages: Conversation | None = None
    """None: the prompt is running text."""
    prompt_ids: tuple[int, ...] = ()
    """Of running text."""
    exact: bool = False
    """Whether the request itself said how many tokens."""
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    wanted: Wanted = field(default_factory=Wanted)
    conversation: str | None = None
    """As the client calls it."""
    owner: str = ""
    """Whose key it came with."""
    inside: bool = False
    """Asked by the server's own page, for a visitor who may decide what clients may not."""


@dataclass(frozen=True)
class Written:
    """A token of one choice."""

    choice: int
    token: LiveToken
    reads: list[dict[str, Any]] = field(default_factory=list)
    """The token before it on the gauges wanted, if tokens are."""
    so_far: dict[str, float | None] | None = None
    """By gauge, sigma of the answer up to there."""


@dataclass(frozen=True)
class Told:
    """What is told of an answer's readings."""

    conversation: str
    readings: tuple[GaugeReading, ...]
    held: bool
    fired: float | None
    policy: str
    of: str
    index: int
    """The answer's index among the conversation's messages."""
    alarms: tuple[int, ...] = ()
    """Ids under which the alarms that it raised can be found."""
    tokens: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Ended:
    """One choice is over."""

    choice: int
    end: LiveEnd
    text: str
    """The whole answer as the client has it."""
    rest: str
    """What of it no token has shown yet."""
    finish: str
    """`stop`, `length`, or `cancelled`: given up before its end, which nobody is told but the history."""
    told: Told | None
    """None: nothing was read."""


@dataclass(frozen=True)
class Began:
    """The request has been taken on."""

    prompt_tokens: int
    held: bool


Event = Began | Written | Ended
