"""What a hold is learnt from: attacks and roles with questions, the model's own answers, and answers written under the
hold as far as it is learnt. This file does not know how anything is learnt from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mien.attacks import Attack
from mien.chat import ask
from mien.dose import seed_of
from mien.engines.hf import HfEngine
from mien.errors import NothingKeptError
from mien.holding.paired import Ids
from mien.progress import Progress
from mien.records import Conversation, Intervention, Rollout, Sampling, WriteRequest
from mien.roles import Role, load_roles
from mien.rollouts import write_rollouts
from mien.store import RunFolder

ATTACKS = 0.6
"""Share of lessons that begin with an attack; the others begin with a role of the library."""
UNDER = 0.5
"""Share of lessons whose answer was written under the hold, once there are such answers."""
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Course:
    """How much is learnt, and how."""

    rank: int
    """Of each layer's map."""
    steps: int
    """Of gradient descent at first, and again after each round."""
    rounds: int
    """How often answers are written under the hold as it then is."""
    written: int = 96
    """Answers a round."""
    answers: int = 3
    """Of the model's own, a question."""
    tokens: int = 32
    """Most of an answer."""
    rows: int = 6
    """Lessons a step."""
    quiet: int = 3
    """Ordinary conversations a step."""
    columns: int = 40
    """Tokens of each of them that are compared."""


@dataclass(frozen=True)
class Lesson:
    """A question after what asks the model to be somebody else, and an answer to it."""

    before: Conversation
    question: str
    answer: Ids


class Lessons:
    """An endless supply of lessons.

    Args:
        run: where answers are kept as they come.
        key: tells these lessons' files in the run from others'.
        attacks: attacks to learn from; roles of the library that are far from the Assistant stand beside them.
        apart: questions that a hold is tried with, so that nothing is learnt about them.

    Raises:
        NothingKeptError: the model answers none of the questions.
    """

    def __init__(
        self, engine: HfEngine, run: RunFolder, key: str, attacks: Sequence[Attack], apart: Sequence[str],
        course: Course, seed: int, show: Progress,
    ) -> None:  # fmt: skip
        self.course = course
        self._engine, self._run, self._key, self._show = engine, run, key, show
        self._sampling, self._seed = Sampling(course.tokens, TEMPERATURE), seed
        library = load_roles()
        self._attacks = tuple(attacks)
        self._roles = [role for role in library.roles if role.distance != "near"]
        questions = [q for q in library.questions if q not in set(apart)]
        requests = [
            WriteRequest(f"{i}/{j}", ask(q), seed_of(seed, f"lesson/{i}/{j}"))
            for i, q in enumerate(questions) for j in range(course.answers)
        ]  # fmt: skip
        written = self._written("lessons-own", requests)
        self._own = [(questions[int(r.id.split("/")[0])], r.response_ids) for r in written if r.response_ids]
        if not self._own:
            raise NothingKeptError(f"{engine.info.id} answers none of the questions, so there is nothing to learn.")
        self._under: list[Lesson] = []

    def draw(self, count: int, rng: np.random.Generator) -> list[Lesson]:
        """Some lessons."""
        return [self._draw(rng) for _ in range(count)]

    def write(self, hold: Intervention, number: int, rng: np.random.Generator) -> None:
        """A round: from now on half of the lessons' answers are such as the model gives under the hold as it is now."""
        asked = []
        for _ in range(self.course.written):
            question, _ = self._own[rng.integers(len(self._own))]
            asked.append((self._before(question, rng), question))
        requests = [
            WriteRequest(str(i), before, seed_of(self._seed, f"{self._key}/{number}/{i}"), (hold,))
            for i, (before, _) in enumerate(asked)
        ]
        written = self._written(f"lessons-{self._key}-{number}", requests)
        self._under = [Lesson(*pair, r.response_ids) for pair, r in zip(asked, written, strict=True) if r.response_ids]

    def _draw(self, rng: np.random.Generator) -> Lesson:
        if self._under and rng.random() < UNDER:
            return self._under[rng.integers(len(self._under))]
        question, answer = self._own[rng.integers(len(self._own))]
        return Lesson(self._before(question, rng), question, answer)

    def _before(self, question: str, rng: np.random.Generator) -> Conversation:
        if rng.random() < ATTACKS:
            return self._attacks[rng.integers(len(self._attacks))].conversation(question)
        role: Role = self._roles[rng.integers(len(self._roles))]
        return ask(question, role.ways[rng.integers(len(role.ways))])

    def _written(self, stage: str, requests: Sequence[WriteRequest]) -> list[Rollout]:
        self._show.begin(f"writing: {stage}", len(requests))
        kept = self._run.stage(stage)
        return write_rollouts(self._engine, requests, self._sampling, kept, self._show, read=False)
