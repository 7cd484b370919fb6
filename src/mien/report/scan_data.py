"""What a scan's page shows: plain frozen records, filled by whoever did the scan.

Words: a *gauge* is a direction at one layer with an alarm threshold in sigma of a baseline. A conversation's *score*
is the maximum of its CUSUM divided by the CUSUM's threshold, so a score of 1 or more says that it *drifted*. Every
tuple that is "per gauge" has the order of `ScanReport.gauges`. Numbers may be NaN or infinite; they are shown as
unknown.

Knows no model, no tensor and no HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class GaugeLine:
    """One gauge and how often it alarmed."""

    name: str
    """`assistant` for the Assistant Axis."""
    description: str
    """A sentence: what the gauge reads."""
    side: Literal["low", "high"]
    """Which side of the baseline is alarming."""
    layer: int
    turn_threshold: float
    """Distance from the baseline's mean in sigma at which a turn alarms; its sign is taken from `side`."""
    turn_rate: float
    """False alarms asked for, per turn: 0.01 is one turn in a hundred; 0 where none was set. Its own part, where
    several gauges share a rate."""
    conversation_rate: float
    """False alarms asked for, per conversation; 0 where none was set."""
    turns_alarmed: int
    drifted: int
    """Conversations whose score reached 1, of all that were read."""
    note: str = ""
    """What a reader must know about it: `length explains 12% of its spread`."""


@dataclass(frozen=True, slots=True)
class ConversationLine:
    """One conversation in numbers."""

    id: str
    model: str | None
    """Who wrote the answers, where the records say it."""
    time: str | None
    """ISO 8601; without an offset it is taken as UTC."""
    source: str
    """File that it came from."""
    line: int
    """Line or record of that file, from 1."""
    n_turns: int
    """Turns that were read."""
    scores: tuple[float, ...]
    """Per gauge; 1 or more is drifted, NaN is not measured."""
    left_at: tuple[int | None, ...]
    """Per gauge: index of the message at which it left, None where it did not."""


@dataclass(frozen=True, slots=True)
class TurnDetail:
    """One message of a conversation that is shown whole."""

    message_index: int
    role: str
    text: str
    sigma: tuple[float | None, ...]
    """Per gauge: the turn's projection in sigma; None for a turn that is not read."""
    alarm: tuple[bool, ...]
    """Per gauge."""
    cusum: tuple[float | None, ...]
    """Per gauge, in units of its threshold: 1 is the alarm."""
    tokens: tuple[str, ...]
    """The text in pieces, in order. Pieces that are not found in the text stay untinted."""
    tints: tuple[float, ...]
    """One a token: its projection on the conversation's worst gauge in sigma, positive towards the alarming side."""


@dataclass(frozen=True, slots=True)
class ConversationDetail:
    """One conversation with its text."""

    id: str
    index: int
    """Place in `ScanReport.conversations`."""
    turns: tuple[TurnDetail, ...]
    gauge: int
    """Its worst gauge, the one whose tints the tokens have."""


@dataclass(frozen=True, slots=True)
class ScanReport:
    """Everything on the page."""

    title: str
    reader: str
    """Model that read the conversations."""
    made: str
    """When, in words or ISO."""
    baseline: str
    """A sentence: what sigma is measured against."""
    gauges: tuple[GaugeLine, ...]
    conversations: tuple[ConversationLine, ...]
    """All, in any order; the page sorts them."""
    details: tuple[ConversationDetail, ...]
    """The worst, with their text."""
    n_turns: int
    """Turns read, of all conversations."""
    n_tokens: int
    """Tokens read."""
    skipped: tuple[tuple[str, int, str], ...]
    """The first records that could not be read: source, line, reason."""
    n_skipped: int
    left_out: int
    """Conversations that were read and counted but are not in `conversations`."""
    notes: tuple[str, ...]
    """Sentences for the foot of the page."""
