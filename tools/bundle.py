"""Make the gauges that come with mien for its embedded reader: `src/mien/library/gauges/smollm2-135m.safetensors`.

    python tools/bundle.py [--roles 60] [--questions 6] [--keep]

The Assistant Axis of the library's first roles, every library trait whose extracted vector is not weak, taken from
`runs/validation/library` where `make validate` has left it, and gauges of the contrasts and descriptions that were
found to tell real answers (docs/watching.md). Baselines are of the ordinary conversations that come with mien. Runs are
kept under `runs/bundle`, so that making it again takes seconds; delete them to begin anew. `--keep` takes the axis and
the persona vectors from the bundle that is there, and makes the rest.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mien.contrasts import load_contrasts
from mien.directions import Direction, load_direction
from mien.engines.hf import HfEngine
from mien.gauges import GaugeSet, bundled_gauges, save_gauges
from mien.gauges.gauge import Gauge
from mien.jobs.axis import make_axis
from mien.jobs.baseline import gauge_of, set_baseline
from mien.jobs.contrast import contrast_gauge
from mien.jobs.describe import describe_gauge, observer_gauge
from mien.models import Model, load
from mien.progress import Silent
from mien.roles import load_roles
from mien.scanning.message_means import reading_layers
from mien.spec import library_names, load_library

REPO = Path(__file__).resolve().parent.parent
OUT = REPO / "src" / "mien" / "library" / "gauges" / "smollm2-135m.safetensors"
DESCRIBED = ("delusion_feeding",)
"""Traits whose vector is weak, and whose description reads real answers better than their contrasts do."""
CONTRASTS = ("sentience_claiming", "escalating")
"""Sets whose gauge reads real answers better than a vector from rollouts does, or where there is none; and whose side
is an alarm: that nobody is contradicted is quite ordinary."""


def persona_vectors(model: Model) -> list[Gauge]:
    """Gauges of the extracted traits that are not weak."""
    found = []
    for name in library_names():
        folder = REPO / "runs" / "validation" / "library" / name
        if not (folder / "card.json").exists():
            continue
        direction = load_direction(folder)
        direction.check_model(model.info)
        if direction.card.verdict in ("usable", "strong"):
            found.append(observer_gauge(direction, model))
    return found


def axis_layer(axis: Direction, model: Model) -> int:
    """Of the layers that the other gauges read as well, the one whose axis repeats and reads best: no deeper pass."""
    shared = [axis.card.layers[k] for k in reading_layers(model.n_layers)]
    return max(shared, key=lambda e: e.auc + e.split_half_cosine).layer


def extracted(model: Model, roles: int, questions: int) -> list[Gauge]:
    """The axis, made now, and the persona vectors."""
    vectors = persona_vectors(model)
    traits = [load_direction(REPO / "runs" / "validation" / "library" / g.name) for g in vectors]
    cast = load_roles().first(roles, questions)
    axis = make_axis(cast, HfEngine(model), REPO / "runs" / "bundle" / "axis", traits=traits, progress=Silent())
    return [gauge_of(axis, layer=axis_layer(axis, model)), *vectors]


def kept(model: Model) -> list[Gauge]:
    """The axis and the persona vectors of the bundle that is there, and what contrasts have taken the place of."""
    there = bundled_gauges(model.info.id)
    if there is None or there.fingerprint != model.info.fingerprint:
        raise SystemExit(f"{OUT} is not there, or another model's; leave out --keep.")
    return [g for g in there.gauges if g.push is not None]


def replaced(gauges: list[Gauge], better: Gauge) -> list[Gauge]:
    """The gauges with one of them read better; what it steers with stays. A new one comes last."""
    if better.name not in {g.name for g in gauges}:
        return [*gauges, better]
    return [replace(better, push=g.push) if g.name == better.name else g for g in gauges]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--roles", type=int, default=60)
    parser.add_argument("--questions", type=int, default=6)
    parser.add_argument("--keep", action="store_true")
    chosen = parser.parse_args()
    model = load(dtype="float32")
    gauges = kept(model) if chosen.keep else extracted(model, chosen.roles, chosen.questions)
    for name in CONTRASTS:
        gauges = replaced(gauges, contrast_gauge(load_contrasts(name), model).gauges[0])
    named = {g.name for g in gauges}
    gauges += [describe_gauge(load_library(name), model).gauges[0] for name in DESCRIBED if name not in named]
    found = set_baseline(
        GaugeSet(model.info.id, model.info.fingerprint, model.info.d_model, tuple(gauges)), model, progress=Silent()
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_gauges(found, OUT, half=True)
    for gauge in found.gauges:
        base = gauge.baseline
        assert base is not None
        together = (
            f"{base.any_turn_hits} of {base.n_turns} answers, {base.any_conversation_hits} of {base.n_conversations}"
        )
        rates = f"false alarms {base.turn_rate:.2%} of answers, {base.conversation_rate:.1%} of conversations"
        print(f"{gauge.name} ({gauge.kind}, layer {gauge.layer}): limit {base.limits.turn:.2f} sigma, {rates}")
    print(f"false alarms of any gauge: {together} conversations of {base.n_conversations}")
    print(f"written to {OUT}, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
