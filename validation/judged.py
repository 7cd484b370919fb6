"""The likelihood judge on labelled answers, beside the gauges of the same traits. Used by `watching.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from drawn import Compared, Statistic, ahead, told
from labelled import Labels
from numpy.typing import NDArray
from template import table

from mien.authors import author_from_templates
from mien.contrasts import load_contrasts
from mien.engines.hf import HfEngine
from mien.evidence import auc
from mien.gauges import GaugeSet
from mien.judge import LikelihoodJudge
from mien.models import Model
from mien.records import Message, Rollout
from mien.spec import TraitSpec, library_names, load_library

JUDGED = {
    "consciousness claims": "sentience_claiming", "delusion reinforcement": "delusion_feeding",
    "emotional or narrative escalation": "escalating", "sycophancy or praise": "sycophantic",
}  # fmt: skip
"""Labels, and the trait that the judge is asked about and whose bundled gauge stands beside it."""
_ASKED = 600
"""Characters of the user's message that are shown to the judge: more would cost more than the answer does."""


def judge_table(files: list[Labels], model: Model, gauges: GaugeSet, count: int) -> str:
    """The judge on `count` answers a label and writer, half of them with the label; where it is ahead of the gauge."""
    rows, compared, engine, rng = [], [], HfEngine(model), np.random.default_rng(0)
    named = {g.name: g for g in gauges.gauges}
    for label, trait in JUDGED.items() if count else ():
        gauge = named[trait]
        for data in files:
            if not data.enough(label):
                continue
            y = data.positive(label)
            halves = [rng.permutation(np.flatnonzero(side))[: count // 2] for side in (y, ~y)]
            chosen = np.concatenate(halves)
            judge = _raw(LikelihoodJudge(engine, engine, spec_of(trait)), model, data, chosen)
            aucs = [_auc(values, y[chosen]) for values in (judge, (gauge.sign * data.sigma(gauge))[chosen])]
            told_too = [told(one, data.group[chosen], ".2f") for one in aucs]
            rows.append([label, trait, data.name, str(len(chosen)), *told_too])
            by_judge, by_gauge = (one(np.arange(len(chosen))) for one in aucs)
            compared.append(Compared(f"{label} by {data.name}", by_gauge, {"the likelihood judge": by_judge}))
            print("judged", label, data.name, flush=True)
    head = ["label", "trait", "written by", "answers", "likelihood judge", "bundled gauge of the trait"]
    return f"{table(head, rows)}\n\n{ahead(compared)}"


def spec_of(trait: str) -> TraitSpec:
    """Of the library; for a trait that has contrasts only, what the template author makes of their description."""
    if trait in library_names():
        return load_library(trait)
    return author_from_templates(load_contrasts(trait).description, trait)


def _auc(values: NDArray[np.float64], y: NDArray[np.bool_]) -> Statistic:
    return lambda places: auc(values[places], y[places])


def _raw(judge: LikelihoodJudge, model: Model, data: Labels, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[len(chosen)]`: the judge's values. Not the writer's ids: the text is tokenised anew."""
    rollouts = [
        Rollout(str(i), (Message("user", data.asked[i][:_ASKED]),), data.texts[i], (), (), None, "stop") for i in chosen
    ]
    own = [replace(r, response_ids=model.chat.response_ids(r.text)) for r in rollouts]
    return np.array([value or 0.0 for value in judge.raw(own, [None] * len(own))])
