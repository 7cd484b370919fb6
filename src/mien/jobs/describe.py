"""Gauges for text that others wrote: from a trait's description alone (no rollouts, no labels, seconds), and from a
persona vector. Read `describe_gauge`.

The reader reads the spec's own instructions, "be like this" against "be like that". The difference of their means is
whitened by how ordinary answers vary, so that what differs between any two answers counts little, and averaged over
layers. It is what the trait is *about* rather than what it does to an answer; for traits that a small reader plays
badly it reads as well as a vector from rollouts (docs/watching.md has the comparison). This file does not know how a
conversation is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mien.directions import Direction
from mien.engines.hf_turns import read_turns
from mien.gauges import Gauge, GaugeSet, Part
from mien.jobs.baseline import set_baseline
from mien.models import Model
from mien.progress import Progress, Silent
from mien.records import Message
from mien.scanning.message_means import reading_layers
from mien.scanning.quiet import answer_means, quiet_readings
from mien.spec import TraitSpec

SHRINKAGE = 0.7
"""How far the covariance of ordinary answers is drawn towards a ball before it is inverted: there are hundreds of
answers and about as many dimensions."""


def whitened(direction: NDArray[np.float64], ordinary: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """`[d]`: the direction divided by the covariance of ordinary answers `[n, d]`, in the units of one standard
    deviation of their projections on it. Several directions `[k, d]` at once give as many rows.
    """
    centred = ordinary - ordinary.mean(0)
    covariance = centred.T @ centred / len(centred)
    ball = np.trace(covariance) / len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * ball * np.eye(len(covariance))
    weights = np.linalg.solve(shrunk, direction.T)
    return np.asarray((weights / np.maximum((centred @ weights).std(0), 1e-12)).T)


def describe_gauge(spec: TraitSpec, model: Model, *, progress: Progress | None = None) -> GaugeSet:
    """A gauge, alone in its set, that reads how near an answer is to what the spec's positive instructions speak of.

    Raises:
        InputError: the model's template refuses the instructions.
    """
    show = progress or Silent()
    layers = list(reading_layers(model.n_layers))
    pairs = [(pair.pos, pair.neg) for pair in spec.instructions]
    texts = [text for pair in pairs for text in pair]
    read = read_turns(model, [(Message("system", text), Message("user", "Hello.")) for text in texts], layers=layers)
    means = np.stack([r.means[0] for r in read]).astype(np.float64)
    difference = means[::2].mean(0) - means[1::2].mean(0)
    gauge = Gauge(
        spec.name, spec.description, "high", _band(difference, layers, model, show), "described",
        evidence={"author": spec.author, "layers": layers, "shrinkage": SHRINKAGE,
                  "reasons": ["Made from the description alone; nothing says yet how well it tells real answers."]},
    )  # fmt: skip
    return set_baseline(
        GaugeSet(model.info.id, model.info.fingerprint, model.info.d_model, (gauge,)), model, progress=show
    )


def observer_gauge(direction: Direction, model: Model, *, progress: Progress | None = None) -> Gauge:
    """A persona vector as a gauge for text that others wrote: whitened and averaged over layers in the same way.

    It has no baseline yet. `gauge_of`, at one layer and unwhitened, is for the direction's own model: between writers
    other things differ as well, and whitening counts them less.

    Raises:
        FingerprintError: the direction was made for another model.
    """
    direction.check_model(model.info)
    layers = list(reading_layers(model.n_layers))
    rows = direction.vector[layers].double().numpy()
    card = direction.card
    return Gauge(
        card.name, card.description, "high", _band(rows, layers, model, progress or Silent()), "persona_vector",
        push=Part(direction.layer, direction.vector[direction.layer].numpy().astype(np.float32)),
        evidence={"verdict": card.verdict, "reasons": card.verdict_reasons, "model": card.model, "layers": layers,
                  "shrinkage": SHRINKAGE},
    )  # fmt: skip


def _band(rows: NDArray[np.float64], layers: list[int], model: Model, show: Progress) -> tuple[Part, ...]:
    """One whitened vector a layer, `rows` `[len(layers), d]`; their sum is the mean of projections in their spreads."""
    ordinary = answer_means(quiet_readings(model, show))
    return tuple(
        Part(k, (whitened(row, ordinary[:, k].astype(np.float64), SHRINKAGE) / len(layers)).astype(np.float32))
        for row, k in zip(rows, layers, strict=True)
    )
