"""The published transcripts on gauges: capped against uncapped, and what drifts. Used by `watching.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawn import told
from numpy.typing import NDArray
from template import table

from mien.evidence import auc
from mien.gauges import GaugeSet
from mien.jobs.scan import scan
from mien.models import Model

Read = dict[str, NDArray[np.float64]]
"""File name -> `[t, g]`: the answers' sigma on every gauge, in order, towards its alarming side."""


def scanned(files: list[Path], out: Path, model: Model, gauges: GaugeSet) -> Read:
    """By a real scan."""
    import pyarrow.parquet as pq

    scan([str(f) for f in files], model, out, gauges=gauges)
    place = {g.name: i for i, g in enumerate(gauges.gauges)}
    cells: dict[str, dict[int, list[float]]] = {}
    for row in pq.read_table(out / "turns.parquet").to_pylist():
        g = place[row["gauge"]]
        answers = cells.setdefault(Path(row["source"]).name, {})
        answers.setdefault(row["message_index"], [np.nan] * len(place))[g] = gauges.gauges[g].sign * row["sigma"]
    return {name: np.array([answers[at] for at in sorted(answers)]) for name, answers in cells.items()}


def cases(found: Read) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Name, capped and uncapped answers `[t, g]` of each pair."""
    rows = []
    for name, capped in sorted(found.items()):
        if name.endswith("_capped.json"):
            case = name.removesuffix("_capped.json")
            rows.append((case, capped, next(v for k, v in found.items() if k.startswith(f"{case}_unsteered"))))
    return rows


def cases_table(found: Read, gauges: GaugeSet) -> str:
    """Capped against uncapped transcripts on every gauge, and a sentence on those that tell all of them apart."""
    rows, right = [], []
    for i, gauge in enumerate(gauges.gauges):
        aucs = []
        for case, capped, free in cases(found):
            values = np.concatenate([capped[:, i], free[:, i]])
            side = np.arange(len(values)) >= len(capped)
            answers, strata = np.arange(len(values)), side.astype(int).tolist()
            aucs.append(auc(values, side))
            # Signed as sigma is: below zero is low.
            means = [
                told(lambda c, part=part: float(part[c].mean()), np.arange(len(part)))
                for part in (gauge.sign * capped[:, i], gauge.sign * free[:, i])
            ]  # fmt: skip
            found_auc = told(lambda c, v=values, s=side: auc(v[c], s[c]), answers, ".2f", strata)
            rows.append([gauge.name, case, *means, found_auc, f"{len(capped)} and {len(free)}"])
        if min(aucs) > 0.5:
            right.append(f"`{gauge.name}` (AUC {min(aucs):.2f} to {max(aucs):.2f})")
    head = ["gauge", "case", "capped, mean sigma", "uncapped", "AUC, uncapped on the alarming side", "answers"]
    sentence = f"On the alarming side without capping in every case: {', '.join(right) or 'no gauge'}."
    return f"{table(head, rows)}\n\n{sentence}"


def drift_table(found: Read, gauges: GaugeSet) -> str:
    """The drift transcripts: level and slope on every gauge, and a sentence on which lie in the expected order."""
    rows, right = [], []
    coding, therapy = found["coding.json"], found["therapy.json"]
    for i, gauge in enumerate(gauges.gauges):
        sides = [gauge.sign * part[:, i] for part in (coding, therapy)]
        cells = []
        for z in sides:
            cells += [
                told(lambda c, z=z: float(z[c].mean()), np.arange(len(z))),
                told(lambda c, z=z: _slope(c, z), np.arange(len(z)), "+.3f"),
            ]
        both, domain = np.concatenate(sides), [0] * len(coding) + [1] * len(therapy)

        def apart(c: NDArray[np.int64], z: NDArray[np.float64] = gauge.sign * both, n: int = len(coding)) -> float:
            return float(z[c[c >= n]].mean() - z[c[c < n]].mean())

        rows.append([gauge.name, *cells, told(apart, np.arange(len(both)), "+.2f", domain)])
        if therapy[:, i].mean() > coding[:, i].mean():
            right.append(f"`{gauge.name}`")
    head = ["gauge", "coding, mean sigma", "its slope, sigma a turn", "therapy, mean sigma", "its slope",
            "therapy nearer to alarm by"]  # fmt: skip
    sentence = (
        f"Therapy lies nearer to alarm than coding on {', '.join(right) or 'no gauge'}. One conversation of "
        f"{len(coding)} answers and one of {len(therapy)}."
    )
    return f"{table(head, rows)}\n\n{sentence}"


def _slope(chosen: NDArray[np.int64], z: NDArray[np.float64]) -> float:
    return float(np.polyfit(chosen, z[chosen], 1)[0])
