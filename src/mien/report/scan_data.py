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
    quiet_turns: tuple[int, int]
    """Turns of quiet traffic that alarmed at limits set without them, and how many there were; `(0, 0)` is not known.
    What a gauge reached, not what was asked for: gauges that share a rate do not share it evenly."""
    quiet_conversations: tuple[int, int]
    """Conversations of quiet traffic that drifted, likewise."""
    turns_alarmed: int
    drifted: int
    """Conversations whose score reached 1, of all that were read."""
    note: str = ""
    """What a reader must know about it: `length explains 12% of its spread`."""


@dataclass(frozen=True, slots=True)
class Together:
    """False alarms of any of the gauges, known where they are all those whose limits were set together."""

    asked: float
    """Share of quiet conversations that the limits are to let drift."""
    quiet_conversations: tuple[int, int]
    """Conversations of quiet traffic that drifted on any of them at limits set without them, of how many."""


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
class Tally:
    """Conversations counted together."""

    total: int
    drifted: tuple[int, ...]
    """Per gauge, and behind them on any gauge."""


@dataclass(frozen=True, slots=True)
class Tallies:
    """All conversations that were read, counted, whether they are listed or not."""

    all: Tally
    models: tuple[tuple[str | None, Tally], ...]
    """By who wrote the answers; None is not named."""
    days: tuple[tuple[int, Tally], ...]
    """By day in UTC, counted from the beginning of the calendar; without those whose time is not known."""


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
    together: Together | None = None
    """None where the gauges are of several files, or only some of one."""
    tallies: Tallies | None = None
    """None where `conversations` are all and can be counted."""
