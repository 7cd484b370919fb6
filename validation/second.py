"""Two readers on the same answers: do their gauges agree, and do they tell the labels? Used by `watching.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from drawn import rank_correlation, told
from labelled import Labels, auc_with_interval, read_labels, reference
from template import table
from transcripts import cases, scanned

from mien.contrasts import load_contrasts
from mien.engines.hf import HfEngine
from mien.evidence import auc
from mien.gauges import Gauge, GaugeSet, load_gauges, save_gauges
from mien.jobs.axis import make_axis
from mien.jobs.baseline import gauge_of, set_baseline
from mien.jobs.contrast import contrast_gauge
from mien.models import Model, load
from mien.roles import load_roles
from mien.scanning.message_means import reading_layers

AXIS = "assistant"


def second_reader(
    first: Model, axis: Gauge, contrasts: Mapping[str, str], files: list[Labels], transcripts: list[Path], base: Path
) -> str:
    """The axis and the gauges from contrasts of another reader beside those of the embedded one.

    Args:
        axis: the embedded reader's.
        contrasts: label -> set of contrasts that come with mien.
        base: folder of the runs.
    """
    from one import gemma

    model = load(gemma())
    made = make_axis(load_roles().first(30, 4), HfEngine(model), base / "gemma-axis", max_tokens=32)
    names = list(dict.fromkeys(contrasts.values()))
    info = model.info
    # Labelled answers are read at these layers only.
    layer = min(reading_layers(model.n_layers), key=lambda k: abs(k - made.layer))
    own_axis = gauge_of(made, layer=layer)
    theirs = set_baseline(GaugeSet(info.id, info.fingerprint, info.d_model, (own_axis,)), model).gauges
    sets = [
        GaugeSet(reader.info.id, reader.info.fingerprint, reader.info.d_model,
                 (*own, *(_from_contrasts(name, reader, base / "gauges") for name in names)))
        for reader, own in ((first, (axis,)), (model, theirs))
    ]  # fmt: skip
    print("gauges of both readers are made", flush=True)
    said = [scanned(transcripts, base / f"{name}-both", reader, gauges)
            for name, reader, gauges in zip(("embedded", "gemma"), (first, model), sets, strict=True)]  # fmt: skip
    again = [read_labels(path, model) for path in sorted((reference() / "spiral_bench").glob("*.jsonl"))]
    talks = list(said[0])
    stacked = [np.concatenate([one[name] for name in talks]) for one in said]
    of_talk = np.repeat(np.arange(len(talks)), [len(said[0][name]) for name in talks])
    rows = []
    for i, pair in enumerate(zip(*(s.gauges for s in sets), strict=True)):
        cells = [told(rank_correlation(stacked[0][:, i], stacked[1][:, i]), of_talk)]
        for a, b in zip(files, again, strict=True):
            cells.append(told(rank_correlation(a.sigma(pair[0]), b.sigma(pair[1])), a.group))
        rows.append([pair[0].name, *cells])
    head = ["gauge", f"transcripts ({len(of_talk)} answers of {len(talks)})",
            *(f"labelled, {d.name} ({len(d.group)} answers of {len(d.off_rails)})" for d in files)]  # fmt: skip
    opening = (
        f"Gemma-3-270M (a base model) reads the same answers: its axis is of 30 roles and 4 questions (verdict "
        f"{made.card.verdict}), read at layer {layer}; its other gauges are made of the same contrasts as the embedded "
        f"reader's. Rank correlation of the two readers' sigma over the same answers; conversations are drawn."
    )
    return "\n\n".join([opening, table(head, rows), _aucs(contrasts, sets, files, again), _cases(said)])


def _from_contrasts(name: str, reader: Model, folder: Path) -> Gauge:
    """Made once of a set of contrasts as it is: with another reader's baseline it takes minutes."""
    given = load_contrasts(name)
    of = hashlib.sha256(repr((given, reader.info.fingerprint)).encode()).hexdigest()[:16]
    path = folder / f"{name}-{of}.gauge"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_gauges(contrast_gauge(given, reader), path)
        print(f"{name} of {reader.info.id} is made", flush=True)
    return load_gauges(path).gauges[0]


def _aucs(contrasts: Mapping[str, str], sets: list[GaugeSet], files: list[Labels], again: list[Labels]) -> str:
    """AUC on the labels, of both readers' gauges."""
    rows = []
    for label, name in contrasts.items():
        pair = [next(g for g in s.gauges if g.name == name) for s in sets]
        for sides in zip(files, again, strict=True):
            if sides[0].enough(label):
                aucs = [auc_with_interval(g.sign * d.sigma(g), d, label) for g, d in zip(pair, sides, strict=True)]
                rows.append([label, name, sides[0].name, *aucs])
    head = ["label", "gauge from contrasts", "written by", "embedded reader", "Gemma-3-270M"]
    return f"AUC on the labels:\n\n{table(head, rows)}"


def _cases(said: list[dict[str, np.ndarray]]) -> str:
    """The capped and uncapped cases on both axes."""
    rows = []
    for pair in zip(*(cases(one) for one in said), strict=True):
        cells = []
        for _, capped, free in pair:
            values = np.concatenate([capped[:, 0], free[:, 0]])
            side = np.arange(len(values)) >= len(capped)
            answers, strata = np.arange(len(values)), side.astype(int).tolist()
            cells.append(told(lambda c, v=values, s=side: auc(v[c], s[c]), answers, ".2f", strata))
        rows.append([pair[0][0], *cells])
    head = ["case", "embedded reader's axis", "Gemma-3-270M's axis"]
    return f"AUC of uncapped above capped answers, away from the Assistant; answers are drawn:\n\n{table(head, rows)}"
