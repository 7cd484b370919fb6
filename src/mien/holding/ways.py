"""Ways of holding a character: what each reads and writes, made from states. This file does not know their worth.

Shapes: l layers, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mien.directions import Direction
from mien.holding.paired import States
from mien.holding.restoring import (
    LayerStates,
    Restoring,
    discriminating,
    floored,
    narrowed,
    percentile_of,
    persona_space,
    within,
)
from mien.holding.trials import Method
from mien.interventions import Bounds, CapSpace
from mien.records import ModelInfo

COMPONENTS = 4
"""Of the persona subspace."""
OWN_OPEN = 0.05
"""Share of the model's own tokens, without an attack, at which the second gate of a hold on alarm is open."""
PAPER = "the paper's recipe"


@dataclass(frozen=True)
class Way:
    """A way of holding, not yet tried."""

    name: str
    told: str
    """What is read and written, in a sentence."""
    parts: Mapping[int, Bounds]
    percentile: float | None = None
    components: int = 1
    again: Callable[[States], Way] | None = None
    """Makes it from other states; None: it would be the same."""
    narrower: Callable[[float], Way] | None = None
    """The same with gates that open at another share of ordinary tokens."""

    def method(self, info: ModelInfo) -> Method:
        return Method(self.name, (CapSpace(dict(self.parts), info.id, info.fingerprint),))

    def fired(self, states: States) -> tuple[float | None, float | None]:
        """Share of attacked and of ordinary tokens that it changes at a layer; none of its layers acts on another.
        None: none of its layers was read.
        """
        space = CapSpace(dict(self.parts), "", "")
        shares = [
            [_share(space, k, x) for x in (states.at(k).attacked, states.at(k).ordinary)]
            for k in space.layers
            if k in states.layers
        ]
        if not shares:
            return None, None
        attacked, ordinary = np.mean(shares, axis=0)
        return round(float(attacked), 4), round(float(ordinary), 4)


def _share(space: CapSpace, layer: int, tokens: np.ndarray) -> float:
    import torch

    return float(space.fires(layer, torch.from_numpy(np.asarray(tokens, np.float32))).float().mean())


def candidate_layers(n_layers: int, count: int) -> list[int]:
    """Layers spread over the part of the depth in which a character is read and still acted on."""
    return sorted({round(float(p)) for p in np.linspace(0.4, 0.82, count) * (n_layers - 1)})


def paper_recipe(axis: Direction) -> Way:
    """The Assistant Axis (2601.10387): a floor at the 25th percentile of the model's own answers, in the layers between
    two and four fifths of the depth; as `mien serve --hold` does where nothing is calibrated.
    """
    n = len(axis.vector)
    band = [k for k in range(2 * n // 5, min(4 * n // 5 + 1, n)) if bool(axis.vector[k].any())]
    return _on_axis(axis, band or [axis.layer], 25, PAPER)


def _on_axis(axis: Direction, layers: Sequence[int], mark: float, name: str) -> Way:
    assert axis.baseline is not None
    quantiles = axis.baseline.double().numpy()
    places = np.linspace(0, 100, quantiles.shape[1])
    parts = {k: floored(axis.vector[k].double().numpy(), float(np.interp(mark, places, quantiles[k]))) for k in layers}
    return Way(
        f"{name} ({mark:g}th percentile of own answers, {_band(layers)})",
        "floors the Assistant Axis at a percentile of the model's own answers", parts, mark,
    )  # fmt: skip


def axis_grid(axis: Direction, states: States, marks: Sequence[float], bands: int) -> Iterator[Way]:
    """Percentile of ordinary *tokens* at each layer x band of the layers read: the later half, all, the earlier."""
    layers = [k for k in states.layers if bool(axis.vector[k].any())]
    half = len(layers) // 2
    for band in [layers[half:], layers, layers[:half]][:bands]:
        for mark in marks if band else ():
            parts = {}
            for k in band:
                row = axis.vector[k].double().numpy()
                parts[k] = floored(row, percentile_of(row, mark, states.at(k).ordinary))
            yield Way(
                f"axis, {mark:g}th percentile of tokens, {_band(band)}",
                "floors the Assistant Axis at a percentile of ordinary tokens, layer by layer", parts, mark,
            )  # fmt: skip


def others(states: States, marks: Sequence[float]) -> Iterator[Way]:
    """What reads and writes something else than the axis: a discriminant at the middle layer, a persona subspace in the
    later half.
    """
    for kind in _OTHERS:
        for mark in marks:
            yield _other(states, kind, mark)


def _other(states: States, kind: str, mark: float) -> Way:
    make, told, components = _OTHERS[kind]
    half = len(states.layers) // 2
    at = states.layers[half : half + 1] if kind == "discriminant" else states.layers[half:]
    parts = {k: make(states.at(k), mark) for k in at}
    again = partial(_other, kind=kind, mark=mark)
    return Way(f"{kind}, {mark:g}th percentile of tokens, {_band(at)}", told, parts, mark, components, again)


_OTHERS: dict[str, tuple[Callable[[LayerStates, float], Bounds], str, int]] = {
    "discriminant": (
        discriminating,
        "reads attacked answers against ordinary tokens, floors that, and writes towards own answers", 1,
    ),
    "persona subspace": (
        lambda s, mark: within(persona_space(s, COMPONENTS), mark, s.ordinary),
        f"holds the {COMPONENTS} main components of what attacks put in between percentiles of ordinary tokens",
        COMPONENTS,
    ),
}  # fmt: skip


def on_alarm(fits: Mapping[int, Restoring], opened: float) -> Way:
    """A hold on alarm: each layer's gates open at a share `opened` of ordinary tokens."""
    rank = max(len(fit.reads) for fit in fits.values())
    return Way(
        f"on alarm, {_band(sorted(fits))}, open on {100 * opened:g}%",
        f"where two gates tell an attack, takes out what attacks put in, by a map of rank {rank}",
        {k: fit.bounds(opened, min(OWN_OPEN, opened)) for k, fit in fits.items()}, 100 * opened, rank,
    )  # fmt: skip


def learnt_on_alarm(parts: Mapping[int, Bounds], states: States, opened: float | None = None) -> Way:
    """A hold on alarm that was learnt, its gates narrowed to a share `opened` of ordinary tokens if that is given."""
    ordinary = {k: states.at(k).ordinary for k in parts}
    if opened is not None:
        parts = {k: narrowed(part, ordinary[k], opened) for k, part in parts.items()}
    share = max(_share(CapSpace({k: part}, "", ""), k, ordinary[k]) for k, part in parts.items())
    rank = max(len(part.reads) for part in parts.values())
    return Way(
        f"learnt on alarm, {_band(sorted(parts))}" + ("" if opened is None else f", open on {100 * opened:g}%"),
        f"where two gates tell an attack, brings predictions back to those without it, by a learnt map of rank {rank}",
        parts, round(100 * share, 2), rank,
    )  # fmt: skip


def _band(layers: Sequence[int]) -> str:
    if len(layers) < 4:
        return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    step = f", {len(layers)} of them" if len(layers) <= layers[-1] - layers[0] else ""
    return f"layers {layers[0]}-{layers[-1]}{step}"
