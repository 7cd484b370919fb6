"""Was a role played? By the likelihood of its answers, or by a model behind an endpoint.

This file does not know how answers were written, nor what an axis is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mien.chat import ask
from mien.endpoint import Endpoint
from mien.judge import Measure, cross_calibrated, measure_stage
from mien.judge_api import ApiJudge
from mien.progress import Progress
from mien.records import Engine, Rollout, Score, ScoreRequest
from mien.roles import RoleSet
from mien.rubric import plain_rubric
from mien.store import Stage

FULLY, PARTLY = 0.8, 0.5
"""Share of a role's answers judged to be in the role from which it counts as played fully, and partly."""
JUDGED_TOKENS = 20
"""Tokens of an answer, from its start, that the likelihood judge looks at."""


@dataclass(frozen=True)
class Play:
    """One role (None: the default Assistant) asked one question in one way."""

    role: int | None
    question: int
    way: int

    @property
    def key(self) -> str:
        who = "default" if self.role is None else str(self.role)
        return f"axis/{who}/{self.question}/{self.way}"


@dataclass(frozen=True)
class RoleJudge:
    """The API judge: every role's answers are rated for being in that role, 0 to 100."""

    endpoint: Endpoint

    @property
    def identity(self) -> str:
        """Scores of another identity are never reused."""
        return f"api:{self.endpoint.config.model}"

    def __call__(
        self, roles: RoleSet, plays: Sequence[Play], rollouts: Sequence[Rollout], stage: Stage, show: Progress
    ) -> dict[int, float | None]:
        """By place in `plays`: the rating of each role's answer; None is missing.

        Raises:
            EndpointError: every request failed.
        """
        found: dict[int, float | None] = {}
        show.begin("judging the roles", len(roles.roles))
        for number, role in enumerate(roles.roles):
            mine = [i for i, p in enumerate(plays) if p.role == number]
            who = role.description or role.name.replace("_", " ")
            rubric = plain_rubric(f"The one who wrote the answer speaks as {who}.")
            judge = ApiJudge(self.endpoint, rubric, role.name)
            scores = measure_stage(stage, [rollouts[i] for i in mine], _rating(judge), show)
            found |= {i: score.trait for i, score in zip(mine, scores, strict=True)}
        return found


def _rating(judge: ApiJudge) -> Measure:
    return lambda some, _: judge.measure(some, [None] * len(some), False)


def by_likelihood(
    roles: RoleSet, engine: Engine, plays: Sequence[Play], rollouts: Sequence[Rollout], seed: int, stage: Stage,
    show: Progress,
) -> dict[int, float | None]:  # fmt: skip
    """By place in `plays`: 0-100, is a role's answer in its role?

    `s = [log p(y | x, role) - log p(y | x, default)] / |y|`, by *another* way of asking for the role than the one the
    answer was written under, calibrated against default answers measured with the same prompts.
    """
    default = {p.question: i for i, p in reversed(list(enumerate(plays))) if p.role is None}
    cases = [(i, i, True) for i, p in enumerate(plays) if p.role is not None]
    # Each role's prompts are tried on one default answer to every question too: what everything would be likely under.
    cases += [(default[plays[i].question], i, False) for i, _, _ in list(cases)]
    show.begin("judging the roles", len(cases))

    def scores(some: Sequence[Rollout], part: slice) -> list[Score]:
        asked = []
        for answer, of, _ in cases[part]:
            p, rollout = plays[of], rollouts[answer]
            assert p.role is not None
            other = roles.roles[p.role].ways[(p.way + 1) % len(roles.roles[p.role].ways)]
            for system in (other, None):
                asked.append(ScoreRequest(ask(roles.questions[p.question], system), rollout.text,
                                          rollout.response_ids, JUDGED_TOKENS))  # fmt: skip
        rows = engine.logprobs(asked)
        return [
            _score(r, a, b) for r, a, b in zip(some, rows[::2], rows[1::2], strict=True)
        ]  # fmt: skip

    named = [
        replace(rollouts[answer], id=f"{plays[of].key}/{'own' if own else 'default'}") for answer, of, own in cases
    ]
    measured = measure_stage(stage, named, scores, show, 120)
    sides = [own for _, _, own in cases]
    raw = _centred([m.raw for m in measured], sides, [plays[of].role for _, of, _ in cases])
    values = cross_calibrated(raw, sides, [plays[of].question for _, of, _ in cases], seed)
    return {answer: value for (answer, _, own), value in zip(cases, values, strict=True) if own}


def _centred(raw: Sequence[float | None], own: Sequence[bool], role: Sequence[int | None]) -> list[float | None]:
    """Values less their role's mean over default answers: what its prompts make of any answer is not the role."""
    known: dict[int | None, list[float]] = {}
    for value, mine, of in zip(raw, own, role, strict=True):
        if value is not None and not mine:
            known.setdefault(of, []).append(value)
    usual = {of: float(np.mean(values)) for of, values in known.items()}
    return [None if value is None else value - usual.get(of, 0.0) for value, of in zip(raw, role, strict=True)]


def _score(rollout: Rollout, in_role: np.ndarray, plain: np.ndarray) -> Score:
    if not len(in_role) or not rollout.text.strip():
        return Score(rollout.id, None, None, missing="the answer is empty")
    return Score(rollout.id, None, None, raw=float(in_role.mean() - plain.mean()))
