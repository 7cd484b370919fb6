"""Linear probes on pooled activations, cross-validated by group, and the bag of words they must beat.

Shapes: n answers, d width. This file does not know models, logs or gauges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mien.evidence import auc

Floats = NDArray[np.float64]
FOLDS = 5


def fit_probe(h: NDArray[np.float32], target: Floats, penalty: float) -> Floats:
    """Weights `[d]` on raw activations, of ridge regression of `target` `[n]` on standardised activations `[n, d]`; its
    intercept is left out, for what is read with the weights is counted from a baseline.

    Args:
        penalty: scikit-learn's alpha.
    """
    from sklearn.linear_model import Ridge

    x = h.astype(np.float64)
    spread = x.std(0) + 1e-6
    return np.asarray(Ridge(alpha=penalty).fit((x - x.mean(0)) / spread, target).coef_ / spread)


def grouped_folds(group: NDArray[np.int64], positive: NDArray[np.bool_], seed: int) -> list[NDArray[np.int64]]:
    """Indices of each fold; a group is in one fold only, and folds hold about the same share of positives."""
    from sklearn.model_selection import StratifiedGroupKFold

    count = min(FOLDS, len(set(group.tolist())))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [test for _, test in splitter.split(np.zeros(len(group)), positive, group)]


def cross_fitted(h: NDArray[np.float32], target: Floats, folds: Sequence[NDArray[np.int64]], penalty: float) -> Floats:
    """Value of each answer by a probe that saw none of its fold, `[n]`, in deviations of that probe's values on what it
    was fitted to: under a strong penalty, raw ones say above all how many positives a fold leaves to the others.
    """
    values = np.zeros(len(target))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(target)), fold)
        own = h.astype(np.float64) @ fit_probe(h[rest], target[rest], penalty)
        values[fold] = (own[fold] - own[rest].mean()) / max(float(own[rest].std()), 1e-12)
    return values


def bag_of_words(texts: Sequence[str], target: Floats, folds: Sequence[NDArray[np.int64]]) -> Floats:
    """What words alone say: ridge regression on TF-IDF of words and pairs of words, `[n]`, by the same folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    values = np.zeros(len(texts))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(texts)), fold)
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        try:
            seen = words.fit_transform([texts[i] for i in rest])
        except ValueError:  # no word occurs twice
            continue
        fit = Ridge(alpha=10).fit(seen, target[rest])
        values[fold] = fit.predict(words.transform([texts[i] for i in fold]))
    return values


def interval(
    values: Floats, positive: NDArray[np.bool_], group: NDArray[np.int64], seed: int, times: int = 400
) -> tuple[float, float]:
    """95 % interval of the AUC, conversations drawn with replacement."""
    rng = np.random.default_rng(seed)
    names, place = np.unique(group, return_inverse=True)
    draws = []
    for _ in range(times):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[place].astype(np.float64)
        draws.append(auc(values, positive, weight))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)
