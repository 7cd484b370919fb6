"""One sentence to a validated direction, after Persona Vectors (2507.21509). Read `extract` top to bottom.

This file does not know what an engine, a judge or a page looks like inside.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from mien import evidence, proof
from mien.card import Card, JudgeEvidence, LayerEvidence, Rollouts
from mien.chat import ask
from mien.coherence import CoherenceScale, fit_coherence
from mien.directions import Direction, load_direction, save_direction
from mien.dose import Lab, seed_of, trial_layers
from mien.errors import InputError, NothingKeptError
from mien.judge import Calibration, LikelihoodJudge, Measure, Scale, calibrate, cross_calibrated, measure_stage
from mien.progress import Progress, Silent
from mien.records import Engine, Judge, Reading, Rollout, Sampling, Score, WriteRequest
from mien.report.card_page import PAGE_NAME, write_card_page
from mien.rollouts import readings_of, write_rollouts
from mien.spec import TraitSpec, save_spec, spec_hash
from mien.store import RunFolder
from mien.verdict import pronounce


@dataclass(frozen=True)
class Budget:
    """How much is spent on a direction."""

    samples: int
    """Answers to each extract question under each instruction."""
    max_tokens: int
    """Longest answer."""
    block: int
    """Questions between two looks at whether the direction has settled."""
    coefs: tuple[float, ...]
    """Coefs of the dose-response, besides 0."""
    null_coefs: tuple[float, ...]
    """Coefs at which a random direction of the same length is tried."""
    trial_questions: int
    """Extract questions on which candidate layers are tried."""
    trial_coefs: tuple[float, ...]
    """Coefs at which they are tried."""
    requests: int
    """Harmless, and half as many harmful, requests for refusals."""
    settled: float
    """Stop early when the lower end of the split-half cosine's interval passes this."""
    plain_samples: int = 1
    """Plain answers to each question for the baseline."""
    judge_pairs: int = 2
    """How many other instruction pairs the likelihood judge asks."""
    judge_tokens: int = 20
    """How many tokens of an answer, from its start, it looks at."""


BUDGETS = {
    "small": Budget(
        samples=1, max_tokens=48, block=5, coefs=(-1, 0.5, 1, 2, 3), null_coefs=(2,), trial_questions=6,
        trial_coefs=(1.5,), requests=12, settled=0.9,
    ),
    "paper": Budget(
        samples=10, max_tokens=200, block=5, coefs=(-2, -1, 0.5, 1, 1.5, 2, 2.5, 3, 4), null_coefs=(1, 2, 3),
        trial_questions=20,
        trial_coefs=(1, 2), requests=24, settled=0.98, plain_samples=5, judge_pairs=4, judge_tokens=64,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Gathered:
    """Judged rollouts of the extract questions, with how each was asked."""

    rollouts: list[Rollout]
    positive: list[bool]
    question: list[int]
    pair: list[int]
    scores: list[Score]
    stopped_early: bool

    def part(self, which: Sequence[int]) -> tuple[list[Rollout], list[bool]]:
        """Some of the rollouts, with their sides."""
        return [self.rollouts[i] for i in which], [self.positive[i] for i in which]


def likelihood_judge(judging: Engine, writer: Engine, spec: TraitSpec, budget: str) -> LikelihoodJudge:
    """The judge that a budget affords.

    Raises:
        InputError: an unknown budget.
    """
    plan = _plan(budget)
    return LikelihoodJudge(judging, writer, spec, plan.judge_pairs, plan.judge_tokens)


def extract(
    spec: TraitSpec,
    engine: Engine,
    judge: Judge,
    out: Path,
    *,
    budget: str = "small",
    seed: int = 0,
    temperature: float = 0.7,
    early_stop: bool = True,
    progress: Progress | None = None,
) -> Direction:
    """Make a direction for `spec`, prove it, and leave it with its card in `out`. Goes on where an earlier run stopped.

    Raises:
        InputError: an unknown budget, a seed or a temperature that cannot be used, or fewer than two extract questions.
        NothingKeptError: no pair of rollouts survived judging.
        RunError: `out` holds another run, is in use, or cannot be written.
    """
    plan, show = _plan(budget), progress or Silent()
    sampling = _sampling(spec, plan, seed, temperature)
    settings = {
        "budget": budget, "seed": seed, "temperature": temperature, "early_stop": early_stop,
        "judge": judge.identity, "dtype": engine.info.dtype, **_plain_values(plan),
    }  # fmt: skip
    with RunFolder(out, manifest(spec, engine, settings)) as run:
        if (out / PAGE_NAME).exists():  # what is written last: this run is finished
            return load_direction(out)
        save_spec(spec, run.work / "spec.yaml")
        plain = write_plain(spec, engine, sampling, plan, seed, run, show)
        coherence = fit_coherence(engine, plain, seed) if judge.kind == "likelihood" else CoherenceScale(0, 0)
        gathered = gather(spec, engine, judge, coherence, sampling, plan, seed, run, show, early_stop)
        kept, dropped = keep(gathered)
        data = kept_readings(run, gathered, kept)

        direction = Direction.from_means(*data.sides(), first_card(spec, engine, settings))
        trait, judged = yardstick(judge, gathered, run, seed, show)
        lab = Lab(engine, judge, Scale(trait, coherence), sampling, seed, run, show)
        layers = proof.layer_evidence(data, direction, seed)
        direction = with_layer(lab, direction, layers, plan, spec.extract_questions)

        on_eval = [r for r in plain if int(r.id.split("/")[1]) < len(spec.eval_questions)]
        effects = proof.prove(lab, direction, spec.eval_questions, plan.coefs, plan.null_coefs, plan.requests, on_eval)
        projections = proof.plain_projections(run, plain, direction)
        card = direction.card.model_copy(
            update={
                **effects,
                "rollouts": counts(gathered, kept, dropped),
                "judge": judged,
                "layers": layers,
                "confounds": proof.confounds(*gathered.part(kept)),
                "cosines": proof.cosines(direction, direction.layer, engine),
                "baseline": proof.baseline(projections[:, direction.layer]),
            }
        )
        direction = Direction(direction.vector, pronounce(card), proof.quantiles(projections))
        save_direction(direction, out)
        write_card_page(direction.card, out)
    return direction


def manifest(spec: TraitSpec, engine: Engine, settings: dict[str, object]) -> dict[str, object]:
    """What makes a run this run: with any of it changed, its folder is another's."""
    return {
        "job": "extract", "spec": spec_hash(spec), "name": spec.name, "model": engine.info.id,
        "fingerprint": engine.info.fingerprint, "settings": settings, "versions": versions(),
    }  # fmt: skip


def counts(gathered: Gathered, kept: Sequence[int], dropped: dict[str, int]) -> Rollouts:
    """The card's part on what was written and kept."""
    return Rollouts(asked=len(gathered.rollouts), kept=len(kept), dropped=dropped, stopped_early=gathered.stopped_early)


def _plan(budget: str) -> Budget:
    if budget not in BUDGETS:
        raise InputError(f"There is no budget {budget!r}: choose one of {', '.join(BUDGETS)}.")
    return BUDGETS[budget]


def check_draws(seed: int, temperature: float) -> None:
    """Raises: InputError: a seed or a temperature that nothing can be drawn with."""
    if not 0 <= seed < 2**63:
        raise InputError(f"A seed is a whole number from 0 to 2^63 - 1, not {seed}.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"A temperature is a number from 0 up, not {temperature}.")


def _sampling(spec: TraitSpec, plan: Budget, seed: int, temperature: float) -> Sampling:
    check_draws(seed, temperature)
    if len(spec.extract_questions) < 2:
        raise InputError(
            f"{spec.name} has one extract question only; a direction is tested on questions that it was not made "
            f"from, so give at least two, and better twenty."
        )
    return Sampling(max_tokens=plan.max_tokens, temperature=temperature)


def yardstick(
    judge: Judge, gathered: Gathered, run: RunFolder, seed: int, show: Progress
) -> tuple[Calibration, JudgeEvidence]:
    """What the judge's trait scores mean: its calibration, and how well held-out scores tell the two sides apart.

    Measured on one answer a side under two instruction pairs of every question (one, if there are fewer than four
    pairs), kept or not: what is dropped for not showing the trait must count against the judge and the model. All
    answers to a question are judged by the same other pairs, under prompts that are run once.
    """
    count = max(gathered.pair) + 1
    turns = [(q % count, (q - 1) % count) if count >= 4 else (q % count,) for q in gathered.question]
    chosen = [i for i, r in enumerate(gathered.rollouts) if gathered.pair[i] in turns[i] and r.id.endswith("/0")]
    rollouts, under = [gathered.rollouts[i] for i in chosen], [turns[i][0] for i in chosen]
    show.begin("judge: finding its scale", len(rollouts))
    stage = run.stage("yardstick")
    measured = measure_stage(stage, rollouts, lambda some, part: judge.measure(some, under[part], False), show)
    positive = [gathered.positive[i] for i in chosen]
    question = [gathered.question[i] for i in chosen]
    raw = [m.raw for m in measured]
    known = (
        cross_calibrated(raw, positive, question, seed) if judge.kind == "likelihood" else [m.trait for m in measured]
    )
    return calibrate(raw, positive), proof.judge_evidence(judge, measured, known, positive, question, seed)


def with_layer(
    lab: Lab, direction: Direction, layers: list[LayerEvidence], plan: Budget, questions: Sequence[str]
) -> Direction:
    """The direction with its recommended layer, found by steering at a few of those that read the trait well."""
    candidates, few = proof.candidate_layers(layers), questions[: plan.trial_questions]
    trials = trial_layers(lab, direction, candidates, plan.trial_coefs, few)
    layer, reason = proof.choose_layer(trials, layers)
    found = {"recommended_layer": layer, "layer_choice": reason, "layer_trials": trials}
    return replace(direction, card=direction.card.model_copy(update=found))


def write_plain(
    spec: TraitSpec, engine: Engine, sampling: Sampling, plan: Budget, seed: int, run: RunFolder, show: Progress
) -> list[Rollout]:
    """The model's own answers without any system prompt: the baseline, and the measure of sound text."""
    questions = [*spec.eval_questions, *spec.extract_questions]
    requests = [
        WriteRequest(f"plain/{i}/{sample}", ask(question), seed_of(seed, f"plain/{i}/{sample}"))
        for i, question in enumerate(questions)
        for sample in range(plan.plain_samples)
    ]
    show.begin("plain answers", len(requests))
    return write_rollouts(engine, requests, sampling, run.stage("plain"), show)


def gather(
    spec: TraitSpec, engine: Engine, judge: Judge, coherence: CoherenceScale, sampling: Sampling, plan: Budget,
    seed: int, run: RunFolder, show: Progress, early_stop: bool,
) -> Gathered:  # fmt: skip
    """Write, read and judge rollouts block by block, each with all instruction pairs, until the budget is spent or the
    direction has settled.
    """
    stage, score_stage = run.stage("rollouts"), run.stage("scores")
    asked: list[tuple[WriteRequest, bool, int, int]] = []
    rollouts: list[Rollout] = []
    measured: list[Score] = []
    total = len(spec.extract_questions) * len(spec.instructions) * 2 * plan.samples
    for start in range(0, len(spec.extract_questions), plan.block):
        block = range(start, min(start + plan.block, len(spec.extract_questions)))
        new = [_ask(spec, q, p, side, n, seed) for q in block for p in range(len(spec.instructions))
               for side in (True, False) for n in range(plan.samples)]  # fmt: skip
        asked += new
        show.begin(f"rollouts {len(asked) - len(new) + 1}-{len(asked)} of {total}: writing and reading", len(new))
        rollouts += write_rollouts(engine, [request for request, *_ in new], sampling, stage, show)
        show.begin(f"rollouts {len(asked) - len(new) + 1}-{len(asked)} of {total}: judging", len(new))
        part = slice(len(asked) - len(new), len(asked))
        follow = _follower(judge, [pair for *_, pair in new])
        measured += measure_stage(score_stage, rollouts[part], follow, show, len(new))
        gathered = _scored(asked, rollouts, measured, coherence, seed)
        if early_stop and len(asked) < total and start >= plan.block and settled(run, gathered, plan, seed):
            show.note(f"the direction has settled after {len(asked)} of {total} rollouts; stopping early")
            return replace(gathered, stopped_early=True)
    return gathered


def _follower(judge: Judge, pairs: Sequence[int]) -> Measure:
    return lambda some, where: judge.followed(some, pairs[where])


def _ask(
    spec: TraitSpec, question: int, pair: int, positive: bool, sample: int, seed: int
) -> tuple[WriteRequest, bool, int, int]:
    side = "pos" if positive else "neg"
    key = f"extract/{question}/{pair}/{side}/{sample}"
    instruction = spec.instructions[pair].pos if positive else spec.instructions[pair].neg
    return (
        WriteRequest(key, ask(spec.extract_questions[question], instruction), seed_of(seed, key)),
        positive,
        question,
        pair,
    )


def _scored(
    asked: Sequence[tuple[WriteRequest, bool, int, int]], rollouts: list[Rollout], measured: list[Score],
    coherence: CoherenceScale, seed: int,
) -> Gathered:  # fmt: skip
    positive, question = [a[1] for a in asked], [a[2] for a in asked]
    traits = cross_calibrated([m.raw for m in measured], positive, question, seed)
    scale = Scale(Calibration(0, 0), coherence)
    scores = [scale(m, r, t) for m, r, t in zip(measured, rollouts, traits, strict=True)]
    return Gathered(list(rollouts), positive, question, [a[3] for a in asked], scores, False)


def keep(gathered: Gathered) -> tuple[list[int], dict[str, int]]:
    """Rollouts that go into the direction, and why the others do not.

    A pair stays when its positive scores at least 50, its negative under 50, and both are coherent (at least 50).
    A rollout that is itself in order but whose other half is not counts as "its pair was dropped".

    Raises:
        NothingKeptError: no pair stays.
    """
    faults = [_fault(s, side) for s, side in zip(gathered.scores, gathered.positive, strict=True)]
    halves: dict[tuple[str, ...], list[int]] = {}
    for i, rollout in enumerate(gathered.rollouts):
        _, question, pair, _, sample = rollout.id.split("/")
        halves.setdefault((question, pair, sample), []).append(i)
    kept = [i for pair in halves.values() if not any(faults[j] for j in pair) for i in pair]
    if not kept:
        raise NothingKeptError(_why_nothing([fault for fault in faults if fault], gathered.rollouts))
    dropped = sorted(set(range(len(faults))) - set(kept))
    reasons = Counter(faults[i] or "the other half of its pair was dropped" for i in dropped)
    return sorted(kept), dict(sorted(reasons.items()))


def _why_nothing(faults: list[str], rollouts: Sequence[Rollout]) -> str:
    if not any(rollout.text.strip() for rollout in rollouts):
        return (
            f"All {len(rollouts)} answers are empty: the model ends its turn before it says anything, so there is no "
            f"character to read; use a model that was trained to answer."
        )
    worst = max(sorted(set(faults)), key=faults.count)
    return (
        f"None of the {len(rollouts)} rollouts could be kept (most often: {worst}); the model does not play this "
        f"trait, so describe it more plainly, use a larger model, or try --budget paper."
    )


def _fault(score: Score, positive: bool) -> str | None:
    if score.trait is None or score.coherence is None:
        return score.missing or "could not be scored"
    if score.coherence < 50:
        return "not coherent"
    if positive and score.trait < 50:
        return "positive, but does not show the trait"
    if not positive and score.trait >= 50:
        return "negative, but shows the trait"
    return None


def kept_readings(run: RunFolder, gathered: Gathered, kept: Sequence[int]) -> evidence.Readings:
    """Readings of the kept rollouts."""
    readings: list[Reading] = readings_of(run.stage("rollouts"), [gathered.rollouts[i] for i in kept])
    return evidence.Readings(
        np.stack([r.mean for r in readings]),
        np.array([gathered.positive[i] for i in kept]),
        np.array([gathered.question[i] for i in kept]),
    )


def settled(run: RunFolder, gathered: Gathered, plan: Budget, seed: int) -> bool:
    """Whether, over the middle half of the layers, the split-half cosine's lower end passes the budget's mark."""
    try:
        kept, _ = keep(gathered)
    except NothingKeptError:
        return False
    data = kept_readings(run, gathered, kept)
    if len(data.questions) < 6:
        return False
    cosine = evidence.split_half(data, np.random.default_rng(seed))
    quarter = cosine.shape[1] // 4
    low = np.quantile(cosine, 0.025, axis=0)[quarter : cosine.shape[1] - quarter]
    return bool(np.median(low) >= plan.settled)


def first_card(spec: TraitSpec, engine: Engine, settings: dict[str, object]) -> Card:
    info = engine.info
    return Card(
        kind="persona_vector", name=spec.name, description=spec.description,
        sign=f"larger is more {spec.name.replace('_', ' ')}",
        model=info.id, fingerprint=info.fingerprint, n_layers=info.n_layers, d_model=info.d_model,
        spec=_plain_values(spec), settings=settings, versions=versions(),
    )  # fmt: skip


def _plain_values(value: object) -> dict[str, object]:
    """A dataclass as JSON values."""
    import json

    plain = json.loads(json.dumps(asdict(value)))  # type: ignore[call-overload]
    assert isinstance(plain, dict)
    return plain


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: metadata.version(name) for name in ("mien", "torch", "transformers", "numpy")}
