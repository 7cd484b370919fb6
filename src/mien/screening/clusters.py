"""Strange records grouped by what the model makes of them, each group with the words that tell it from the rest.

Groups are k-means on the mean stream over a record's answers; words are ranked by log-odds against all other texts with
an informative prior (Monroe, Colaresi and Quinn 2008). Shapes: n records, d width. This file knows no gauges.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.engines.hf_turns import read_turns
from mien.errors import InputError
from mien.logs import LoggedConversation
from mien.models import Model
from mien.screening.measure import answers_of

Floats = NDArray[np.float64]

_LEAST = 6
"""Records in a group, on average, below which it is not split further."""
_MOST = 5
_CLEAR = 0.1
"""Silhouette (Rousseeuw 1987) below which there are no groups."""
_WORD = re.compile(r"[^\W\d_][\w'’-]*[^\W_]|[^\W\d_]", re.UNICODE)


@dataclass(frozen=True)
class Cluster:
    """A group of records."""

    members: tuple[int, ...]
    """Places among what was given, the most typical first."""
    words: tuple[str, ...]
    """The most typical words of their answers."""


def pooled(model: Model, records: Sequence[LoggedConversation], layers: Sequence[int], together: int = 16) -> Floats:
    """`[n, l, d]`: mean stream over all of a record's answers at some layers, raw; zeros if the template refuses it."""
    rows = np.zeros((len(records), len(layers), model.info.d_model))
    for start in range(0, len(records), together):
        some = list(range(start, min(start + together, len(records))))
        for i, mean in zip(some, _means(model, [records[i] for i in some], layers), strict=True):
            rows[i] = mean
    return rows


def _means(model: Model, records: list[LoggedConversation], layers: Sequence[int]) -> list[Floats]:
    try:
        readings = read_turns(model, [r.messages for r in records], layers=layers)
    except InputError:
        if len(records) == 1:
            return [np.zeros((len(layers), model.info.d_model))]
        return [mean for record in records for mean in _means(model, [record], layers)]
    found = []
    for record, reading in zip(records, readings, strict=True):
        places = answers_of(record)
        sizes = np.array([end - start for start, end in (reading.spanned.spans[i] for i in places)], np.float64)
        share = sizes / max(sizes.sum(), 1)
        found.append(np.tensordot(share, reading.means[list(places)].astype(np.float64), 1))
    return found


def cluster(points: Floats, texts: Sequence[str], background: Sequence[str], seed: int) -> list[Cluster]:
    """Groups, the largest first; one of all where they do not part clearly.

    Args:
        points: `[n, d]`.
        texts: what the `n` records say.
        background: other texts of the same data set.
    """
    if not len(points):
        return []
    labels = _labels(points, seed)
    found = []
    for label in sorted(set(labels.tolist()), key=lambda k: (-int((labels == k).sum()), k)):
        inside = np.flatnonzero(labels == label)
        far = np.linalg.norm(points[inside] - points[inside].mean(0), axis=1)
        members = inside[np.argsort(far, kind="stable")].tolist()
        others = [texts[i] for i in range(len(texts)) if labels[i] != label]
        found.append(Cluster(tuple(members), typical_words([texts[i] for i in members], [*others, *background])))
    return found


def _labels(points: Floats, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    one = np.zeros(len(points), np.int64)
    spread = points - points.mean(0)
    size = np.linalg.norm(spread, axis=1, keepdims=True)
    units = spread / np.where(size > 0, size, 1)
    best, found = _CLEAR, one
    distinct = len(np.unique(units.round(6), axis=0))
    for k in range(2, min(_MOST, len(points) // _LEAST, distinct - 1) + 1):
        labels = KMeans(k, n_init=5, random_state=seed).fit_predict(units)
        score = float(silhouette_score(units, labels))
        if score > best:
            best, found = score, labels.astype(np.int64)
    return found


def typical_words(texts: Sequence[str], others: Sequence[str], count: int = 8) -> tuple[str, ...]:
    """Words that are commoner in `texts` than in `others`, the surest first; in small letters, each by its texts."""
    mine, rest = _counts(texts), _counts(others)
    every = mine + rest
    n_mine, n_rest, n_every = sum(mine.values()), sum(rest.values()), sum(every.values())
    if not n_mine or not n_rest:
        return tuple(word for word, _ in sorted(mine.items(), key=lambda item: (-item[1], item[0]))[:count])
    weight = min(n_mine, n_rest)
    scored = []
    for word, seen in mine.items():
        prior = weight * every[word] / n_every
        a, b = seen + prior, rest[word] + prior
        odds = math.log(a / (n_mine + weight - a)) - math.log(b / (n_rest + weight - b))
        z = odds / math.sqrt(1 / a + 1 / b)
        if z > 1 and seen > 1:
            scored.append((-z, word))
    return tuple(word for _, word in sorted(scored)[:count])


def _counts(texts: Sequence[str]) -> Counter[str]:
    """In how many texts each word stands: a text that says one word a hundred times is one text."""
    return Counter(word for text in texts for word in {w.lower() for w in _WORD.findall(text)})
