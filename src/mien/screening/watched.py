"""What a data set or a tuned model is watched on: kept directions of a model, and the gauges that come with mien.

Both are linear in the mean of the stream over an answer, so one bank of probes serves them all in one pass.
Shapes: d width, g watched, p probes. This file does not know texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mien.directions import Direction, load_direction
from mien.errors import InputError, MienError
from mien.gauges import Gauge, Part, bundled_gauges
from mien.gauges.gauge import Side
from mien.home import find_direction, kept_directions
from mien.models import Model

TWINS = 20
"""Random directions that stand beside each watched one, with parts as long and at the same layers."""


@dataclass(frozen=True)
class Watched:
    """One direction, or a gauge over several layers, read as `sum over parts of <mean stream, vector>`."""

    name: str
    description: str
    side: Side
    """Which side is alarming."""
    parts: tuple[Part, ...]
    source: str
    """Where it comes from, in words."""
    verdict: str | None
    """What its card says of it."""
    mean: float | None
    """Of the baseline, raw units; None where there is none, or it cannot be told apart from what was asked."""
    std: float | None
    """One sigma of the baseline, raw units."""
    baseline: str
    """What sigma is of, in words; empty without one."""

    @property
    def sign(self) -> int:
        """+1 if large projections are alarming, -1 if small ones are."""
        return 1 if self.side == "high" else -1

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({part.layer for part in self.parts}))


@dataclass(frozen=True)
class WatchSet:
    """Everything that is watched, and what could not be."""

    watched: tuple[Watched, ...]
    notes: tuple[str, ...] = ()
    """Sentences on what was left out."""


def side_of(direction: Direction) -> Side:
    """Which projections are alarming: far from the Assistant, or far along a trait."""
    return "low" if direction.card.kind == "assistant_axis" else "high"


def watched_direction(direction: Direction, layer: int | None = None) -> Watched:
    """A direction at one layer (default: the recommended one), raw units of its unit vector.

    Raises:
        InputError: no layer is recommended and none given, or the direction is zero there.
    """
    card = direction.card
    at = direction.layer if layer is None else layer
    base = card.baseline if at == card.recommended_layer else None
    known = base is not None and base.std > 0
    return Watched(
        name=card.name, description=card.description, side=side_of(direction),
        parts=(Part(at, direction.unit(at).numpy().astype(np.float32)),), source="a direction kept here",
        verdict=card.verdict, mean=base.mean if base and known else None, std=base.std if base and known else None,
        baseline=f"the model's own plain answers ({base.n})" if base and known else "",
    )  # fmt: skip


def watched_gauge(gauge: Gauge) -> Watched:
    """A gauge without the parts that read the question: in a difference between answers to one question they cancel."""
    base = gauge.baseline
    parts = tuple(part for part in gauge.parts if part.of == "answer")
    alone = len(parts) == len(gauge.parts)
    return Watched(
        name=gauge.name, description=gauge.description, side=gauge.side, parts=parts,
        source="a gauge that comes with mien", verdict=gauge.evidence.get("verdict"),
        mean=base.expected.mean if base and alone else None, std=base.std if base else None,
        baseline=base.source if base else "",
    )  # fmt: skip


def watch_set(model: Model, names: Sequence[str] | None = None) -> WatchSet:
    """What is named, or everything there is for this model: directions kept here first, then gauges of other names.

    Args:
        names: of kept directions and bundled gauges, or folders of directions; None: all that can be used.

    Raises:
        InputError: there is none of a name, or there are none at all; the message says how to make one.
        FormatError: a direction that was named is corrupt.
        FingerprintError: it was made for another model.
    """
    gauges = _gauges(model)
    if names is not None:
        chosen = [n.strip() for n in names if n.strip()]
        if not chosen:
            raise InputError("Name at least one trait, or say all.")
        return WatchSet(tuple(_named(name, model, gauges) for name in dict.fromkeys(chosen)))
    found: dict[str, Watched] = {}
    notes = []
    for name, folder in kept_directions(model.info.id).items():
        try:
            found[name] = _kept(folder, model)
        except MienError as error:
            notes.append(f"The direction {name} is left out: {error}")
    found |= {name: gauge for name, gauge in gauges.items() if name not in found}
    if not found:
        raise InputError(
            f"There are no directions for {model.info.id} yet; make one with: "
            f'mien extract "one sentence about the trait" --model {model.info.id} (--spec evil: of the library).'
        )
    return WatchSet(tuple(found.values()), tuple(notes))


def _gauges(model: Model) -> dict[str, Watched]:
    there = bundled_gauges(model.info.id)
    if there is None or there.fingerprint != model.info.fingerprint:
        return {}
    every = (watched_gauge(gauge) for gauge in there.gauges)
    return {one.name: one for one in every if one.parts}


def _kept(folder: Path, model: Model) -> Watched:
    direction = load_direction(folder)
    direction.check_model(model.info)
    return watched_direction(direction)


def _named(name: str, model: Model, gauges: dict[str, Watched]) -> Watched:
    if name in gauges and name not in kept_directions(model.info.id):
        return gauges[name]
    try:
        return _kept(find_direction(name, model.info.id), model)
    except InputError as error:
        if gauges and "There is no direction" in str(error):
            raise InputError(f"{error} Gauges that come with mien: {', '.join(gauges)}.") from error
        raise


@dataclass(frozen=True)
class Bank:
    """Probes of everything watched and of their twins, arranged so that one pass serves them all."""

    watched: tuple[Watched, ...]
    probes: dict[int, torch.Tensor]
    """Layer -> `[k, d]`."""
    mix: NDArray[np.float32]
    """`[p, g * (1 + TWINS)]`: sums the probes of each; the watched first, then the first's twins, and so on."""

    def project(self, tokens: NDArray[np.float32]) -> NDArray[np.float64]:
        """`[g * (1 + TWINS)]`: the mean over tokens `[s, p]`, of each watched and each twin, raw units."""
        return np.asarray(tokens.mean(0, dtype=np.float64) @ self.mix)


def bank_of(watched: Sequence[Watched], d_model: int) -> Bank:
    """The probes. A twin's vectors are random with the lengths of the original's; they depend on its name alone."""
    entries: list[tuple[int, int, NDArray[np.float32]]] = []
    for g, one in enumerate(watched):
        entries += [(part.layer, g, part.vector) for part in one.parts]
    for g, one in enumerate(watched):
        rng = np.random.default_rng([len(one.name), *one.name.encode()])
        for twin in range(TWINS):
            slot = len(watched) + g * TWINS + twin
            for part in one.parts:
                noise = rng.standard_normal(d_model)
                noise *= np.linalg.norm(part.vector) / np.linalg.norm(noise)
                entries.append((part.layer, slot, noise.astype(np.float32)))
    entries.sort(key=lambda entry: (entry[0], entry[1]))
    mix = np.zeros((len(entries), len(watched) * (1 + TWINS)), np.float32)
    for column, (_, slot, _) in enumerate(entries):
        mix[column, slot] = 1.0
    probes = {
        layer: torch.from_numpy(np.stack([vector for at, _, vector in entries if at == layer]))
        for layer in sorted({at for at, _, _ in entries})
    }
    return Bank(tuple(watched), probes, mix)
