"""A gauge from contrasts: answers that show a trait beside answers to the same messages that do not. Read
`contrast_gauge`.

The difference of the two answers' means is whitened by how ordinary answers vary and by how the contrasts' own answers
do from message to message, and averaged over layers. Some dozens of contrasts, which a person or a large model writes
in minutes, say more than a sentence and need no labels. What the card says is of contrasts left out, told apart across
messages. This file does not know where contrasts come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.contrasts import ContrastSet
from mien.engines.hf_turns import read_turns
from mien.evidence import auc
from mien.gauges import Gauge, GaugeSet, Part
from mien.jobs.baseline import set_baseline
from mien.jobs.describe import SHRINKAGE, whitened
from mien.logs import read_logs
from mien.models import Model
from mien.probes import FOLDS, bag_of_words, interval
from mien.progress import Progress, Silent
from mien.scanning.message_means import reading_layers
from mien.scanning.quiet import answer_means, quiet_readings

Floats = NDArray[np.float64]

NULLS = 20
"""Times that the sides of the contrasts are drawn at random."""
_AT_ONCE = 16


@dataclass(frozen=True)
class Read:
    """Contrasts as the reader saw them."""

    means: Floats
    """`[n, 2, l, d]` mean stream over the answers with the trait and without it, raw."""
    ordinary: Floats
    """`[m, l, d]` of ordinary answers."""
    layers: tuple[int, ...]


def contrast_gauge(
    given: ContrastSet, model: Model, *, baseline: Sequence[str | Path] | None = None, seed: int = 0,
    progress: Progress | None = None,
) -> GaugeSet:  # fmt: skip
    """A gauge, alone in its set, that reads how far an answer is on the side of the contrasts' `pos`.

    Args:
        baseline: quiet traffic for sigma and alarms; the bundled conversations if None.
        seed: of folds and draws.

    Raises:
        InputError: the model's template refuses a conversation.
        FormatError: a file of quiet traffic in which nothing can be recognised.
    """
    show = progress or Silent()
    if baseline is not None:
        read_logs(baseline)  # a path that leads to nothing is said now, not after the contrasts are read
    read = read_contrasts(given, model, show)
    parts = tuple(
        Part(k, (row / len(read.layers)).astype(np.float32))
        for k, row in zip(read.layers, vectors(read, np.arange(len(read.means)))[:, 0], strict=True)
    )
    gauge = Gauge(given.name, given.description, given.side, parts, "contrast", evidence=_card(given, read, seed))
    info = model.info
    return set_baseline(GaugeSet(info.id, info.fingerprint, info.d_model, (gauge,)), model, baseline, progress=show)


def read_contrasts(given: ContrastSet, model: Model, show: Progress) -> Read:
    """Both answers of every contrast, each in its conversation.

    Raises:
        InputError: the model's template refuses a conversation.
    """
    layers = tuple(reading_layers(model.n_layers))
    answered = [conversation for one in given.contrasts for conversation in one.answered()]
    rows: list[NDArray[np.float32]] = []
    show.begin("reading contrasts", len(answered))
    for start in range(0, len(answered), _AT_ONCE):
        read = read_turns(model, answered[start : start + _AT_ONCE], layers=layers)
        rows += [one.means[-1] for one in read]
        show.advance(len(rows), sum(len(one.spanned.ids) for one in read))
    means = np.stack(rows).astype(np.float64).reshape(len(given.contrasts), 2, len(layers), -1)
    ordinary = answer_means(quiet_readings(model, show))[:, list(layers)]
    return Read(means, ordinary.astype(np.float64), layers)


def vectors(read: Read, chosen: NDArray[np.int64], flips: Floats | None = None) -> Floats:
    """`[l, 1 + k, d]`: at each layer the vector of the chosen contrasts, and those of `k` other assignments of sides.

    Args:
        flips: `[k, len(chosen)]` of +1 and -1: -1 takes `pos` for `neg`.
    """
    signs = np.vstack([np.ones(len(chosen)), *([] if flips is None else [flips])])
    found = []
    for i in range(len(read.layers)):
        answers, ordinary = read.means[chosen][:, :, i], read.ordinary[:, i]
        directions = signs @ (answers[:, 0] - answers[:, 1]) / len(chosen)
        between = (answers - answers.mean(0)).reshape(-1, answers.shape[-1])
        found.append(whitened(directions, np.concatenate([ordinary - ordinary.mean(0), between]), SHRINKAGE))
    return np.stack(found)


def held_out(read: Read, folds: Sequence[NDArray[np.int64]], rng: np.random.Generator) -> Floats:
    """`[1 + NULLS, n, 2]`: every answer on the gauge that was made without its fold, and on those of random sides."""
    n = len(read.means)
    values = np.zeros((1 + NULLS, n, 2))
    for fold in folds:
        rest = np.setdiff1d(np.arange(n), fold)
        rows = vectors(read, rest, rng.choice([-1.0, 1.0], (NULLS, len(rest))))
        values[:, fold] = np.einsum("fsld,lkd->kfs", read.means[fold], rows) / len(read.layers)
    return values


def _card(given: ContrastSet, read: Read, seed: int) -> dict[str, Any]:
    n = len(given.contrasts)
    rng = np.random.default_rng(seed)
    folds = [np.sort(part) for part in np.array_split(rng.permutation(n), FOLDS)]
    own, *nulls = held_out(read, folds, rng)
    side = np.tile([True, False], n)
    texts = [text for one in given.contrasts for text in (one.pos, one.neg)]
    both = [np.concatenate([2 * fold, 2 * fold + 1]) for fold in folds]
    words = bag_of_words(texts, side.astype(np.float64), both)
    low, high = interval(own.ravel(), side, np.repeat(np.arange(n), 2), seed)
    return {
        "contrasts": n, "layers": list(read.layers), "shrinkage": SHRINKAGE,
        "auc": round(auc(own.ravel(), side), 4), "auc_low": round(low, 4), "auc_high": round(high, 4),
        "right": round(float((own[:, 0] > own[:, 1]).mean()), 4),
        "auc_words": round(auc(words, side), 4),
        "auc_length": round(auc(np.array([float(len(text)) for text in texts]), side), 4),
        "auc_shuffled": round(float(np.quantile([auc(one.ravel(), side) for one in nulls], 0.95)), 4),
        "reasons": ["Of the contrasts it was made from, left out in turn; real answers differ from them in more than "
                    "the trait."],
    }  # fmt: skip
