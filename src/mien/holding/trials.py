"""What a way of holding is tried on: attacks with questions, and ordinary answers with what came before them.

This file does not know models, nor how anything is judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from mien.attacks import Attack, AttackSet
from mien.errors import InputError
from mien.records import Conversation, Intervention, Message
from mien.scanning.quiet import ordinary_conversations
from mien.store import short_hash


@dataclass(frozen=True)
class Method:
    """A way of holding: what is done to the stream, or a system prompt, or both."""

    name: str
    """Methods of one name are taken to be one."""
    interventions: tuple[Intervention, ...] = ()
    system: str | None = None
    """Put after whatever system prompt a conversation has."""

    @property
    def key(self) -> str:
        """Names its records on disk."""
        return short_hash([self.name, self.system])

    def around(self, conversation: Conversation) -> Conversation:
        """The conversation as this method sends it."""
        if self.system is None:
            return conversation
        head = [m.content for m in conversation if m.role == "system"]
        rest = (m for m in conversation if m.role != "system")
        return (Message("system", "\n\n".join([*head, self.system])), *rest)


PLAIN = Method("nothing")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    attacks: int | None = None
    """Attacks, those of different kinds first; None: all."""
    questions: int = 1
    """Questions after each attack."""
    max_tokens: int = 24
    temperature: float = 0.7
    ordinary: int = 24
    """Ordinary answers forced through the held model, one a conversation."""
    ordinary_tokens: int = 48
    """Tokens of each, from its start."""
    longest: int = 700
    """Most characters before an ordinary answer."""
    tasks: int | None = None
    """About so many tasks with exact answers, spread over all of them; None: all."""
    requests: int | None = None
    """Harmless requests; None: all."""


@dataclass(frozen=True)
class Trial:
    """One attack with one question."""

    attack: Attack
    question: str
    number: int
    """The question's place in the pool."""

    @property
    def key(self) -> str:
        return f"{self.attack.name}/{self.number}"


def trials_of(attacks: AttackSet, plan: Plan) -> tuple[Trial, ...]:
    """Every attack with its questions: other ones for each attack, all of the pool in turn.

    Raises:
        InputError: more questions are asked for than there are.
    """
    pool = attacks.questions
    if not 1 <= plan.questions <= len(pool):
        raise InputError(f"There are {len(pool)} questions; {plan.questions} after each attack cannot be asked.")
    order = {a.name: i for i, a in enumerate(attacks.attacks)}
    step = max(1, len(pool) // plan.questions)
    found = []
    for attack in attacks.spread(plan.attacks):
        for j in range(plan.questions):
            number = (order[attack.name] * 5 + j * step) % len(pool)
            found.append(Trial(attack, pool[number], number))
    return tuple(found)


@dataclass(frozen=True)
class Ordinary:
    """An ordinary answer of the library, and what came before it."""

    id: str
    before: Conversation
    answer: str

    @property
    def whole(self) -> Conversation:
        return (*self.before, Message("assistant", self.answer))


def ordinary_answers(longest: int, part: int = 0, of: int = 1) -> tuple[Ordinary, ...]:
    """One answer a conversation, the latest with at most `longest` characters before it: of every conversation, or of
    part `part` of `of`, dealt out in turn.
    """
    found = []
    for i, one in enumerate(ordinary_conversations()):
        if i % of != part:
            continue
        places = [p for p, m in enumerate(one.messages) if m.role == "assistant" and p]
        short = [p for p in places if sum(len(m.content) for m in one.messages[:p]) <= longest]
        if short:
            at = short[-1]
            found.append(Ordinary(one.id, tuple(one.messages[:at]), one.messages[at].content))
    return tuple(found)
