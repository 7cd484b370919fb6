"""What fine-tuning has moved: two models' own answers to the same questions, read and compared along directions.

The fine-tuning shift is `<mean a_tuned - mean a_base, v^>` (Persona Vectors, 2507.21509), where `a` is the mean over
response tokens of the stream at the direction's layer, on questions without system prompt. Shapes: q questions, l
layers, d width. This file does not know how a model was trained, or how an answer is judged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien import evidence
from mien.chat import ask
from mien.directions import Direction
from mien.engines.hf import HfEngine
from mien.errors import InputError, NothingKeptError
from mien.gauges import Gauge, Part
from mien.gauges.gauge import Side
from mien.models import Model
from mien.progress import Progress, Silent
from mien.records import Rollout, Sampling, WriteRequest
from mien.rollouts import write_rollouts
from mien.screening.watched import Watched, watched_direction, watched_gauge
from mien.store import Stage
from mien.training.borrowed import adapted

Floats = NDArray[np.float64]

_NULLS = 1000
"""Random directions that a shift is held against."""


@dataclass(frozen=True)
class Read:
    """Answers, read at the layers that what is watched needs."""

    layers: tuple[int, ...]
    means: NDArray[np.float32]
    """`[q, l, d]` mean stream over the answer's tokens, `layers` in order, raw; zeros for an empty answer."""
    full: NDArray[np.bool_]
    """`[q]` whether there is an answer at all."""

    def at(self, part: Part) -> Floats:
        """`[q, d]` at a part's layer."""
        return self.means[:, self.layers.index(part.layer)].astype(np.float64)

    def project(self, along: Watched) -> Floats:
        """`[q]` raw projections."""
        found: Floats = np.sum([self.at(part) @ part.vector.astype(np.float64) for part in along.parts], axis=0)
        return found


def own_answers(
    model: Model, questions: Sequence[str], *, max_tokens: int = 64, stage: Stage | None = None,
    progress: Progress | None = None,
) -> list[Rollout]:  # fmt: skip
    """The model's own greedy answers to questions without system prompt; kept in `stage`, if there is one, where what
    an earlier run wrote is taken from.

    Raises:
        InputError: no questions.
    """
    if not questions:
        raise InputError("There are no questions to measure a shift on.")
    show, engine, sampling = progress or Silent(), HfEngine(model), Sampling(max_tokens, 0.0)
    requests = [WriteRequest(f"own/{i}", ask(question), 0) for i, question in enumerate(questions)]
    show.begin(f"answers of {model.info.id}", len(requests))
    if stage is not None:
        return write_rollouts(engine, requests, sampling, stage, show, read=False)
    written: dict[str, Rollout] = {}
    for batch in engine.write(requests, sampling, read=False):
        written |= {rollout.id: rollout for rollout, _ in batch}
        show.advance(len(written), sum(len(rollout.response_ids) for rollout, _ in batch))
    return [written[request.id] for request in requests]


def read_answers(model: Model, rollouts: Sequence[Rollout], along: Sequence[Watched]) -> Read:
    """Read answers (the model's own, or others in its ids; their ids differ) at the layers that are needed.

    Raises:
        InputError: there is nothing to measure along, or a layer is needed that the model does not have.
    """
    layers = tuple(sorted({layer for one in along for layer in one.layers}))
    if not layers:
        raise InputError("There is nothing to measure a shift along; give at least one direction or gauge.")
    found = {reading.id: reading for batch in HfEngine(model).read(rollouts, layers) for reading in batch}
    means = np.stack([found[rollout.id].mean for rollout in rollouts])
    return Read(layers, means, np.array([bool(rollout.response_ids) for rollout in rollouts]))


@dataclass(frozen=True)
class Shift:
    """How far a model's answers have moved along one direction or gauge. Sigma is None where no baseline is known."""

    name: str
    side: Side
    """Which side is alarming."""
    layers: tuple[int, ...]
    raw: float
    """`<mean a_tuned - mean a_base, v^>`, raw units."""
    low: float
    """95 % interval, bootstrap over questions."""
    high: float
    sigma: float | None
    sigma_low: float | None
    sigma_high: float | None
    null: float
    """95th percentile of |shift|, raw, along random directions of the same layers and lengths."""
    natural: float
    """The same along random mixtures of how the base model's own answers differ: a harder null, since activations fill
    few of the stream's dimensions."""
    beyond: float
    """Share of those mixtures along which the shift is at least as large."""
    questions: tuple[float, ...]
    """The difference on each question that both models answered, raw."""
    left_out: int
    """Questions that one of the two gave an empty answer to."""

    def in_sigma(self, raw: float) -> float | None:
        """Raw units in sigma, by what the shift or an end of its interval is in both; None where that is not known."""
        both = ((self.sigma, self.raw), (self.sigma_low, self.low), (self.sigma_high, self.high))
        return next((raw * sigma / ours for sigma, ours in both if sigma and ours), None)

    @property
    def towards(self) -> float | None:
        """Sigma towards the alarming side."""
        return None if self.sigma is None else self.sigma * (1 if self.side == "high" else -1)


def compare(base: Read, tuned: Read, along: Sequence[Watched], *, seed: int = 0) -> list[Shift]:
    """Shifts between answers to the same questions, one for each that is watched.

    Raises:
        InputError: different numbers of questions.
        NothingKeptError: fewer than two questions were answered by both.
    """
    if len(base.full) != len(tuned.full):
        raise InputError(
            f"A shift compares answers to the same questions, not to {len(base.full)} and to {len(tuned.full)}."
        )
    both = base.full & tuned.full
    if both.sum() < 2:
        raise NothingKeptError(
            f"Only {int(both.sum())} of {len(both)} questions were answered by both models; a shift needs two."
        )
    return [_shift(base, tuned, one, both, seed) for one in along]


def _shift(base: Read, tuned: Read, one: Watched, both: NDArray[np.bool_], seed: int) -> Shift:
    rng = np.random.default_rng(seed)
    moved = (tuned.project(one) - base.project(one))[both]
    raw, low, high = evidence.mean_interval(moved, rng)
    null, natural = _nulls(base, tuned, one, both, rng)
    sigma, sigma_low, sigma_high = (value / one.std if one.std else None for value in (raw, low, high))
    return Shift(
        name=one.name, side=one.side, layers=one.layers, raw=raw, low=low, high=high,
        sigma=sigma, sigma_low=sigma_low, sigma_high=sigma_high,
        null=float(np.quantile(null, 0.95)), natural=float(np.quantile(natural, 0.95)),
        beyond=float((natural >= abs(raw)).mean()),
        questions=tuple(float(value) for value in moved), left_out=int((~both).sum()),
    )  # fmt: skip


def _nulls(
    base: Read, tuned: Read, one: Watched, both: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """`[n]` each: |shift| along random directions, and along random mixtures of the base answers' differences."""
    plain, natural = np.zeros(_NULLS), np.zeros(_NULLS)
    for part in one.parts:
        before, after = base.at(part)[both], tuned.at(part)[both]
        moved = (after - before).mean(0)
        length = float(np.linalg.norm(part.vector.astype(np.float64)))
        plain += length * (_unit(rng.standard_normal((_NULLS, len(moved)))) @ moved)
        centred = before - before.mean(0)
        natural += length * (_unit(rng.standard_normal((_NULLS, len(centred))) @ centred) @ moved)
    return np.abs(plain), np.abs(natural)


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows / np.where(lengths > 0, lengths, 1)
    return found


def evaluate_shift(
    base: Model, tuned: Model | str | Path, along: Sequence[Direction | Gauge | Watched], questions: Sequence[str], *,
    max_tokens: int = 64, seed: int = 0, progress: Progress | None = None,
) -> list[Shift]:  # fmt: skip
    """The fine-tuning shift of `tuned` against `base`: both answer the questions themselves, greedily, and are read.

    `own_answers`, `read_answers` and `compare` are the parts that it is made of.

    Args:
        base: what was fine-tuned; directions and gauges are its own.
        tuned: the result: a model, or the folder of a PEFT adapter for `base`, which is put on it for the while.
        along: directions (at their recommended layers), gauges, or both.
        questions: asked without system prompt.
        max_tokens: longest answer.
        seed: of the bootstrap and of random directions.
        progress: told how far it is.

    Raises:
        InputError: no questions, or nothing to measure along.
        FingerprintError: a direction was made for another model than `base`.
        NothingKeptError: fewer than two questions were answered by both.
    """
    watched = [watched_of(one, base) for one in along]
    before = read_answers(base, own_answers(base, questions, max_tokens=max_tokens, progress=progress), watched)
    with contextlib.nullcontext(tuned) if isinstance(tuned, Model) else adapted(base, tuned) as model:
        after = read_answers(model, own_answers(model, questions, max_tokens=max_tokens, progress=progress), watched)
    return compare(before, after, watched, seed=seed)


def watched_of(one: Direction | Gauge | Watched, model: Model) -> Watched:
    """A direction or gauge as something watched.

    Raises:
        FingerprintError: a direction was made for another model.
        InputError: a direction that recommends no layer.
    """
    if isinstance(one, Direction):
        one.check_model(model.info)
        return watched_direction(one)
    return watched_gauge(one) if isinstance(one, Gauge) else one
