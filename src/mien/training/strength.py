"""How strong preventative steering should be: as far as the data would move the answers, and no further.

The data's projection difference (Persona Vectors, 2507.21509) says how far its answers lie from the model's own along a
direction. Steering that moves the stream by as much leaves training nothing to move. Shapes: n samples, k directions.
This file does not know the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien import evidence
from mien.directions import Direction
from mien.engines.hf import HfEngine
from mien.errors import InputError
from mien.models import Model
from mien.progress import Progress
from mien.records import Conversation, Rollout, Sampling, WriteRequest
from mien.rollouts import write_rollouts
from mien.screening.watched import Watched, side_of
from mien.store import Stage
from mien.training.shift import Read, read_answers

Floats = NDArray[np.float64]

GAIN = 1.0
"""Of a shift, how much is put against it."""
MOST = 3.0
"""Coef beyond which answers of small models come apart."""


@dataclass(frozen=True)
class Target:
    """A direction to steer along, and at which layers."""

    direction: Direction
    layers: tuple[int, ...]

    @property
    def deepest(self) -> int:
        """Where the whole of the steering has been added: what its strength is taken at."""
        return max(self.layers)

    @property
    def sign(self) -> int:
        """+1 if the direction itself leads to where it is alarming, -1 if away from it, as the Assistant Axis does."""
        return 1 if side_of(self.direction) == "high" else -1

    @property
    def length(self) -> float:
        """`|v|` there, raw units."""
        return float(self.direction.norms()[self.deepest])

    def added(self, layer: int) -> Floats:
        """`[d]` what coef 1, which steers to the alarming side, has added to the stream by `layer`."""
        below = [k for k in self.layers if k <= layer]
        rows = self.sign * self.direction.vector.double().numpy()
        return np.asarray(rows[max(below)] if below else np.zeros(rows.shape[1]))


def projection_differences(
    model: Model, samples: Sequence[Conversation], along: Sequence[Watched], stage: Stage, progress: Progress, *,
    max_length: int, max_tokens: int = 96,
) -> Floats:  # fmt: skip
    """`[n, k]` raw: `<a(x, y) - a(x, y'), v^>` for each sample's last answer `y` and the model's own greedy `y'`; NaN
    where either is empty or the sample does not fit.

    Raises:
        InputError: a conversation that the model's template refuses.
    """
    given = [_given(model, i, sample, max_length) for i, sample in enumerate(samples)]
    usable = [rollout for rollout in given if rollout is not None]
    requests = [WriteRequest(rollout.id, rollout.conversation, 0) for rollout in usable]
    progress.begin("the model's own answers to the data", len(requests))
    own = write_rollouts(HfEngine(model), requests, Sampling(max_tokens, 0.0), stage, progress, read=False)
    found = np.full((len(samples), len(along)), np.nan)
    if usable:
        theirs, ours = read_answers(model, usable, along), read_answers(model, own, along)
        rows = [int(rollout.id.split("/")[1]) for rollout in usable]
        found[rows] = _difference(theirs, ours, along)
    return found


def _given(model: Model, number: int, sample: Conversation, max_length: int) -> Rollout | None:
    """A sample's last answer as a rollout, its end cut off where it does not fit."""
    place = max((i for i, message in enumerate(sample) if message.role == "assistant"), default=0)
    if place == 0 or sample[place - 1].role != "user":
        return None
    prompt = model.chat.prompt_ids(sample[:place])
    answer = model.chat.response_ids(sample[place].content)[: max(0, max_length - len(prompt))]
    if not answer:
        return None
    return Rollout(f"data/{number}", sample[:place], sample[place].content, prompt, answer, None, "stop")


def _difference(theirs: Read, ours: Read, along: Sequence[Watched]) -> Floats:
    rows = np.stack([theirs.project(one) - ours.project(one) for one in along], axis=1)
    rows[~(theirs.full & ours.full)] = np.nan
    return rows


def _moved(targets: Sequence[Target]) -> Floats:
    """`[k, k]`: how far coef 1 of each target (columns) moves the stream to the alarming side of each (rows), raw, at
    its deepest.
    """
    units = [target.sign * target.direction.unit(target.deepest).double().numpy() for target in targets]
    return np.array([[t.added(at.deepest) @ unit for t in targets] for at, unit in zip(targets, units, strict=True)])


def corrected(targets: Sequence[Target], coefs: Sequence[float], shifts: Sequence[float]) -> list[float]:
    """Coefs for the steps to come: as much more steering to each target's alarming side as the answers have moved there
    so far, and less where they have moved back; never backwards, never more than `MOST`.

    Args:
        shifts: raw, of the model's own answers along each target at its deepest layer.
    """
    signs = np.array([target.sign for target in targets])
    more, *_ = np.linalg.lstsq(_moved(targets), signs * np.array(shifts), rcond=None)
    return [round(float(c), 4) for c in np.clip(np.array(coefs) + GAIN * more, 0.0, MOST)]


@dataclass(frozen=True)
class Strength:
    """How strong the steering along one direction is, and why."""

    coef: float
    """To its alarming side."""
    expected: float | None
    """Shift that the data would bring, raw units at the deepest layer steered; None: the coef was given."""
    low: float | None
    """95 % interval, bootstrap over samples."""
    high: float | None
    samples: int
    """How many samples that was estimated from."""


def strengths(targets: Sequence[Target], differences: Floats, seed: int) -> list[Strength]:
    """Coefs that together move the stream as far to each direction's alarming side as the data would: never backwards,
    never more than `MOST`.

    Non-negative least squares, because directions are not orthogonal: steering along one moves the others too.

    Args:
        differences: `[n, k]` raw, of samples of the data, at each target's deepest layer; NaN is left out.

    Raises:
        InputError: no sample could be measured.
    """
    from scipy.optimize import nnls

    rng = np.random.default_rng(seed)
    expected = []
    for column in differences.T:
        known = column[~np.isnan(column)]
        if not len(known):
            raise InputError("No sample of the data could be measured, so --coef auto has nothing to go by; give one.")
        expected.append((*evidence.mean_interval(known, rng), len(known)))
    wanted = np.array([max(target.sign * mean, 0.0) for target, (mean, *_) in zip(targets, expected, strict=True)])
    coefs, _ = nnls(_moved(targets), wanted)
    return [Strength(round(min(float(c), MOST), 4), *row) for c, row in zip(coefs, expected, strict=True)]
