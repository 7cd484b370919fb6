"""A gauge from labelled turns: a regularised linear probe on the reader's pooled activations. Read `fit_gauge`.

The probe learns how strong a label is, not only on which side of the threshold it lies: that tells more of each turn.
Everything is chosen and tested by cross-validation grouped by conversation; the bag of words and the length of the
answer, cross-validated on the same folds, are what it must beat. The card's AUC is of what a scan shows: each fold's
probe is read on quiet traffic as the gauge itself is, texture is taken out, and what is left counts in sigma. This file
does not know how a conversation is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.errors import InputError
from mien.evidence import auc
from mien.gauges import Gauge, GaugeSet, Part, Quiet, fit_standard
from mien.jobs.baseline import read_quiet, with_baselines
from mien.logs import Broken, LoggedConversation, Skipped, read_logs
from mien.models import Model
from mien.probes import bag_of_words, cross_fitted, fit_probe, grouped_folds, interval
from mien.progress import Progress, Silent
from mien.scanning.measure import textures_of, turns_of
from mien.scanning.message_means import message_means, reading_layers
from mien.spec import slug

Floats = NDArray[np.float64]

MIN_SIDE = 15
"""Fewest turns with the label, and without it, that a gauge is fitted to."""
PENALTIES = (1e3, 3e3, 1e4)
"""Of ridge regression on standardised activations, that are tried."""
WITHIN = 0.03
"""AUC that a stronger penalty and more layers may cost: they transfer better to models that nobody has labelled, and on
some hundred answers a smaller difference is chance."""


@dataclass(frozen=True)
class Labelled:
    """Labelled answers of all conversations."""

    means: NDArray[np.float32]
    """`[n, l, d]` raw, layers as in `layers`."""
    layers: tuple[int, ...]
    target: Floats
    """`[n]` what is learnt: see `target_of`."""
    positive: NDArray[np.bool_]
    """`[n]` what is tested."""
    group: NDArray[np.int64]
    """Which conversation."""
    writer: NDArray[np.int64]
    """Which model wrote it, as a number; all 0 where the records do not say."""
    writers: tuple[str, ...]
    texts: tuple[str, ...]
    textures: Floats
    """`[n, f]`."""


def fit_gauge(
    paths: Sequence[str | Path],
    label: str,
    model: Model,
    *,
    threshold: float = 2.0,
    name: str | None = None,
    baseline: Sequence[str | Path] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> GaugeSet:
    """A gauge, alone in its set, that reads how likely an answer is to deserve `label`.

    Args:
        paths: logs whose records have `turn_labels`.
        threshold: intensity from which a turn counts as having the label.
        name: of the gauge; the label's by default.
        baseline: quiet traffic for sigma and alarms; the bundled conversations if None.

    Raises:
        InputError: no turn has labels, no such label, or too few turns on one side or too few conversations.
        FormatError: a file in which nothing can be recognised.
    """
    show = progress or Silent()
    if baseline is not None:
        read_logs(baseline)  # a path that leads to nothing is said now, not after the labelled ones are read
    data = gather(paths, label, threshold, model, show)
    folds = grouped_folds(data.group, data.positive, seed)
    judged_on = _writers_out(data) or folds
    show.begin("fitting", len(PENALTIES))
    trials = []
    for done, penalty in enumerate(PENALTIES, 1):
        trials += trials_of(data, folds, judged_on, penalty)
        show.advance(done)
    best = choose(trials)
    gauge = _gauge(data, best, name or slug(label), label, threshold)
    apart = _writers_apart(data)
    left_out = [*folds, *(part for _, part in apart)]
    probes = [replace(gauge, parts=_parts(data, best, part)) for part in left_out]
    every = GaugeSet(model.info.id, model.info.fingerprint, model.info.d_model, (gauge, *probes))
    traffic = read_quiet(every, model, baseline, progress=show)
    (gauge,) = with_baselines(replace(every, gauges=(gauge,)), replace(traffic, quiet=traffic.quiet[:1])).gauges
    values = [
        _left_out_sigma(data, best, probe, quiet, part)
        for probe, quiet, part in zip(probes, traffic.quiet[1:], left_out, strict=True)
    ]
    shown = np.zeros(len(data.positive))
    for part, found in zip(folds, values, strict=False):
        shown[part] = found
    gauge = replace(gauge, probability=_curve(gauge, data, best, shown))
    card = _card(data, best, shown, folds, label, threshold, seed)
    card |= {"choice": _choice(len(trials), data), "transfer": _transfer(data, apart, values[len(folds) :])}
    return replace(every, gauges=(replace(gauge, evidence=card),))


@dataclass(frozen=True)
class Trial:
    """One choice of layers and penalty, with its values on conversations left out."""

    layers: tuple[int, ...]
    """Places in `Labelled.layers`."""
    penalty: float
    auc: float
    """On conversations left out."""
    judged: float
    """What it is chosen by: the AUC on models left out where there are several, else the same."""
    values: Floats


def choose(trials: Sequence[Trial]) -> Trial:
    """Of the trials nearly as good as the best, the strongest penalty, then the most layers."""
    top = max(t.judged for t in trials)
    return min((t for t in trials if t.judged >= top - WITHIN), key=lambda t: (-t.penalty, -len(t.layers), -t.judged))


def _writers_out(data: Labelled) -> list[NDArray[np.int64]]:
    """One fold a model, where there are several with turns of both kinds."""
    good = [part for _, part in _writers_apart(data)]
    return good if len(good) > 1 else []


def _writers_apart(data: Labelled) -> list[tuple[str, NDArray[np.int64]]]:
    """Models whose answers are of both kinds, and the others' too, with those answers."""
    sides = [(name, data.writer == w) for w, name in enumerate(data.writers)]
    return [
        (name, np.flatnonzero(s)) for name, s in sides
        if len(set(data.positive[s].tolist())) == len(set(data.positive[~s].tolist())) == 2
    ]  # fmt: skip


def trials_of(
    data: Labelled, folds: Sequence[NDArray[np.int64]], judged_on: Sequence[NDArray[np.int64]], penalty: float
) -> list[Trial]:
    """Every layer alone, and bands of layers whose probes are averaged."""
    n = len(data.layers)

    def values_by(parts: Sequence[NDArray[np.int64]]) -> list[Floats]:
        return [cross_fitted(data.means[:, k], data.target, parts, penalty) for k in range(n)]

    by_conversation = values_by(folds)
    by_writer = by_conversation if judged_on is folds else values_by(judged_on)
    bands: list[tuple[int, ...]] = [(k,) for k in range(n)]
    bands += [tuple(range(a, b)) for a, b in ((0, n), (0, 2 * n // 3), (n // 3, n), (n // 4, 3 * n // 4)) if b - a > 1]
    rows = []
    for band in dict.fromkeys(bands):
        values = np.mean([by_conversation[k] / max(float(by_conversation[k].std()), 1e-12) for k in band], axis=0)
        found = auc(values, data.positive)
        rows.append(Trial(band, penalty, found, _judged(data, judged_on, by_writer, band) or found, values))
    return rows


def _judged(data: Labelled, parts: Sequence[NDArray[np.int64]], found: Sequence[Floats], band: Sequence[int]) -> float:
    """Mean AUC within each part: values of different fits are not on one scale."""
    aucs = []
    for part in parts:
        values = np.mean([found[k][part] / max(float(found[k][part].std()), 1e-12) for k in band], axis=0)
        aucs.append(auc(values, data.positive[part]))
    return float(np.nanmean(aucs)) if not np.isnan(aucs).all() else 0.0


def gather(paths: Sequence[str | Path], label: str, threshold: float, model: Model, show: Progress) -> Labelled:
    """Labelled answers, read in context.

    Raises:
        InputError: see `fit_gauge`.
    """
    layers = tuple(reading_layers(model.n_layers))
    means, intensity, group, names, texts, textures = [], [], [], [], [], []
    known: set[str] = set()
    show.begin("reading labelled conversations", 0)
    number, skipped = 0, Skipped()
    for record in read_logs(paths):
        if isinstance(record, Broken):
            skipped.add(record)
            continue
        known |= {key for _, labels in record.turn_labels for key in labels}
        chosen = _labelled_answers(record, label)
        if not chosen:
            continue
        rows, tokens = message_means(model, record, [place for place, _ in chosen], layers)
        means.append(rows)
        intensity += [value for _, value in chosen]
        group += [number] * len(chosen)
        names += [record.model or ""] * len(chosen)
        texts += [record.messages[place].content for place, _ in chosen]
        answers, _ = turns_of(record.messages)
        own = dict(zip(answers, textures_of(record.messages, answers), strict=True))
        textures += [own[place] for place, _ in chosen]
        number += 1
        show.advance(number, tokens)
    skipped.tell(show)
    positive = [value >= threshold for value in intensity]
    _check(label, known, positive, number, threshold)
    writers = tuple(sorted(set(names)))
    return Labelled(
        np.concatenate(means), layers, target_of(np.array(intensity), threshold), np.array(positive), np.array(group),
        np.array([writers.index(w) for w in names]), writers, tuple(texts), np.stack(textures),
    )  # fmt: skip


def target_of(intensity: Floats, threshold: float) -> Floats:
    """`log(1 + intensity / threshold)`: grades that lie far above the threshold differ less than those about it. Where
    grades do not begin at 0, the side of the threshold alone.
    """
    if threshold <= 0 or (intensity < 0).any():
        return (intensity >= threshold).astype(np.float64)
    return np.asarray(np.log1p(intensity / threshold))


def _labelled_answers(record: LoggedConversation, label: str) -> list[tuple[int, float]]:
    place = {index: i for i, index in enumerate(record.indices)}
    return [
        (place[at], float(labels[label]))
        for at, labels in record.turn_labels
        if at in place and label in labels and record.messages[place[at]].role == "assistant"
        and record.messages[place[at]].content.strip()
    ]  # fmt: skip


def _check(label: str, known: set[str], positive: list[bool], groups: int, threshold: float) -> None:
    if not known:
        raise InputError(
            "No record has turn_labels; a labelled record has "
            '"turn_labels": [{"message_index": 3, "labels": {"LABEL": 2}}] beside its messages.'
        )
    if label not in known:
        raise InputError(f"No turn has the label {label!r}; the labels are: {', '.join(sorted(known))}.")
    have, lack = sum(positive), len(positive) - sum(positive)
    if min(have, lack) < MIN_SIDE:
        raise InputError(
            f"{have} turns have {label!r} at {threshold:g} or more and {lack} do not; at least {MIN_SIDE} of each are "
            f"needed, so label more turns or move --threshold."
        )
    if groups < 5:
        raise InputError(f"The labelled turns are of {groups} conversations only; at least 5 are needed.")


def _gauge(data: Labelled, best: Trial, name: str, label: str, threshold: float) -> Gauge:
    """The chosen probe, fitted on everything."""
    description = f"how much an answer is like those labelled {label!r} at {threshold:g} or more"
    return Gauge(name, description, "high", _parts(data, best, np.zeros(0, np.int64)), kind="fitted")


def _parts(data: Labelled, best: Trial, left_out: NDArray[np.int64]) -> tuple[Part, ...]:
    """The chosen probe, fitted without some answers: one vector a layer, their sum being the mean of standardised
    values.
    """
    rest = np.setdiff1d(np.arange(len(data.target)), left_out)
    parts = []
    for k in best.layers:
        weights = fit_probe(data.means[rest, k], data.target[rest], best.penalty)
        size = max(float((data.means[rest, k] @ weights).std()), 1e-12) * len(best.layers)
        parts.append(Part(data.layers[k], (weights / size).astype(np.float32)))
    return tuple(parts)


def _projected(data: Labelled, best: Trial, gauge: Gauge) -> Floats:
    """`[n]` raw."""
    places = zip(best.layers, gauge.parts, strict=True)
    return np.asarray(sum(data.means[:, k].astype(np.float64) @ part.vector for k, part in places))


def _left_out_sigma(data: Labelled, best: Trial, probe: Gauge, quiet: Quiet, left_out: NDArray[np.int64]) -> Floats:
    """The answers left out, in sigma of quiet traffic with texture taken out, as a scan would show them by a probe that
    saw nothing of them; then in deviations of what that probe was fitted to, which makes folds comparable: their probes
    lie differently far from quiet traffic, and a gauge is one probe.
    """
    sigma = fit_standard(quiet).sigma(_projected(data, best, probe), data.textures)
    rest = np.setdiff1d(np.arange(len(sigma)), left_out)
    return np.asarray((sigma[left_out] - sigma[rest].mean()) / max(float(sigma[rest].std()), 1e-12))


def _curve(gauge: Gauge, data: Labelled, best: Trial, shown: Floats) -> tuple[float, float]:
    """Logistic curve from sigma to the label's probability, from out-of-fold values put on the final gauge's scale."""
    from sklearn.linear_model import LogisticRegression

    assert gauge.baseline is not None
    own = gauge.baseline.sigma(_projected(data, best, gauge), data.textures)
    sigma = (shown - shown.mean()) / shown.std() * own.std() + own.mean()
    fit = LogisticRegression(C=1e6).fit(sigma[:, None], data.positive)
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def _card(
    data: Labelled, best: Trial, shown: Floats, folds: Sequence[np.ndarray], label: str, threshold: float, seed: int
) -> dict[str, Any]:
    """What is known of the gauge. `auc` and its interval are of `shown`, sigma on conversations left out; `auc_probe`
    is of the probe's own values there, before texture is taken out.
    """
    words = bag_of_words(data.texts, data.target, folds)
    length = np.array([float(len(t)) for t in data.texts])
    low, high = interval(shown, data.positive, data.group, seed)
    return {
        "label": label, "threshold": threshold, "turns": len(data.positive), "positive": int(data.positive.sum()),
        "conversations": len(set(data.group.tolist())), "models": list(data.writers),
        "layers": [data.layers[k] for k in best.layers], "penalty": best.penalty,
        "auc": round(auc(shown, data.positive), 4), "auc_low": round(low, 4), "auc_high": round(high, 4),
        "auc_probe": round(best.auc, 4),
        "auc_words": round(auc(words, data.positive), 4), "auc_length": round(auc(length, data.positive), 4),
    }  # fmt: skip


def _choice(trials: int, data: Labelled) -> str:
    return (
        f"one of {trials} choices of layers and penalty, chosen by the probe's AUC on "
        f"{'models' if len(data.writers) > 1 else 'conversations'} left out, which flatters a little"
    )


def _transfer(
    data: Labelled, apart: Sequence[tuple[str, NDArray[np.int64]]], values: Sequence[Floats]
) -> list[dict[str, Any]]:
    """Fitted without one model's answers, tested on them in sigma; beside it the bag of words on the same split."""
    rows = []
    for (writer, out), found in zip(apart, values, strict=True):
        positive = data.positive[out]
        words = bag_of_words(data.texts, data.target, [out])[out]
        rows.append(
            {"left_out": writer, "turns": len(out), "positive": int(positive.sum()),
             "auc": round(auc(found, positive), 4), "auc_words": round(auc(words, positive), 4)}
        )  # fmt: skip
    return rows
