"""What is measured of one model: its own answers to several sets of questions, and what it makes of given texts.

Everything is kept in the run's folder as it comes, so that a stopped audit goes on, and a base model that was measured
once is not measured again. Shapes: q questions, t texts, l layers, d width. This file does not compare anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import read_array
from numpy.typing import NDArray

from mien.attacks import attacks_hash, load_price
from mien.auditing.probes import Probe, eval_questions, load_probes
from mien.chat import ask
from mien.dose import refused, seed_of
from mien.engines.hf import HfEngine
from mien.models import Model
from mien.progress import Progress
from mien.records import Rollout, Sampling, ScoreRequest, WriteRequest
from mien.rollouts import write_rollouts
from mien.spec import load_neutral
from mien.store import RunFolder, short_hash, write_atomic
from mien.training.shift import Read, own_answers

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AuditPlan:
    """How much is asked."""

    questions: int = 45
    """Eval questions of the library's traits, for the shift."""
    max_tokens: int = 48
    """Longest answer to them."""
    probes: int = 54
    """Open questions."""
    probe_tokens: int = 64
    """Longest answer to them."""
    temperature: float = 0.7
    """At which open questions are answered."""
    seed: int = 0
    requests: int = 24
    """Harmless requests, and as many harmful ones, for refusals."""
    tasks: int = 64
    """Exact-answer tasks."""
    roles: int = 40
    """Roles of the library that a change may be named by."""
    name_texts: int = 4
    """Answers that they are read on."""


@dataclass(frozen=True)
class Side:
    """One model, measured."""

    own: list[Rollout]
    """Greedy answers to the eval questions, `[q]`."""
    read: Read
    """They, read at every layer."""
    probes: list[Rollout]
    """Answers to the open questions."""
    refused_harmless: NDArray[np.bool_]
    refused_harmful: NDArray[np.bool_]
    tasks: NDArray[np.bool_]
    """Which exact-answer tasks are solved."""
    neutral: Floats
    """Mean log-probability of each neutral text, nats a token."""


def plan_digest(plan: AuditPlan) -> str:
    """Names everything that is asked."""
    neutral = load_neutral()
    asked = [eval_questions(plan.questions), [p.text for p in probes_of(plan)], asdict(neutral), asdict(plan)]
    return short_hash([asked, attacks_hash(load_price())])


def probes_of(plan: AuditPlan) -> tuple[Probe, ...]:
    """The open questions that are asked."""
    return load_probes()[: plan.probes]


def measure_side(model: Model, plan: AuditPlan, run: RunFolder, show: Progress) -> Side:
    """Everything that is asked of one model; what the run has already is taken from it.

    Raises:
        RunError: the disk refuses.
        NonFiniteError: activations or log-probabilities are NaN or infinite.
    """
    own = own_answers(
        model, eval_questions(plan.questions), max_tokens=plan.max_tokens, stage=run.stage("own"), progress=show
    )
    means = kept_array(run.work / "own.npy", lambda: read_all(model, own, "reading its own answers", show))
    full = np.array([bool(r.response_ids) for r in own])
    neutral, asked = load_neutral(), load_price().tasks[: plan.tasks]
    engine = HfEngine(model)

    def written(stage: str, questions: Sequence[str], sampling: Sampling) -> list[Rollout]:
        keys = [f"{stage}/{i}" for i in range(len(questions))]
        requests = [WriteRequest(k, ask(q), seed_of(plan.seed, k)) for k, q in zip(keys, questions, strict=True)]
        show.begin(f"{stage} of {model.info.id}", len(requests))
        return write_rollouts(engine, requests, sampling, run.stage(stage), show, read=False)

    probes = written("probes", [p.text for p in probes_of(plan)], Sampling(plan.probe_tokens, plan.temperature))
    harmless = written("harmless", neutral.harmless_requests[: plan.requests], Sampling(24, 0.0))
    harmful = written("harmful", neutral.harmful_requests[: plan.requests], Sampling(24, 0.0))
    tasks = written("tasks", [t.ask for t in asked], Sampling(32, 0.0))

    def score() -> Floats:
        show.begin(f"neutral texts under {model.info.id}", 1)
        rows = engine.logprobs([ScoreRequest((), text, max_tokens=64) for text in neutral.texts])
        return np.array([row.mean() for row in rows], np.float64)

    return Side(
        own, Read(tuple(range(model.n_layers)), means.astype(np.float32), full), probes,
        np.array([refused(r.text, neutral.refusals) for r in harmless]),
        np.array([refused(r.text, neutral.refusals) for r in harmful]),
        np.array([task.passes(r.text) for task, r in zip(asked, tasks, strict=True)]),
        kept_array(run.work / "neutral.npy", score),
    )  # fmt: skip


def read_all(model: Model, rollouts: Sequence[Rollout], what: str, show: Progress) -> NDArray[np.float32]:
    """`[t, l, d]`: mean stream over each answer at every layer, raw; zeros for an empty one."""
    show.begin(what, len(rollouts))
    found: dict[str, NDArray[np.float32]] = {}
    for batch in HfEngine(model).read(rollouts):
        found |= {reading.id: reading.mean for reading in batch}
        show.advance(len(found), sum(reading.n_tokens for reading in batch))
    return np.stack([found[rollout.id] for rollout in rollouts])


def kept_array(path: Path, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """An array of the run, made if it is not there yet or cannot be read.

    Raises:
        RunError: the disk refuses.
    """
    try:
        return np.asarray(read_array(BytesIO(path.read_bytes()), allow_pickle=False))
    except (OSError, ValueError, EOFError):
        made = make()
        buffer = BytesIO()
        np.save(buffer, made)
        write_atomic(path, buffer.getvalue())
        return made
