"""What the page must know of a server's gauges and directions, and what its sliders mean.

It does not know Gradio, HTML or conversations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mien.directions import Direction
from mien.errors import MienError
from mien.gauges import Gauge, texture
from mien.records import Intervention
from mien.report.words import short
from mien.scanning.measure import Panel
from mien.serve.catalog import Catalog

SMOOTH = 5
"""Tokens that a tint is averaged over while an answer is being written, as in `scanning.measure`."""


@dataclass(frozen=True, slots=True)
class Face:
    """One watched gauge."""

    name: str
    description: str
    side: str
    """`low` or `high`: where it alarms."""
    limit: float | None
    """A single answer alarms beyond this, in sigma; None: the gauge has no baseline, so it never does."""

    @property
    def sign(self) -> int:
        return 1 if self.side == "high" else -1


def faces_of(catalog: Catalog) -> tuple[Face, ...]:
    """The gauges that the server watches."""
    if catalog.panel is None:
        return ()
    return tuple(_face(catalog.panel.gauges[g]) for g in catalog.watched)


def _face(gauge: Gauge) -> Face:
    limit = None if gauge.baseline is None else gauge.baseline.limits.turn
    return Face(gauge.name, gauge.description, gauge.side, limit)


def steerable(catalog: Catalog) -> list[str]:
    """Directions that a slider can push along: those with a layer of their own, in the order of their names."""
    return sorted(name for name, d in catalog.directions.items() if _has_layer(d))


def _has_layer(direction: Direction) -> bool:
    try:
        direction.unit()
    except MienError:
        return False
    return True


def pushes(catalog: Catalog, coefs: Mapping[str, float]) -> tuple[Intervention, ...]:
    """The sliders that are not at 0, as interventions at each direction's own layer.

    Raises:
        InputError: there is no direction of a name.
    """
    from mien.interventions import Add

    wanted = [(catalog.direction(name), coef) for name, coef in coefs.items() if coef]
    return tuple(Add(direction, coef=coef) for direction, coef in wanted)


def pushed_words(coefs: Mapping[str, float]) -> tuple[str, ...]:
    """`evil +1.5`."""
    return tuple(f"{name} {'+' if coef > 0 else ''}{short(coef)}" for name, coef in coefs.items() if coef)


def live_tints(panel: Panel, gauge: str, raws: Sequence[float | None], text: str, place: int) -> list[float | None]:
    """Tokens of an answer that is being written, as `scanning.measure.tinted` would have them if it ended here.

    Args:
        raws: every token on the gauge, raw.
        place: which answer of the conversation it is, from 1.
    """
    which = next((g for g, one in enumerate(panel.gauges) if one.name == gauge), None)
    if which is None or not raws or any(value is None for value in raws):
        return [None] * len(raws)
    one = panel.gauges[which]
    if one.baseline is None or any(of != "answer" for _, of in panel.terms[which]):
        return [None] * len(raws)
    values = np.array(raws, dtype=np.float64)
    kernel = np.ones(min(SMOOTH, len(values)))
    smooth = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
    expected = one.baseline.expected(texture(text, place)[None])[0]
    return [float(v) for v in one.sign * (smooth - expected) / one.baseline.std]
