"""What one visitor of the page has said and been answered, and what was read. It does not know Gradio, HTTP or models.

A message is answered in one or two lanes: plain and held side by side, or as the server's policy says. Each lane goes
on with the transcript that it shows.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mien.records import Conversation, Message
from mien.serve.policy import Rule
from mien.serve.records import GaugeReading
from mien.serve.security import Keys

Lane = Literal["auto", "plain", "held"]
Mode = Literal["auto", "plain", "held", "both"]
LANES: Mapping[str, tuple[Lane, ...]] = {
    "auto": ("auto",), "plain": ("plain",), "held": ("held",), "both": ("plain", "held"),
}  # fmt: skip
Finish = Literal["stop", "length", "stopped"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One lane's answer to a message."""

    lane: Lane
    text: str
    finish: Finish
    """`stopped`: by the visitor."""
    held: bool = False
    """Whether the hold was in place."""
    fired: float | None = None
    """Share of slots at which the cap changed the stream."""
    readings: tuple[GaugeReading, ...] = ()
    words: tuple[str, ...] = ()
    """Its tokens."""
    tints: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """By gauge, every token in sigma towards the alarming side."""

    def reading(self, gauge: str | None) -> GaugeReading | None:
        """What it read on one gauge."""
        return next((r for r in self.readings if r.gauge == gauge), None)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message with its answers, plain before held."""

    said: str
    answers: tuple[Answer, ...]
    pushes: tuple[str, ...] = ()
    """What was pushed while it was answered, in words."""
    headed: bool = False
    """Whether a system prompt stood before the first message, which moves every message's index by one."""

    def answer(self, lane: Lane) -> Answer:
        """The lane's; where it has none, what was answered instead."""
        return next((a for a in self.answers if a.lane == lane), self.answers[0])


@dataclass
class Session:
    """One visitor's conversation."""

    id: str = ""
    """Of the conversation in the history; drawn when it begins, since sessions are copies of one another."""
    exchanges: list[Exchange] = field(default_factory=list)
    chosen: str | None = None
    """The gauge that is charted and tinted by."""
    busy: bool = False
    stopping: bool = False
    """The visitor does not want to see more of what is being written."""
    opened: str | None = None
    """The conversation whose history is being looked at."""
    seen: int = -1
    """Version of the list of alarms that the visitor has."""

    def begin(self) -> None:
        """Forget everything said; the chosen gauge stays."""
        self.id = f"page-{secrets.token_hex(8)}"
        self.exchanges.clear()

    def conversation(self, lane: Lane, parting: bool = False) -> str:
        """What the history calls it: the held lane has a name of its own once the lanes have parted, or do so now."""
        parted = parting or any(len(e.answers) > 1 for e in self.exchanges)
        return f"{self.id}-held" if lane == "held" and parted else self.id

    def transcript(self, lane: Lane, system: str, message: str) -> Conversation:
        """What the lane's next answer follows."""
        head = (Message("system", system),) if system.strip() else ()
        turns = (
            m for e in self.exchanges for m in (Message("user", e.said), Message("assistant", e.answer(lane).text))
        )
        return (*head, *turns, Message("user", message))

    def lane_answers(self, lane: Lane) -> Iterator[Answer]:
        """The answers of the transcript that a lane shows."""
        return (e.answer(lane) for e in self.exchanges)


def may_decide(rule: Rule, keys: Keys) -> bool:
    """Whether visitors of the page may switch the hold off and steer, where clients may not: those with an operator's
    key, whom the guard then lets in alone, and whoever sits at this machine where there are no keys. A key that is not
    marked must not do here what it may not do in a request."""
    return rule.clients_steer or not keys or keys.marked


def modes(rule: Rule, decides: bool = True) -> list[tuple[str, Mode]]:
    """Ways to answer that there are, with their labels; the first is the server's own. Without those that switch the
    hold off, if the visitor may not."""
    if not rule.can_hold:
        return [("Plain", "plain")]
    found: list[tuple[str, Mode]] = [("Plain", "plain"), ("Held", "held"), ("Side by side", "both")]
    if rule.policy == "hold-on-alarm":
        found.insert(0, ("Hold on alarm", "auto"))
    elif rule.policy == "hold":
        found[:2] = found[1], found[0]
    return [m for m in found if decides or not any(asked_hold(lane, rule) is False for lane in LANES[m[1]])]


def asked_hold(lane: Lane, rule: Rule) -> bool | None:
    """What an order says of the hold; None where the policy does the same anyway."""
    usual = {"watch": False, "alert": False, "refuse": False, "hold": True}.get(rule.policy)
    wanted = {"auto": None, "plain": False, "held": True}[lane]
    return None if wanted == usual else wanted


def firing(answers: Sequence[Answer]) -> tuple[float | None, float | None, int]:
    """How often the cap fired in the last held answer and over all held ones, and how many these are."""
    shares = [a.fired for a in answers if a.held and a.fired is not None]
    return (shares[-1], sum(shares) / len(shares), len(shares)) if shares else (None, None, 0)
