"""What steering with a direction does: layer trials, dose-response, strength, side effects, examples.

Every answer here is to a question, without system prompt, that had no part in making the direction (layer trials
excepted: they choose the layer on extract questions, so that the eval questions stay untouched).
This file does not know how the direction was made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mien.card import Card, Dose, Example, SideEffect, Slope
from mien.chat import ask
from mien.directions import Direction
from mien.evidence import mean_interval, slope
from mien.interventions import Add
from mien.judge import Scale, measure_stage
from mien.progress import Progress
from mien.records import Engine, Judge, Rollout, Sampling, Score, ScoreRequest, WriteRequest
from mien.rollouts import write_rollouts
from mien.spec import Neutral
from mien.store import RunFolder


def seed_of(seed: int, key: str) -> int:
    """A stream of its own for every answer, from the run's seed and what the answer is."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:7], "big")


@dataclass(frozen=True)
class Arm:
    """One way of answering: a label, and what is done to the stream meanwhile."""

    label: str
    direction: Direction | None = None
    coef: float = 0.0
    layer: int | None = None


@dataclass(frozen=True)
class Answer:
    """A judged answer of an arm to a question."""

    arm: Arm
    question: int
    rollout: Rollout
    score: Score


@dataclass(frozen=True)
class Lab:
    """What every trial needs: who writes, who judges, on what scale, and where it is kept."""

    engine: Engine
    judge: Judge
    scale: Scale
    sampling: Sampling
    seed: int
    run: RunFolder
    progress: Progress

    def write(
        self, stage: str, arms: Sequence[Arm], questions: Sequence[str], sampling: Sampling
    ) -> list[list[Rollout]]:
        """Answers of every arm to every question, `[arm][question]`; all arms share batches."""
        requests = []
        for arm in arms:
            act = () if arm.direction is None or arm.coef == 0 else (Add(arm.direction, at=arm.layer, coef=arm.coef),)
            for i, question in enumerate(questions):
                # One stream a question: arms differ by what is done to them, not by luck.
                seed = seed_of(self.seed, f"{stage}/{i}")
                requests.append(WriteRequest(f"{stage}/{arm.label}/{i}", ask(question), seed, act))
        self.progress.begin(f"{stage}: writing", len(requests))
        rollouts = write_rollouts(self.engine, requests, sampling, self.run.stage(stage), self.progress, read=False)
        count = len(questions)
        return [rollouts[a * count : (a + 1) * count] for a in range(len(arms))]

    def judged(
        self, stage: str, arms: Sequence[Arm], questions: Sequence[str], sampling: Sampling | None = None
    ) -> list[Answer]:
        """Answers of every arm to every question, scored."""
        written = self.write(stage, arms, questions, sampling or self.sampling)
        # Question by question: all arms of a question are judged by the same pairs, under prompts that are run once.
        places = [(a, i) for i in range(len(questions)) for a in range(len(arms))]
        flat = [written[a][i] for a, i in places]
        under: list[int | None] = [i for _, i in places]
        self.progress.begin(f"{stage}: judging", len(flat))
        kept = self.run.stage(f"{stage}-scores")
        scores = measure_stage(
            kept, flat, lambda part, where: self.judge.measure(part, under[where], True), self.progress, 90
        )
        return [
            Answer(arms[a], i, rollout, self.scale(score, rollout))
            for (a, i), rollout, score in zip(places, flat, scores, strict=True)
        ]


def doses(answers: Sequence[Answer], rng: np.random.Generator) -> list[Dose]:
    """Mean score and coherence a coef, with intervals over questions, coefs ascending."""
    found = []
    for coef in sorted({a.arm.coef for a in answers}):
        of_coef = [a for a in answers if a.arm.coef == coef]
        traits = np.array([a.score.trait for a in of_coef if a.score.trait is not None])
        sound = np.array([a.score.coherence for a in of_coef if a.score.coherence is not None])
        score, low, high = (_finite(v) for v in mean_interval(traits, rng))
        coherence, c_low, c_high = (_finite(v) for v in mean_interval(sound, rng))
        found.append(
            Dose(
                coef=coef,
                score=score,
                score_low=low,
                score_high=high,
                coherence=coherence,
                coherence_low=c_low,
                coherence_high=c_high,
                n=len(of_coef),
                n_missing=len(of_coef) - len(traits),
            )
        )
    return found


def _finite(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def coherent_range(curve: Sequence[Dose]) -> tuple[float, float] | None:
    """Coefs around 0, without a gap, whose mean coherence is at least 50 and at most 15 below that of plain answers."""
    plain = next((d.coherence for d in curve if d.coef == 0), None)
    if plain is None:
        return None
    least = max(50.0, plain - 15.0)
    low = high = 0.0
    for dose in sorted((d for d in curve if d.coef > 0), key=lambda d: d.coef):
        if dose.coherence is None or dose.coherence < least:
            break
        high = dose.coef
    for dose in sorted((d for d in curve if d.coef < 0), key=lambda d: -d.coef):
        if dose.coherence is None or dose.coherence < least:
            break
        low = dose.coef
    return low, high


def dose_slope(answers: Sequence[Answer], within: tuple[float, float] | None, rng: np.random.Generator) -> Slope | None:
    """Slope of score on coef over the coherent range; over all coefs from 0 up if that range is a single point."""
    low, high = within if within and within[1] > 0 else (0.0, float("inf"))
    used = [a for a in answers if low <= a.arm.coef <= high and a.score.trait is not None]
    coefs = np.array([a.arm.coef for a in used])
    traits = np.array([a.score.trait for a in used], dtype=np.float64)
    if len(used) < 4:
        return None
    found, below, above, p = slope(coefs, traits, np.array([a.question for a in used]), rng)
    if not np.isfinite(found):
        return None
    return Slope(per_coef=round(found, 4), low=round(below, 4), high=round(above, 4), p=round(p, 6))


def trial_layers(
    lab: Lab, direction: Direction, layers: Sequence[int], coefs: Sequence[float], questions: Sequence[str]
) -> list[dict[str, float]]:
    """Steer at each candidate layer; `gain` is the best rise of the trait score over plain answers at a coef whose
    answers stay coherent (mean coherence within 20 of plain), 0 if no coef does.
    """
    plain = Arm("plain")
    arms = [plain, *(Arm(f"layer{k}x{c:g}", direction, c, k) for k in layers for c in coefs)]
    sampling = Sampling(min(lab.sampling.max_tokens, 32), lab.sampling.temperature, lab.sampling.top_p)
    answers = lab.judged("layer-trials", arms, questions, sampling)

    def means(arm: Arm) -> tuple[float, float]:
        of_arm = [a.score for a in answers if a.arm is arm]
        traits = [s.trait for s in of_arm if s.trait is not None]
        sound = [s.coherence for s in of_arm if s.coherence is not None]
        return (float(np.mean(traits)) if traits else 50.0), (float(np.mean(sound)) if sound else 0.0)

    base, base_coherence = means(plain)
    rows = []
    for layer in layers:
        tried = [(means(a), a.coef) for a in arms if a.layer == layer]
        good = [(score - base, coef, sound) for (score, sound), coef in tried if sound >= base_coherence - 20]
        gain, coef, sound = max(good, default=(0.0, 0.0, base_coherence))
        rows.append({"layer": layer, "gain": round(gain, 2), "at_coef": coef, "coherence": round(sound, 2)})
    return rows


def random_like(direction: Direction, seed: int) -> Direction:
    """A random direction with the same length at every layer: what any push of that size does."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(direction.vector.shape, generator=generator)
    scaled = noise / noise.norm(dim=1, keepdim=True) * direction.vector.norm(dim=1, keepdim=True)
    card = Card(
        kind="derived", name=f"random like {direction.card.name}", description="random", sign="means nothing",
        model=direction.card.model, fingerprint=direction.card.fingerprint,
        n_layers=direction.card.n_layers, d_model=direction.card.d_model,
        recommended_layer=direction.card.recommended_layer,
    )  # fmt: skip
    return Direction(scaled, card)


def kl_per_token(
    engine: Engine, plain: Sequence[Rollout], direction: Direction, layer: int, coef: float
) -> float | None:
    """KL(plain || steered) in nats per response token, along the model's own plain answers; None if all are empty.

    The answers were drawn from the plain model, so the mean of `log p_plain - log p_steered` over their tokens is an
    unbiased estimate (exact where they were sampled at temperature 1).
    """
    requests = [ScoreRequest(r.conversation, r.text, r.response_ids) for r in plain if r.response_ids]
    if not requests:
        return None
    before = np.concatenate(engine.logprobs(requests))
    after = np.concatenate(engine.logprobs(requests, [Add(direction, at=layer, coef=coef)]))
    return round(float((before - after).mean()), 5)


def refused(text: str, phrases: Sequence[str]) -> bool:
    """Whether an answer begins with, or soon says, one of the refusal phrases."""
    start = text.lower().replace("\u2019", "'")[:160]
    return any(phrase in start for phrase in phrases)


def side_effects(
    lab: Lab, direction: Direction, layer: int, coefs: Sequence[float], neutral: Neutral
) -> list[SideEffect]:
    """Neutral text's log-probability and refusals, at each coef and plain (0)."""
    texts = [ScoreRequest((), text, max_tokens=64) for text in neutral.texts]
    base = np.concatenate(lab.engine.logprobs(texts)).mean()
    arms = [Arm(f"x{c:g}", direction, c, layer) for c in coefs]
    sampling = Sampling(24, lab.sampling.temperature, lab.sampling.top_p)
    asked = [*neutral.harmless_requests, *neutral.harmful_requests]
    written = lab.write("refusals", [Arm("plain"), *arms], asked, sampling)
    found = []
    for arm, answers in zip([Arm("plain"), *arms], written, strict=True):
        change = 0.0
        if arm.coef:
            steered = lab.engine.logprobs(texts, [Add(direction, at=layer, coef=arm.coef)])
            change = float(np.concatenate(steered).mean() - base)
        no = [refused(r.text, neutral.refusals) for r in answers]
        split = len(neutral.harmless_requests)
        found.append(
            SideEffect(
                coef=arm.coef,
                neutral_logprob=round(change, 4),
                refusal_harmless=round(float(np.mean(no[:split])), 4),
                refusal_harmful=round(float(np.mean(no[split:])), 4),
            )
        )
    return found


def examples(answers: Sequence[Answer], questions: Sequence[str], coef: float, count: int = 4) -> list[Example]:
    """Plain and steered answers side by side: evenly spaced questions, not chosen by how well they look."""
    plain = {a.question: a for a in answers if a.arm.coef == 0}
    steered = {a.question: a for a in answers if a.arm.coef == coef}
    shared = sorted(set(plain) & set(steered))
    picked = [shared[round(i * (len(shared) - 1) / max(count - 1, 1))] for i in range(min(count, len(shared)))]
    return [
        Example(
            question=questions[q],
            coef=coef,
            plain=plain[q].rollout.text,
            steered=steered[q].rollout.text,
            plain_score=_rounded(plain[q].score.trait),
            steered_score=_rounded(steered[q].score.trait),
        )
        for q in picked
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
