"""Closed-form maths of a hold that opens on alarm: gates that tell attacked tokens from ordinary ones, and the map that
takes out of the stream what an attack has put in.

The same tokens, a question and its ordinary answer, are read after an attack and without it. What differs between the
two is all the attack's, token by token; a ridge regression of low rank learns to say it from the attacked state alone.
By itself that map would move ordinary tokens as far, so two linear gates stand before it (Fisher's discriminants
against ordinary conversations and against the model's own answers): both have to open.

Shapes: n attacked tokens, m ordinary tokens, d width, k rank. This file does not know models, text or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mien.interventions import Bounds

Floats = NDArray[np.float64]
GATE_RIDGE = 0.02
"""What is added to the diagonal of a pooled covariance, in units of its mean, before it is inverted."""
MAP_RIDGE = 0.03
"""The same for the map."""


@dataclass(frozen=True)
class LayerStates:
    """One layer's stream, raw, at the same tokens after an attack and without it, and at ordinary tokens. float32 will
    do; sums are taken in float64.
    """

    attacked: NDArray[Any]
    """`[n, d]`"""
    alone: NDArray[Any]
    """`[n, d]`, the same tokens after the question alone."""
    answer: NDArray[np.bool_]
    """`[n]` whether a token belongs to the answer, or to the question and what the template puts after it."""
    gating: NDArray[np.bool_]
    """`[n]` whether a token is shown to the gates too, or to the map only (what follows a mere role)."""
    owner: NDArray[np.int64]
    """`[n]` which pair a token belongs to."""
    ordinary: NDArray[Any]
    """`[m, d]` tokens of ordinary conversations."""

    def wide(self) -> LayerStates:
        """The same in float64."""
        names = ("attacked", "alone", "ordinary")
        return replace(self, **{name: getattr(self, name).astype(np.float64) for name in names})


def discriminant(low: list[Floats], high: Floats, ridge: float = GATE_RIDGE) -> Floats:
    """`[d]` unit vector: Fisher's discriminant, small on the tokens of `low` (each weighed alike), large on `high`."""
    pooled = (sum(_covariance(x) for x in low) / len(low) + _covariance(high)) / 2
    apart = high.mean(0) - np.mean([x.mean(0) for x in low], axis=0)
    found = np.linalg.solve(pooled + ridge * np.trace(pooled) / len(pooled) * np.eye(len(pooled)), apart)
    return np.asarray(found / max(float(np.linalg.norm(found)), 1e-30))


def restoring_map(attacked: Floats, alone: Floats, rank: int, ridge: float = MAP_RIDGE) -> tuple[Floats, Floats]:
    """`h -> h @ M + b`, `M [d, d]` of the given rank and `b [d]`: ridge regression of `alone - attacked` on `attacked`,
    and of nothing on `alone`, which weighs half as much.
    """
    x = np.concatenate([attacked, alone])
    y = np.concatenate([alone - attacked, np.zeros_like(alone)])
    weight = np.repeat([1.0, 0.5], [len(attacked), len(alone)]) / len(attacked)
    weight /= weight.sum()
    mean_x, mean_y = weight @ x, weight @ y
    root = np.sqrt(weight)[:, None]
    centred = (x - mean_x) * root
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
    matrix = np.linalg.solve(gram, centred.T @ ((y - mean_y) * root))
    bias = mean_y - mean_x @ matrix
    basis = _basis(attacked @ matrix + bias, rank)
    return matrix @ basis.T @ basis, basis.T @ (basis @ bias)


def restoring(states: LayerStates, rank: int) -> Restoring:
    """Map and gates of one layer."""
    s = states.wide()
    matrix, bias = restoring_map(s.attacked, s.alone, rank)
    basis = _basis(s.attacked @ matrix + bias, rank)
    shown = [s.attacked[s.gating & part] for part in (s.answer, ~s.answer)]
    shown = [x for x in shown if len(x) > 1]
    high = (s.ordinary, s.alone[s.gating])
    gates = np.stack([discriminant(shown, each) for each in high])
    return Restoring(
        -(matrix @ basis.T).T, basis, basis @ bias, gates,
        tuple(np.sort(each @ gate) for each, gate in zip(high, gates, strict=True)),
    )  # fmt: skip


@dataclass(frozen=True)
class Restoring:
    """One layer of a hold on alarm, its gates' limits still to be set."""

    reads: Floats
    """`[k, d]`"""
    writes: Floats
    """`[k, d]`"""
    target: Floats
    """`[k]`: low and high at once."""
    gates: Floats
    """`[2, d]`: against ordinary tokens, and against the model's own."""
    readings: tuple[Floats, ...]
    """What the gates read there, ascending."""

    def bounds(self, ordinary_open: float, own_open: float) -> Bounds:
        """With the first gate open at a share of ordinary tokens and the second at a share of the model's own tokens
        without an attack.
        """
        limits = [np.quantile(r, share) for r, share in zip(self.readings, (ordinary_open, own_open), strict=True)]
        target = torch.from_numpy(self.target.astype(np.float32))
        return Bounds(
            rounded(self.reads), rounded(self.writes), target, target, rounded(self.gates),
            torch.tensor(limits, dtype=torch.float32),
        )  # fmt: skip


def rounded(values: NDArray[np.floating] | torch.Tensor) -> torch.Tensor:
    """Rounded as a bundled hold is, so that what is measured is what is shipped."""
    return torch.as_tensor(values, dtype=torch.float32).half().float()


def narrowed(part: Bounds, ordinary: NDArray[Any], share: float) -> Bounds:
    """The same with all gates shut so far that they are open together at no more than a share of ordinary tokens
    `[m, d]`.
    """
    assert part.gates is not None
    assert part.below is not None
    room = part.below.double().numpy() - ordinary.astype(np.float64) @ part.gates.double().numpy().T
    scale = room.std(0)
    too_far = max(float(np.quantile((room / scale).min(1), 1 - share)), 0.0)
    return replace(part, below=part.below - torch.from_numpy(too_far * scale).float())


def _basis(values: Floats, rank: int) -> Floats:
    """`[k, d]` orthonormal rows that hold most of `values` `[n, d]`, not centred."""
    sizes, vectors = np.linalg.eigh(values.T @ values)
    order = np.argsort(sizes)[::-1][:rank]
    return np.ascontiguousarray(vectors[:, order].T)


def _covariance(x: Floats) -> Floats:
    centred = x - x.mean(0)
    return np.asarray(centred.T @ centred / len(x))


def floored(direction: Floats, floor: float) -> Bounds:
    """A floor of the projection on `direction` `[d]`: a `Cap`."""
    unit = rounded(direction / max(float(np.linalg.norm(direction)), 1e-30))[None]
    return Bounds(unit, unit, torch.tensor([floor]), torch.tensor([math.inf]))


def percentile_of(direction: Floats, mark: float, tokens: NDArray[np.floating]) -> float:
    """A percentile (0-100) of tokens' own projections on `direction` `[d]`."""
    return float(np.percentile(tokens @ (direction / max(float(np.linalg.norm(direction)), 1e-30)), mark))


def discriminating(states: LayerStates, mark: float) -> Bounds:
    """Read on the discriminant of the model's answers after attacks against ordinary tokens, floored at a percentile of
    these; what is missing is made up along the difference of means, own answers minus the same after attacks.
    """
    s = states.wide()
    use = s.answer & s.gating
    read = discriminant([s.attacked[use]], s.ordinary)
    write = attack_direction(states)
    along = float(write @ read)
    write = write / along if abs(along) > 1e-6 * np.linalg.norm(write) else read
    low = float(np.percentile(s.ordinary @ read, mark))
    return Bounds(rounded(read)[None], rounded(write)[None], torch.tensor([low]), torch.tensor([math.inf]))


def within(basis: Floats, mark: float, ordinary: NDArray[np.floating]) -> Bounds:
    """Projections on orthonormal rows `[k, d]` held between two percentiles of ordinary tokens' own, `mark` from either
    end.
    """
    rows = rounded(basis)
    low, high = np.percentile(ordinary @ basis.T, [mark, 100 - mark], axis=0)
    return Bounds(rows, rows, torch.tensor(low, dtype=torch.float32), torch.tensor(high, dtype=torch.float32))


def attack_direction(states: LayerStates) -> Floats:
    """`[d]`: mean over answer tokens of the stream alone minus the stream after attacks."""
    use = states.answer & states.gating
    return np.asarray((states.alone[use].astype(np.float64) - states.attacked[use]).mean(0))


def persona_space(states: LayerStates, components: int) -> Floats:
    """`[k, d]` orthonormal: the principal components of what each attack or role puts into answers, on average."""
    difference = states.attacked.astype(np.float64) - states.alone
    owners = np.unique(states.owner[states.answer])
    means = np.stack([difference[states.answer & (states.owner == o)].mean(0) for o in owners])
    return _basis(means - means.mean(0), components)
