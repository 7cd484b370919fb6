"""What is done about a conversation that left its character: watched, told, held, or refused.

This file does not know how it is found out, nor how an answer is held.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal, get_args

from mien.errors import InputError
from mien.serve.problems import Problem

Policy = Literal["watch", "alert", "hold-on-alarm", "hold", "refuse"]
"""watch: readings and alarms are kept, nobody is told. alert: webhooks and the log tell of alarms, too. hold-on-alarm:
besides, answers are held in a conversation once anything alarmed in it. hold: every answer is held. refuse: a
conversation that drifted gets no more answers (one answer that was off by itself is not enough for that)."""
POLICIES: tuple[str, ...] = get_args(Policy)


@dataclass(frozen=True)
class Rule:
    """A policy with what it needs."""

    policy: Policy
    can_hold: bool
    """Whether there is anything to hold with."""
    clients_steer: bool
    """Whether a request may switch the hold off and bring interventions of its own."""
    can_alarm: bool = True
    """Whether a gauge is watched that can raise an alarm: one that has a baseline."""

    def __post_init__(self) -> None:
        if self.policy in ("hold", "hold-on-alarm") and not self.can_hold:
            raise InputError(f"The policy {self.policy} needs something to hold: give --hold NAME as well.")
        if self.looks_back and not self.can_alarm:
            raise InputError(
                f"The policy {self.policy} needs a watched gauge that can alarm, and there is none: make one with mien "
                "axis, and its baseline with mien baseline."
            )

    @property
    def tells(self) -> bool:
        """Whether webhooks and the log hear of alarms."""
        return self.policy != "watch"

    @property
    def looks_back(self) -> bool:
        """Whether it depends on what was read earlier in a conversation."""
        return self.policy in ("hold-on-alarm", "refuse")

    def decide(self, asked: bool | None, steered: bool, alarmed: Set[str], inside: bool = False) -> bool:
        """Whether an answer is held.

        Args:
            asked: what the request says of it.
            steered: whether the request brings interventions of its own.
            alarmed: kinds of alarm earlier in its conversation, `turn` and `drift`.
            inside: it comes from the server's own page, and its visitors may decide what clients may not.

        Raises:
            Problem: it is not answered at all.
        """
        if self.policy == "refuse" and "drift" in alarmed:
            raise Problem(
                403, "This conversation left the character that this server keeps, and is not continued; begin a new "
                "one.", code="conversation_drifted",
            )  # fmt: skip
        if not self.clients_steer and not inside and (steered or asked is False):
            what = "interventions" if steered else "hold"
            raise Problem(403, f"mien.{what}: this server does not let requests decide that.", param=f"mien.{what}")
        if asked and not self.can_hold:
            raise Problem(400, "mien.hold: this server was started without anything to hold; start it with --hold "
                               "NAME.", param="mien.hold")  # fmt: skip
        if asked is not None:
            return asked
        return self.policy == "hold" or (self.policy == "hold-on-alarm" and bool(alarmed))
