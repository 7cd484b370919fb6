"""How well a direction is known: held-out AUC, split-half cosine, and the nulls that stand beside them. Pure numpy.

Everything is grouped by question: rollouts of one question are alike, so they leave and enter together.
Shapes: n rollouts, l layer, d width. This file does not know models, judges or the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Readings:
    """Kept rollouts of one trait."""

    mean: NDArray[np.float32]
    """`[n, l, d]` raw residual means."""
    positive: Bools
    """`[n]` written under the positive instruction and judged to show the trait."""
    question: Ints
    """`[n]` which question each answers."""

    @property
    def questions(self) -> Ints:
        return np.unique(self.question)

    def sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[n, l, d]` of the positives, and of the negatives."""
        import torch

        return torch.from_numpy(self.mean[self.positive]), torch.from_numpy(self.mean[~self.positive])


def auc(scores: Floats, positive: Bools, weight: Floats | None = None) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney). nan if a side is empty."""
    w = np.ones(len(scores)) if weight is None else weight
    order = np.argsort(scores, kind="stable")
    s, p, w = scores[order], positive[order], w[order]
    _, tied = np.unique(s, return_inverse=True)
    below = np.bincount(tied, weights=w * ~p)
    ahead = np.concatenate([[0.0], np.cumsum(below)[:-1]]) + below / 2
    total = (w * p).sum() * (w * ~p).sum()
    return float((ahead[tied] * w * p).sum() / total) if total > 0 else float("nan")


def class_means(data: Readings, chosen: Bools | None = None, positive: Bools | None = None) -> tuple[Floats, Floats]:
    """`[l, d]` each, float64: mean reading of the positives and of the negatives among `chosen`."""
    which = np.ones(len(data.positive), bool) if chosen is None else chosen
    labels = data.positive if positive is None else positive
    n, layers, width = data.mean.shape
    weights = np.stack([side / max(side.sum(), 1) for side in (which & labels, which & ~labels)])
    plus, minus = weights.astype(np.float32) @ data.mean.reshape(n, -1)
    return plus.reshape(layers, width).astype(np.float64), minus.reshape(layers, width).astype(np.float64)


def difference(data: Readings, chosen: Bools | None = None, positive: Bools | None = None) -> Floats:
    """`[l, d]`: mean of positive minus mean of negative readings (Persona Vectors, 2507.21509)."""
    plus, minus = class_means(data, chosen, positive)
    return plus - minus


def folds(questions: Ints, count: int, rng: np.random.Generator) -> list[Ints]:
    """Questions dealt into `count` groups."""
    return [np.sort(part) for part in np.array_split(rng.permutation(questions), min(count, len(questions)))]


def held_out_projections(data: Readings, parts: list[Ints], positive: Bools | None = None) -> Floats:
    """`[n, l]`: each rollout on the direction made from all the *other* folds' questions.

    0 is the midpoint of those folds' two means and 1 the distance between them, so folds can be pooled.
    """
    result = np.zeros(data.mean.shape[:2])
    for part in parts:
        inside = np.isin(data.question, part)
        plus, minus = class_means(data, ~inside, positive)
        direction = plus - minus
        square = np.maximum((direction**2).sum(1), 1e-12)
        middle = ((plus + minus) / 2 * direction).sum(1)
        projection = np.einsum("nld,ld->nl", data.mean[inside], direction.astype(np.float32))
        result[inside] = (projection - middle) / square
    return result


def shuffled(data: Readings, rng: np.random.Generator) -> Bools:
    """Labels permuted among the rollouts of each question."""
    labels = data.positive.copy()
    for question in data.questions:
        inside = np.flatnonzero(data.question == question)
        labels[inside] = labels[rng.permutation(inside)]
    return labels


def bootstrap_auc(scores: Floats, data: Readings, rng: np.random.Generator, times: int = 400) -> tuple[float, float]:
    """95 % interval of an AUC, questions drawn with replacement."""
    questions, index = np.unique(data.question, return_inverse=True)
    if not len(questions):
        return float("nan"), float("nan")
    draws = []
    for _ in range(times):
        weight = np.bincount(rng.integers(0, len(questions), len(questions)), minlength=len(questions))[index]
        draws.append(auc(scores, data.positive, weight.astype(np.float64)))
    kept = np.array(draws)[~np.isnan(draws)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [0.025, 0.975])
    return float(low), float(high)


def split_half(
    data: Readings, rng: np.random.Generator, times: int = 60, positive: Bools | None = None
) -> NDArray[np.float64]:
    """`[times, l]`: cosine between the directions of two halves of the questions, `times` random splits."""
    cosines = []
    for _ in range(times):
        half = rng.permutation(data.questions)[: len(data.questions) // 2]
        inside = np.isin(data.question, half)
        a, b = difference(data, inside, positive), difference(data, ~inside, positive)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines.append((a * b).sum(1) / np.maximum(norms, 1e-12))
    return np.array(cosines)


def null_aucs(data: Readings, parts: list[Ints], rng: np.random.Generator, times: int = 40) -> Floats:
    """`[times, l]`: the held-out AUC when labels are shuffled, for making the directions and for testing them.

    Shuffled directions must not be tested on the true labels: where the trait is what answers differ in most, chance
    points half of them along it, and they would reach an AUC near 1.
    """
    rows = []
    for _ in range(times):
        labels = shuffled(data, rng)
        scores = held_out_projections(data, parts, labels)
        rows.append([auc(scores[:, k], labels) for k in range(scores.shape[1])])
    return np.array(rows)


def random_aucs(data: Readings, rng: np.random.Generator, times: int = 40) -> Floats:
    """`[times, l]`: AUC, folded to above 0.5, of random directions with no training at all."""
    layers, width = data.mean.shape[1:]
    rows = []
    for _ in range(times):
        scores = np.einsum("nld,ld->nl", data.mean, rng.standard_normal((layers, width)).astype(np.float32))
        found = np.array([auc(scores[:, k].astype(np.float64), data.positive) for k in range(layers)])
        rows.append(0.5 + np.abs(found - 0.5))
    return np.array(rows)


def slope(
    coefs: Floats, scores: Floats, group: Ints, rng: np.random.Generator, times: int = 2000
) -> tuple[float, float, float, float]:
    """Least-squares slope of score on coef within questions: `(slope, low, high, p)`.

    Scores are centred by question. Interval by bootstrap over questions; two-sided p by permuting coefs within
    questions, never below `1 / (times + 1)`.
    """
    groups = [np.flatnonzero(group == g) for g in np.unique(group)]
    x, y = coefs.astype(np.float64).copy(), scores.astype(np.float64).copy()
    for inside in groups:
        x[inside] -= x[inside].mean()
        y[inside] -= y[inside].mean()
    xy = np.array([(x[i] * y[i]).sum() for i in groups])
    xx = np.array([(x[i] ** 2).sum() for i in groups])
    if xx.sum() == 0:
        return float("nan"), float("nan"), float("nan"), float("nan")
    observed = xy.sum() / xx.sum()
    draws = rng.integers(0, len(groups), (times, len(groups)))
    boot = xy[draws].sum(1) / np.maximum(xx[draws].sum(1), 1e-12)
    null = np.zeros(times)
    for inside in groups:
        permuted = rng.permuted(np.tile(x[inside], (times, 1)), axis=1)
        null += permuted @ y[inside]
    # The same sum in another order differs by rounding, and must count as reached.
    reached = abs(xy.sum()) - 1e-9 * np.abs(xy).sum()
    p = (1 + (np.abs(null) >= reached).sum()) / (times + 1)
    low, high = np.quantile(boot, [0.025, 0.975])
    return float(observed), float(low), float(high), float(p)


def mean_interval(values: Floats, rng: np.random.Generator, times: int = 1000) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval of values that are one a question."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    draws = values[rng.integers(0, len(values), (times, len(values)))].mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
