"""The likelihood judge: does an answer read as if it had been asked for? Needs no API and no judge prompt.

    s(x, y) = mean over instruction pairs of [log p(y | x, pos) - log p(y | x, neg)] / |y|        (nats per token)

Two questions are asked with it. *Did the answer follow its instruction?* is judged by the pair it was written under;
one side's log-probability is known from writing, so this costs one pass over the answer. It decides what is kept.
*Does the answer show the trait?* is judged by the other pairs only, because under its own pair an answer looks in
character by being likely, trait or no trait. It scores everything that is reported. Both are calibrated to 0-100 on
rollouts of other questions, 50 being the boundary. This file does not know how rollouts were written, or directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mien.coherence import CoherenceScale
from mien.evidence import folds
from mien.progress import Progress
from mien.records import Conversation, Engine, Message, Rollout, Score, ScoreRequest
from mien.spec import InstructionPair, TraitSpec
from mien.store import Stage


@dataclass(frozen=True)
class LikelihoodJudge:
    """Judge by one model, the writer itself or another."""

    engine: Engine
    """The judging model."""
    writer: Engine
    """The model that wrote: its plain log-probability of an answer is what coherence rests on."""
    spec: TraitSpec
    pairs: int = 2
    """How many instruction pairs, other than its own, an answer's trait is judged by."""
    max_tokens: int = 20
    """How many tokens of the answer, from its start, the trait is judged by: later ones add cost and little else."""
    kind: Literal["likelihood", "api"] = "likelihood"

    @property
    def model(self) -> str:
        return self.engine.info.id

    @property
    def identity(self) -> str:
        info = self.engine.info
        return f"likelihood:{info.id}:{info.fingerprint[:12]}:{self.pairs} pairs:{self.max_tokens} tokens"

    @property
    def _own_ids(self) -> bool:
        return self.engine.info.fingerprint == self.writer.info.fingerprint

    def followed(self, rollouts: Sequence[Rollout], written_under: Sequence[int]) -> list[Score]:
        """`s(x, y)` by the pair each answer was written under; not calibrated yet."""
        other_side, signs = [], []
        for rollout, own in zip(rollouts, written_under, strict=True):
            pair = self.spec.instructions[own]
            positive = rollout.conversation[0].content == pair.pos
            signs.append(1 if positive else -1)
            other_side.append(self._request(rollout, pair.neg if positive else pair.pos, None))
        known = [r.logprob for r in rollouts] if self._own_ids else self._own_prompt_logprobs(rollouts)
        against = [float(row.mean()) if len(row) else None for row in self.engine.logprobs(other_side)]
        return [
            _unscaled(rollout, sign * (own - other) if own is not None and other is not None else None, rollout.logprob)
            for rollout, sign, own, other in zip(rollouts, signs, known, against, strict=True)
        ]

    def measure(self, rollouts: Sequence[Rollout], written_under: Sequence[int | None], steered: bool) -> list[Score]:
        """`s(x, y)` by other pairs, with the plain model's log-probability beside it; not calibrated yet."""
        raws = self.raw(rollouts, written_under)
        logprobs = self._plain_logprobs(rollouts) if steered else [r.logprob for r in rollouts]
        return [_unscaled(r, raw, logprob) for r, raw, logprob in zip(rollouts, raws, logprobs, strict=True)]

    def _own_prompt_logprobs(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        rows = self.engine.logprobs([ScoreRequest(r.conversation, r.text) for r in rollouts])
        return [float(row.mean()) if len(row) else None for row in rows]

    def _plain_logprobs(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        rows = self.writer.logprobs([ScoreRequest(r.conversation, r.text, r.response_ids) for r in rollouts])
        return [float(row.mean()) if len(row) else None for row in rows]

    def raw(self, rollouts: Sequence[Rollout], written_under: Sequence[int | None]) -> list[float | None]:
        """`s(x, y)` of each rollout, nats per token; None for an empty answer.

        Args:
            rollouts: answers; their system prompts are replaced by the judge's instructions.
            written_under: index of the instruction pair each was written under, None if under none.
        """
        requests: list[ScoreRequest] = []
        owners: list[tuple[int, int]] = []
        for i, (rollout, own) in enumerate(zip(rollouts, written_under, strict=True)):
            if not rollout.text.strip():
                continue
            for pair in self._judging_pairs(i if own is None else own, rollout):
                for sign, instruction in ((1, pair.pos), (-1, pair.neg)):
                    requests.append(self._request(rollout, instruction, self.max_tokens))
                    owners.append((i, sign))
        sums = [0.0] * len(rollouts)
        counts = [0] * len(rollouts)
        for (i, sign), row in zip(owners, self.engine.logprobs(requests), strict=True):
            if len(row):
                sums[i] += sign * float(row.mean())
                counts[i] += 1
        return [2 * total / count if count else None for total, count in zip(sums, counts, strict=True)]

    def _judging_pairs(self, own: int, rollout: Rollout) -> list[InstructionPair]:
        """The next pairs after `own`, never the one the answer was written under (unless it is the only one)."""
        every = self.spec.instructions
        system = rollout.conversation[0].content
        others = [every[(own + 1 + step) % len(every)] for step in range(len(every) - 1)]
        fair = [pair for pair in others if system not in (pair.pos, pair.neg)]
        return fair[: self.pairs] or list(every[:1])

    def _request(self, rollout: Rollout, instruction: str, max_tokens: int | None) -> ScoreRequest:
        return ScoreRequest(
            conversation=under(instruction, rollout.conversation),
            text=rollout.text,
            response_ids=rollout.response_ids if self._own_ids else None,
            max_tokens=max_tokens,
        )


def _unscaled(rollout: Rollout, raw: float | None, logprob: float | None) -> Score:
    raw = raw if rollout.text.strip() else None  # blanks have tokens, and say nothing
    return Score(rollout.id, None, None, raw, logprob, None if raw is not None else "the answer is empty")


def under(instruction: str, conversation: Conversation) -> Conversation:
    """The conversation with `instruction` in place of whatever system prompt it had."""
    return (Message("system", instruction), *(m for m in conversation if m.role != "system"))


@dataclass(frozen=True)
class Calibration:
    """Raw judge values to 0-100: `100 * logistic(slope * raw + intercept)`, slope never negative."""

    slope: float
    intercept: float

    def __call__(self, raw: float | None) -> float | None:
        if raw is None:
            return None
        return 100 / (1 + math.exp(-min(max(self.slope * raw + self.intercept, -60), 60)))


def calibrate(raw: Sequence[float | None], positive: Sequence[bool]) -> Calibration:
    """Logistic regression of the side an answer was written on against its raw value, sides weighed alike.

    A judge that runs the wrong way round gets slope 0, so that everything scores 50 and is seen to be useless.
    """
    from sklearn.linear_model import LogisticRegression

    known = [(value, side) for value, side in zip(raw, positive, strict=True) if value is not None]
    if len({side for _, side in known}) < 2:
        return Calibration(0.0, 0.0)
    x = np.array([value for value, _ in known])
    scale = float(x.std()) or 1.0
    fit = LogisticRegression(class_weight="balanced").fit((x / scale)[:, None], np.array([s for _, s in known]))
    slope = float(fit.coef_[0, 0]) / scale
    return Calibration(slope, float(fit.intercept_[0])) if slope > 0 else Calibration(0.0, 0.0)


def cross_calibrated(
    raw: Sequence[float | None], positive: Sequence[bool], question: Sequence[int], seed: int, parts: int = 5
) -> list[float | None]:
    """0-100 scores, each calibrated on rollouts of other questions than its own."""
    questions = np.array(question)
    scores: list[float | None] = [None] * len(raw)
    for part in folds(np.unique(questions), parts, np.random.default_rng(seed)):
        inside = np.isin(questions, part)
        outside = np.flatnonzero(~inside).tolist()
        fit = calibrate([raw[i] for i in outside], [positive[i] for i in outside])
        for i in np.flatnonzero(inside).tolist():
            scores[i] = fit(raw[i])
    return scores


@dataclass(frozen=True)
class Scale:
    """Turns measured scores into 0-100. API scores pass through: they come on that scale."""

    trait: Calibration
    coherence: CoherenceScale

    def __call__(self, score: Score, rollout: Rollout, trait: float | None = None) -> Score:
        """The calibrated score; `trait` overrides the trait part with a cross-fitted one."""
        if score.raw is None:
            return score
        found = self.trait(score.raw) if trait is None else trait
        return replace(score, trait=found, coherence=self.coherence(score.logprob, rollout.response_ids))


Measure = Callable[[Sequence[Rollout], slice], list[Score]]


def measure_stage(
    stage: Stage, rollouts: Sequence[Rollout], measure: Measure, progress: Progress, chunk: int = 50
) -> list[Score]:
    """Scores of all rollouts, in order; what is not on disk yet is measured `chunk` at a time and kept as it comes.

    `measure(part of the rollouts, which part)` gives their scores.
    """
    for start in range(0, len(rollouts), chunk):
        part = slice(start, start + chunk)
        if all(r.id in stage.done for r in rollouts[part]):
            continue
        scores = measure(rollouts[part], part)
        stage.append([{name: getattr(score, name) for name in Score.__slots__} for score in scores])
        progress.advance(min(start + chunk, len(rollouts)), sum(len(r.response_ids) for r in rollouts[part]))
    kept = {str(r["id"]): r for r in stage.records}
    return [Score(**{name: kept[r.id][name] for name in Score.__slots__}) for r in rollouts]
