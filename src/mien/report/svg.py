"""Tags, scales and ticks for charts drawn by hand as inline SVG. Knows no chart and no card.

Colours and fonts come from the page's stylesheet by class, so that light, dark and print need one drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from mien.report.page import clean

CHARACTER_WIDTH = 6.5
"""Average width of a character of chart text, in pixels at 12 px; used to keep labels apart."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element. Text children and attribute values are cleaned and escaped; `class_` is `class`, `_` is `-`.

    Floats are written with one decimal; an attribute that is None is left out.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = "".join(f' {key}="{_value(value)}"' for key, value in given.items())
    return Markup(f"<{name}{written}>{''.join(_child(child) for child in children)}</{name}>")  # noqa: S704  escaped above


def _value(value: object) -> Markup:
    return escape(f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else clean(str(value)))


def _child(child: object) -> Markup:
    return child if isinstance(child, Markup) else escape(clean(str(child)))


def drawing(
    key: str, variant: str, width: float, height: float, title: str, description: str, parts: Iterable[Markup]
) -> Markup:
    """The `<svg>` with what a screen reader says. `key` and `variant` make its ids unique in the page."""
    name = f"{key}-{variant}"
    return tag(
        "svg",
        tag("title", title, id=f"{name}-t"),
        tag("desc", description, id=f"{name}-d"),
        *parts,
        class_=f"chart {variant}",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-t {name}-d",
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from data `[low, high]` to pixels `[start, end]`; what lies outside is drawn on the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def domain(values: Iterable[float], *, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """Range of the sane values (finite, below 1e12), widened to reach `low` and `high`, never empty."""
    finite = [value for value in values if abs(value) < 1e12] + [bound for bound in (low, high) if bound is not None]
    if not finite:
        return 0.0, 1.0
    least, most = min(finite), max(finite)
    if most - least < 1e-9 * max(abs(most), 1.0):
        pad = max(abs(most), 1.0) / 2
        return least - pad, most + pad
    return least, most


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside `[low, high]`, around `about` of them."""
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-6)
    return [round(k * step, 10) + 0.0 for k in range(first, math.floor(high / step + 1e-6) + 1)]


def spaced(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move label places so that neighbours are `gap` apart and inside `[low, high]`, as little as possible."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    ceiling = high
    for k in reversed(order):
        moved[k] = max(min(moved[k], ceiling), low)
        ceiling = moved[k] - gap
    return moved
