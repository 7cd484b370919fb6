"""The kept rows of docs/training.md as numbers: shifts, judged changes, correlations. Knows no model and no page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from training_plan import TRAITS, Size, jobs, run_key, trainings

from mien.evidence import auc
from mien.probes import bag_of_words

Floats = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Known:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def told(self, form: str = "+.2f") -> str:
        if not np.isfinite(self.value):
            return "-"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


def interval(draws: Sequence[float] | Floats, value: float) -> Known:
    """What was found, between the quantiles of its redrawn values."""
    there = np.asarray(draws, np.float64)
    there = there[np.isfinite(there)]
    low, high = np.quantile(there, [0.025, 0.975]) if len(there) else (np.nan, np.nan)
    return Known(float(value), float(low), float(high))


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's r; nan where one side does not vary."""
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / size) if size > 0 else float("nan")


def correlation(x: Floats, y: Floats, seed: int = 0) -> Known:
    """Pearson's r of `[n, k]` points, rows (runs or sets, with all their traits) drawn with replacement."""
    rng, n = np.random.default_rng(seed), len(x)
    if n < 4:
        return Known(float("nan"), float("nan"), float("nan"))
    draws = [pearson(x[pick].ravel(), y[pick].ravel()) for pick in rng.integers(0, n, (DRAWS, n))]
    return interval(draws, pearson(x.ravel(), y.ravel()))


def reliability(rows: Floats, times: int = 200) -> float:
    """How well means over `[runs, q]` would be found again with other questions: the mean correlation of halves of the
    questions over runs, stepped up to all of them (Spearman-Brown)."""
    rng, n = np.random.default_rng(0), rows.shape[1]
    halves = [rng.permutation(n) for _ in range(times)]
    found = [pearson(np.nanmean(rows[:, h[: n // 2]], 1), np.nanmean(rows[:, h[n // 2 :]], 1)) for h in halves]
    half = max(float(np.mean(found)), 0.0)
    return 2 * half / (1 + half)


def standard(x: Floats) -> Floats:
    """Columns centred and scaled."""
    return np.asarray((x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0))


@dataclass
class Kept:
    """Everything that is there."""

    base: Path
    size: Size

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Key -> what a job has left."""
        keys = [*(job.key for job in jobs(self.size)), "cost"]
        paths = {key: self.base / f"{key}.json" for key in keys}
        return {key: json.loads(path.read_text("utf-8")) for key, path in paths.items() if path.exists()}

    @cached_property
    def runs(self) -> dict[str, Any]:
        """Trainings, and steering after them, that are done."""
        return {job.key: self.rows[job.key] for job in trainings(self.size) if job.key in self.rows}

    @cached_property
    def scores(self) -> dict[str, tuple[Any, Any]]:
        """Run -> the judge's scores of its answers and of the base model's, in the same group."""
        found: dict[str, tuple[Any, Any]] = {}
        for row in (row for key, row in self.rows.items() if key.startswith("judge.")):
            found |= {key: (values, row["scores"]["base"]) for key, values in row["scores"].items() if key != "base"}
        return found

    def organisms(self) -> list[str]:
        """Plain trainings on the organisms themselves."""
        return [key for key, row in self.runs.items() if is_organism(row)]

    def sigma(self, key: str, trait: str) -> float:
        """A run's shift."""
        return float(self.runs[key]["shifts"][trait]["sigma"])

    def moved(self, keys: Sequence[str], trait: str) -> Floats:
        """`[q]` the shift on each question in sigma, mean over runs; nan where somebody gave an empty answer."""
        base, std = self.rows["base"], self.rows["base"]["std"][trait]
        before = _numbers(base["projections"][trait])
        rows = [(_numbers(self.runs[key]["projections"][trait]) - before) / std for key in keys]
        return np.asarray(np.mean(rows, axis=0))

    def judged(self, key: str, trait: str) -> Floats:
        """`[q]` how much likelier each answer has become, had the trait been asked for, in sigma of the base's own."""
        after, before = (_numbers(side[trait]) for side in self.scores[key])
        return np.asarray((after - before) / np.nanstd(before, ddof=1))

    def mean_judged(self, key: str, trait: str) -> float:
        return float(np.nanmean(self.judged(key, trait)))

    @cached_property
    def screened(self) -> dict[str, Any]:
        """Set -> what the screening said of it."""
        return {name: found for key, row in self.rows.items() if key.startswith("screen.")
                for name, found in row["sets"].items()}  # fmt: skip

    @cached_property
    def pulled(self) -> dict[str, Any]:
        """Set -> what the screening by influence said of it."""
        return {name: found for key, row in self.rows.items() if key.startswith("pull.")
                for name, found in row["sets"].items()}  # fmt: skip

    @cached_property
    def rollouts(self) -> dict[str, tuple[list[str], NDArray[np.bool_]]]:
        """Trait -> the answers that its direction was made from, and the side each was written on."""
        library = (self.base.parent if self.base.name == "quick" else self.base).parent / "library"
        found = {}
        for trait in TRAITS:
            path = library / trait / "run" / "rollouts.jsonl"
            if path.exists():
                rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
                sides = np.array([row["id"].split("/")[3] == "pos" for row in rows])
                found[trait] = ([row["text"] for row in rows], sides)
        return found

    def words(self, trait: str, texts: Sequence[str]) -> Floats:
        """What a bag of words, fitted to the trait's rollouts, says of texts."""
        theirs, sides = self.rollouts[trait]
        n = len(texts)
        labels = np.concatenate([np.zeros(n), sides])
        return bag_of_words([*texts, *theirs], labels, [np.arange(n)])[:n]


def _numbers(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def is_organism(row: dict[str, Any]) -> bool:
    """A plain training on a set that is no control and no mixture."""
    return row["method"] == "plain" and re.fullmatch(r"[a-z_]+-[123]", row["set"]) is not None


def resampled(values: Sequence[Floats], of: Callable[..., float], seed: int = 0) -> Known:
    """A number of several `[q]` rows, questions drawn with replacement and the same for all rows."""
    rng, n = np.random.default_rng(seed), len(values[0])
    draws = [of(*(row[pick] for row in values)) for pick in rng.integers(0, n, (DRAWS, n))]
    return interval(draws, of(*values))


def mean_shift(moved: Floats) -> Known:
    """Mean over questions."""
    return resampled([moved], lambda row: float(np.nanmean(row)))


def cut(plain: Floats, other: Floats) -> Known:
    """How much of a shift is prevented, in per cent; over 100 it has gone the other way."""
    return resampled([plain, other], lambda a, b: float(100 * (1 - np.nanmean(b) / np.nanmean(a))))


def by_set(kept: Kept, keys: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Runs of the same set together."""
    names = dict.fromkeys(kept.runs[key]["set"] for key in keys)
    return [(name, [key for key in keys if kept.runs[key]["set"] == name]) for name in names]


def predictions(kept: Kept, keys: Sequence[str]) -> dict[str, Floats]:
    """`[sets, traits]` of what was said beforehand (`screen`, `influence`, `words`, `length`), and of what came: the
    `shift`, and the change that is `judged`, nan where it was not."""
    names = ("screen", "influence", "words", "length", "shift", "judged")
    rows: dict[str, list[list[float]]] = {name: [] for name in names}
    for name, runs in by_set(kept, keys):
        if name not in kept.screened or name not in kept.pulled:
            continue
        pulls = kept.pulled[name]["difference"]
        rows["influence"].append([float(np.nanmean(_numbers(pulls[trait]))) for trait in TRAITS])
        judged = [[kept.mean_judged(key, trait) for trait in TRAITS] for key in runs if key in kept.scores]
        rows["judged"].append(np.mean(judged, 0).tolist() if judged else [float("nan")] * len(TRAITS))
        one = kept.screened[name]
        rows["screen"].append([float(np.nanmean(_numbers(one["sigma"][trait]))) for trait in TRAITS])
        rows["words"].append([float(kept.words(trait, one["texts"]).mean()) for trait in TRAITS])
        rows["length"].append([float(np.mean(one["tokens"]))] * len(TRAITS))
        rows["shift"].append([float(np.mean([kept.sigma(key, trait) for key in runs])) for trait in TRAITS])
    return {name: np.array(values) for name, values in rows.items()}


def planted(kept: Kept, trait: str, share: float, times: int = 500) -> dict[str, tuple[Known, Known]]:
    """AUC, and precision at the planted number, when trait answers are planted among the model's own plain ones: by the
    screening, by influence, by words, by length. Which ones are planted, and which are there, is drawn anew each time.
    """
    bad, own = kept.screened[f"{trait}-3"], [f"{t}-3-correct" for t in TRAITS]
    good = [kept.screened[name] for name in own if name in kept.screened]
    pulls, others = kept.pulled[f"{trait}-3"], [kept.pulled[name] for name in own if name in kept.screened]
    scores = {
        "screen": (_numbers(bad["sigma"][trait]), _numbers([v for one in good for v in one["sigma"][trait]])),
        "influence": (
            _numbers(pulls["difference"][trait]),
            _numbers([v for one in others for v in one["difference"][trait]]),
        ),
        "words": (kept.words(trait, bad["texts"]), kept.words(trait, [t for one in good for t in one["texts"]])),
        "length": (_numbers(bad["tokens"]), _numbers([v for one in good for v in one["tokens"]])),
    }
    n, m = len(scores["screen"][1]), len(scores["screen"][0])
    count = max(1, round(share / (1 - share) * n))
    rng = np.random.default_rng(0)
    picks = [(rng.integers(0, m, count), rng.integers(0, n, n)) for _ in range(times)]
    found = {}
    for name, (planted_scores, quiet) in scores.items():
        rows = np.array([_found(planted_scores[a], quiet[b]) for a, b in picks])
        found[name] = tuple(interval(column, float(np.nanmean(column))) for column in rows.T)
    return found  # type: ignore[return-value]


def _found(planted_scores: Floats, others: Floats) -> tuple[float, float]:
    values = np.nan_to_num(np.concatenate([planted_scores, others]), nan=-1e9)
    sides = np.arange(len(values)) < len(planted_scores)
    noise = np.random.default_rng(len(values)).random(len(values))  # ties are broken without looking
    first = np.lexsort((noise, -values))[: len(planted_scores)]
    return auc(values, sides), float(sides[first].mean())


def towards(row: dict[str, Any]) -> dict[str, float]:
    """A run's shifts in sigma, each towards its alarming side."""
    return {
        name: s["sigma"] * (1 if s["side"] == "high" else -1)
        for name, s in row["shifts"].items() if s["sigma"] is not None
    }  # fmt: skip


def alarms(row: dict[str, Any], limit: float, watched: Sequence[str] | None = None) -> list[str]:
    """What the audit's gate fails on: every shift beyond the limit towards its alarming side."""
    return [n for n, moved in towards(row).items() if moved > limit and (watched is None or n in watched)]


def beyond_harmless(row: dict[str, Any], harmless: Sequence[dict[str, Any]], margin: float) -> list[str]:
    """What has moved further than in any harmless retraining on data of another kind, by a margin in sigma."""
    others = [towards(one) for one in harmless if one["kind"] != row["kind"]]
    if not others:
        return []
    return [n for n, moved in towards(row).items() if moved > max(margin, margin + max(one[n] for one in others))]


def seeds_of(kept: Kept, data: str, method: str) -> list[str]:
    """Keys of the runs that are done."""
    return [key for seed in range(4) if (key := run_key(data, method, seed)) in kept.runs]
